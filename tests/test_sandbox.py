import pytest

from constitutional import sandbox
from constitutional.errors import TemplateError
from constitutional.sandbox import compile_template, render_block

B = "{% block user %}\n"
E = "\n{% endblock %}"


def refusal(source: str) -> str:
    with pytest.raises(TemplateError) as caught:
        compile_template(source, "judge.j2")
    return str(caught.value)


ESCAPES = [
    ("{{ ''.__class__.__mro__ }}", "attribute '__mro__'"),
    ("{{ a['__class__'] }}", "item '__class__'"),
    ("{{ a|attr('__class__') }}", "filter 'attr'"),
    ("{{ '{0.__class__}'.format(a) }}", "'call'"),
    ("{{ a.format }}", "attribute 'format'"),
    ("{{ a.format_map }}", "attribute 'format_map'"),
    ("{{ '%999999999d'|format(1) }}", "filter 'format'"),
    ("{{ '%999999999d' % 1 }}", "'mod'"),
    ("{{ a|center(999999999) }}", "filter 'center'"),
    ("{{ a|map('upper')|list }}", "filter 'list'"),
    ("{% for i in range(1000000000) %}x{% endfor %}", "a loop may only run over 'conversation'"),
    ("{{ range(1000000000)|length }}", "'call'"),
    ("{{ 'a' * 10 ** 9 }}", "'mul'"),
    ("{{ 9 ** 9 ** 9 }}", "'pow'"),
    ("{{ a + a }}", "'add'"),
    ("{{ a ~ a }}", "'concat'"),
    ("{{ [a, a] }}", "'list'"),
    ("{% for c in a %}x{% endfor %}", "a loop may only run over 'conversation'"),
    ("{% for m in conversation[0].content %}x{% endfor %}", "a loop may only run over 'conversation'"),
    (
        "{% for m in conversation %}{% for n in conversation %}x{% endfor %}{% endfor %}",
        "a loop may only run over 'conversation'",
    ),
    ("{% for m in conversation recursive %}{{ loop(conversation) }}{% endfor %}", "'call'"),
    ("{% set x = a %}", "'assign'"),
    ("{% set x %}{{ a }}{{ a }}{% endset %}", "'assignblock'"),
    ("{% macro m(x) %}{{ m(x) }}{% endmacro %}", "'macro'"),
    ("{% include '../../../etc/passwd' %}", "'include'"),
    ("{% include '/etc/passwd' %}", "'include'"),
    ("{% include 'critique.j2' %}", "'include'"),
    ("{% import 'critique.j2' as c %}", "'import'"),
    ("{% from 'critique.j2' import c %}", "'fromimport'"),
    ("{{ lipsum(n=1000) }}", "'call'"),
    ("{{ self }}", "'self'"),
    ("{{ self.user() }}", "'call'"),
    ("{{ super() }}", "'call'"),
    ("{% filter upper %}x{% endfilter %}", "'filterblock'"),
    ("{% call a() %}{% endcall %}", "'callblock'"),
    ("{% with x = a %}{% endwith %}", "'with'"),
]


@pytest.mark.parametrize(("escape", "named"), ESCAPES)
def test_escapes_are_refused_at_load(escape: str, named: str) -> None:
    line = refusal(B + escape + E).splitlines()[0]
    assert line.startswith("judge.j2:2: ") and named in line


@pytest.mark.parametrize(
    "escape", ["{% extends 'critique.j2' %}", B + "{{ " + "(" * 5000 + "a" + ")" * 5000 + " }}" + E]
)
def test_escapes_outside_a_block_and_deep_nesting(escape: str) -> None:
    assert refusal(escape).startswith("judge.j2:1: ")


@pytest.mark.parametrize(
    "escape",
    [
        "{{ 'a' * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ ''.ljust(9) }}",
        "{{ ''.__class__ }}",
    ],
)
def test_the_second_wall_holds_without_the_first(escape: str) -> None:
    with pytest.raises(sandbox.SecurityError):
        sandbox._ENVIRONMENT.from_string(escape).render()
    assert not sandbox._ENVIRONMENT.globals


def test_a_compiled_template_can_be_used_alone() -> None:
    template = compile_template("{% block user %}{{ 'A' if a == 'x' else b|upper }}{% endblock %}", "t.j2")
    assert render_block(template, "user", {"a": "y", "b": "z"}) == "Z"
    assert dict(template.variables) == {"a": 1, "b": 1}
