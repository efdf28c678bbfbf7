"""Judges among themselves, and with the people who labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from constitutional.audit.measures.records import Estimate, JudgePair, JudgesAgreement
from constitutional.audit.measures.resample import Bootstrap, Sums, estimate, sums_by
from constitutional.audit.measures.table import Table, most_judged
from constitutional.statistics.agreement import alpha_of_coincidences, coincidences, kappa_of_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def judges_agreement(table: Table, bootstrap: Bootstrap) -> JudgesAgreement | None:
    """How far judges agree, on the comparisons and principles that several of them have a side on.

    Checks are left out: a principle has one. Where a judge was asked with several texts of a principle or template,
    those it judged most often with count. None with fewer than two raters, sources of labels counted.
    """
    import numpy as np

    names = [f"{judge} ({mode})" for _, _, judge, mode, _ in table.subjects]
    judging = [s for s, key in enumerate(table.subjects) if key[3] not in ("check", "applies")]
    judges = sorted({names[s] for s in judging})
    sources = sorted({source for said in table.corpus.labels.said.values() for source in said})
    if not judges or len(judges) + len(sources) < 2:
        return None
    rows = np.flatnonzero(np.isin(table.cells.subject, most_judged(table, judging)))
    refs = sorted({key[0] for key in table.subjects})
    ref = np.array([refs.index(key[0]) for key in table.subjects], dtype=np.int64)
    rater = np.array([judges.index(name) if name in judges else -1 for name in names], dtype=np.int64)
    unit_keys = table.cells.comparison[rows] * len(refs) + ref[table.cells.subject[rows]]
    units, place = np.unique(unit_keys, return_inverse=True)
    ratings = np.full((len(judges) + len(sources), len(units)), np.nan)
    side = table.cells.side[rows]
    ratings[rater[table.cells.subject[rows]], place] = np.where(side == 0, np.nan, side)
    prompt = np.zeros(len(units), dtype=np.int64)
    prompt[place] = table.prompt[rows]
    _add_labels(table, ratings, len(judges), sources, units, refs)
    return JudgesAgreement(
        raters=(*judges, *(f"labels: {source}" for source in sources)),
        pairs=tuple(
            _pair(judges[i], judges[j], ratings[i], ratings[j], prompt, bootstrap)
            for i in range(len(judges))
            for j in range(i + 1, len(judges))
        ),
        alpha=_alpha(ratings[: len(judges)], prompt, bootstrap),
        alpha_with_labels=_alpha(ratings, prompt, bootstrap) if sources else _nothing(),
    )


def _add_labels(
    table: Table, ratings: Array, first: int, sources: Sequence[str], units: NDArray[np.int64], refs: Sequence[str]
) -> None:
    numbers = {place: number for number, place in table.corpus.place.items()}
    said = table.corpus.labels.said
    by_number = {number for number, _ in said}
    for column, unit in enumerate(units.tolist()):
        number = numbers[unit // len(refs)]
        if number in by_number:
            found = {**said.get((number, None), {}), **said.get((number, refs[unit % len(refs)]), {})}
            for source, side in found.items():
                if side:
                    ratings[first + sources.index(source), column] = side


def _pair(one: str, other: str, x: Array, y: Array, prompt: NDArray[np.int64], bootstrap: Bootstrap) -> JudgePair:
    import numpy as np

    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    columns = [((x == s) & (y == t)).astype(np.float64) for s in (1, -1) for t in (1, -1)]
    (group,) = sums_by(prompt[both], np.zeros(len(x), dtype=np.int64), 1, columns)
    (draws,) = bootstrap.replicate([group], _same_and_kappa)
    same, kappa = _same_and_kappa(group.total)[0]
    n, prompts = len(x), len(group.prompts)
    return JudgePair(
        one=one,
        other=other,
        same=estimate(float(same), n, prompts, draws[:, 0]),
        kappa=estimate(float(kappa), n, prompts, draws[:, 1], low=-1.0),
    )


def _same_and_kappa(t: Array) -> Array:
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([(t[:, 0] + t[:, 3]) / t.sum(axis=1), kappa_of_table(t.reshape(-1, 2, 2))], axis=1)


def _alpha(ratings: Array, prompt: NDArray[np.int64], bootstrap: Bootstrap) -> Estimate:
    """Krippendorff's alpha over the units that two or more raters have a side on, each unit as it is and turned.

    Which answer is called a is a matter of the file: where it is always the better one, sides would not vary.
    """
    import numpy as np

    several = np.isfinite(ratings).sum(axis=0) > 1
    if not several.any():
        return _nothing()
    pairs = coincidences(np.concatenate([ratings[:, several], -ratings[:, several]], axis=1))
    pairs = pairs[: several.sum()] + pairs[several.sum() :]
    flat = pairs.reshape(len(pairs), -1)
    code = np.zeros(len(pairs), dtype=np.int64)
    (group,) = sums_by(prompt[several], code, 1, list(flat.T))
    size = pairs.shape[1]

    def alpha(t: Array) -> Array:
        return alpha_of_coincidences(t.reshape(-1, size, size), "nominal")[:, None]

    (draws,) = bootstrap.replicate([Sums(group.prompts, group.values)], alpha)
    value = float(alpha(group.total)[0, 0])
    return estimate(value, len(pairs), len(group.prompts), draws[:, 0], low=-1.0)


def _nothing() -> Estimate:
    return Estimate(value=None, n=0, prompts=0, interval=None)
