"""Template packs: how the requests of a constitution are put to a model.

A pack is a folder `prompts/NAME/` with `pack.yaml` and one Jinja file for each thing that is asked. A file is a row of
blocks, one a message, in order:

    {% block system %} {% block user %} {% block assistant_draft %}   a message; what follows `_` tells blocks apart
    {% block turns %}{% endblock %}                                   the conversation's own messages, as real turns
    {% block text %}                                                  alone in its file: a raw text for a base model

A last assistant block is a prefill, which the completion continues. The newline after an opening tag and the one before
a closing tag are layout, all else is kept as it stands. Each block is rendered on its own and values are data, so no
value can begin a message; in a `text`, where turns are only text, the pack's stop sequences inside values lose the
blank line that makes them turn markers.

A pack that `extends` another one has its templates and settings where it has none of its own.

Few-shots (constitutional/few_shots.py) stand before the question, after its system messages: each is the same file
filled with the shot's texts, with its answer behind. A pack's own are in `pack.yaml`, for authors who give none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from constitutional.errors import ConfigError, TemplateError, nearest
from constitutional.few_shots import KIND_OF, FewShots, before_text, before_turns, worked
from constitutional.pack_settings import ANSWERS, PackSettings
from constitutional.records import Dialogue, Message, Record, Role, assistant, short_digest
from constitutional.resources import PACK_FILE, find, packaged
from constitutional.sandbox import MAX_OUTPUT, CompiledTemplate, compile_template, render_block
from constitutional.yamlfile import load_model

REQUIRED = ("critique", "revise", "revise_direct", "respond", "judge", "applies")
TEMPLATES = (*REQUIRED, "judge_cot", "vote", "score", "contrast")
"""All that a pack can have. Those that only one mode of judging, or only contrast pairs, ask with may be left out."""
_REQUESTS = ("critique_request", "revision_request", "comparison_request", "score_request", "applies_when")
"""The settings a template is answered with, where these are not just the options."""
VARIABLES = frozenset({"conversation", "answer", "critique", "a", "b", *_REQUESTS})
MAX_SOURCE = 200_000
_ROLES: tuple[Role, ...] = get_args(Role)

Value = str | Dialogue


class Rendered(Record):
    """A dialogue to send to a model, and the prefill at its end: part of the answer, but not of the completion."""

    dialogue: Dialogue
    opening: str


@dataclass(frozen=True)
class Template:
    """One compiled file of a pack and the source it came from."""

    source: str
    compiled: CompiledTemplate

    @property
    def required(self) -> frozenset[str]:
        """Names of the values it must be given."""
        turns = {"conversation"} if "turns" in self.compiled.blocks else set()
        return frozenset(self.compiled.variables) | turns


@dataclass(frozen=True)
class TemplatePack:
    """A loaded pack: every template compiled and checked."""

    settings: PackSettings
    templates: Mapping[str, Template]
    few_shots: FewShots
    """Those in effect: the pack's own, or a constitution's in their place."""

    @property
    def id(self) -> str:
        """The pack's name."""
        return self.settings.id

    @property
    def version(self) -> str:
        """The pack's version."""
        return self.settings.version

    @property
    def ref(self) -> str:
        """`id@version`."""
        return f"{self.id}@{self.version}"

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts at which a completion ends."""
        return self.settings.stop

    @property
    def options(self) -> tuple[str, str]:
        """The judge's two continuations."""
        return self.settings.options

    @property
    def yes_no(self) -> tuple[str, str]:
        """The judge's two continuations when it is asked whether a principle applies."""
        return self.settings.yes_no

    @property
    def conclusion(self) -> str:
        """What stands between a judge's reasoning and its options."""
        return self.settings.conclusion

    @property
    def grades(self) -> tuple[str, ...]:
        """The continuations a judge grades an answer with, the lowest grade first."""
        return self.settings.grades

    def required(self, template: str) -> frozenset[str]:
        """Names of the values a template must be given."""
        return self._get(template).required

    def with_few_shots(self, few_shots: FewShots | None) -> TemplatePack:
        """The same pack with a constitution's few-shots in place of its own, kind by kind."""
        return replace(self, few_shots=self.few_shots.under(few_shots))

    def digest(self, template: str) -> str:
        """Changes when the template's source, its few-shots, or a setting of the pack that reaches a model changes."""
        answers = ANSWERS.get(template, {"options"})
        settings = self.settings.model_dump(mode="json", include={"id", "version", "stop", *answers})
        parts = {"pack": settings, "template": template, "source": self._get(template).source}
        return short_digest(parts | (self.few_shots.texts(KIND_OF[template]) if template in KIND_OF else {}))

    def render(self, template: str, few_shots: FewShots | None = None, **values: Value) -> Rendered:
        """Fills a template.

        Args:
            template: one of TEMPLATES.
            few_shots: a principle's own, in place of the constitution's and the pack's.
            values: texts, and `conversation` as a tuple of messages. More than the template uses may be given.

        Raises:
            TemplateError: a value is missing (with the nearest name given), or the text grows too long.
        """
        question = self._fill(template, values)
        shots = list(worked(template, self.few_shots.under(few_shots), values, self.options, self.conclusion))
        if not shots:
            return question
        filled = [(self._fill(template, shot_values), answer) for shot_values, answer in shots]
        compiled = self._get(template).compiled
        if "text" not in compiled.blocks:
            turns = [(shot.dialogue, shot.opening, answer) for shot, answer in filled]
            return Rendered(dialogue=before_turns(question.dialogue, turns, template), opening=question.opening)
        texts = [(shot.dialogue[0].content, str(_without_markers(a, self.stop))) for shot, a in filled]
        text = before_text(question.dialogue[0].content, texts)
        if len(text) > MAX_OUTPUT:
            raise TemplateError(f"{compiled.path}:1: longer than {MAX_OUTPUT} characters with its few-shots")
        return Rendered(dialogue=(assistant(text),), opening="")

    def _fill(self, template: str, values: Mapping[str, Value]) -> Rendered:
        compiled = self._get(template).compiled
        for name in sorted(self.required(template) - values.keys()):
            line = compiled.variables.get(name) or compiled.blocks["turns"]
            raise TemplateError(f"{compiled.path}:{line}: no value for '{name}'{nearest(name, values)}")
        if "text" in compiled.blocks:
            shielded = {name: _without_markers(value, self.stop) for name, value in values.items()}
            return Rendered(dialogue=(assistant(render_block(compiled, "text", shielded)),), opening="")
        messages: list[Message] = []
        for block in compiled.blocks:
            if block == "turns":
                messages.extend(_messages(values["conversation"]))
            else:
                messages.append(Message(role=_role(block), content=render_block(compiled, block, values)))
        opening = messages[-1].content if block != "turns" and messages[-1].role == "assistant" else ""
        return Rendered(dialogue=tuple(messages), opening=opening)

    def _get(self, template: str) -> Template:
        if template not in self.templates:
            raise TemplateError(f"no template '{template}' in pack {self.ref}{nearest(template, self.templates)}")
        return self.templates[template]


def load_pack(name_or_path: str) -> TemplatePack:
    """Loads a pack by folder or by name (`chat`, `transcript`, or one in ./prompts).

    Raises:
        ConfigError: no such pack, with the nearest name.
        TemplateError: `file:line: message` for whatever is missing, malformed, unsafe or unknown in it.
    """
    return _load_pack(find("prompts", name_or_path), ())


def _load_pack(folder: Path, above: tuple[Path, ...]) -> TemplatePack:
    settings = load_model(_own_file(folder, PACK_FILE), PackSettings, TemplateError)
    if folder.resolve() in above:
        raise TemplateError(f"{above[0] / PACK_FILE}: extends: goes round in a circle")
    inherited: Mapping[str, Template] = {}
    if settings.extends is not None:
        parent = _load_pack(_parent(folder, settings.extends), (*above, folder.resolve()))
        inherited = parent.templates
        stated = {name: getattr(settings, name) for name in settings.model_fields_set}
        settings = parent.settings.model_copy(update=stated)  # its stop texts above all: they shield its templates
    names = {path.stem for path in folder.glob("*.j2")}
    for name in sorted(names - set(TEMPLATES)):
        raise TemplateError(f"{folder / name}.j2: unknown template '{name}'{nearest(name, TEMPLATES)}")
    wanted = {name for name in REQUIRED if name not in inherited} | names
    own = {name: _load(folder, f"{name}.j2") for name in TEMPLATES if name in wanted}
    templates = {name: own.get(name) or inherited[name] for name in TEMPLATES if name in own or name in inherited}
    return TemplatePack(settings=settings, templates=templates, few_shots=settings.few_shots)


def _parent(folder: Path, name: str) -> Path:
    """The pack that one in a folder extends: beside it, else by name; never itself."""
    if (folder / name / PACK_FILE).is_file():
        return folder / name
    try:
        found = find("prompts", name)
    except ConfigError as error:
        raise TemplateError(f"{folder / PACK_FILE}: extends: {error}") from error
    shipped = packaged("prompts")
    own = found.resolve() == folder.resolve()  # ./prompts/chat that extends chat means the shipped one
    return shipped / name if own and shipped is not None and (shipped / name / PACK_FILE).is_file() else found


def _load(folder: Path, name: str) -> Template:
    path = _own_file(folder, name)
    try:
        source = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path}:1: not valid UTF-8") from error
    if len(source) > MAX_SOURCE:
        raise TemplateError(f"{path}:1: longer than {MAX_SOURCE} characters")
    template = Template(source=source, compiled=compile_template(source, str(path)))
    problems = list(_block_problems(template.compiled))
    for name, line in template.compiled.variables.items():
        if name not in VARIABLES:
            problems.append((line, f"unknown variable '{name}'{nearest(name, VARIABLES)}"))
    if problems:
        raise TemplateError("\n".join(f"{path}:{line}: {message}" for line, message in sorted(problems)))
    return template


def _own_file(folder: Path, name: str) -> Path:
    """A pack is read from its own folder only: a link could show any file of the machine to a model."""
    path = folder / name
    if path.is_symlink() or path.resolve().parent != folder.resolve():
        raise TemplateError(f"{path}: a link out of the pack is not followed")
    if not path.is_file():
        raise TemplateError(f"{path}: missing template")
    return path


def _block_problems(template: CompiledTemplate) -> list[tuple[int, str]]:
    problems = []
    legal = (*_ROLES, "turns", "text")
    for name, line in template.blocks.items():
        if name not in ("turns", "text") and _role_name(name) not in _ROLES:
            problems.append((line, f"unknown block '{name}'{nearest(_role_name(name), legal)}"))
        if name == "turns" and name not in template.empty_blocks:
            problems.append((line, "block 'turns' must be empty: the conversation's messages stand there"))
        if name == "text" and len(template.blocks) > 1:
            problems.append((line, "block 'text' must be the only block of its file"))
    return problems or ([] if template.blocks else [(1, "no block: each message is a block of its own")])


def _role_name(block: str) -> str:
    return block.partition("_")[0]


def _role(block: str) -> Role:
    return next(role for role in _ROLES if role == _role_name(block))


def _without_markers(value: Value, stop: Sequence[str]) -> Value:
    """The value with "\\n\\nHuman:" and its like made "\\nHuman:" (" Human:" at its start): they open no turn then."""
    if not isinstance(value, str):
        return tuple(
            Message(role=turn.role, content=str(_without_markers(turn.content, stop))) for turn in _messages(value)
        )
    marks = "|".join(re.escape(mark.lstrip("\n")) for mark in stop if mark.startswith("\n\n"))
    if not marks:
        return value
    # At a value's start the blank line may be the template's, so a newline would not be enough.
    return re.sub(rf"(?:\A\n*|\n{{2,}})(?={marks})", lambda match: "\n" if match.start() else " ", value)


def _messages(value: Sequence[object]) -> Dialogue:
    return tuple(Message.model_validate(turn) for turn in value)
