"""What a new wording changes: the same comparisons under the changed principles, beside the run's own judgments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from constitutional.audit.measures.cells import sides
from constitutional.audit.measures.change_plan import Change, Plan
from constitutional.audit.measures.change_records import LabelChanges, PrincipleDiff, VersionDiff
from constitutional.audit.measures.columns import OUTCOMES
from constitutional.audit.measures.corpus import corpus_of
from constitutional.audit.measures.influence import Labelling, judged_rows, labeller_of, labels_made
from constitutional.audit.measures.resample import RESAMPLES, Bootstrap, estimate, sums_by
from constitutional.audit.measures.table import Table, make_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from constitutional.ledger import Ledger


def compare_versions(made: Plan, ledger: Ledger, *, resamples: int = RESAMPLES, seed: int = 0) -> VersionDiff:
    """What the new wordings change, from the run's ledger and that of `judge_anew`."""
    found = ledger.lookup(made.keys)
    payloads = [found[key].to_json() for key in made.keys if key in found]
    table = make_table(corpus_of(made.view, payloads))
    bootstrap = Bootstrap(len(table.corpus.prompts), resamples, seed)
    ran = judged_rows(table)
    anew = _rows_of(table, [change.new_digest for change in made.changes], ran)
    rows = [
        (_subject_rows(table, ran, ch.old.ref, ch.old_digest), _subject_rows(table, anew, ch.new.ref, ch.new_digest))
        for ch in made.changes
    ]
    labels, before = _label_changes(table, made, ran, anew, bootstrap)
    reference = _reference(table, before)
    old_ids = {p.id for p in made.view.constitution.principles}
    new_ids = {p.id for p in made.new.principles}
    return VersionDiff(
        run=str(made.view.path.name),
        old=made.view.constitution.ref,
        new=made.new.ref,
        judge=made.judge_model,
        cost=made.cost,
        missing=len(made.keys) - len(found),
        resamples=resamples,
        seed=seed,
        principles=tuple(
            _principle_diff(table, change, *pair, reference, bootstrap)
            for change, pair in zip(made.changes, rows, strict=True)
        ),
        labels=labels,
        added=tuple(p.ref for p in made.new.principles if p.id not in old_ids),
        removed=tuple(p.ref for p in made.view.constitution.principles if p.id not in new_ids),
        notes=made.notes,
    )


def _rows_of(table: Table, digests: Sequence[str], ran: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of the new judgments: of these digests, on comparisons of the run's judge step, and not the run's."""
    import numpy as np

    subjects = [s for s, key in enumerate(table.subjects) if key[1] in digests]
    mine = np.isin(table.cells.subject, subjects) & np.isin(table.cells.comparison, table.cells.comparison[ran])
    return np.setdiff1d(np.flatnonzero(mine), ran)


def _subject_rows(table: Table, rows: NDArray[np.int64], ref: str, digest: str) -> NDArray[np.int64]:
    import numpy as np

    subjects = [s for s, key in enumerate(table.subjects) if key[0] == ref and key[1] == digest]
    return rows[np.isin(table.cells.subject[rows], subjects)]


def _principle_diff(
    table: Table,
    change: Change,
    old: NDArray[np.int64],
    new: NDArray[np.int64],
    reference: NDArray[np.int64],
    bootstrap: Bootstrap,
) -> PrincipleDiff:
    """Both versions on the comparisons that both were asked of."""
    import numpy as np

    shared, i, j = np.intersect1d(table.cells.comparison[old], table.cells.comparison[new], return_indices=True)
    a, b = old[i], new[j]
    cells = table.cells
    both = np.isfinite(cells.p[a]) & np.isfinite(cells.p[b])
    p, q = np.where(both, cells.p[a], 0.5), np.where(both, cells.p[b], 0.5)
    sides = np.where(both, cells.side[a] * cells.side[b], 0)
    turned = both * (cells.consistent[b].astype(np.float64) - cells.consistent[a])
    told = reference[a]
    columns = [sides != 0, sides < 0, both, both * (q - p), both * 2 * (np.abs(q - 0.5) - np.abs(p - 0.5)), turned]
    columns += [told != 0, told * (cells.side[b] - cells.side[a])]
    (group,) = sums_by(
        table.prompt[a], np.zeros(len(a), dtype=np.int64), 1, [np.asarray(c, dtype=np.float64) for c in columns]
    )
    (draws,) = bootstrap.replicate([group], _paired)
    values = _paired(group.total)[0]
    counts = [group.values[:, k] for k in (0, 2, 2, 2, 6)]
    bounds = [(0.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (-2.0, 2.0)]
    made = [
        estimate(float(values[k]), int(count.sum()), int(np.count_nonzero(count)), draws[:, k], *bounds[k])
        for k, count in enumerate(counts)
    ]
    return PrincipleDiff(
        old=change.old.ref,
        new=change.new.ref,
        old_digest=change.old_digest,
        new_digest=change.new_digest,
        fields=tuple(
            sorted(
                name
                for name in {*change.old.texts, *change.new.texts}
                if change.old.texts.get(name) != change.new.texts.get(name)
            )
        ),
        comparisons=len(shared),
        old_outcomes=_outcomes(table, a),
        new_outcomes=_outcomes(table, b),
        flips=made[0],
        shift=made[1],
        decisiveness=made[2],
        order_consistency=made[3],
        strength=made[4],
    )


def _paired(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flips of those with two sides; mean change of p, of decisiveness, of order consistency, of strength."""
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        means = [t[:, k] / t[:, 2] for k in (3, 4, 5)]
        return np.stack([t[:, 1] / t[:, 0], *means, t[:, 7] / t[:, 6]], axis=1)


def _reference(table: Table, before: Labelling) -> NDArray[np.int64]:
    """Of each row what its side is held against: people's label, else the run's label without its principle."""
    import numpy as np

    found = np.zeros(len(table), dtype=np.int64)
    found[before.rows] = sides(before.without)
    told = np.abs(table.label) == 1
    found[told] = table.label[told]
    return found


def _outcomes(table: Table, rows: NDArray[np.int64]) -> dict[str, int]:
    return {name: int(n) for name, n in zip(OUTCOMES, table.outcomes[rows].sum(axis=0), strict=True)}


def _label_changes(
    table: Table, made: Plan, ran: NDArray[np.int64], anew: NDArray[np.int64], bootstrap: Bootstrap
) -> tuple[LabelChanges, Labelling]:
    """The labels of the run's rule, from the old versions and from the new ones in their place."""
    import numpy as np

    labeller = labeller_of(made.view)
    replaced = {change.old.ref: change.new for change in made.changes}
    others = replace(labeller, principles=tuple(replaced.get(p.ref, p) for p in labeller.principles))
    if labeller.weights is not None:
        moved = {replaced[ref].ref if ref in replaced else ref: w for ref, w in labeller.weights.items()}
        others = replace(others, weights=moved)
    refs = {p.ref for p in labeller.principles}
    taking = [s for s, key in enumerate(table.subjects) if key[0] in refs]
    ran = ran[np.isin(table.cells.subject[ran], taking)]
    old_subjects = [s for s, key in enumerate(table.subjects) if key[0] in replaced]
    kept = ran[~np.isin(table.cells.subject[ran], old_subjects)]
    before, after = labels_made(table, ran, labeller), labels_made(table, np.concatenate([kept, anew]), others)
    (place, was), (other, now) = _by_comparison(table, before), _by_comparison(table, after)
    joined = np.full(len(place), np.nan)
    at = np.searchsorted(other, place) if len(other) else np.zeros(len(place), dtype=np.int64)
    known = at < len(other)
    known[known] = other[at[known]] == place[known]
    joined[known] = now[at[known]]
    prompt = np.array(table.corpus.comparisons.prompt, dtype=np.int64)[place]
    had, has = np.isfinite(was), np.isfinite(joined)
    both = had & has
    flips = both & (sides(was) * sides(joined) < 0)
    shift = np.where(both, np.abs(np.nan_to_num(joined) - np.nan_to_num(was)), 0.0)
    columns = [np.asarray(c, dtype=np.float64) for c in (had, flips, had & ~has, both, shift)]
    (group,) = sums_by(prompt, np.zeros(len(prompt), dtype=np.int64), 1, columns)
    (draws,) = bootstrap.replicate([group], _label_shares)
    values, n = _label_shares(group.total)[0], [int(had.sum()), int(had.sum()), int(both.sum())]
    prompts = [int(np.count_nonzero(group.values[:, k])) for k in (0, 0, 3)]
    flipped, lost, moved_by = (estimate(float(values[k]), n[k], prompts[k], draws[:, k]) for k in range(3))
    changes = LabelChanges(
        rule=before.rule.rule,
        comparisons=len(place),
        labels=n[0],
        stored=before.rule.stored,
        stored_same=before.rule.stored_same,
        flips=flipped,
        lost=lost,
        gained=int((~had & has).sum()),
        mean_shift=moved_by,
    )
    return changes, before


def _label_shares(t: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([t[:, 1] / t[:, 0], t[:, 2] / t[:, 0], t[:, 4] / t[:, 3]], axis=1)


def _by_comparison(table: Table, made: Labelling) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    import numpy as np

    rows, whole = made.rows, made.whole
    place, first = np.unique(table.cells.comparison[rows], return_index=True)
    return place, whole[first]
