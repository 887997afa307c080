"""The shape of a run's results: one plain dict, written as JSON beside the report.

Sections that do not apply to a model are absent. Numbers are full precision; `None` stands for a
number that is not defined or not shown (fewer than the minimum of patients).
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

FORMAT = 1
SET_ASIDE = "patients who were set aside"


class StudyPart(TypedDict):
    """What was asked. `hash` covers every setting except the output."""

    name: str
    title: str
    purpose: str
    hash: str
    formula: str
    cohort: str
    missing: dict[str, str]
    seed: int
    engine: str
    guarantee: str


class SitePart(TypedDict):
    """One hospital's rows, None where they are too few to show; so are `left_out` by reason."""

    name: str
    rows: int | None
    patients: int | None
    events: int | None
    left_out: dict[str, int | None]


class DataPart(TypedDict):
    """Whose rows, and what the outcome is."""

    codebook: str
    source: str
    outcome: str
    outcome_label: str
    event: NotRequired[str]  # of a survival model, the column that says how a time ended
    sites: list[SitePart]
    fills: dict[str, dict[str, Any]]  # column -> {"value", "unit", "label", "patients"}


class TermPart(TypedDict):
    """One coefficient. `step`: units in which its ratio is read; 0 for a 0/1 term."""

    name: str
    label: str
    unit: str
    step: float
    coef: float | None
    se: float | None
    z: float | None
    p: float | None
    lower: float | None
    upper: float | None


class NoisePart(TypedDict):
    """Noise in the sums behind the coefficients.

    counted  n, patients and events are exact; else they come from the noisy sums
    """

    epsilon: float
    delta: float
    counted: bool


class ModelPart(TypedDict):
    """The fitted model. `noise` is absent where the sums are exact.

    title, options, blocks  of a learner only, see `polyclinic.report.blocks`; its `terms` are empty
    headline, pooled        of a learner only: the answer in a sentence, and whether pooled rows
                            would have given the same
    """

    kind: str
    family: str
    terms: list[TermPart]
    n: int
    patients: int
    events: int | None
    sites: int
    rounds: int
    converged: bool
    deviance: float | None
    null_deviance: float | None
    aic: float | None
    pseudo_r2: float | None
    dispersion: float
    l1: float
    l2: float
    warnings: list[str]
    noise: NotRequired[NoisePart]


class Interval(TypedDict):
    """A value with its 95 % interval."""

    value: float | None
    lower: float | None
    upper: float | None


class Calibration(TypedDict):
    """`bins` are tenths of patients: predicted and observed as shares, with a Wilson interval."""

    slope: Interval
    intercept: Interval
    bins: list[dict[str, Any]]  # {"n", "predicted", "observed", "lower", "upper"}


class Measures(TypedDict):
    """Performance of one group (a hospital, a subgroup, or all)."""

    n: int
    events: NotRequired[int]
    auroc: NotRequired[Interval]
    observed: NotRequired[float]
    predicted: NotRequired[float]
    auprc: NotRequired[float | None]
    brier: NotRequired[float]
    log_loss: NotRequired[float]
    calibration: NotRequired[Calibration]
    roc: NotRequired[list[dict[str, float]]]  # {"fpr", "tpr"}
    histogram: NotRequired[list[dict[str, Any]]]  # {"lower", "upper", "n"} of predicted risk
    decision: NotRequired[list[dict[str, float]]]  # {"threshold", "net_benefit", "all"}
    confusion: NotRequired[list[dict[str, Any]]]
    accuracy: NotRequired[float]
    r2: NotRequired[float]
    mae: NotRequired[float]
    rmse: NotRequired[float]
    d2: NotRequired[float]


class EvaluationPart(TypedDict):
    """`how` is "cross-validation", "same patients", "other hospitals" or SET_ASIDE."""

    how: str
    folds: int
    all: Measures
    sites: dict[str, Measures]
    subgroups: dict[str, dict[str, Measures]]
    alone: dict[str, float | None]
    not_shown: NotRequired[list[str]]  # hospitals of which too few would be seen
    merged: NotRequired[dict[str, int]]  # levels of few patients scored as another, by hospital
    prevalence: Measures
    heterogeneity: NotRequired[dict[str, float | None]]
    apparent: NotRequired[Measures]


class ImportancePart(TypedDict):
    """How the loss grows when a column is that of other patients; largest first.

    measure  of the loss, in words; loss: the mean of the rows as they are
    columns  {"column", "increase", "sd", "repeats"}; None where no repeat was let out
    """

    how: str
    measure: str
    loss: float | None
    repeats: int
    columns: list[dict[str, Any]]


class LeftPart(TypedDict):
    """What left a hospital in one step: leaves summed over `times` rounds."""

    site: str
    step: str
    leaf: str
    shape: list[int]
    numbers: int
    bytes: int
    times: int
    seen: str


class GatePart(TypedDict):
    """How the hospitals' numbers were added up.

    sums      "clear", or "secure": only totals were seen
    refusals  code of why, by hospital that may not release alone
    ledger    by hospital, from its own ledger
    """

    sums: str
    refusals: dict[str, str]
    ledger: dict[str, LedgerPart]


class LedgerPart(TypedDict):
    """What a hospital wrote down.

    patients  fewest and most patients behind a step
    refused   step and code of every refusal
    budget    epsilon spent, in all (None: no bound), and the delta at which both are meant
    """

    patients: dict[str, list[int]]
    refused: list[list[str]]
    budget: list[float | None]


class FederationPart(TypedDict):
    """The hospitals of a hub that took part, and those without which a run went on, and why."""

    hub: str
    hospitals: list[str]
    without: list[str]
    why: str


class Results(TypedDict):
    """Everything that is stored and reported of a run."""

    format: int
    study: StudyPart
    versions: dict[str, str]
    data: DataPart
    federation: NotRequired[FederationPart]
    table_one: NotRequired[dict[str, Any]]
    model: ModelPart
    evaluation: NotRequired[EvaluationPart]
    importance: NotRequired[ImportancePart]
    convergence: list[dict[str, Any]]  # {"round", "step", "loss", "gain"}
    gate: GatePart
    left: list[LeftPart]
    labels: dict[str, dict[str, Any]]  # column -> {"label", "unit", "levels": {code: words}}
    hashes: dict[str, str]
