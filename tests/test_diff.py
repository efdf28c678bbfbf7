import subprocess
from pathlib import Path

import pytest
from constitution_files import HEAD, principle, write

from constitutional.constitution.diff import Difference, diff, render
from constitutional.constitution.revisions import open_constitution
from constitutional.errors import ConfigError, ConstitutionError

EXAMPLE = "      - {{prompt: {0}, better: good, worse: bad}}\n"
KIND = principle("kind", "Which is kinder?")
TRUTH = principle("truth", "Which is truer?")


def difference(folder: Path, old: list[str], new: list[str], old_head: str = "", new_head: str = "") -> Difference:
    before = write(folder, "old.yaml", *old, head=old_head)
    after = write(folder, "new.yaml", *new, head=new_head)
    return diff(open_constitution(str(before)).constitution, open_constitution(str(after)).constitution)


def test_the_same_has_no_difference(tmp_path: Path) -> None:
    same = difference(tmp_path, [KIND], [KIND])
    assert same.empty and render(same) == "mine@1.0.0 -> mine@1.0.0: no difference\n"


def test_every_kind_of_change_in_words_and_as_json(tmp_path: Path) -> None:
    old = [
        principle("kind", "Which is kinder?", more="    tags: [a, b]\n    examples:\n" + EXAMPLE.format("one")),
        principle("rude", "Which is ruder?"),
        principle("calm", "Which is calmer?"),
    ]
    text = "|\n      Which is kinder,\n      all in all?\n"
    new = [
        principle("serene", "Which is calmer?", "1.0.1"),
        principle("kind", text, "1.1.0", "    tags: [b, c]\n    weight: 2\n    examples:\n" + EXAMPLE.format("two")),
        TRUTH,
    ]
    found = difference(tmp_path, old, new, new_head="template_pack: transcript\n")
    assert render(found).splitlines() == [
        "mine@1.0.0 -> mine@1.0.0: principles: 1 added, 1 removed, 1 renamed, 1 changed",
        "  template_pack",
        "    - chat",
        "    + transcript",
        "  the principles come in another order",
        "",
        "renamed calm@1.0.0 -> serene@1.0.1: Serene",
        "  title",
        "    - Calm",
        "    + Serene",
        "",
        "changed kind@1.0.0 -> kind@1.1.0: Kind",
        "  comparison_request",
        "    - Which is kinder?",
        "    + Which is kinder,",
        "    + all in all?",
        "    + ",
        "  weight",
        "    - 1.0",
        "    + 2.0",
        "  tags",
        "    - a",
        "    + c",
        "  example removed (gate)",
        "    - prompt: one",
        "    - better: good",
        "    - worse: bad",
        "  example added (gate)",
        "    + prompt: two",
        "    + better: good",
        "    + worse: bad",
        "",
        "added truth@1.0.0: Truth",
        "",
        "removed rude@1.0.0: Rude",
    ]
    assert Difference.model_validate_json(found.to_json(), strict=True) == found
    assert [change.kind for change in found.principles] == ["renamed", "changed", "added", "removed"]


def test_a_text_changed_under_its_version_is_said(tmp_path: Path) -> None:
    found = difference(tmp_path, [KIND], [principle("kind", "Other?")])
    assert found.principles[0].unversioned and "  a text changed and the version did not\n" in render(found)
    found = difference(tmp_path, [KIND], [principle("kind", "Which is kinder?", more="    weight: 2\n")])
    assert not found.principles[0].unversioned


def test_lists_in_another_order_or_with_doubles_are_shown(tmp_path: Path) -> None:
    found = difference(
        tmp_path,
        [principle("kind", more="    tags: [a, b]\n    paraphrases: [x, x]\n")],
        [principle("kind", more="    tags: [b, a]\n    paraphrases: [x]\n")],
    )
    assert render(found).splitlines()[4:] == [
        "  paraphrases",
        "    - x",
        "  tags",
        "    - a",
        "    - b",
        "    + b",
        "    + a",
    ]


def test_of_principles_alike_each_is_renamed_once(tmp_path: Path) -> None:
    found = difference(tmp_path, [principle("a"), principle("b")], [principle("c"), principle("d"), principle("e")])
    assert [(c.kind, c.old, c.new) for c in found.principles] == [
        ("renamed", "a@1.0.0", "c@1.0.0"),
        ("renamed", "b@1.0.0", "d@1.0.0"),
        ("added", None, "e@1.0.0"),
    ]


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    text = render(difference(tmp_path, [KIND], [principle("kind", r'"\e[31mred\u202e"')]))
    assert r"    + \x1b[31mred\u202e" in text.splitlines()


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """v1: mine extends base; then base changes, mine moves, and both are committed."""
    git(tmp_path, "init", "-q")
    write(tmp_path, "law/base.yaml", KIND)
    write(tmp_path, "law/mine.yaml", TRUTH, head="extends: base.yaml\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v1")
    write(tmp_path, "law/base.yaml", principle("kind", "Which is gentler?", "1.1.0"))
    write(tmp_path, "law/bad.yaml", KIND, head="wieght: 1\n")
    (tmp_path / "law/gone").mkdir()
    write(tmp_path, "law/gone/old.yaml", KIND)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "two")
    git(tmp_path, "tag", "v2")
    git(tmp_path, "rm", "-rq", "law/gone", "law/bad.yaml")
    return tmp_path


def test_a_revision_is_read_with_what_it_extended_then(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repository / "law" / "mine.yaml"
    old, new = open_constitution(f"{path}@v1"), open_constitution(str(path))
    (change,) = diff(old.constitution, new.constitution).principles
    assert (change.old, change.new, change.fields[0].old) == ("kind@1.0.0", "kind@1.1.0", "Which is kinder?")
    monkeypatch.chdir(repository / "law")
    assert open_constitution("mine.yaml@v1").constitution == old.constitution
    assert open_constitution("mine.yaml@v1").marks["principles", 0, "version"] == "base.yaml@v1:6:5"
    assert open_constitution("mine.yaml@HEAD~1").constitution == old.constitution
    assert open_constitution("mine.yaml@HEAD@{0}").constitution == new.constitution
    assert open_constitution("gone/old.yaml@v2").constitution.principles[0].id == "kind"  # its folder is gone
    monkeypatch.chdir(repository)
    (repository / "constitutions").symlink_to("law")
    assert open_constitution("mine@v1").constitution == old.constitution


def test_what_cannot_be_read_at_a_revision_is_one_line(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository / "law")
    for spec, error, message in [
        ("mine.yaml@v3", ConfigError, "mine.yaml@v3: no revision 'v3' (known: "),
        ("mine.yaml@--all", ConfigError, "mine.yaml@--all: no revision '--all'"),
        ("mine.yaml@v1\0", ConfigError, "no constitution 'mine.yaml@v1\0'"),
        ("mien.yaml@v1", ConfigError, "mien.yaml@v1: no such file at that revision"),
        ("../../mine.yaml@v1", ConfigError, "../../mine.yaml@v1: "),
        (f"{'x' * 300}/mine.yaml@v1", ConfigError, f"{'x' * 300}/mine.yaml@v1: no such file at that revision"),
        ("nobody@v1", ConfigError, "no constitution 'nobody'"),
        ("bad.yaml@v2", ConstitutionError, "bad.yaml@v2:4:1: wieght: unknown key 'wieght'"),
    ]:
        with pytest.raises(error) as caught:
            open_constitution(spec)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_outside_a_repository_and_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "mine.yaml", KIND)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ConfigError, match=r"mine.yaml@v1: not a git repository"):
        open_constitution(f"{path}@v1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="git is needed"):
        open_constitution(f"{path}@v1")


def test_a_file_with_an_at_sign_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml@v1", KIND)
    assert open_constitution(str(path)).constitution.id == "mine"
    assert HEAD in path.read_text()
    assert open_constitution("minimal").constitution.id == "minimal"
