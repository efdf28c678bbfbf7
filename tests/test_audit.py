"""The audit against a slow, independent count over plain judgments, on random and degenerate ledgers."""

import json
import math
import random
from collections import Counter
from pathlib import Path
from statistics import mean, pstdev

import numpy as np
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
import yaml
from fake_models import make_prompts
from fake_run import CONSTITUTION, RECIPE, make_run
from fake_training import lines
from krippendorff import alpha as oracle_alpha
from rich.console import Console
from scipy.stats import binomtest, false_discovery_control, norm
from scipy.stats import t as student
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from constitutional.audit.measures.audit import audit_run
from constitutional.audit.measures.parquet import write_parquet
from constitutional.audit.measures.records import Audit, Estimate
from constitutional.audit.measures.terminal import print_audit
from constitutional.cli.app import app
from constitutional.errors import ConfigError, DataError, LedgerError
from constitutional.feedback.label import label, opinions
from constitutional.ledger import open_ledger
from constitutional.principles import Constitution
from constitutional.records import Comparison, Judgment, Preference, Usage, short_digest, user
from constitutional.runs import open_run, write_atomic
from constitutional.statistics import bootstrap_mean

REFS = [p.ref for p in CONSTITUTION.principles]
DIGESTS = {p.ref: p.digest for p in CONSTITUTION.principles}
BAD = ("tie", "not_applicable", "refused", "invalid", "error")


def judgment(comparison: Comparison, ref: str, order: str, p: float | None, **changes: object) -> Judgment:
    fields: dict[str, object] = {
        "key": short_digest([comparison.id, ref, order, changes.get("judge"), changes.get("mode")]),
        "comparison_id": comparison.id,
        "principle": ref,
        "principle_digest": DIGESTS.get(ref, ref),
        "template_digest": "t" * 16,
        "judge": "judge:one",
        "mode": "logprob",
        "order": order,
        "outcome": "preference",
        "p_a": p,
        "logprobs": (),
        "mass": 0.9,
        "usage": Usage(prompt_tokens=10, completion_tokens=2),
        "seed": 0,
    }
    return Judgment.model_validate(fields | changes)


def comparisons(count: int, rng: random.Random) -> list[Comparison]:
    prompts = make_prompts()
    return [
        Comparison(
            prompt_id=prompts[i % 9].id,
            messages=(user("q"),),
            a=f"{i} " + "x" * rng.choice((5, 20, 21, 80)),
            b="y" * rng.choice((5, 20, 22, 60)),
            origin="sampled",
        )
        for i in range(count)
    ]


def write_run(
    folder: Path,
    found: list[Comparison],
    judgments: list[Judgment],
    rule: dict[str, object] | None = None,
    constitution: Constitution = CONSTITUTION,
) -> Path:
    recipe = RECIPE.model_dump(mode="json") | {"label": {"rule": "mean", **(rule or {})}}
    with open_run(folder) as run, open_ledger(run.ledger_path) as ledger:
        write_atomic(folder / "run.yaml", yaml.safe_dump(recipe))
        write_atomic(folder / "lock.json", "{}")
        write_atomic(folder / "constitution.json", constitution.to_json() + "\n")
        write_atomic(folder / "prompts.jsonl", lines(make_prompts()))
        done = {}
        for number, name, rows, kind in ((4, "sample", found, Comparison), (6, "judge", judgments, Judgment)):
            stage = run.stage(number, name, {"seed": 0}, dict(done))
            stage.run_chunks(rows, lambda chunk, _: chunk, chunk_size=max(len(rows), 1), output_type=kind)
            done[name] = stage.finish()
        ledger.append(judgments)
        current = {name: result.folder.relative_to(folder).as_posix() for name, result in done.items()}
        write_atomic(folder / "current.json", json.dumps(current))
    return folder


def random_ledger(seed: int, judges: tuple[str, ...] = ("judge:one",)) -> tuple[list[Comparison], list[Judgment]]:
    rng = random.Random(seed)
    found, judgments = comparisons(60, rng), []
    for comparison in found:
        for ref in REFS:
            if rng.random() < 0.2:
                continue
            for judge in judges:
                for order in ("ab", "ba"):
                    outcome = rng.choice(BAD) if rng.random() < 0.25 else "preference"
                    p = rng.choice((0.5, 0.2, rng.random())) if outcome == "preference" else None
                    judgments.append(judgment(comparison, ref, order, p, outcome=outcome, judge=judge))
    return found, judgments


def labels_file(path: Path, found: list[Comparison], seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    said = {c.id: rng.choice(("a", "b", "tie")) for c in found if rng.random() < 0.7}
    rows = [{"comparison_id": i, "preferred": side, "source": "people"} for i, side in said.items()]
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"comparison_id":"x","preferred":"a","source":"s"}\n'
    )
    return {i: {"a": 1, "b": -1, "tie": 0}[side] for i, side in said.items()}


def side(p: float | None) -> int:
    return 0 if p is None else (p > 0.5) - (p < 0.5)


def close(estimate: Estimate, value: float | None, n: int) -> None:
    assert estimate.n == n
    if value is None:
        assert estimate.value is None and estimate.interval is None
    else:
        assert estimate.value == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_every_figure_equals_a_slow_count(tmp_path: Path, seed: int) -> None:
    found, judgments = random_ledger(seed)
    truth = labels_file(tmp_path / "labels.jsonl", found, seed)
    audit = audit_run([write_run(tmp_path / "run", found, judgments)], labels=[tmp_path / "labels.jsonl"], resamples=50)
    by_id = {c.id: c for c in found}
    never = sum(c not in {j.comparison_id for j in judgments} for c in truth)
    assert audit.judgments == len(judgments) and audit.labels_unplaced == {"s": 1} | (
        {"people": never} if never else {}
    )
    assert [row.principle for row in audit.principles] == REFS
    p_values = {"position": {}, "chance": {}, "length": {}}
    for row in audit.principles:
        mine = [j for j in judgments if j.principle == row.principle]
        orders = {
            c: {j.order: j.p_a for j in mine if j.comparison_id == c}
            for c in dict.fromkeys(j.comparison_id for j in mine)
        }
        given = {c: (o["ab"] + o["ba"]) / 2 for c, o in orders.items() if None not in (o["ab"], o["ba"])}
        figures = row.figures
        assert figures.outcomes == {k: Counter(j.outcome for j in mine)[k] for k in ("preference", *BAD)}
        assert figures.comparisons == len(orders) and figures.opinions == len(given)
        assert figures.one_order == sum((o["ab"] is None) != (o["ba"] is None) for o in orders.values())
        close(figures.mean_p, mean(given.values()), len(given))
        close(figures.spread_p, pstdev(given.values()), len(given))
        close(figures.decisiveness, mean(2 * abs(p - 0.5) for p in given.values()), len(given))
        same = {c: side(orders[c]["ab"]) == side(orders[c]["ba"]) != 0 for c in given}
        close(figures.order_consistency, mean(same.values()), len(given))
        firsts = [(j.p_a > 0.5) == (j.order == "ab") for j in mine if j.p_a not in (None, 0.5)]
        close(figures.first_position, mean(firsts), len(firsts))
        ratio = {c: math.log((len(by_id[c].a) + 1) / (len(by_id[c].b) + 1)) for c in orders}
        equal = [same[c] for c in given if abs(ratio[c]) <= math.log(1.1)]
        close(figures.equal_length, mean(equal) if equal else None, len(equal))
        assert figures.mean_p.interval.low <= figures.mean_p.value <= figures.mean_p.interval.high

        decided = [c for c in given if side(given[c])]
        x = np.array([[ratio[c], 1.0] for c in decided])
        y = np.array([side(given[c]) > 0 for c in decided], dtype=float)
        groups = np.unique([by_id[c].prompt_id for c in decided], return_inverse=True)[1]
        fit = sm.Logit(y, x).fit(disp=0, cov_type="cluster", cov_kwds={"groups": groups})
        assert row.length.slope.value == pytest.approx(fit.params[0], abs=1e-6)
        among = student(len(set(groups)) - 1)
        assert row.length.slope.interval.low == pytest.approx(fit.params[0] - among.ppf(0.975) * fit.bse[0], abs=1e-4)
        p_values["length"][row.principle] = 2 * among.sf(abs(fit.tvalues[0]))
        longer = [(side(given[c]) > 0) == (ratio[c] > 0) for c in decided if ratio[c]]
        assert (row.length.longer_preferred.count, row.length.longer_preferred.n) == (sum(longer), len(longer))

        told = {c: truth[c] for c in orders if truth.get(c)}
        right = [side(given.get(c)) == t for c, t in told.items() if side(given.get(c))]
        metrics, n = row.labels.metrics, len(told)
        assert (metrics.agree, metrics.disagree, metrics.not_applicable) == (
            sum(right),
            len(right) - sum(right),
            n - len(right),
        )
        close(metrics.agreement, sum(right) / n, n)
        close(metrics.relevance, len(right) / n, n)
        close(metrics.strength, (2 * sum(right) - len(right)) / n, n)
        close(metrics.kappa, 2 * mean(right) - 1, len(right))
        low, high = proportion_confint(sum(right), len(right), method="wilson")
        assert (row.labels.accuracy.interval.low, row.labels.accuracy.interval.high) == pytest.approx((low, high))
        assert row.labels.right_of_all.n == row.labels.labelled == row.labels.sources["people"] == n
        sided = [c for c in told if side(given.get(c))]
        kappa = cohen_kappa_score([told[c] for c in sided], [side(given[c]) for c in sided])
        close(row.labels.cohen_kappa, kappa, len(sided))
        bins: dict[int, list[tuple[float, bool]]] = {}
        for c in sided:
            sure = max(given[c], 1 - given[c])
            bins.setdefault(max(0, math.ceil((sure - 0.5) * 20 - 1e-9) - 1), []).append(
                (sure, side(given[c]) == told[c])
            )
        error = sum(abs(sum(r for _, r in b) - sum(s for s, _ in b)) for b in bins.values()) / len(sided)
        close(row.labels.expected_calibration_error, error, len(sided))
        assert [b.right.n for b in row.labels.reliability] == [len(bins[k]) for k in sorted(bins)]

        first = sum(o["ab"] > 0.5 > o["ba"] for c, o in orders.items() if c in given)
        second = sum(o["ab"] < 0.5 < o["ba"] for c, o in orders.items() if c in given)
        p_values["position"][row.principle] = binomtest(first, first + second).pvalue
        p_values["chance"][row.principle] = binomtest(sum(right), len(right)).pvalue
        asked = {j.comparison_id for j in judgments}
        assert (row.reach.asked.count, row.reach.asked.n) == (len(orders), len(asked))
        left_out = {c for c in orders if all(j.outcome == "not_applicable" for j in mine if j.comparison_id == c)}
        assert row.reach.not_applicable.count == len(left_out)
        assert (row.cost.prompt_tokens, row.cost.completion_tokens) == (10 * len(mine), 2 * len(mine))
    for kind, found_p in p_values.items():
        adjusted = false_discovery_control(list(found_p.values()))
        for row, p, q in zip(audit.principles, found_p.values(), adjusted, strict=True):
            test = getattr(row.tests, kind)
            assert (test.p, test.adjusted) == pytest.approx((p, q), abs=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_pairs_of_principles_equal_a_slow_count(tmp_path: Path, seed: int) -> None:
    found, judgments = random_ledger(seed)
    (panel,) = audit_run([write_run(tmp_path / "run", found, judgments)], resamples=20).panels
    said = {c: {o.principle: o.p_a for o in os} for c, os in opinions(judgments).items()}
    assert len(panel.pairs) == len(REFS) * (len(REFS) - 1) // 2
    for pair in panel.pairs:
        both = [(s[pair.one], s[pair.other]) for s in said.values() if pair.one in s and pair.other in s]
        close(pair.correlation, np.corrcoef(np.array(both).T)[0, 1], len(both))
        sides = [(side(p), side(q)) for p, q in both if side(p) and side(q)]
        close(pair.conflict, mean(s != t for s, t in sides), len(sides))


def test_principles_that_say_the_same_are_one_cluster(tmp_path: Path) -> None:
    rng = random.Random(3)
    found = comparisons(30, rng)
    judgments = []
    for comparison in found:
        p = rng.random()
        for ref, value in zip(REFS, (p, min(1.0, p + 0.01 * rng.random()), rng.random()), strict=True):
            judgments += [judgment(comparison, ref, order, value) for order in ("ab", "ba")]
    (panel,) = audit_run([write_run(tmp_path / "run", found, judgments)], resamples=20).panels
    assert panel.clusters == ((REFS[0], REFS[1]),)


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "mean"},
        {"rule": "weighted"},
        {"rule": "tiers"},
        {"rule": "veto"},
        {"rule": "dominant"},
        {"disagreement": 0.3},
    ],
)
def test_influence_is_that_of_labels_made_without_the_principle(tmp_path: Path, rule: dict[str, object]) -> None:
    found, judgments = random_ledger(5)
    principles = tuple(
        p.model_copy(update={"weight": w, "tier": t})
        for p, w, t in zip(CONSTITUTION.principles, (1.0, 2.5, 0.5), (1, 2, 2), strict=True)
    )
    constitution = CONSTITUTION.model_copy(update={"principles": principles})
    audit = audit_run([write_run(tmp_path / "run", found, judgments, rule, constitution)], resamples=20)

    def made(without: str | None) -> dict[str, Preference]:
        from constitutional.feedback.label import Limits

        kept = [p for p in principles if p.ref != without]
        mine = [j for j in judgments if j.principle != without]
        limits = Limits(disagreement=rule.get("disagreement"))
        asked = [c for c in found if any(j.comparison_id == c.id for j in judgments)]
        return {
            p.comparison_id: p
            for p in label(asked, mine, principles=kept, rule=rule.get("rule", "mean"), limits=limits)
        }

    whole = {c: p for c, p in made(None).items() if p.p_a is not None}
    assert audit.label_rule is not None and audit.label_rule.labels == len(whole)
    moved = 0
    for row in audit.principles:
        rest = made(row.principle)
        flips = sum(rest[c].p_a is not None and side(rest[c].p_a) * side(p.p_a) < 0 for c, p in whole.items())
        lost = sum(rest[c].p_a is None for c in whole)
        shifts = [abs(rest[c].p_a - p.p_a) for c, p in whole.items() if rest[c].p_a is not None]
        close(row.influence.flips, flips / len(whole), len(whole))
        close(row.influence.lost, lost / len(whole), len(whole))
        close(row.influence.mean_shift, mean(shifts), len(whole) - lost)
        moved += flips + lost
    assert moved


def test_influence_of_a_judge_that_reasons_counts_its_opinions_clamped(tmp_path: Path) -> None:
    found, judgments = random_ledger(5)
    reasoned = [judgment(by(found, j), j.principle, j.order, j.p_a, outcome=j.outcome, mode="cot") for j in judgments]
    audit = audit_run([write_run(tmp_path / "run", found, reasoned)], resamples=5)
    row = audit.principles[0]
    asked = [c for c in found if any(j.comparison_id == c.id for j in reasoned)]
    kept = [j for j in reasoned if j.principle != row.principle]
    principles = CONSTITUTION.principles
    whole, rest = ({p.comparison_id: p.p_a for p in label(asked, m, principles=principles)} for m in (reasoned, kept))
    shifts = [abs(rest[c] - p) for c, p in whole.items() if p is not None and rest[c] is not None]
    close(row.influence.mean_shift, mean(shifts), len(shifts))


def by(found: list[Comparison], one: Judgment) -> Comparison:
    return next(c for c in found if c.id == one.comparison_id)


def test_intervals_are_those_of_a_bootstrap_of_prompts(tmp_path: Path) -> None:
    found, judgments = random_ledger(7)
    (row, *_) = audit_run([write_run(tmp_path / "run", found, judgments)], resamples=4000).principles
    prompt = {c.id: c.prompt_id for c in found}
    said = [
        (o.consistent, prompt[c]) for c, os in opinions(judgments).items() for o in os if o.principle == row.principle
    ]
    # nine prompts: percentiles at the confidence whose normal quantile is t with 8 degrees, times the root of 9 / 8
    wide = 2 * norm.cdf(student.ppf(0.975, 8) * (9 / 8) ** 0.5) - 1
    expected = bootstrap_mean([float(same) for same, _ in said], [p for _, p in said], wide, resamples=4000, seed=1)
    ends = row.figures.order_consistency.interval
    assert (ends.low, ends.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert row.figures.order_consistency.prompts == len({p for _, p in said}) == 9


def test_a_judge_that_reads_only_the_position_is_seen_as_one(tmp_path: Path) -> None:
    found = comparisons(20, random.Random(0))
    judgments = [judgment(c, REFS[0], order, p) for c in found for order, p in (("ab", 0.9), ("ba", 0.1))]
    (row,) = audit_run([write_run(tmp_path / "run", found, judgments)]).principles
    assert (row.figures.mean_p.value, row.figures.first_position.value) == (0.5, 1.0)
    assert row.figures.order_consistency.value == 0.0 and row.figures.order_consistency.interval.high > 0
    assert row.tests.position.p == pytest.approx(2 * 0.5**20)
    assert row.length.slope.value is None and row.length.reason == "no opinion prefers an answer"


def test_judges_among_themselves_and_with_people(tmp_path: Path) -> None:
    found, judgments = random_ledger(8, ("judge:one", "judge:two"))
    truth = labels_file(tmp_path / "labels.jsonl", found, 8)
    audit = audit_run([write_run(tmp_path / "run", found, judgments)], labels=[tmp_path / "labels.jsonl"], resamples=20)
    sides = {
        judge: {
            (c, o.principle): side(o.p_a)
            for c, os in opinions(j for j in judgments if j.judge == judge).items()
            for o in os
        }
        for judge in ("judge:one", "judge:two")
    }
    units = sorted(
        {unit for said in sides.values() for unit in said} | {(j.comparison_id, j.principle) for j in judgments}
    )
    table = [[said.get(unit) or np.nan for unit in units] for said in sides.values()]
    people = [truth.get(c) or np.nan for c, _ in units]
    (pair,) = audit.judges.pairs
    both = [(x, y) for x, y in zip(*table, strict=True) if x == x and y == y]
    close(pair.same, mean(x == y for x, y in both), len(both))
    close(pair.kappa, cohen_kappa_score(*zip(*both, strict=True)), len(both))
    for estimate, ratings in ((audit.judges.alpha, table), (audit.judges.alpha_with_labels, [*table, people])):
        array = np.array(ratings, dtype=float)
        turned = np.concatenate([array, -array], axis=1)
        value = oracle_alpha(turned, level_of_measurement="nominal")
        close(estimate, value, int((np.isfinite(array).sum(axis=0) > 1).sum()))


def degenerate(kind: str) -> tuple[list[Comparison], list[Judgment]]:
    found = comparisons(6, random.Random(1))
    if kind == "no judgments":
        return found, []
    if kind == "one judgment":
        return found, [judgment(found[0], REFS[0], "ab", 0.7)]
    refs = REFS[:1] if kind == "one principle" else REFS
    orders = ("ba",) if kind == "one order" else ("ab", "ba")
    outcome, p = ("invalid", None) if kind == "all invalid" else ("preference", 0.5 if kind == "all half" else 0.8)
    return found, [judgment(c, r, o, p, outcome=outcome) for c in found for r in refs for o in orders]


KINDS = ("no judgments", "one judgment", "one principle", "all invalid", "one order", "all half")


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_ledgers_are_audited_without_made_up_numbers(tmp_path: Path, kind: str) -> None:
    found, judgments = degenerate(kind)
    audit = audit_run([write_run(tmp_path / "run", found, judgments)], resamples=10, by=["principle", "longer"])
    assert audit.judgments == len(judgments)
    for row in audit.principles:
        if kind in ("one judgment", "all invalid", "one order"):
            assert row.figures.opinions == 0 and row.figures.mean_p.value is None
            assert row.figures.mean_p.interval is None and row.influence.flips.value is None
        else:
            assert row.figures.mean_p.value == pytest.approx(0.5 if kind == "all half" else 0.8)
        assert row.labels is None and row.length.slope.value is None and row.length.reason
    assert Audit.model_validate_json(audit.to_json()) == audit, "no number that JSON cannot hold"
    assert widest(audit) <= 100


def widest(audit: Audit) -> int:
    console = Console(width=100, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115, PTH123
    print_audit(audit, console)
    return max(len(line) for line in console.export_text().splitlines())


def test_a_whole_run_is_audited_and_its_labels_come_out_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    audit = audit_run([run], resamples=50)
    rule = audit.label_rule
    assert rule is not None and rule.stored == rule.stored_same > 0
    assert audit.labels == {"examples": 12} and not audit.unplaced
    assert {s.value for s in audit.slices if s.column == "step"} == {"gate", "judge", "evaluate"}
    for column in ("step", "kind"):
        assert sum(s.figures.judgments for s in audit.slices if s.column == column) in (0, audit.judgments)
    assert widest(audit) <= 100


def test_a_judgment_in_two_runs_counts_once(tmp_path: Path) -> None:
    found, judgments = random_ledger(2)
    one = write_run(tmp_path / "one" / "run", found, judgments)
    two = write_run(tmp_path / "two" / "run", found, judgments[: len(judgments) // 2])
    both, alone = audit_run([one, two], resamples=5), audit_run([one], resamples=5)
    assert both.again == len(judgments) // 2 and both.judgments == len(judgments)
    assert both.principles == alone.principles
    assert [r.name for r in both.runs] == ["one/run", "two/run"]
    with pytest.raises(DataError, match="same run folder twice"):
        audit_run([one, one])


def test_judgments_of_no_comparison_are_counted_and_left_out(tmp_path: Path) -> None:
    found, judgments = random_ledger(2)
    audit = audit_run([write_run(tmp_path / "run", found[1:], judgments)], resamples=5)
    gone = sum(j.comparison_id == found[0].id for j in judgments)
    assert audit.unplaced == gone > 0
    assert sum(row.figures.judgments for row in audit.principles) == len(judgments) - gone


def test_what_does_not_apply_belongs_to_the_judge_that_was_asked(tmp_path: Path) -> None:
    found = comparisons(4, random.Random(0))
    judgments = [judgment(c, REFS[0], o, 0.7) for c in found[:2] for o in ("ab", "ba")]
    judgments += [
        judgment(c, REFS[0], o, None, mode="applies", outcome="not_applicable", template_digest="a" * 16)
        for c in found[2:]
        for o in ("ab", "ba")
    ]
    (row,) = audit_run([write_run(tmp_path / "run", found, judgments)], resamples=5).principles
    assert (row.mode, row.figures.comparisons, row.reach.not_applicable.count) == ("logprob", 4, 2)
    assert row.figures.mean_mass.n == 4


@pytest.mark.parametrize("column", ["tag", "principle_tag", "longer", "label", "prompt", "principle", "origin", "run"])
def test_slices_hold_every_judgment_of_their_column(tmp_path: Path, column: str) -> None:
    found, judgments = random_ledger(4)
    audit = audit_run([write_run(tmp_path / "run", found, judgments)], by=[column], resamples=5)
    rows = [s for s in audit.slices if s.column == column and s.principle is None]
    several = {"principle_tag": sum(len(CONSTITUTION.principle(j.principle).tags) or 1 for j in judgments)}
    assert sum(s.figures.judgments for s in rows) == several.get(column, len(judgments))
    alone = [s for s in audit.slices if s.column == column and s.principle == REFS[0]]
    if column == "longer":
        lengths = {c.id: (len(c.a) > len(c.b)) - (len(c.a) < len(c.b)) for c in found}
        names = {1: "a", -1: "b", 0: "equal"}
        counted = Counter(names[lengths[j.comparison_id]] for j in judgments if j.principle == REFS[0])
        assert {s.value: s.figures.judgments for s in alone} == counted


def test_parquet_holds_the_same_figures_and_every_opinion(tmp_path: Path) -> None:
    from constitutional.audit.measures.audit import audit_table
    from constitutional.audit.measures.corpus import load_corpus
    from constitutional.audit.measures.table import make_table

    found, judgments = random_ledger(6)
    labels_file(tmp_path / "labels.jsonl", found, 6)
    run = write_run(tmp_path / "run", found, judgments)
    table = make_table(load_corpus([run], [tmp_path / "labels.jsonl"]))
    audit = audit_table(table, resamples=20)
    rows, cells = (pq.read_table(path).to_pylist() for path in write_parquet(tmp_path / "out", audit, table))
    assert [(r["principle"], r["figures.mean_p"], r["figures.mean_p_low"]) for r in rows] == [
        (p.principle, p.figures.mean_p.value, p.figures.mean_p.interval.low) for p in audit.principles
    ]
    said = {(c, o.principle): o for c, os in opinions(judgments).items() for o in os}
    by_id = {j.id: j for j in judgments}
    assert len(cells) == len({(j.comparison_id, j.principle) for j in judgments})
    for row in cells:
        opinion = said.get((row["comparison_id"], row["principle"]))
        assert row["p"] == (opinion and pytest.approx(opinion.p_a))
        for order in ("ab", "ba"):
            cited = by_id[row[f"judgment_{order}"]]
            assert (cited.order, cited.outcome, cited.p_a) == (order, row[f"outcome_{order}"], row[f"p_{order}"])


def test_the_command_prints_a_table_json_and_one_line_for_bad_input(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="label")
    runner = CliRunner()
    shown = runner.invoke(app, ["audit", str(run), "--resamples", "10"])
    assert shown.exit_code == 0 and "verdicts" in shown.stdout and REFS[0] in shown.stdout
    printed = runner.invoke(app, ["audit", "--json", "--resamples", "10", "--parquet", str(tmp_path / "p"), str(run)])
    assert Audit.model_validate_json(printed.stdout).judgments > 0
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["opinions.parquet", "principles.parquet"]
    for arguments, error, message in (
        (["--by", "stepp"], ConfigError, "no column 'stepp' .did you mean 'step'"),
        (["--labels", str(bad_labels(tmp_path))], DataError, "bad.jsonl:1: preferred: expected a, b or tie"),
    ):
        result = runner.invoke(app, ["audit", str(run), *arguments])
        assert isinstance(result.exception, error)
        with pytest.raises(error, match=message):
            raise result.exception


def bad_labels(folder: Path) -> Path:
    path = folder / "bad.jsonl"
    path.write_text('{"comparison_id": "x", "preferred": "left", "source": "s"}\n')
    return path


def test_a_damaged_row_of_the_ledger_is_named(tmp_path: Path) -> None:
    import sqlite3

    found, judgments = random_ledger(2)
    run = write_run(tmp_path / "run", found, judgments)
    connection = sqlite3.connect(run / "ledger.sqlite")
    connection.execute("DROP TRIGGER judgments_no_update")
    connection.execute("UPDATE judgments SET payload = '{}' WHERE seq = 3")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite: row 3 is damaged"):
        audit_run([run], resamples=5)
