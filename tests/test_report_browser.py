"""The report in real Chromium: hostile text does nothing (W1), nothing is loaded (W2), phone, paper and drill-down."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import MISSING, Browser, browser
from fake_models import make_prompts
from fake_run import CONSTITUTION, RECIPE, make_run
from xss import XSS

from constitutional.audit.audit_view import ShownAudit, show_audit
from constitutional.audit.current import open_view
from constitutional.audit.figures import report_figures
from constitutional.audit.pages import write_audit_page
from constitutional.audit.report import render_report, write_report
from constitutional.audit.transcripts import heldout_transcripts, training_transcripts
from constitutional.audit.wording import clean
from constitutional.records import user

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "-")
DOCS = Path(__file__).parents[1] / "docs"
PHONE = 390
OPEN = "document.querySelectorAll('details').forEach(d => { d.open = true })"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("browser") / "run")
    write_report(folder, RECIPE, CONSTITUTION, make_prompts())
    return folder


@pytest.fixture(scope="module")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("desktop")) as tab:
        yield tab


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("phone"), PHONE, 844) as tab:
        yield tab


def hostile_audit(shown: ShownAudit) -> ShownAudit:
    """An audit with every one of the texts as each thing it can say in words."""
    audit, (row, *_), (panel, *_) = shown.audit, shown.audit.principles, shown.audit.panels
    (one, *_), (run, *_) = audit.slices, audit.runs
    comparison = next(iter(shown.comparisons.values()))
    named = [
        row.model_copy(update={"title": s, "judge": s, "principle": f"p{i}@1.0.0", "id": f"p{i}"})
        for i, s in enumerate(XSS)
    ]
    made = audit.model_copy(
        update={
            "principles": (*audit.principles, *named),
            "panels": (panel, *(panel.model_copy(update={"judge": s, "clusters": ((s, s),)}) for s in XSS)),
            "slices": tuple(one.model_copy(update={"value": s, "judge": s, "column": "source"}) for s in XSS[:40]),
            "runs": (*audit.runs, *(run.model_copy(update={"name": s}) for s in XSS)),
            "labels": dict.fromkeys(XSS, 1),
            "notes": tuple(XSS),
        }
    )
    planted = {s: comparison.model_copy(update={"messages": (user(s),), "a": s, "b": s, "a_model": s}) for s in XSS}
    texts = dict(shown.comparisons) | planted
    return replace(shown, audit=made, comparisons=texts)


def hostile_report(run: Path) -> str:
    """The report of a run in which prompts, answers, critiques, titles and models have such names."""
    prompts = {prompt.id: prompt for prompt in make_prompts()}
    with open_view(run) as view:
        figures = report_figures(view, RECIPE, CONSTITUTION, prompts)
        held, trained = heldout_transcripts(view, prompts)[0], training_transcripts(view, prompts)[0]
    assert figures.gate is not None
    (step, *_), (first, *_) = trained.revision.rounds, CONSTITUTION.principles
    heldout, training, principles = [], [], []
    for i, s in enumerate(XSS):
        prompt = held.prompt.model_copy(update={"messages": (user(s), user(s))})
        answers = tuple(answer.model_copy(update={"text": s}) for answer in held.answers)
        heldout.append(held.model_copy(update={"prompt": prompt, "answers": answers}))
        rounds = (step.model_copy(update={"critique": s, "revision": s, "flags": (s,), "principle": s}),)
        revision = trained.revision.model_copy(update={"initial": s, "rounds": rounds})
        training.append(trained.model_copy(update={"prompt": prompt, "revision": revision}))
        principles.append(first.model_copy(update={"title": s, "comparison_request": s, "id": f"p{i}"}))
    figures = figures.model_copy(
        update={
            "run": XSS[9],
            "constitution": XSS[3],
            "lock": {**figures.lock, "models": {s: s for s in XSS}, "git": XSS[0]},
            "gate": figures.gate.model_copy(update={"judge": XSS[5], "reasons": tuple(XSS)}),
            "judging": tuple(figures.judging[0].model_copy(update={"title": s, "principle": s}) for s in XSS),
        }
    )
    constitution = CONSTITUTION.model_copy(update={"principles": tuple(principles), "title": XSS[0]})
    return render_report(figures, RECIPE, constitution, heldout, training, hostile_audit(show_audit([run])))


def test_hostile_text_does_nothing(run: Path, desktop: Browser, tmp_path: Path) -> None:
    assert len(set(XSS)) == 60
    page, audit = tmp_path / "report.html", tmp_path / "audit.html"
    page.write_text(hostile_report(run), encoding="utf-8")
    write_audit_page(audit, hostile_audit(show_audit([run])))
    for file, least in ((page, 12), (audit, 6)):
        seen = desktop.open(file)
        assert (seen.dialogs, seen.console, seen.requests) == ([], [], [])
        desktop.run(OPEN)
        assert desktop.run("return [document.scripts.length, window.pwned, document.title.length > 0]") == [
            0,
            None,
            True,
        ]
        handlers = "return [...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
        assert not [name for name in desktop.run(handlers) if name.startswith("on") or name in ("src", "srcdoc")]
        assert (
            desktop.run("return document.querySelectorAll('img, iframe, object, embed, form, link, base').length") == 0
        )
        text = desktop.run("return document.body.textContent")
        assert [s for s in XSS if text.count(str(clean(s))) < least] == []  # all are shown, letter for letter
        assert (desktop.log("browser"), desktop.run("return window.pwned")) == ([], None)


def test_the_browser_would_have_seen_it(desktop: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(f"<!doctype html><title>x</title>{XSS[0]}{XSS[4]}", encoding="utf-8")
    seen = desktop.open(page)
    assert seen.dialogs == ["1"] and seen.requests == ["http://127.0.0.1:9/i.png"]
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    page.write_text(f"<!doctype html><title>x</title>{policy}{XSS[0]}{XSS[4]}", encoding="utf-8")
    seen = desktop.open(page)
    assert seen.dialogs == [] and sum("Content Security Policy" in line for line in seen.console) == 2


def test_a_file_is_opened_without_any_request(run: Path, desktop: Browser, tmp_path: Path) -> None:
    audit = tmp_path / "audit.html"
    write_audit_page(audit, show_audit([run]))
    for file in (run / "report.html", audit):
        seen = desktop.open(file)
        assert (seen.requests, seen.console, seen.dialogs) == ([], [], [])
        shot = tmp_path / "shot.png"
        desktop.shot(shot)
        drawn, different = _variety(shot)
        assert drawn == 1280 and different > 50, "the page is blank"


def test_it_fits_a_phone(run: Path, phone: Browser, tmp_path: Path) -> None:
    audit, hostile = tmp_path / "audit.html", tmp_path / "hostile.html"
    write_audit_page(audit, show_audit([run]))
    hostile.write_text(hostile_report(run), encoding="utf-8")
    for file in (run / "report.html", audit, hostile):
        phone.open(file)
        phone.run(OPEN)
        assert phone.run("return [innerWidth, document.documentElement.scrollWidth]") == [PHONE, PHONE], file.name
    wide = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert phone.run(wide) > 3  # wide tables scroll in their own boxes


def test_a_cell_leads_to_its_comparisons_and_these_to_their_text(run: Path, desktop: Browser) -> None:
    desktop.open(run / "report.html")
    cells = desktop.run("return [...document.querySelectorAll('table.matrix td a')].map(a => a.hash)")
    size = len(CONSTITUTION.principles)
    assert size <= len(cells) <= size * size
    visible = "return document.querySelector(location.hash).checkVisibility({contentVisibilityAuto: true})"
    for cell in dict.fromkeys(cells):
        desktop.run(f"document.querySelector('table.matrix a[href=\"{cell}\"]').click()")
        assert desktop.run("return location.hash") == cell and desktop.run(visible)
        rows = desktop.run(f"return document.querySelectorAll('{cell} tbody tr').length")
        assert 1 <= rows <= 10
    link = desktop.run(f"const a = document.querySelector('{cells[0]} tbody a'); a.click(); return a.textContent")
    assert desktop.run(visible) and desktop.run("return location.hash.slice(0, 2)") == "#c"
    shown = desktop.run("return document.querySelector(location.hash).textContent")
    assert " ".join(link.rstrip("…").split()) in " ".join(shown.split())


def test_it_prints(run: Path, desktop: Browser) -> None:
    desktop.open(run / "report.html")
    paper = desktop.printed()
    assert paper.startswith(b"%PDF-") and paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") >= 4


@pytest.mark.skipif(not os.environ.get("UPDATE_DOCS"), reason="UPDATE_DOCS=1 takes the pictures of docs/ anew")
def test_pictures_of_the_documents(run: Path, desktop: Browser, phone: Browser) -> None:
    for tab, name, section in (
        (desktop, "report-principles", "principles"),
        (desktop, "report-conflicts", "conflicts"),
        (phone, "report-phone", "accuracy"),
    ):
        tab.open(run / "report.html")
        tab.run(f"document.documentElement.style.scrollBehavior = 'auto'; location.hash = '{section}'")
        tab.shot(DOCS / f"{name}.png")


def test_pictures_are_small() -> None:
    pictures = list(DOCS.glob("report-*.png"))
    assert len(pictures) == 3 and all(picture.stat().st_size < 150_000 for picture in pictures)


def _variety(png: Path) -> tuple[int, int]:
    """Width of an image, and how many different bytes its unpacked lines hold: a handful in a blank one."""
    data, at, packed, width = png.read_bytes(), 8, b"", 0
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        width = int.from_bytes(body[:4], "big") if kind == b"IHDR" else width
        packed += body if kind == b"IDAT" else b""
        at += length + 12
    return width, len(set(zlib.decompress(packed)))
