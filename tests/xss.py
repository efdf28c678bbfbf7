"""Sixty texts that run a script, load something or break out of their place where they are not escaped (W1)."""

_JS = "window.pwned=1;alert(1)"
_FAR = "http://127.0.0.1:9"

XSS = [
    *(f"<script>{_JS}</script>", f"<SCRIPT SRC={_FAR}/a.js></SCRIPT>", f"<scr<script>ipt>{_JS}</scr</script>ipt>"),
    *(f"<img src=x onerror={_JS}>", f"<img src={_FAR}/i.png>", f'"><img src=x onerror="{_JS}">'),
    *(f"'><img src=x onerror='{_JS}'>", f"<svg onload={_JS}>", f"<svg><script>{_JS}</script></svg>"),
    *(f"</title><script>{_JS}</script>", f"</style><script>{_JS}</script>", f"</pre><script>{_JS}</script>"),
    *(f"</textarea><script>{_JS}</script>", f"--><script>{_JS}</script>", f"]]><script>{_JS}</script>"),
    *(f"<body onload={_JS}>", f"<iframe src=javascript:{_JS}></iframe>", f"<iframe src={_FAR}></iframe>"),
    *(f"<iframe srcdoc='<script>{_JS}</script>'></iframe>", f"<object data={_FAR}/o></object>", f"<embed src={_FAR}>"),
    *(f"<link rel=stylesheet href={_FAR}/s.css>", f"<style>@import '{_FAR}/s.css';</style>", f"<base href={_FAR}/>"),
    *(f"<style>body{{background:url({_FAR}/b)}}</style>", f'<p style="background:url({_FAR}/p)">x</p>'),
    *(f"<meta http-equiv=refresh content='0;url={_FAR}'>", f"<form action={_FAR}><button autofocus></form>"),
    *(f"<input autofocus onfocus={_JS}>", f"<details open ontoggle={_JS}>", f"<video src={_FAR}/v onerror={_JS}>"),
    *(f"<audio src=x onerror={_JS}>", f"<video><source onerror={_JS}></video>", f"<marquee onstart={_JS}>"),
    *(f'<a href="javascript:{_JS}">x</a>', f"javascript:{_JS}", f"data:text/html,<script>{_JS}</script>"),
    *(f"<math><mtext><script>{_JS}</script></mtext></math>", f"<svg><animate onbegin={_JS} attributeName=x dur=1s>"),
    *(f"<template><script>{_JS}</script></template>", f"<noscript><img src=x onerror={_JS}></noscript>"),
    *(f"{{{{ '<script>{_JS}</script>'|safe }}}}", "{% autoescape false %}<script>{% endautoescape %}", "{{ 7*7 }}"),
    *("{% include 'report.css' %}", "{{ ''.__class__.__mro__ }}", "{{constructor.constructor('alert(1)')()}}"),
    *("&lt;script&gt;alert(1)&lt;/script&gt;", "&#60;script&#62;", "&amp;lt;script&amp;gt;", "\\u003cscript\\u003e"),
    *(f'" onmouseover="{_JS}" x="', f"' autofocus onfocus='{_JS}' x='", "`-alert(1)-`", "</details></section></main>"),
    *("<plaintext>", "<!--", "<![CDATA[", f"\u202e<script>{_JS}</script>", "＜script＞alert(1)＜/script＞"),
]
