"""Kinds of models beside the generalised linear ones, looked up by name.

A kind says how a study's settings become the fixed part of its plans, and what else they may hold,
so that a hospital makes the fixed part by itself from the study that it has approved and compares.
Every plan of a learner has three values: "spec", what the study fixes; "rows", all of them or all
but a fold; "state", what only a run knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from polyclinic.core import codec
from polyclinic.core.algorithm import Algorithm
from polyclinic.core.design import Design
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.federation import Domain, Inline
from polyclinic.core.fit import fit
from polyclinic.core.groups import SMALLEST
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.predictor import Predictor
from polyclinic.privacy import noisy
from polyclinic.privacy.dp import DifferentialPrivacy

Explains = Literal["classes", "binary", "number", "any", "survival", "nothing"]
FORM = {"spec", "rows", "state"}
NOISY_FORM = FORM | {noisy.KEY}


class Spec(Protocol):
    """What a study fixes of a model; a frozen record of plain data.

    design  outcome, weight, offset and terms
    rows    {}: all; {"folds": k, "without": i}: all but fold i
    """

    @property
    def design(self) -> Design: ...
    @property
    def rows(self) -> Mapping[str, Any]: ...
    def to_data(self) -> dict[str, Any]:
        """Plain data with the keys "design" and "rows"."""
        ...

    def algorithm(self) -> Algorithm:
        """What fits it; its model is a `Result`, or a list whose last entry is one."""
        ...


class Result(Protocol):
    """What a fit found; it follows from the spec and the algorithm's last state.

    n, patients  rows that were fitted, and patients behind them
    rounds       of the fit
    """

    @property
    def n(self) -> int: ...
    @property
    def patients(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def converged(self) -> bool: ...
    def predictor(self) -> Predictor | None:
        """What predicts with it; None where nothing is predicted."""
        ...

    def warnings(self) -> list[str]:
        """What a reader of the result should know."""
        ...

    def blocks(self) -> list[dict[str, Any]]:
        """Its part of the report, see `polyclinic.report.blocks`."""
        ...

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Lines of the CSV files of the run folder, by file name without ending."""
        ...


@dataclass(frozen=True)
class Column:
    """A column of the formula.

    kind       number | category | binary
    levels     names of the levels of a category or binary column, in the order of their codes
    low, high  ends of the range that the codebook declares (or of arrays: that they have)
    label      as people read it
    shape      of one image or series
    """

    name: str
    kind: Literal["number", "category", "binary", "image", "series"]
    levels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    label: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What is asked for; the same at the coordinator and at every hospital.

    options  hyper-parameters by name
    classes  classes of the outcome; 0: a number, or no outcome
    columns  that the terms read, in order
    least    patients behind a number that every hospital's policy asks for: 5, 10, 20, ...
    span     ends of the range that the codebook declares of a number as outcome
    privacy  what noise is to guarantee; None: exact sums
    output   shape of an outcome that is an image; ()
    """

    design: Design
    options: Mapping[str, Any]
    classes: int = 0
    columns: tuple[Column, ...] = ()
    sites: tuple[str, ...] = ()
    seed: int = 0
    rows: Mapping[str, Any] = field(default_factory=dict)
    least: int = SMALLEST
    span: tuple[float, float] | None = None
    privacy: DifferentialPrivacy | None = None
    output: tuple[int, ...] = ()


Check = Callable[[Any, Plan], None]


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    name       as in study files: "linear-svc"
    title      as officers and readers know it: "linear support vector machine"
    explains   what the outcome may be; "survival" and "nothing" are no risk or number
    spec       from what is asked for. Raises UNKNOWN_OPTION, WRONG_VALUE, ONE_CLASS
    from_data  from `Spec.to_data`
    rounds     how many different questions a fit asks at most
    tasks      its steps, each with a check of the plan's "state". Raises ValueError
    foreign    steps of others that it also asks, each with a check of the whole plan
    predictor  a check of the data of a predictor beyond its design. Raises ValueError
    predicts_as  the kind of its predictor; "": the kind's own name
    gaps       whether missing values may be kept
    media      whether it reads images and series
    survival   whether it also explains Surv( ), beside what `explains` says
    collected  steps that every hospital answers by itself, with what of it leaves, in words
    least      where the spec's data hold `Asked.least`, unless an option says otherwise
    pooled     whether it is what a fit to the pooled rows would find, unless its result says
               otherwise by `pooled`
    by_name    steps that a hospital may also be asked by itself, for a report
    held_out   steps that judge it on held-out patients, where there is no risk or number to judge:
               by sums, and of each hospital by itself
    private    whether `spec` takes `Asked.privacy`; then each round is one Gaussian mechanism, and
               all have the same multiplier
    asks       which of the steps a spec asks; None: all
    closed     of the data of a plan's spec, what the study fixes; None: all of it
    apart      of a spec, what of each round every hospital answers by itself, in words; "": nothing
    later      from a spec a plan of its largest round, where that is not the first, for officers
    noise      of a private spec and a plan: the noise of that step; None: all steps have the same
    """

    name: str
    title: str
    explains: Explains
    spec: Callable[[Asked], Any]
    from_data: Callable[[Mapping[str, Any]], Any]
    rounds: Callable[[Any], int]
    tasks: Mapping[str, Check]
    foreign: Mapping[str, Check] = field(default_factory=dict)
    predictor: Callable[[Any, Mapping[str, Any]], None] | None = None
    predicts_as: str = ""
    gaps: bool = False
    media: bool = False
    survival: bool = False
    collected: Mapping[str, str] = field(default_factory=dict)
    least: str = ""
    held_out: tuple[str, str] | None = None
    pooled: bool = True
    by_name: tuple[str, ...] = ()
    private: bool = False
    asks: Callable[[Any], Collection[str]] | None = None
    closed: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    noise: Callable[[Any, Plan], Mapping[str, Any]] | None = None
    later: Callable[[Any], Plan] | None = None
    apart: Callable[[Any], str] | None = None

    @property
    def predicts(self) -> bool:
        """Whether there is a risk, a class or a number to judge."""
        return self.explains not in ("survival", "nothing")

    @property
    def evaluated(self) -> bool:
        """Whether there is something to evaluate."""
        return self.predicts or self.held_out is not None


_kinds: dict[str, Kind] = {}


def register_kinds(kinds: Iterable[Kind]) -> None:
    """Install kinds; installing the same one twice is harmless."""
    for kind in kinds:
        if _kinds.setdefault(kind.name, kind) is not kind:
            raise ValueError(f"two kinds of models are called {kind.name}")


def kinds() -> tuple[str, ...]:
    """Names of the installed kinds."""
    return tuple(sorted(_kinds))


def kind_of(name: str) -> Kind:
    """The kind of that name. Raises UNKNOWN_TASK."""
    found = _kinds.get(name)
    if found is None:
        raise PolyclinicError(
            f"no model of kind {name!r} is installed here",
            code="UNKNOWN_TASK",
            rule="a site runs installed algorithms only; no code travels",
            next="install the same version of Polyclinic at every site",
        )
    return found


def values(spec: Spec, **state: Any) -> dict[str, Any]:
    """The values of a plan."""
    fixed = spec.to_data()
    rows = fixed.pop("rows")
    return {"spec": fixed, "rows": rows, "state": state}


class Fixed(codec.Fixed):
    """The "spec" of all plans of a fit with very many rounds, beside the record that it is made of:
    a plan that has not travelled needs no reading."""

    def __init__(self, spec: Spec) -> None:
        found = values(spec)
        super().__init__(found["spec"])
        self.spec, self.rows = spec, found["rows"]

    def plan_values(self, **state: Any) -> dict[str, Any]:
        """As `values`."""
        return {"spec": self, "rows": self.rows, "state": state}


def spec_in(
    plan: Plan, from_data: Callable[[Mapping[str, Any]], Any], form: Collection[str] = FORM
) -> Any:
    """The spec of a plan, made once. Raises BAD_MESSAGE for another form."""
    return plan.once("spec", lambda: _spec(plan, from_data, form))


def _spec(plan: Plan, from_data: Callable[[Mapping[str, Any]], Any], form: Collection[str]) -> Any:
    try:
        if set(plan.values) != form:
            raise ValueError("a plan of another form")
        fixed = plan.values["spec"]
        if isinstance(fixed, Fixed) and plan.values["rows"] is fixed.rows:
            return fixed.spec
        return from_data({**plan.values["spec"], "rows": plan.values["rows"]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PolyclinicError(
            "a plan of another form than this version knows",
            code="BAD_MESSAGE",
            rule="a plan holds spec, rows and state",
        ) from error


def check_options(
    options: Mapping[str, Any], known: Mapping[str, Callable[[Any], bool]], rule: str
) -> None:
    """Check options by name.

    known  by name, whether a value is allowed
    rule   in words, which options and values there are

    Raises
    ------
    InputError : UNKNOWN_OPTION, WRONG_VALUE.
    """
    if unknown := sorted(set(options) - set(known)):
        raise InputError(
            f"options: {', '.join(unknown)}",
            code="UNKNOWN_OPTION",
            rule=f"options: {', '.join(sorted(known))}",
            next="correct the name",
        )
    for name, value in options.items():
        if not known[name](value):
            raise InputError(
                f"{name} = {value!r}", code="WRONG_VALUE", rule=rule, next="correct the value"
            )


def last(model: Any) -> Any:
    """The `Result` in what an algorithm's `model` returns."""
    return model[-1] if isinstance(model, list) else model


def fit_alone(
    data: Mapping[str, Any], partition: Partition, fold: int | None = None, folds: int = 0
) -> dict[str, Any]:
    """Predictor data of the model `data`, fitted on the rows of `partition` alone.

    data  of a spec, with the name of its kind under "learner". With `fold`, patients whose key is
          `fold` modulo `folds` are left out. Raises what a fit raises.
    """
    given = dict(data)
    spec = kind_of(given.pop("learner")).from_data(given)
    spec = spec.alone() if hasattr(spec, "alone") else spec
    if fold is not None:
        spec = replace(spec, rows={"folds": folds, "without": fold})
    found = last(fit(spec.algorithm(), Domain(Inline(partition))).model).predictor()
    if found is None:
        raise PolyclinicError("this model predicts nothing", code="BAD_MESSAGE")
    return dict(found.to_data())
