"""Jinja cut down to what a prompt needs: text, values, conditions, and one loop over the conversation.

A template file may come from anywhere, so what it may contain is a list of what is allowed, checked when it is loaded:
calls, arithmetic, includes, macros and assignments are refused with their line, and with them every known way out of
the sandbox or into unbounded time or memory. Jinja's own sandbox stands behind as a second wall. Values are data only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from constitutional.errors import TemplateError, nearest

MAX_OUTPUT = 200_000
MAX_BLOCKS = 64  # far more messages than anyone writes; Jinja takes seconds over thousands
FILTERS = ("first", "last", "length", "lower", "trim", "upper")
ATTRIBUTES = ("role", "content", "first", "index", "last")
_ALLOWED = (
    *(nodes.Template, nodes.Block, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Name, nodes.Const),
    *(nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter),
)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> NoReturn:
        raise SecurityError(f"'{operator}' is not allowed in a template")

    def is_safe_callable(self, obj: Any) -> bool:
        return False


@dataclass(frozen=True)
class CompiledTemplate:
    """A checked template: its blocks in file order, and the line where each variable is first used."""

    path: str
    code: jinja2.Template
    blocks: Mapping[str, int]
    empty_blocks: frozenset[str]
    variables: Mapping[str, int]


def compile_template(source: str, path: str) -> CompiledTemplate:
    """Parses, checks and compiles one template; `path` is what messages call it.

    Raises:
        TemplateError: one line `path:line: message` for each thing wrong.
    """
    try:
        tree = _ENVIRONMENT.parse(source)
        problems = list(_problems(tree, inside_loop=False))
        if problems:
            raise TemplateError("\n".join(f"{path}:{line}: {message}" for line, message in problems))
        code = _ENVIRONMENT.compile(tree, name=path, filename=path)
        names = meta.find_undeclared_variables(tree)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{path}:{error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise TemplateError(f"{path}:1: nested too deeply") from error
    except TemplateError:
        raise
    except ValueError as error:  # Python converts no number of thousands of digits
        digits = max(re.finditer(r"[0-9_]*", source), key=lambda match: len(match[0]))
        raise TemplateError(f"{path}:{source.count(chr(10), 0, digits.start()) + 1}: number out of range") from error
    blocks = [node for node in tree.body if isinstance(node, nodes.Block)]
    lines = {name: min(n.lineno for n in tree.find_all(nodes.Name) if n.name == name) for name in sorted(names)}
    return CompiledTemplate(
        path=path,
        code=jinja2.Template.from_code(_ENVIRONMENT, code, {}),
        blocks={block.name: block.lineno for block in blocks},
        empty_blocks=frozenset(block.name for block in blocks if _blank(block.body)),
        variables=lines,
    )


def render_block(template: CompiledTemplate, block: str, values: Mapping[str, Any]) -> str:
    """The text of one block, less the one newline that stands before its closing tag.

    Raises:
        TemplateError: `path:line: message`, also when the text grows beyond MAX_OUTPUT characters.
    """
    context = template.code.new_context(dict(values))
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.code.blocks[block](context):
            size += len(piece)
            if size > MAX_OUTPUT:
                line = template.blocks[block]
                raise TemplateError(f"{template.path}:{line}: block '{block}' is longer than {MAX_OUTPUT} characters")
            pieces.append(piece)
    except TemplateError:
        raise
    except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
        raise TemplateError(f"{template.path}:{_line(template, error, block)}: {error}") from error
    return "".join(pieces).removesuffix("\n")


def _only_text(value: Any) -> Any:
    """What `{{ … }}` may print: a record or a list would print as Python code, silently."""
    if isinstance(value, str | int | Undefined) and not isinstance(value, bool):
        return value
    raise TypeError(f"prints a {type(value).__name__}, not a text")


def _environment() -> _Environment:
    environment = _Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_only_text, autoescape=False
    )
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    return environment


_ENVIRONMENT = _environment()


def _problems(node: nodes.Node, *, inside_loop: bool) -> Iterator[tuple[int, str]]:
    """What is not allowed, outermost first; what lies inside a refused part is not looked at."""
    refusal = _refusal(node, inside_loop)
    if refusal:
        yield node.lineno or 1, refusal  # what Jinja makes up itself has no line
        return
    top_level = isinstance(node, nodes.Template)
    blocks = (
        [child for child in node.body if isinstance(child, nodes.Block)] if isinstance(node, nodes.Template) else []
    )
    if len(blocks) > MAX_BLOCKS:
        yield blocks[MAX_BLOCKS].lineno, f"more than {MAX_BLOCKS} blocks"
        return
    for child in node.iter_child_nodes():
        if top_level and not isinstance(child, nodes.Block) and not _blank([child]):
            yield _first_line(child), "text outside a block: each message is a block of its own"
        elif isinstance(child, nodes.Block) and not top_level:
            yield child.lineno, f"block '{child.name}' inside a block"
        else:
            yield from _problems(child, inside_loop=inside_loop or isinstance(node, nodes.For))


def _refusal(node: nodes.Node, inside_loop: bool) -> str | None:
    if not isinstance(node, _ALLOWED):
        return f"'{type(node).__name__.lower()}' is not allowed in a template"
    if isinstance(node, nodes.Const) and isinstance(node.value, float) and not math.isfinite(node.value):
        return "number out of range"
    if isinstance(node, nodes.Name) and node.name in ("self", "super"):
        return f"'{node.name}' is not allowed in a template"
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        return f"filter '{node.name}' is not allowed in a template{nearest(node.name, FILTERS)}"
    if isinstance(node, nodes.Getattr) and node.attr not in ATTRIBUTES:
        return f"attribute '{node.attr}' is not allowed in a template{nearest(node.attr, ATTRIBUTES)}"
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and not isinstance(node.arg.value, int):
        return f"item {node.arg.value!r} is not allowed in a template: use a number"
    if isinstance(node, nodes.For):
        over = node.iter.node if isinstance(node.iter, nodes.Getitem) else node.iter
        sliced = not isinstance(node.iter, nodes.Getitem) or isinstance(node.iter.arg, nodes.Slice)
        if inside_loop or not sliced or not isinstance(over, nodes.Name) or over.name != "conversation":
            return "a loop may only run over 'conversation' (or a slice of it), and not inside another loop"
    return None


def _blank(body: list[nodes.Node]) -> bool:
    """True when nothing but white space is there."""
    data = [child for node in body if isinstance(node, nodes.Output) for child in node.nodes]
    outputs_only = all(isinstance(node, nodes.Output) for node in body)
    return outputs_only and all(isinstance(item, nodes.TemplateData) and not item.data.strip() for item in data)


def _first_line(node: nodes.Node) -> int:
    """The line of the first visible character: Jinja counts a text from the white space before it."""
    first = node.nodes[0] if isinstance(node, nodes.Output) else node
    if not isinstance(first, nodes.TemplateData):
        return node.lineno
    return first.lineno + first.data[: len(first.data) - len(first.data.lstrip())].count("\n")


def _line(template: CompiledTemplate, error: BaseException, block: str) -> int:
    """The template line an error arose on, read from the traceback's innermost frame of compiled template code."""
    line, trace = template.blocks[block], error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == template.path:
            line = template.code.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
