"""The audit of judgments, from run folders to one record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from constitutional.audit.measures.agreeing import agreeing, label_fits
from constitutional.audit.measures.cells import sides
from constitutional.audit.measures.columns import OUTCOMES, SubjectKey
from constitutional.audit.measures.corpus import Corpus, load_corpus
from constitutional.audit.measures.figures import figures
from constitutional.audit.measures.influence import Labelling, influences, labelling
from constitutional.audit.measures.judges import judges_agreement
from constitutional.audit.measures.length import length_effect
from constitutional.audit.measures.pairs import REDUNDANT_FROM, clusters, principle_pairs
from constitutional.audit.measures.records import (
    Agreeing,
    Audit,
    Cost,
    Panel,
    PrincipleAudit,
    Reach,
)
from constitutional.audit.measures.resample import RESAMPLES, Bootstrap
from constitutional.audit.measures.significance import detectable, principle_tests
from constitutional.audit.measures.slices import slices
from constitutional.audit.measures.table import Table, make_table, most_judged
from constitutional.principles import Principle
from constitutional.statistics import rate

_NO_MODE = ("applies",)


def audit_run(
    runs: Sequence[Path],
    *,
    labels: Sequence[Path] = (),
    by: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Audit:
    """Audits the judgments of one or several run folders. Nothing in them is locked or changed.

    Args:
        runs: run folders; a judgment that several hold counts once.
        labels: JSON-lines files of labels (`comparison_id`, `preferred`: a, b or tie, `source`), beside those in runs.
        by: further columns to slice by (`slices.COLUMNS`), each principle alone, too.
        resamples: bootstrap draws.
        seed: of the draws; equal arguments give equal audits.

    Raises:
        RunError: a path is no run folder, or a file of it is damaged.
        LedgerError: a ledger cannot be read.
        DataError: a file of labels that cannot be used.
        ConfigError: no such column.
    """
    return audit_table(make_table(load_corpus(runs, labels)), by=by, resamples=resamples, seed=seed)


def audit_table(table: Table, *, by: Sequence[str] = (), resamples: int = RESAMPLES, seed: int = 0) -> Audit:
    """The audit of a table; the arguments are those of `audit_run`."""
    import numpy as np

    corpus, count = table.corpus, len(table.subjects)
    bootstrap = Bootstrap(len(corpus.prompts), resamples, seed)
    made = labelling(table)
    notes = [made] if isinstance(made, str) else []
    asked = sorted({int(c) for c in np.unique(table.cells.comparison)})
    by_source, digests = _label_counts(corpus), _principles(corpus)
    principles = _principle_audits(table, made, bootstrap, digests)
    outcomes = table.outcomes.sum(axis=0) if len(table) else np.zeros(len(OUTCOMES), dtype=np.int64)
    most = max((a.figures.opinions for a in principles), default=0)
    labelled = max((a.labels.accuracy.n for a in principles if a.labels), default=0)
    return Audit(
        runs=tuple(corpus.sources),
        judgments=len(table.judgments) + table.unplaced,
        again=table.again,
        unplaced=table.unplaced,
        outcomes={name: int(n) for name, n in zip(OUTCOMES, outcomes, strict=True)},
        comparisons=len(asked),
        prompts=len(np.unique(table.prompt)),
        labels=by_source,
        labels_unplaced=dict(sorted(corpus.labels.unplaced.items())),
        resamples=resamples,
        seed=seed,
        redundant_from=REDUNDANT_FROM,
        label_rule=None if isinstance(made, str) else made.rule,
        principles=tuple(principles[s] for s in _order(corpus, table.subjects)),
        panels=tuple(_panels(table, bootstrap)) if count else (),
        judges=judges_agreement(table, bootstrap),
        slices=tuple(slices(table, by, {d: p.tags for d, p in digests.items()}, bootstrap)),
        detectable=detectable("a share of the opinions of one principle", most)
        + detectable("accuracy of one principle against labels", labelled),
        notes=tuple(notes),
    )


def _principle_audits(
    table: Table, made: Labelling | str, bootstrap: Bootstrap, digests: dict[str, Principle]
) -> list[PrincipleAudit]:
    """One for each subject, in the table's order."""
    import numpy as np

    count = len(table.subjects)
    rows, code = np.arange(len(table)), table.cells.subject
    own = figures(table, rows, code, count, bootstrap)
    fits = label_fits(table, rows, code, count, bootstrap)
    members = [np.flatnonzero(code == s) for s in range(count)]
    lengths = [length_effect(table, found) for found in members]
    tests = principle_tests(table, count, lengths, fits)
    worth = [None] * count if isinstance(made, str) else influences(table, made, count, bootstrap)
    others = [None] * count if isinstance(made, str) else _with_others(table, made, bootstrap)
    asked_by = _asked_by(table)
    tokens = table.total(table.judgments.prompt_tokens), table.total(table.judgments.completion_tokens)
    found = []
    for s, (ref, digest, judge, mode, template) in enumerate(table.subjects):
        mine = members[s]
        name, _, version = ref.partition("@")
        spent = [int(t[mine].sum()) for t in tokens]
        found.append(
            PrincipleAudit(
                principle=ref,
                id=name,
                version=version,
                digest=digest,
                title=digests[digest].title if digest in digests else "",
                judge=judge,
                mode=mode,
                template_digest=template,
                current=digest in digests,
                figures=own[s],
                length=lengths[s],
                labels=fits[s],
                with_others=others[s],
                influence=worth[s],
                reach=Reach(
                    asked=rate(len(mine), asked_by.get(judge, 0)),
                    opinion=rate(own[s].opinions, len(mine)),
                    not_applicable=rate(int(table.cells.left_out[mine].sum()), len(mine)),
                ),
                cost=Cost(
                    prompt_tokens=spent[0],
                    completion_tokens=spent[1],
                    per_judgment=sum(spent) / max(own[s].judgments, 1),
                ),
                tests=tests[s],
            )
        )
    return found


def _with_others(table: Table, made: Labelling, bootstrap: Bootstrap) -> list[Agreeing | None]:
    """Each subject against the labels without its principle."""

    reference = sides(made.without)
    return agreeing(table, made.rows, table.cells.subject[made.rows], len(table.subjects), reference, bootstrap)


def _asked_by(table: Table) -> dict[str, int]:
    """Comparisons that each judge was asked about."""
    import numpy as np

    judges = np.array([key[2] for key in table.subjects] or [""])[table.cells.subject] if len(table) else np.array([])
    return {str(judge): len(np.unique(table.cells.comparison[judges == judge])) for judge in np.unique(judges)}


def _panels(table: Table, bootstrap: Bootstrap) -> list[Panel]:
    """The principles of each judge, mode and template, the checks beside them; the figures are of the judge alone."""
    import numpy as np

    keys = sorted({key[2:] for key in table.subjects if key[3] not in ("check", *_NO_MODE)})
    checks = [s for s, key in enumerate(table.subjects) if key[3] == "check"]
    found = []
    for judge, mode, template in keys or ([("", "check", "")] if checks else []):
        own = [s for s, key in enumerate(table.subjects) if key[2:] == (judge, mode, template)]
        judged = {table.subjects[s][0] for s in own}
        beside = [s for s in checks if table.subjects[s][0] not in judged]  # a principle stands in a panel once
        subjects = [s for s in _order(table.corpus, table.subjects) if s in own or s in beside]
        rows = np.flatnonzero(np.isin(table.cells.subject, own or checks))
        zero = np.zeros(len(rows), dtype=np.int64)
        subjects = most_judged(table, subjects)
        pairs = principle_pairs(table, subjects, bootstrap)
        refs = [table.subjects[s][0] for s in subjects]
        found.append(
            Panel(
                judge=judge,
                mode=mode,
                template_digest=template,
                principles=tuple(refs),
                figures=figures(table, rows, zero, 1, bootstrap)[0],
                labels=label_fits(table, rows, zero, 1, bootstrap)[0],
                pairs=pairs,
                clusters=clusters(refs, pairs),
            )
        )
    return found


def _principles(corpus: Corpus) -> dict[str, Principle]:
    """The principles of the runs' present constitutions by every digest their judgments may carry."""
    from constitutional.checks import coded_digest

    found: dict[str, Principle] = {}
    for view in corpus.views:
        checks = view.lock.get("checks", {})
        for principle in view.constitution.principles:
            found[principle.digest] = principle
            if principle.ref in checks:
                found[coded_digest(principle, str(checks[principle.ref]))] = principle
    return found


def _order(corpus: Corpus, subjects: Sequence[SubjectKey]) -> list[int]:
    """The constitution's order; then what it no longer has, by name."""
    refs = [p.ref for view in corpus.views for p in view.constitution.principles]
    rank = {ref: i for i, ref in reversed(list(enumerate(refs)))}
    return sorted(range(len(subjects)), key=lambda s: (rank.get(subjects[s][0], len(refs)), subjects[s]))


def _label_counts(corpus: Corpus) -> dict[str, int]:
    counts = Counter(source for said in corpus.labels.said.values() for source in said)
    return dict(sorted(counts.items()))
