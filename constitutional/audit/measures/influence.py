"""What each principle is worth to the run's labels: every label made again without it, under the run's own rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from constitutional.audit.current import RunView
from constitutional.audit.measures.cells import sides
from constitutional.audit.measures.columns import FAILED, OUTCOMES
from constitutional.audit.measures.records import Influence, LabelRule
from constitutional.audit.measures.resample import Bootstrap, estimate, sums_by
from constitutional.audit.measures.table import Table
from constitutional.errors import RunError
from constitutional.feedback.label import Limits
from constitutional.feedback.label.abstain import objection
from constitutional.feedback.label.calibration import CALIBRATIONS, Calibration
from constitutional.feedback.label.opinions import Opinion, clamped, same_answer
from constitutional.feedback.label.rules import Heard, Terms, combined, deciding
from constitutional.feedback.label.weights import WEIGHTS, FittedWeights
from constitutional.principles import Principle
from constitutional.runs.logs import read_rows
from constitutional.settings import LabelSettings, Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAME = 1e-9
_ID = re.compile(rb'"id":"([0-9a-f]{16})"')


@dataclass(frozen=True)
class Labelling:
    """The labels of the judged comparisons, and what each would be without each principle."""

    rule: LabelRule
    rows: NDArray[np.int64]
    """Rows of the table that the labels could rest on."""
    whole: NDArray[np.float64]
    """The label of each row's comparison; NaN where it abstains."""
    without: NDArray[np.float64]
    """The label without the row's principle; NaN where there is none then."""


@dataclass(frozen=True)
class Labeller:
    """A run's label rule, and what was fitted for it."""

    settings: LabelSettings
    principles: tuple[Principle, ...]
    seed: int
    weights: Mapping[str, float] | None
    calibrations: Mapping[str, Calibration]

    def terms(self, without: str | None) -> Terms:
        """What the rule goes by, maybe without one principle."""
        kept = [p for p in self.principles if p.ref != without]
        return Terms(kept, self.settings.margin, self.seed, self.settings.veto, self.weights)

    def read(self, judge: str, mode: str, first_a: bool, p: float) -> float:
        """The p that counts: the judge's own, or as its calibration mends it."""
        calibration = self.calibrations.get(judge) if mode not in ("check", "applies") else None
        if calibration is None:
            return p
        return calibration.p_first(p) if first_a else 1 - calibration.p_first(1 - p)

    def label(self, heard: Heard, terms: Terms) -> tuple[float, set[str]]:
        """The label and the principles it rests on; NaN where it abstains."""
        found, _ = deciding(self.settings.rule, heard, terms)
        if not found:
            return float("nan"), set()
        p = combined(found, self.settings.rule, terms.share(self.settings.rule))
        limits = Limits(self.settings.order_gap, self.settings.min_mass, self.settings.disagreement)
        stands = objection(p, found, heard.opinions, limits) is None
        return (p if stands else float("nan")), {o.principle for o in found}


def labelling(table: Table) -> Labelling | str:
    """Makes the labels of the runs again, whole and without each principle; or says why that cannot be done."""
    import numpy as np

    views = table.corpus.views
    if not any("judge" in view.folders for view in views):
        return "no run has judged comparisons: no labels, and no influence on them"
    rules = {(Recipe.model_validate(v.recipe).label, v.constitution.digest) for v in views}
    if len(rules) > 1:
        return "the runs label by different rules or constitutions: influence is measured run by run"
    labeller = labeller_of(views[0])
    rows = judged_rows(table)
    return labels_made(table, rows[np.isin(table.cells.subject[rows], _taking_part(table, labeller))], labeller)


def labels_made(table: Table, rows: NDArray[np.int64], labeller: Labeller) -> Labelling:
    """The labels of the comparisons of some rows, from these rows alone; no two of a comparison of one principle."""
    import numpy as np

    rows = rows[np.argsort(table.cells.comparison[rows], kind="stable")]
    if (averaged := _averaged(table, rows, labeller)) is not None:
        return averaged
    whole, without = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    labels: dict[int, float] = {}
    terms = {ref: labeller.terms(ref) for ref in (None, *(p.ref for p in labeller.principles))}
    for start, stop, heard in _heard(table, rows, labeller):
        p, deciders = labeller.label(heard, terms[None])
        whole[start:stop] = without[start:stop] = p
        labels[int(table.cells.comparison[rows[start]])] = p
        told = {o.principle for o in heard.opinions} | heard.unread
        for row in range(start, stop):
            ref = table.subjects[int(table.cells.subject[rows[row]])][0]
            if ref in told:
                if labeller.settings.rule == "sampled" and ref not in deciders:
                    continue  # the draw stays where it fell
                rest = tuple(o for o in heard.opinions if o.principle != ref)
                left = Heard(heard.comparison_id, rest, heard.unread - {ref}, heard.unheard)
                without[row] = labeller.label(left, terms[ref])[0] if rest else np.nan
    return Labelling(_rule(table, labeller, labels), rows, whole, without)


def _averaged(table: Table, rows: NDArray[np.int64], labeller: Labeller) -> Labelling | None:
    """The labels of a plain (weighted) mean, all at once; None where the rule is another one.

    Nor where a principle has two opinions on a comparison, or a label may abstain for what its opinions are like.
    """
    import numpy as np

    settings = labeller.settings
    limits = (settings.order_gap, settings.min_mass, settings.disagreement)
    if settings.rule not in ("mean", "weighted") or labeller.calibrations or limits != (None, None, None):
        return None
    if settings.clamp is not None and any(table.subjects[s][3] == "cot" for s in np.unique(table.cells.subject[rows])):
        return None
    refs = {p.ref: (i, p.weight if settings.rule == "weighted" else 1.0) for i, p in enumerate(labeller.principles)}
    known = [refs.get(key[0], (0, 1.0)) for key in table.subjects] or [(0, 1.0)]
    subject, p = table.cells.subject[rows], table.cells.p[rows]
    given = np.isfinite(p)
    comparison, place = np.unique(table.cells.comparison[rows], return_inverse=True)
    which = np.array([i for i, _ in known])[subject]
    if len(np.unique((place * len(refs) + which)[given])) < given.sum():
        return None
    share = np.where(given, np.array([w for _, w in known])[subject], 0.0)
    product = share * np.where(given, p, 0.0)
    total, weight = (np.bincount(place, values, len(comparison)) for values in (product, share))
    count = np.bincount(place, given, len(comparison))
    whole = np.divide(total, weight, out=np.full(len(total), np.nan), where=count > 0)
    others = count[place] - given
    without = np.divide(total[place] - product, weight[place] - share, out=np.full(len(p), np.nan), where=others > 0)
    without = np.where(given, without.round(12), whole[place])  # what is left of one half is one half
    labels = dict(zip(comparison.tolist(), whole.tolist(), strict=True))
    return Labelling(_rule(table, labeller, labels), rows, whole[place], without)


def influences(table: Table, made: Labelling, subjects: int, bootstrap: Bootstrap) -> list[Influence | None]:
    """The influence of each subject that any label could rest on."""
    import numpy as np

    _, first = np.unique(table.cells.comparison[made.rows], return_index=True)
    labelled = np.isfinite(made.whole[first])
    label_prompt = table.prompt[made.rows[first[labelled]]]
    subject = table.cells.subject[made.rows]
    given = np.isfinite(table.cells.p[made.rows])
    n_labels, prompts = len(label_prompt), len(np.unique(label_prompt))
    groups, counts = [], []
    takes_part = [s for s in range(subjects) if (subject == s).any()]
    for s in takes_part:
        mine = np.flatnonzero((subject == s) & np.isfinite(made.whole))
        whole, without = made.whole[mine], made.without[mine]
        stays = np.isfinite(without)
        flips = stays & (sides(whole) * sides(without) < 0)  # to leave one half, or to come to it, is no flip
        shift = np.where(stays, np.abs(whole - np.nan_to_num(without)), 0.0)
        columns = [
            np.concatenate([np.ones(n_labels), np.zeros(len(mine))]),
            *(np.concatenate([np.zeros(n_labels), c.astype(np.float64)]) for c in (flips, ~stays, shift)),
        ]
        prompt = np.concatenate([label_prompt, table.prompt[made.rows[mine]]])
        groups += sums_by(prompt, np.zeros(len(prompt), dtype=np.int64), 1, columns)
        counts.append((int(given[mine].sum()), n_labels, n_labels, n_labels - int((~stays).sum())))
    found: list[Influence | None] = [None] * subjects
    draws = bootstrap.replicate(groups, _shares)
    for s, group, drawn, (heard, *counted) in zip(takes_part, groups, draws, counts, strict=True):
        values = _shares(group.total)[0]
        made_of = [estimate(float(v), counted[k], prompts, drawn[:, k]) for k, v in enumerate(values)]
        found[s] = Influence(labels=n_labels, heard=heard, flips=made_of[0], lost=made_of[1], mean_shift=made_of[2])
    return found


def _shares(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flips and losses of all labels; shift of those that stay."""
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([t[:, 1] / t[:, 0], t[:, 2] / t[:, 0], t[:, 3] / (t[:, 0] - t[:, 2])], axis=1)


def judged_rows(table: Table) -> NDArray[np.int64]:
    """The rows with a judgment of the judge step of any run."""
    import numpy as np

    ids: list[int] = []
    for view in table.corpus.views:
        if (result := view.step("judge")) is not None:
            ids += _ids(result.folder / "data.jsonl")
    judged = np.isin(table.judgments.id, np.array(ids, dtype=np.uint64))
    return np.unique(table.cells.of[judged])


def _ids(path: Path) -> Iterator[int]:
    """The ids of a step's judgments. Canonical JSON has the id before any text, and quotes in texts are escaped."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                found = _ID.search(line)
                if found is None:
                    raise RunError(f"{path}:{number}: damaged line: no judgment")
                yield int(found[1], 16)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


def labeller_of(view: RunView) -> Labeller:
    """How a run labels."""
    recipe = Recipe.model_validate(view.recipe)
    weights = view.figures("label", WEIGHTS, FittedWeights)
    return Labeller(
        recipe.label,
        tuple(p for p in view.constitution.principles if "judge" in p.phases),
        recipe.seed,
        weights.by_ref if weights else None,
        {c.judge: c for c in view.rows("label", CALIBRATIONS, Calibration)},
    )


def _taking_part(table: Table, labeller: Labeller) -> list[int]:
    refs = {p.ref for p in labeller.principles}
    return [s for s, key in enumerate(table.subjects) if key[0] in refs]


def _heard(table: Table, rows: NDArray[np.int64], labeller: Labeller) -> Iterator[tuple[int, int, Heard]]:
    """What was heard of each comparison, with the place of its first row and of the first after it."""
    import numpy as np

    names = table.corpus.reader.comparisons.values
    name_of = {place: names[number] for number, place in table.corpus.place.items()}
    rank = {p.ref: i for i, p in enumerate(labeller.principles)}
    bad = table.outcomes[:, [OUTCOMES.index(o) for o in sorted(FAILED)]].sum(axis=1) > 0
    mass, masses = table.masses
    mean_mass = np.divide(mass, masses, out=np.full(len(mass), np.nan), where=masses > 0)
    comparison = table.cells.comparison[rows]
    starts = np.flatnonzero(np.diff(comparison, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, len(rows)]):
        opinions: dict[str, Opinion] = {}
        unread: set[str] = set()
        for row in rows[start:stop].tolist():
            ref, _, judge, mode, _ = table.subjects[int(table.cells.subject[row])]
            ab, ba = float(table.cells.p_ab[row]), float(table.cells.p_ba[row])
            if ab == ab and ba == ba:
                ab, ba = labeller.read(judge, mode, True, ab), labeller.read(judge, mode, False, ba)
                m = float(mean_mass[row])
                opinion = Opinion(
                    ref,
                    (ab + ba) / 2,
                    ("", ""),
                    same_answer(ab, ba),
                    gap=abs(ab - ba),
                    mass=m if m == m else None,
                    reasoned=mode == "cot",
                )
                opinions[ref] = clamped(opinion, labeller.settings.clamp)
            elif bad[row]:
                unread.add(ref)
        given = tuple(sorted(opinions.values(), key=lambda o: rank[o.principle]))
        yield start, stop, Heard(name_of[int(comparison[start])], given, unread - opinions.keys(), "")


def _rule(table: Table, labeller: Labeller, labels: Mapping[int, float]) -> LabelRule:
    stored: dict[str, float | None] = {}
    for view in table.corpus.views:
        if (result := view.step("label")) is not None:
            for _, row in read_rows(result.folder / "data.jsonl"):
                if row.get("judgment_ids") and isinstance(row["p_a"], float | None):
                    stored[str(row["comparison_id"])] = row["p_a"]
    names = table.corpus.reader.comparisons.numbers
    compared = same = 0
    for name, p in stored.items():
        place = table.corpus.place.get(names.get(name, -1))
        if place is not None and place in labels:
            compared += 1
            made = labels[place]
            same += made != made if p is None else abs(made - p) <= _SAME
    finite = sum(p == p for p in labels.values())
    return LabelRule(
        rule=labeller.settings.rule,
        labels=finite,
        abstained=len(labels) - finite,
        stored=compared,
        stored_same=same,
    )
