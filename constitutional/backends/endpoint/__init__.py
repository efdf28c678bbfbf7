"""Models behind an OpenAI-compatible server: `openai:MODEL@BASE_URL` (extra `api`).

One call goes this way: `requests` writes its body, `calls` says whether it was answered before, keeps what is answered
and holds to the budget, `asking` holds to the rate limits and asks again under one policy, `wire` sends once, `answers`
refuses whatever is no answer; `server` puts these together. `options` turns what a server says of tokens into
log-probabilities of options.

What records say of such a model: `openai:MODEL@DIGEST`, where DIGEST stands for the base URL: a model of the same name
elsewhere is another model, and no record names a host. Weights cannot be digested from outside; so a judgment's `raw`
keeps what the server said of itself with that very answer (`model`, `system_fingerprint`), and `calls.sqlite` keeps it
of every call.
"""
