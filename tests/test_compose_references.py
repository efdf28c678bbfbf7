"""What becomes, under `extends`, of declared tags and of references to principles that are removed."""

from pathlib import Path

import pytest
from constitution_files import principle, write
from typer.testing import CliRunner

from constitutional.cli.app import app
from constitutional.constitution import load_composed, load_constitution
from constitutional.constitution.lint import lint
from constitutional.constitution.show import show
from constitutional.errors import ConstitutionError

KIND = principle("kind", more="    tags: [tone]\n")
TRUTH = principle("truth", more="    tags: [truth]\n    conflicts: [brief, kind]\n")
BRIEF = principle("brief", more="    tags: [tone]\n")
TAGS = "tags: {tone: how it speaks, truth: whether it is so}\n"


def base(folder: Path) -> Path:
    return write(folder, "base.yaml", KIND, TRUTH, BRIEF, head=TAGS)


def notes(path: Path) -> list[str]:
    return [note.replace(f"{path.parent}/", "") for note in load_composed(str(path)).notes]


def problems(path: Path) -> list[str]:
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(str(path))
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_declared_tags_add_up_and_own_words_win(tmp_path: Path) -> None:
    base(tmp_path)
    write(tmp_path, "other.yaml", principle("own", more="    tags: [form]\n"), head="tags: {form: its layout}\n")
    head = "extends: [base.yaml, other.yaml]\ntags: {tone: in my words, more: something new}\n"
    composed = load_composed(str(write(tmp_path, "mine.yaml", head=head)))
    assert composed.constitution.tags == {
        "tone": "in my words",
        "truth": "whether it is so",
        "form": "its layout",
        "more": "something new",
    }
    places = {loc[1]: place for loc, place in composed.marks.items() if len(loc) == 2 and loc[0] == "tags"}
    assert {tag: Path(place).name for tag, place in places.items()} == {
        "tone": "mine.yaml:5:8",
        "truth": "base.yaml:4:29",
        "form": "other.yaml:4:8",
        "more": "mine.yaml:5:27",
    }
    # a tag the parent declares is declared for the child's principles, too; one nobody carries is still told
    assert [(f.rule, f.item) for f in lint(composed.constitution) if f.rule == "tag-coverage"] == [
        ("tag-coverage", "more")
    ]
    shown = show(composed).replace(f"{tmp_path}/", "")
    assert "\ntags:\n  tone: in my words  # mine.yaml:5:8\n  truth: whether it is so  # base.yaml:4:29\n" in shown
    copy = tmp_path / "copy.yaml"
    copy.write_text(show(composed))
    assert load_constitution(str(copy)) == composed.constitution


def test_two_meanings_of_one_tag_need_a_word_of_the_file_that_extends_both(tmp_path: Path) -> None:
    base(tmp_path)
    write(tmp_path, "other.yaml", principle("own"), head="tags: {tone: its music, more: x}\n")
    mine = write(tmp_path, "mine.yaml", head="extends: [base.yaml, other.yaml]\n")
    assert problems(mine) == [
        "other.yaml:4:8: tags.tone: differs from base.yaml:4:8, and a file that extends both must say which it shall be"
    ]
    mine = write(tmp_path, "mine.yaml", head="extends: [base.yaml, other.yaml]\ntags: {tone: its music}\n")
    assert load_constitution(str(mine)).tags["tone"] == "its music"


def test_a_conflict_with_a_removed_principle_goes_with_it_and_is_told(tmp_path: Path) -> None:
    base(tmp_path)
    mine = write(tmp_path, "mine.yaml", head="extends: base.yaml\nremove: [brief]\n")
    composed = load_composed(str(mine))
    assert composed.constitution.principle("truth").conflicts == ("kind",)
    assert notes(mine) == ["base.yaml:16:17: 'truth': conflict with 'brief' left out: removed at mine.yaml:5:10"]
    # what is left keeps its own place
    assert composed.marks["principles", 1, "conflicts", 0].endswith("base.yaml:16:24")
    assert ("principles", 1, "conflicts", 1) not in composed.marks
    assert f"# {composed.notes[0]}\n" in show(composed)
    told = CliRunner().invoke(app, ["validate", str(mine)], catch_exceptions=False).output
    assert f"note: {composed.notes[0]}\n" in told and told.endswith(": ok\n")
    # a file further out inherits the decision, and says whose it was
    outer = write(tmp_path, "outer.yaml", head="extends: mine.yaml\n")
    assert notes(outer) == notes(mine)
    # put back, there is nothing to leave out
    back = write(tmp_path, "back.yaml", BRIEF, head="extends: mine.yaml\n")
    assert notes(back) == [] and load_constitution(str(back)).principle("truth").conflicts == ("brief", "kind")


def test_a_conflict_that_names_nothing_is_still_an_error(tmp_path: Path) -> None:
    base(tmp_path)
    own = principle("own", more="    conflicts: [breif]\n")
    mine = write(tmp_path, "mine.yaml", own, head="extends: base.yaml\nremove: [kind]\n")
    assert problems(mine) == ["mine.yaml:11:17: principles.2.conflicts.0: no principle 'breif' (did you mean 'brief'?)"]


def test_a_tag_goes_with_the_last_principle_that_carried_it_unless_the_file_asks_for_it(tmp_path: Path) -> None:
    base(tmp_path)
    one = write(tmp_path, "one.yaml", head="extends: base.yaml\nremove: [kind]\n")
    assert load_constitution(str(one)).tags.keys() == {"tone", "truth"}  # `brief` still carries it
    both = write(tmp_path, "both.yaml", head="extends: base.yaml\nremove: [kind, brief]\n")
    composed = load_composed(str(both))
    assert composed.constitution.tags == {"truth": "whether it is so"} and ("tags", "tone") not in composed.marks
    assert notes(both)[0] == (
        "base.yaml:4:8: tags.tone: left out, no principle is left that carries it "
        "('kind' was removed at both.yaml:5:10, 'brief' was removed at both.yaml:5:16)"
    )
    assert not [f for f in lint(composed.constitution) if f.rule == "tag-coverage"]
    asked = write(
        tmp_path, "asked.yaml", head="extends: base.yaml\nremove: [kind, brief]\ntags: {tone: still wanted}\n"
    )
    constitution = load_constitution(str(asked))
    assert constitution.tags["tone"] == "still wanted"
    assert [f.item for f in lint(constitution) if f.rule == "tag-coverage"] == ["tone"]


def test_a_tag_that_nobody_ever_carried_is_left_to_lint(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", KIND, TRUTH, BRIEF, head=TAGS.replace("}", ", form: x}"))
    mine = write(tmp_path, "mine.yaml", head="extends: base.yaml\nremove: [brief]\n")
    assert load_constitution(str(mine)).tags.keys() == {"tone", "truth", "form"}
