from pathlib import Path

import pytest
import yaml
from constitution_files import HEAD, principle, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from constitutional import yamlfile
from constitutional.constitution.bump import bump, file_with, raised
from constitutional.constitution.loader import load_constitution
from constitutional.constitution.lock import check_lock, lock, lock_path
from constitutional.errors import ConfigError, ConstitutionError
from constitutional.resources import find

REQUEST = "    comparison_request: Which is kinder?\n"
ENTRY = "      - version: 1.1.0\n        text: Said better.\n"

EDITS = [
    # before, after: all else stays
    (
        "  - id: kind\n    version: 1.0.0  # first\n    title: Kind\n" + REQUEST,
        "  - id: kind\n    version: 1.1.0  # first\n    changelog:\n" + ENTRY + "    title: Kind\n" + REQUEST,
    ),
    (
        "  - version: '1.0.0'\n    id: kind\n    title: Kind\n" + REQUEST,
        "  - version: '1.1.0'\n    changelog:\n" + ENTRY + "    id: kind\n    title: Kind\n" + REQUEST,
    ),
    (
        "  - id: kind\n    title: Kind\n" + REQUEST + '    "version":   "1.0.0"',
        "  - id: kind\n    title: Kind\n" + REQUEST + '    "version":   "1.1.0"\n    changelog:\n' + ENTRY.rstrip("\n"),
    ),
    (
        "  - id: kind\n    version:\n      1.0.0\n\n    # why\n    title: Kind\n" + REQUEST,
        "  - id: kind\n    version:\n      1.1.0\n    changelog:\n"
        + ENTRY
        + "\n    # why\n    title: Kind\n"
        + REQUEST,
    ),
    (
        "  - id: kind\n    version: >-  # 1.0.0\n      1.0.0\n\n    title: Kind\n" + REQUEST,
        "  - id: kind\n    version: >-  # 1.0.0\n      1.1.0\n    changelog:\n"
        + ENTRY
        + "\n    title: Kind\n"
        + REQUEST,
    ),
    (
        '  - id: kind\n    version: "1\\x2e0.0"\n    title: Kind\n' + REQUEST,
        '  - id: kind\n    version: "1.1.0"\n    changelog:\n' + ENTRY + "    title: Kind\n" + REQUEST,
    ),
    (
        "  - ? id\n    : kind\n    ? version\n    : 1.0.0\n    ? title\n    : Kind\n" + REQUEST,
        "  - ? id\n    : kind\n    ? version\n    : 1.1.0\n    changelog:\n"
        + ENTRY
        + "    ? title\n    : Kind\n"
        + REQUEST,
    ),
    (
        "  - id: kind\n    title: Kind\n    changelog:\n      # old\n      - version: 1.0.0\n        text: First\n"
        "    version: 1.0.0\n" + REQUEST,
        "  - id: kind\n    title: Kind\n    changelog:\n      # old\n"
        + ENTRY
        + "      - version: 1.0.0\n        text: First\n    version: 1.1.0\n"
        + REQUEST,
    ),
    (
        "  - id: kind\n    version: 1.0.0\n    changelog:\n    - {version: 1.0.0, text: First}\n    title: K\n"
        + REQUEST,
        "  - id: kind\n    version: 1.1.0\n    changelog:\n    - version: 1.1.0\n"
        "      text: Said better.\n    - {version: 1.0.0, text: First}\n    title: K\n" + REQUEST,
    ),
    (
        "  - id: kind\n    version: 1.0.0\n    ? changelog\n    : - version: 1.0.0\n        text: First\n    title: K\n"
        + REQUEST,
        "  - id: kind\n    version: 1.1.0\n    ? changelog\n    : - version: 1.1.0\n        text: Said better.\n"
        "      - version: 1.0.0\n        text: First\n    title: K\n" + REQUEST,
    ),
    (
        "  - id: kind\n    version: 1.0.0\n    changelog: [  # none\n      ]\n    title: K\n" + REQUEST,
        "  - id: kind\n    version: 1.1.0\n    changelog: [{version: 1.1.0, text: Said better.}  # none\n      ]\n"
        "    title: K\n" + REQUEST,
    ),
    (
        "  - id: kind\n    version: 1.0.0\n    changelog: [{version: 1.0.0, text: First}]\n    title: K\n" + REQUEST,
        "  - id: kind\n    version: 1.1.0\n    changelog: [{version: 1.1.0, text: Said better.}, "
        "{version: 1.0.0, text: First}]\n    title: K\n" + REQUEST,
    ),
    (
        "  - {id: kind, version: 1.0.0, title: Kind, comparison_request: Kinder}\n",
        "  - {id: kind, version: 1.1.0, changelog: [{version: 1.1.0, text: Said better.}], title: Kind, "
        "comparison_request: Kinder}\n",
    ),
    (
        '  [{"id":"kind","title":"K","comparison_request":"Kind?","version":"1.0.0"}]\n',
        '  [{"id":"kind","title":"K","comparison_request":"Kind?","version":"1.1.0", '
        "changelog: [{version: 1.1.0, text: Said better.}]}]\n",
    ),
    (
        "  - {id: kind, changelog: [], version: 1.0.0,  # first\n     title: Kind, comparison_request: Kinder,}\n",
        "  - {id: kind, changelog: [{version: 1.1.0, text: Said better.}], version: 1.1.0,  # first\n"
        "     title: Kind, comparison_request: Kinder,}\n",
    ),
]


@pytest.mark.parametrize("layout", ["{}", "\ufeff{}", "crlf"])
@pytest.mark.parametrize(("before", "after"), EDITS)
def test_only_the_version_and_an_entry_change(tmp_path: Path, before: str, after: str, layout: str) -> None:
    start = "# About kindness: 1.0.0\n" + HEAD + "principles:\n"

    def content(text: str) -> bytes:
        whole = start + text
        return (whole.replace("\n", "\r\n") if layout == "crlf" else layout.format("") + whole).encode()

    path = tmp_path / "mine.yaml"
    path.write_bytes(content(before))
    assert bump(str(path), "kind", "minor", "Said better.") == "kind@1.1.0"
    assert path.read_bytes() == content(after)
    constitution = load_constitution(str(path))
    assert constitution.version == "1.0.0" and constitution.principle("kind@1.1.0").changelog[0].text == "Said better."


def test_the_slow_loader_marks_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfile, "_LOADER", yaml.SafeLoader)
    for before, after in EDITS:
        path = tmp_path / "mine.yaml"
        path.write_text(HEAD + "principles:\n" + before)
        bump(str(path), "kind", "minor", "Said better.")
        assert path.read_text() == HEAD + "principles:\n" + after


@pytest.mark.parametrize("ours", ["minimal", "harmlessness"])
def test_our_own_constitutions_can_be_bumped(tmp_path: Path, ours: str) -> None:
    text = find("constitutions", ours).read_text()
    path = tmp_path / "ours.yaml"
    path.write_text(text)
    before = load_constitution(str(path)).principles
    for name in [p.id for p in before]:
        bump(str(path), name, "major", "Said anew.")
    bumped = load_constitution(str(path)).principles
    assert all(p.changelog[0].version == p.version and p.version.endswith(".0.0") for p in bumped)
    lines = path.read_text().splitlines()
    assert len(lines) == len(text.splitlines()) + sum(2 if p.changelog else 3 for p in before)


def test_which_number_is_raised() -> None:
    assert [raised("1.9.4", part) for part in ("major", "minor", "patch")] == ["2.0.0", "1.10.0", "1.9.5"]


def test_bump_mends_the_lock_and_says_what_changed(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", principle("kind"), principle("truth"))
    lock(str(path))
    path.write_text(path.read_text().replace("better?", "kinder?", 1))
    assert check_lock(str(path))
    assert bump(str(path), "kind", "patch") == "kind@1.0.1"
    assert check_lock(str(path)) == ()
    lock(str(path))
    assert load_constitution(str(path)).principle("kind").changelog[0].text == "Changed comparison_request."


def test_an_override_has_its_own_version(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", principle("kind"), principle("truth"))
    edits = "override:\n  kind:\n    version: 2.0.0\n    comparison_request: Mine?\n  truth: {weight: 2}\n"
    path = write(tmp_path, "mine.yaml", head="extends: base.yaml\n" + edits)
    assert bump(str(path), "kind", "major", "Mine.") == "kind@3.0.0"
    added = "    version: 3.0.0\n    changelog:\n      - version: 3.0.0\n        text: Mine.\n"
    assert path.read_text() == HEAD + "extends: base.yaml\n" + edits.replace("    version: 2.0.0\n", added)
    for name, message in [
        ("truth", f"{path}: 'truth' has its version from {base}:10:5: raise it there"),
        ("knid", f"{path}: no principle 'knid' (did you mean 'kind'?)"),
    ]:
        with pytest.raises(ConstitutionError) as caught:
            bump(str(path), name, "minor")
        assert str(caught.value) == message


@pytest.mark.parametrize("override", ["{kind: {version: 3}}", "{kind: {version: 1.0.0, changelog: x}}"])
def test_overrides_of_odd_types_are_refused(tmp_path: Path, override: str) -> None:
    write(tmp_path, "base.yaml", principle("kind"))
    path = write(tmp_path, "mine.yaml", head=f"extends: base.yaml\noverride: {override}\n")
    with pytest.raises(ConstitutionError, match=r"mine.yaml:5:\d+: (version: cannot be raised|changelog: expected)"):
        bump(str(path), "kind", "minor")


def test_refusals_leave_the_file_alone(tmp_path: Path) -> None:
    huge = principle("kind", version=f"1.0.{'9' * 5000}")
    path = write(tmp_path, "mine.yaml", huge, principle("truth"))
    before = path.read_bytes()
    for name, text in [("kind", "x"), ("truth", "  "), ("truth", "two\nlines"), ("truth", "\udc80")]:
        with pytest.raises(ConstitutionError):
            bump(str(path), name, "patch", text)
    with pytest.raises(ConfigError, match="no constitution"):
        bump("nowhere", "kind", "patch", "x")
    assert path.read_bytes() == before


def test_a_link_stays_a_link_and_permissions_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path, "real.yaml", principle("kind"))
    path.chmod(0o640)
    link = tmp_path / "mine.yaml"
    link.symlink_to(path)
    bump(str(link), "kind", "patch", "x")
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o640
    assert load_constitution(str(path)).principles[0].version == "1.0.1"


comment = st.sampled_from(["", "  # why", "\t# 1.0.0", "  "])
scalar = st.sampled_from(["{}", "'{}'", '"{}"', ">-\n      {}", "\n      {}"])
texts = st.sampled_from(["Which?", '"a: b"', "|\n      two\n      lines", ">-\n      folded\n      text", "'it''s'"])
logs = st.sampled_from(
    [
        None,
        "[]",
        "[{version: 1.0.0, text: a}]",
        "\n      - version: 1.0.0  # x\n        text: a",
        "\n    - {version: 1.0.0, text: |- }".replace("|- ", "'b'"),
        "\n      - text: |\n          long\n\n        version: 1.0.0",
    ]
)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str]:
    """A valid file and the id of one of its principles."""
    names = draw(st.lists(st.sampled_from(["kind", "truth", "brief", "calm"]), min_size=1, max_size=3, unique=True))
    text = draw(st.sampled_from(["", "# top\n", "\ufeff", "---\n"])) + HEAD + "principles:\n"
    for name in names:
        if draw(st.booleans()):
            fields = {
                "id": name,
                "version": draw(scalar).format("1.2.3"),
                "title": "T",
                "comparison_request": draw(texts),
            }
            fields |= {"changelog": log} if (log := draw(logs)) is not None else {}
            order = draw(st.permutations(sorted(fields)))
            rows = []
            for key in order:
                plain = fields[key].split("\n")[0] == fields[key]
                rows.append(
                    f"{key}: {fields[key]}{draw(comment) if plain else ''}\n{draw(st.sampled_from(['', chr(10)]))}"
                )
            text += "  - " + "    ".join(rows)
        else:
            log = ", changelog: [{version: 1.0.0, text: a}]" if draw(st.booleans()) else ""
            text += f"  - {{id: {name}, version: 1.2.3{log},\n     title: T, comparison_request: 'W'}}{draw(comment)}\n"
    if draw(st.booleans()):
        text = text.rstrip("\n")
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return text, draw(st.sampled_from(names))


def shared(one: str, other: str) -> int:
    """How many characters two texts begin alike with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def is_one_insertion(before: str, after: str) -> bool:
    alike = shared(before, after) + shared(before[::-1], after[::-1])
    return alike >= len(before) and len(after) > len(before)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=files(),
    part=st.sampled_from(["major", "minor", "patch"]),
    said=st.sampled_from(["Better.", 'a "b": c # d', "é"]),
)
def test_every_other_byte_stays(tmp_path: Path, file: tuple[str, str], part: str, said: str) -> None:
    text, name = file
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode())
    lock_path(path).unlink(missing_ok=True)
    old = load_constitution(str(path))
    lock(str(path))
    bump(str(path), name, part, said)  # type: ignore[arg-type]
    after = path.read_bytes().decode()
    new = load_constitution(str(path))
    version = raised("1.2.3", part)  # type: ignore[arg-type]
    spots = [at for at in range(len(text)) if text.startswith("1.2.3", at)]
    assert any(is_one_insertion(text[:at] + version + text[at + 5 :], after) for at in spots)
    for was, now in zip(old.principles, new.principles, strict=True):
        if was.id != name:
            assert was == now
            continue
        assert (now.version, now.changelog[0].version, now.changelog[0].text) == (version, version, said)
        assert now.changelog[1:] == was.changelog
        assert now.model_copy(update={"version": was.version, "changelog": was.changelog}) == was
    assert after.count("\r") in (0, after.count("\n"))
    assert check_lock(str(path)) == ()
    lock(str(path))
    assert check_lock(str(path)) == ()


def test_a_file_is_found_by_either_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("constitutions").mkdir()
    text = HEAD + "principles:\n  - id: kind\n    version: 1.0.0\n    title: Kind\n" + REQUEST
    Path("constitutions/mine.yml").write_text(text)
    Path("notes.txt").write_text(text)
    assert file_with("kind") == Path("constitutions/mine.yml")
    Path("other.yaml").write_text(text)
    with pytest.raises(ConstitutionError, match=r"several constitutions .*\(constitutions/mine\.yml, other\.yaml\)"):
        file_with("kind")
