"""What an audit says: the typed record behind the terminal tables, the JSON and the report.

Every figure carries its n and its 95 % interval. Intervals of `Estimate` come from one bootstrap in which whole prompts
are drawn; those of `Rate` are Wilson's.
"""

from __future__ import annotations

from constitutional.records import Outcome, Record
from constitutional.statistics import Interval, Rate


class Estimate(Record):
    """A figure over `n` observations on `prompts` prompts; over nothing it is None. `interval`: 95 %."""

    value: float | None
    n: int
    prompts: int
    interval: Interval | None


class RunSource(Record):
    """One run the audit read. `seconds` is the wall time of its judging steps, as their manifests have it."""

    name: str
    constitution: str
    constitution_digest: str
    judgments: int
    ledger_head: str
    seconds: dict[str, float]


class Figures(Record):
    """How some judgments came out.

    An *opinion* is a comparison judged in both orders with a p in each; its p is the mean of the two. `first_position`
    is the share of judgments (p of one half left out) that prefer the answer read first; `equal_length` the order
    consistency on comparisons whose answers differ by less than a tenth in length.
    """

    judgments: int
    outcomes: dict[Outcome, int]
    comparisons: int
    one_order: int
    """Comparisons with a p in one order only; they give no opinion."""
    opinions: int
    mean_p: Estimate
    spread_p: Estimate
    """Standard deviation of p over opinions."""
    decisiveness: Estimate
    """Mean of 2·|p - 1/2| over opinions."""
    order_consistency: Estimate
    first_position: Estimate
    equal_length: Estimate
    mean_mass: Estimate


class LengthEffect(Record):
    """Does the judge prefer the longer answer? Logistic regression of "a preferred" on log(length a / length b).

    Lengths are in characters; opinions of exactly one half are left out. A slope of 0 is no effect; at slope s an
    answer twice as long has the odds times 2^s. The interval has a covariance clustered by prompt and t's quantile with
    one degree of freedom less than prompts. None, and why, where there is nothing to fit.
    """

    slope: Estimate
    longer_preferred: Rate
    """Of opinions that prefer one answer, where the lengths differ."""
    p_value: float | None
    reason: str | None


class Agreeing(Record):
    """Opinions against a reference, as ICAI and Feedback Forensics count: agree, disagree, not applicable.

    Not applicable is every comparison with a reference that this principle was asked under and gave no side on: no
    opinion, or p of one half. `agreement` is of all, `relevance` the share that has a side, `kappa` 2·(agree /
    (agree + disagree)) - 1, `strength` relevance · kappa.
    """

    agree: int
    disagree: int
    not_applicable: int
    agreement: Estimate
    relevance: Estimate
    strength: Estimate
    kappa: Estimate


class CalibrationBin(Record):
    """Opinions of about one confidence: how sure, how often right. Confidence is max(p, 1 - p)."""

    low: float
    high: float
    mean_confidence: float
    right: Rate


class LabelFit(Record):
    """The opinions against labels of people and authors."""

    labelled: int
    """Comparisons asked under this principle that have a label for it."""
    sources: dict[str, int]
    accuracy: Rate
    """Right of those with a side."""
    right_of_all: Rate
    """Right of all labelled ones: what could not be read is not right."""
    metrics: Agreeing
    reliability: tuple[CalibrationBin, ...]
    expected_calibration_error: Estimate
    cohen_kappa: Estimate
    """Chance-corrected by both margins; None where either always says the same side."""


class Influence(Record):
    """What the labels of the run's rule owe to this principle.

    `flips`: labels whose side changes when the principle is left out; `lost`: those that are no label then. Both are
    shares of all labels of the judged comparisons.
    """

    labels: int
    heard: int
    """Labels it has an opinion on."""
    flips: Estimate
    lost: Estimate
    mean_shift: Estimate
    """Mean of |p - p without it| over labels that stay."""


class Reach(Record):
    """How far a principle reaches, of the comparisons its judge was asked about."""

    asked: Rate
    """Comparisons asked under it, of all."""
    opinion: Rate
    """Comparisons with an opinion, of those asked."""
    not_applicable: Rate
    """Comparisons it does not apply to, in both orders, of those asked."""


class Cost(Record):
    """Tokens the judge computed and wrote; those read from a cache are not counted."""

    prompt_tokens: int
    completion_tokens: int
    per_judgment: float


class PValue(Record):
    """A two-sided test of one figure of one principle, and its p adjusted over all principles tested alike."""

    p: float
    adjusted: float
    """Benjamini and Hochberg's."""
    n: int


class PValues(Record):
    """`position`: does it read the order (exact sign test on the comparisons where the orders disagree); `length`: is
    the slope zero (t of prompts - 1); `chance`: is its accuracy one half (exact binomial)."""

    position: PValue | None
    length: PValue | None
    chance: PValue | None


class PrincipleAudit(Record):
    """One principle in one version (digest) under one judge, mode and template."""

    principle: str
    id: str
    version: str
    digest: str
    title: str
    judge: str
    mode: str
    template_digest: str
    current: bool
    """Its digest is that of a run's present constitution."""
    figures: Figures
    length: LengthEffect
    labels: LabelFit | None
    with_others: Agreeing | None
    """Against the label the run's rule makes of the other principles alone."""
    influence: Influence | None
    reach: Reach
    cost: Cost
    tests: PValues


class PrinciplePair(Record):
    """Two principles under the same judge, on the comparisons on which both have an opinion."""

    one: str
    other: str
    correlation: Estimate
    """Pearson's, of p."""
    conflict: Estimate
    """Share of the comparisons with two sides on which the sides differ."""


class Panel(Record):
    """All principles of one judge, mode and template: what they say together."""

    judge: str
    mode: str
    template_digest: str
    principles: tuple[str, ...]
    figures: Figures
    labels: LabelFit | None
    pairs: tuple[PrinciplePair, ...]
    clusters: tuple[tuple[str, ...], ...]
    """Principles that say the same: linked by correlations of at least `redundant_from`."""


class JudgePair(Record):
    """Two judges on the comparisons and principles that both have a side on."""

    one: str
    other: str
    same: Estimate
    kappa: Estimate
    """Cohen's."""


class JudgesAgreement(Record):
    """Judges, and people, among themselves.

    Alpha is Krippendorff's, nominal, of sides; a missing side is missing. Every question counts as it is and with a and
    b in each other's place, as it is a matter of the file which answer is called a.
    """

    raters: tuple[str, ...]
    pairs: tuple[JudgePair, ...]
    alpha: Estimate
    """Of the judges, over comparisons and principles."""
    alpha_with_labels: Estimate
    """Of the judges and every source of labels."""


class Slice(Record):
    """Some of a judge's judgments: those whose column has one value; of one principle, or of all."""

    column: str
    value: str
    judge: str
    mode: str
    principle: str | None
    figures: Figures
    accuracy: Rate


class LabelRule(Record):
    """The labels the influence is measured on."""

    rule: str
    labels: int
    abstained: int
    stored: int
    """Labels the run stored of these comparisons."""
    stored_same: int
    """Of these, how many were made again with the same p."""


class Detectable(Record):
    """The smallest effect that a test of `n` at 5 % finds four times in five."""

    test: str
    n: int
    effect: float


class Audit(Record):
    """Everything an audit found, and how."""

    runs: tuple[RunSource, ...]
    judgments: int
    again: int
    """Judgments that a second run held, too; counted once."""
    unplaced: int
    """Judgments on comparisons that no run has any more; they are in no figure."""
    outcomes: dict[Outcome, int]
    comparisons: int
    prompts: int
    labels: dict[str, int]
    """Labelled comparisons by source."""
    labels_unplaced: dict[str, int]
    confidence: float = 0.95
    resamples: int
    seed: int
    redundant_from: float
    label_rule: LabelRule | None
    principles: tuple[PrincipleAudit, ...]
    panels: tuple[Panel, ...]
    judges: JudgesAgreement | None
    slices: tuple[Slice, ...]
    detectable: tuple[Detectable, ...]
    notes: tuple[str, ...]
