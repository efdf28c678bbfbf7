import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_models import HOSTILE, make_prompts
from fake_run import CONSTITUTION, RECIPE, make_run

from constitutional.audit.current import STEP_NAMES
from constitutional.audit.report import write_report
from constitutional.audit.wording import fixed, pct


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("report") / "run")
    assert write_report(folder, RECIPE, CONSTITUTION, make_prompts()) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def figures(run: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((run / "report.json").read_text())
    return loaded


class Page(HTMLParser):
    """Every tag and attribute of the page, its visible text, and which tags were left open."""

    VOID = ("meta", "br", "line", "circle", "rect", "polyline")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open, self.wrong = Counter[str](), list[str](), list[str]()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def raw(run: Path, step: str, file: str = "data.jsonl") -> list[dict[str, object]]:
    folder = json.loads((run / "current.json").read_text())[step]
    return [json.loads(line) for line in (run / folder / file).read_bytes().split(b"\n")[:-1]]


def test_hostile_text_is_shown_and_does_nothing(page: str) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "{{ 7 * 7 }}" in page and ">49<" not in page
    assert "<script" not in page and "<img" not in page and page.count("</style>") == 1
    assert not [c for c in page if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]
    parsed = Page(page)
    assert parsed.wrong == [] and parsed.open == []
    assert HOSTILE.split("\x1b")[0].strip() in " ".join(parsed.text)
    known = (
        "html head meta title style body header p h1 h2 h3 h4 span nav a main section div table thead tr th tbody td ol"
    )
    known += " caption small svg line circle rect polyline text figure figcaption ul li dl dt dd strong code br details"
    assert set(parsed.tags) <= {*known.split(), "summary", "pre", "footer"}
    links = [value for _, name, value in parsed.attributes if name == "href"]
    assert links and all(str(link).startswith("#") for link in links)
    assert not [a for a in parsed.attributes if a[1] in ("src", "srcset", "action", "data") or a[1].startswith("on")]
    assert "url(" not in page and "@import" not in page and "xlink" not in page
    policy = next(v for t, n, v in parsed.attributes if t == "meta" and n == "content" and "default-src" in str(v))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and {f"#{i}" for i in ids} >= set(links)


def test_the_report_is_a_function_of_the_run(run: Path, page: str) -> None:
    before = (run / "report.json").read_bytes()
    write_report(run, RECIPE, CONSTITUTION, make_prompts())
    assert (run / "report.html").read_text("utf-8") == page and (run / "report.json").read_bytes() == before


def test_principle_figures_are_those_of_the_judgments(run: Path, figures: dict[str, object], page: str) -> None:
    judged = raw(run, "judge")
    rows = {row["principle"]: row for row in figures["judging"]}  # type: ignore[attr-defined]
    assert list(rows) == [*(p.ref for p in CONSTITUTION.principles), "all"]
    for ref, row in rows.items():
        mine = [j for j in judged if ref in ("all", j["principle"])]
        usable = [j for j in mine if j["p_a"] is not None]
        assert (row["judgments"], row["usable"]) == (len(mine), len(usable))
        assert row["outcomes"] == Counter(j["outcome"] for j in mine)
        p_a = [float(j["p_a"]) for j in usable]  # type: ignore[arg-type]
        assert row["mean_p"] == pytest.approx(sum(p_a) / len(p_a))
        assert row["decisiveness"] == pytest.approx(sum(abs(p - 0.5) * 2 for p in p_a) / len(p_a))
        first = [p if j["order"] == "ab" else 1 - p for p, j in zip(p_a, usable, strict=True)]
        assert row["first_position"]["count"] == sum(p > 0.5 for p in first)
        assert row["first_position"]["n"] == sum(p != 0.5 for p in first)
        pairs: dict[tuple[object, object], dict[object, float]] = {}
        for j, p in zip(usable, p_a, strict=True):
            pairs.setdefault((j["comparison_id"], j["principle"]), {})[j["order"]] = p
        both = [(o["ab"], o["ba"]) for o in pairs.values() if len(o) == 2]
        assert row["pairs"] == row["order_consistency"]["n"] == len(both)
        assert row["order_consistency"]["count"] == sum((a > 0.5) == (b > 0.5) for a, b in both)
        assert row["decisiveness_both"] == pytest.approx(sum(abs(a + b - 1) for a, b in both) / len(both))
        mass = [float(j["mass"]) for j in mine if j["mass"] is not None]  # type: ignore[arg-type]
        assert row["mean_mass"] == pytest.approx(sum(mass) / len(mass))
        for shown in (fixed(row["mean_p"], 3), fixed(row["mean_mass"], 3), pct(row["order_consistency"]["share"])):
            assert shown in page
    evaluated = figures["evaluation_judging"]
    assert evaluated[-1]["judgments"] == len(raw(run, "evaluate"))  # type: ignore[index]


def test_revision_label_and_training_figures_are_those_of_the_records(run: Path, figures: dict[str, object]) -> None:
    revisions, found = raw(run, "revise"), figures["revision"]
    last = [r["rounds"][-1] for r in revisions]  # type: ignore[index]
    assert found["prompts"] == len(revisions) and found["usable"]["count"] == sum(not r["flags"] for r in last)  # type: ignore[index]
    assert found["flags"] == Counter(flag for r in last for flag in r["flags"])  # type: ignore[index]
    words = [len(re.findall(r"\w+(?:['’]\w+)*", r["revision"])) for r in last]
    assert found["final_words"] == pytest.approx(sum(words) / len(words))  # type: ignore[index]
    assert sum(row["usable"]["n"] for row in found["principles"]) == found["rounds"] == 2 * len(revisions)  # type: ignore[index]
    labels = figures["labels"]
    p_a = [float(p["p_a"]) for p in raw(run, "label") if p["p_a"] is not None]  # type: ignore[arg-type]
    bins = [sum(i / 10 <= p < (i + 1) / 10 or (i == 9 and p == 1) for p in p_a) for i in range(10)]
    assert labels["histogram"] == bins and labels["labels"] == sum(bins) == len(p_a)  # type: ignore[index]
    assert sum(labels["abstained"].values()) == 1  # type: ignore[index]
    curves = {(c["stage"], c["figure"]): c for c in figures["curves"]}  # type: ignore[attr-defined]
    assert set(curves) == {("sft", "loss"), ("pm", "loss"), ("rl", "reward"), ("rl", "kl")}
    kl = curves["rl", "kl"]  # the attempt that was interrupted at step 3 is not in it
    assert kl["steps"] == [1, 2, 3, 4, 5, 6]
    assert kl["values"] == [pytest.approx(3 / (s + 6) + 1, abs=1e-4) for s in kl["steps"]]
    assert figures["preference_model"]["heldout"]["share"] == 29 / 40  # type: ignore[index]


def test_evaluation_ledger_and_cost_figures(run: Path, figures: dict[str, object], page: str) -> None:
    answers = raw(run, "answers")
    for row in figures["evaluation"]["rows"]:  # type: ignore[index]
        mine = [a for a in answers if (a["system"], a["kind"]) == (row["system"], row["kind"])]
        for label in ("compliance", "partial", "refusal", "empty"):
            assert row[label]["count"] == sum(a["label"] == label for a in mine) and row[label]["n"] == len(mine)
        if row["kind"] == "red_team":
            rate = row["compliance"]
            assert f'<div class="big">{pct(rate["count"] / rate["n"])}</div>' in page
            assert f"{rate['count']} of {rate['n']}" in page
    for win in figures["evaluation"]["wins"]:  # type: ignore[index]
        assert pct(win["rate"]["mean"]) in page
    judgments = {j["id"] for step in ("gate", "judge", "evaluate") for j in raw(run, step)}
    assert figures["ledger"]["judgments"] == len(judgments) and figures["ledger"]["problems"] == []  # type: ignore[index]
    failed = [f["kind"] for step in STEP_NAMES for f in _failures(run, step)]
    table = page[page.index("Items that failed") :]
    table = table[: table.index("</table>")]
    counts = [int(n) for n in re.findall(r'<td class="n">(\d+)</td>', table)]
    assert sum(counts) == len(failed) + 1  # one more that the trainer told
    for seconds in (step["seconds"] for step in figures["steps"]):  # type: ignore[attr-defined]
        assert fixed(seconds, 1) in page


def _failures(run: Path, step: str) -> list[dict[str, object]]:
    folder = json.loads((run / "current.json").read_text())[step]
    return raw(run, step, "failures.jsonl") if (run / folder / "failures.jsonl").exists() else []


def test_which_labels_were_used_is_said(run: Path, page: str, tmp_path: Path) -> None:
    assert "The judge&#39;s own labels are used: it passed its gate." in page
    copy = shutil.copytree(run, tmp_path / "copy")
    folder = copy / json.loads((copy / "current.json").read_text())["gate"]
    gate = json.loads((folder / "gate.json").read_text())
    gate |= {"passed": False, "labels": "provenance", "reasons": ["accuracy is <b>low</b>"]}
    text = json.dumps(gate) + "\n"
    (folder / "gate.json").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["outputs"]["gate.json"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    other = write_report(copy, RECIPE, CONSTITUTION, make_prompts()).read_text("utf-8")
    assert "Labels by provenance are used" in other and "It did not pass." in other
    assert "accuracy is &lt;b&gt;low&lt;/b&gt;" in other and "<b>" not in other


def test_the_report_says_when_the_ledger_was_tampered_with(run: Path, tmp_path: Path) -> None:
    import sqlite3

    copy = shutil.copytree(run, tmp_path / "copy")
    connection = sqlite3.connect(copy / "ledger.sqlite")
    connection.execute("DROP TRIGGER judgments_no_delete")
    connection.execute("DELETE FROM judgments WHERE seq > 40")
    connection.commit()
    connection.close()
    page = write_report(copy, RECIPE, CONSTITUTION, make_prompts()).read_text("utf-8")
    assert "rows were cut off" in page and "Its chain is whole" not in page


@pytest.mark.parametrize("until", ["revise", "sft", "gate", "label", "pm", "answers"])
def test_a_partial_run_gives_a_report(until: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until=until)
    page = write_report(run, RECIPE, CONSTITUTION, make_prompts()).read_text("utf-8")
    parsed = Page(page)
    assert parsed.wrong == [] and parsed.open == []
    assert "This run has no evaluation yet" in page and f"<li>{until}" not in page
    assert ('id="gate"' in page) == (STEP_NAMES.index(until) >= STEP_NAMES.index("gate"))
    assert ('id="heldout"' in page) == (until == "answers")
    assert ("The gate has not run" in page) == (STEP_NAMES.index(until) < STEP_NAMES.index("gate"))


def test_a_run_that_has_only_begun_gives_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="revise")
    (run / "current.json").unlink()
    (run / "ledger.sqlite").unlink()
    page = write_report(run, RECIPE, CONSTITUTION, []).read_text("utf-8")
    assert "finished steps: none" in page and json.loads((run / "report.json").read_text())["revision"] is None


def test_commands_of_the_report_work(run: Path, page: str) -> None:
    from constitutional.audit.trace import problems, trace

    commands = re.findall(r"constitutional trace RUN ([0-9a-f]{16})", page)
    assert len(commands) == 4
    assert [trace(run, i).kind for i in commands] == ["evaluated answer", "revision", "comparison", "reward row"]
    assert not [p for i in commands for p in problems(trace(run, i))]


def test_reading_a_run_imports_no_torch() -> None:
    code = "import sys, constitutional.audit.report, constitutional.audit.trace, constitutional.audit.status; "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'trl', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
