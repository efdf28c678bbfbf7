"""An audit as terminal tables of at most 100 columns, what each figure means under them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from constitutional.audit.measures.columns import OUTCOMES
from constitutional.audit.measures.records import Agreeing, Audit, Estimate, Figures, LabelFit, PValue
from constitutional.display import printable
from constitutional.errors import shortened
from constitutional.statistics import bracketed, with_interval

WIDTH = 100
TABLE_WIDTH = 104
"""Room for the longest names of principles beside the widest table."""
ROWS = 12
"""Rows of a slice or of a list of pairs that the terminal shows; JSON has all."""

_NAME = 26
_SHORT = {"preference": "pref.", "not_applicable": "n/a"}
_ALPHA = 0.05


def print_audit(audit: Audit, console: Console) -> None:
    """Prints the whole audit."""
    for part in audit_parts(audit):
        if isinstance(part, Table):
            console.print(part)
        else:
            for line in textwrap.wrap(printable(part), WIDTH, subsequent_indent="  ") or [""]:
                console.print(Text(line), soft_wrap=True)


def audit_parts(audit: Audit) -> Iterator[Table | str]:
    """Tables and lines of text, in the order they are printed."""
    yield from _head(audit)
    if not audit.principles:
        yield "no judgments to audit"
        return
    names = _names(audit)
    yield from _outcomes(audit, names)
    yield from _verdicts(audit, names)
    yield from _length(audit, names)
    yield from _labels(audit, names)
    yield from _influence(audit, names)
    yield from _pairs(audit)
    yield from _judges(audit)
    yield from _slices(audit)
    yield from _foot(audit)


def _head(audit: Audit) -> Iterator[str]:
    for run in audit.runs:
        seconds = "".join(f", {step} {value:.0f} s" for step, value in run.seconds.items())
        yield f"run {run.name}: {run.constitution}, {run.judgments} judgments{seconds}"
    yield f"{audit.judgments} judgments on {audit.comparisons} comparisons of {audit.prompts} prompts"
    if audit.again:
        yield f"{audit.again} judgments stand in several runs and count once"
    if audit.unplaced:
        yield f"{audit.unplaced} of these are on comparisons that no run has any more, and are in no figure"
    for number, judge in enumerate(_judge_names(audit), start=1):
        yield f"judge {number}: {judge}"
    for note in audit.notes:
        yield f"note: {note}"


def _judge_names(audit: Audit) -> list[str]:
    return list(dict.fromkeys(f"{a.judge} ({a.mode})" for a in audit.principles if a.mode not in ("check", "applies")))


def _names(audit: Audit) -> list[str]:
    """What each row is called: the principle, which judge where there are several, and whether it is of today."""
    judges = _judge_names(audit)
    found = []
    for row in audit.principles:
        judge = f"{row.judge} ({row.mode})"
        by = f" by {judges.index(judge) + 1}" if len(judges) > 1 and judge in judges else ""
        by = " by check" if row.mode == "check" else by
        old = "" if row.current else " (earlier)"
        found.append(f"{row.principle}{by}{old}")
    return found


def _outcomes(audit: Audit, names: Sequence[str]) -> Iterator[Table | str]:
    table = _table("outcomes", "all", *(_SHORT.get(o, o) for o in OUTCOMES), "pairs", "opinions", "1 order")
    rows = [(name, row.figures) for name, row in zip(names, audit.principles, strict=True)]
    for name, figures in (*rows, *_panel_figures(audit)):
        outcomes = [str(figures.outcomes[o]) for o in OUTCOMES]
        last = (str(figures.comparisons), str(figures.opinions), str(figures.one_order))
        _row(table, name, str(figures.judgments), *outcomes, *last)
    yield table
    yield (
        "all: judgments; pairs: comparisons asked. An opinion is a comparison with a p in both orders (p is their "
        "mean); 1 order: only one of the two could be read, which gives no opinion. n/a: the principle does not apply."
    )


def _verdicts(audit: Audit, names: Sequence[str]) -> Iterator[Table | str]:
    table = _table("verdicts", "n", "mean p", "spread", "decisive", "both orders same", "first position", "")
    for name, row in zip(names, audit.principles, strict=True):
        _row(table, name, *_verdict(row.figures), _star(row.tests.position))
    for name, figures in _panel_figures(audit):
        _row(table, name, *_verdict(figures), "")
    yield table
    yield (
        "p: that a is better; decisive: mean of 2·|p - 1/2|; both orders same: the same answer preferred whichever is "
        "read first; first position: judgments for the answer read first. * differs from one half where the orders "
        f"disagree (sign test, Benjamini-Hochberg at {_ALPHA} over the principles)."
    )


def _verdict(figures: Figures) -> tuple[str, ...]:
    return (
        str(figures.opinions),
        _bare(figures.mean_p),
        _bare(figures.spread_p),
        _bare(figures.decisiveness),
        _full(figures.order_consistency),
        _full(figures.first_position),
    )


def _length(audit: Audit, names: Sequence[str]) -> Iterator[Table | str]:
    table = _table("length", "n", "slope", "", "longer preferred", "n", "equal length", "n")
    reasons: dict[str, list[str]] = {}
    for name, row in zip(names, audit.principles, strict=True):
        slope, longer, equal = row.length.slope, row.length.longer_preferred, row.figures.equal_length
        star = _star(row.tests.length)
        _row(
            table,
            name,
            str(slope.n),
            _full(slope, signed=True),
            star,
            with_interval(longer),
            str(longer.n),
            _full(equal),
            str(equal.n),
        )
        if row.length.reason:
            reasons.setdefault(row.length.reason, []).append(name)
    yield table
    yield (
        "slope: logistic, of a preferred on log(length a / length b) in characters; +1 gives twice the length twice "
        "the odds. longer preferred: of all with a side; equal length: same in both orders where lengths differ by "
        "under a tenth. * is not 0 (t test, Benjamini-Hochberg)."
    )
    for reason, found in reasons.items():
        yield f"no slope: {reason} ({', '.join(found) if len(found) < 4 else f'{len(found)} principles'})"


def _labels(audit: Audit, names: Sequence[str]) -> Iterator[Table | str]:
    rows = [(n, r.labels, r.tests.chance) for n, r in zip(names, audit.principles, strict=True) if r.labels]
    yield ""
    if not rows:
        yield "labels: none of the judged comparisons is labelled"
        return
    table = _table("against labels", "labels", "n", "accuracy", "", "relev.", "kappa", "strength", "ECE")
    pooled = [(name, panel.labels, None) for (name, _), panel in zip(_panel_figures(audit), audit.panels, strict=True)]
    for name, fit, test in (*rows, *pooled):
        if fit is not None:
            _row(table, name, *_label_cells(fit, test))
    yield table
    sources = ", ".join(f"{source} {n}" for source, n in audit.labels.items())
    yield (
        f"labels: {sources}. n: those the principle takes a side on, of which accuracy is (Wilson); relevance, kappa "
        "and strength as in ICAI and Feedback Forensics; ECE: expected calibration error of max(p, 1 - p). * accuracy "
        "is not one half (binomial, Benjamini-Hochberg)."
    )


def _label_cells(fit: LabelFit, test: PValue | None) -> tuple[str, ...]:
    metrics = fit.metrics
    return (
        str(fit.labelled),
        str(fit.accuracy.n),
        with_interval(fit.accuracy),
        _star(test),
        _bare(metrics.relevance),
        _bare(metrics.kappa, signed=True),
        _bare(metrics.strength, signed=True),
        _full(fit.expected_calibration_error),
    )


def _influence(audit: Audit, names: Sequence[str]) -> Iterator[Table | str]:
    table = _table("influence", "heard", "labels that flip", "lost", "with others", "n", "asked", "tokens", "each")
    for name, row in zip(names, audit.principles, strict=True):
        worth, others = row.influence, row.with_others
        _row(
            table,
            name,
            f"{worth.heard}/{worth.labels}" if worth else "",
            _full(worth.flips) if worth else "",
            _bare(worth.lost) if worth else "",
            _sided(others),
            str(others.agree + others.disagree) if others else "",
            f"{row.reach.asked.count}/{row.reach.asked.n}",
            str(row.cost.prompt_tokens + row.cost.completion_tokens),
            f"{row.cost.per_judgment:.0f}",
        )
    yield table
    if audit.label_rule is not None:
        rule = audit.label_rule
        yield (
            f"labels made again by the run's rule '{rule.rule}' without the principle: share of all {rule.labels} that "
            "change side, or are no label then (lost). heard: labels it has an opinion on. with others: agrees with "
            "the label the others make, of n with two sides. asked: comparisons asked under it, of the judge's. "
            f"{rule.stored_same} of the run's {rule.stored} stored labels of these comparisons come out the same; "
            f"{rule.abstained} comparisons have no label."
        )


def _pairs(audit: Audit) -> Iterator[Table | str]:
    pairs = [(panel, pair) for panel in audit.panels for pair in panel.pairs]
    yield ""
    if not pairs:
        yield "principles among themselves: no two were asked of the same comparison"
        return
    table = _table("principles that conflict", "and", "conflict", "n", "correlation", "n")
    conflicts = sorted(pairs, key=lambda item: -(item[1].conflict.value or 0.0))
    for _, pair in conflicts[:ROWS]:
        cells = (_full(pair.conflict), str(pair.conflict.n), _full(pair.correlation, signed=True))
        _row(table, pair.one, pair.other, *cells, str(pair.correlation.n))
    yield table
    more = f"; {len(pairs) - ROWS} more pairs in --json" if len(pairs) > ROWS else ""
    yield f"conflict: share of comparisons with two sides on which the sides differ; correlation: of p{more}"
    for panel in audit.panels:
        for cluster in panel.clusters:
            yield f"say the same (correlations of {audit.redundant_from} or more): {', '.join(cluster)}"


def _judges(audit: Audit) -> Iterator[Table | str]:
    judges = audit.judges
    if judges is None:
        return
    yield ""
    for pair in judges.pairs:
        yield (
            f"{pair.one} and {pair.other}: same side {_full(pair.same)} of {pair.same.n}, "
            f"Cohen's kappa {_full(pair.kappa, signed=True)}"
        )
    if judges.alpha.value is not None:
        yield f"Krippendorff's alpha of the judges: {_full(judges.alpha, signed=True)} on {judges.alpha.n} questions"
    if judges.alpha_with_labels.value is not None:
        both = judges.alpha_with_labels
        yield f"Krippendorff's alpha of judges and labels: {_full(both, signed=True)} on {both.n} questions"


def _slices(audit: Audit) -> Iterator[Table | str]:
    judges = list(dict.fromkeys(one.judge for one in audit.slices))
    for column in dict.fromkeys(one.column for one in audit.slices):
        found = [one for one in audit.slices if one.column == column]
        found = [one for one in found if one.principle is not None] or found
        found = sorted(found, key=lambda one: -one.figures.judgments)
        table = _table(f"by {column}", "judgments", "no p", "opinions", "decisive", "both orders same", "accuracy", "n")
        for one in found[:ROWS]:
            judge = f" by {judges.index(one.judge) + 1}" if len(judges) > 1 else ""
            name = one.value + (f" · {one.principle}" if one.principle else "") + judge
            figures = one.figures
            _row(
                table,
                name,
                str(figures.judgments),
                str(sum(figures.outcomes[o] for o in OUTCOMES if o not in ("preference", "tie"))),
                str(figures.opinions),
                _bare(figures.decisiveness),
                _full(figures.order_consistency),
                with_interval(one.accuracy),
                str(one.accuracy.n),
            )
        yield table
        if len(found) > ROWS:
            yield f"the {ROWS} largest; {len(found) - ROWS} more in --json"


def _foot(audit: Audit) -> Iterator[str]:
    yield ""
    for item in audit.detectable:
        yield f"with n = {item.n}, {item.test} must be {item.effect:.2f} from one half to be found four times in five"
    yield (
        f"intervals: 95 %; of accuracy and counts Wilson's, else {audit.resamples} bootstrap draws of whole prompts "
        f"(seed {audit.seed}). All figures, with n and interval each: --json"
    )


def _panel_figures(audit: Audit) -> list[tuple[str, Figures]]:
    several = len(audit.panels) > 1
    return [(f"all{f' by {i}' if several else ''}", panel.figures) for i, panel in enumerate(audit.panels, start=1)]


def _table(name: str, *columns: str) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(f"\n{name}", overflow="fold", max_width=_NAME)
    for column in columns:
        table.add_column(column, justify="right", vertical="bottom", overflow="fold" if column == "and" else "ellipsis")
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(shortened(printable(cell), 80)) for cell in cells))


def _bare(value: Estimate, *, signed: bool = False) -> str:
    return "—" if value.value is None else f"{value.value:{'+.2f' if signed else '.2f'}}"


def _full(value: Estimate, *, signed: bool = False) -> str:
    if value.value is None or value.interval is None:
        return _bare(value, signed=signed)
    return f"{_bare(value, signed=signed)} {bracketed(value.interval, signed=signed)}"


def _sided(value: Agreeing | None) -> str:
    if value is None or value.kappa.value is None or value.kappa.interval is None:
        return "—"
    ends = value.kappa.interval
    return f"{(value.kappa.value + 1) / 2:.2f} [{(ends.low + 1) / 2:.2f}, {(ends.high + 1) / 2:.2f}]"


def _star(test: PValue | None) -> str:
    return "*" if test is not None and test.adjusted <= _ALPHA else ""
