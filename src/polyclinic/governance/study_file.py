"""The grammar of a study file. Unknown keys and wrong values stop before any data is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from polyclinic.core import codec
from polyclinic.core.device import PATTERN, VARIABLE
from polyclinic.core.errors import InputError
from polyclinic.core.overlap import across_borders
from polyclinic.data.expression import parse
from polyclinic.data.toml import load_toml, validate
from polyclinic.engines.assign import Policy
from polyclinic.evaluation.shuffled import MOST
from polyclinic.governance.study_data import Data
from polyclinic.governance.study_federation import FederationSection, Section
from polyclinic.models import tasks as _  # noqa: F401  # installs the kinds of models
from polyclinic.models.glm.spec import MASKED, NOISY, NOT_ROUNDING, ROUNDING
from polyclinic.models.learner import kind_of, kinds
from polyclinic.models.neural.strategy import Strategy
from polyclinic.privacy.dp import DifferentialPrivacy

REGRESSIONS = ("logistic", "linear", "poisson", "gamma")
NETWORK = "neural"
OF_NETWORKS = ("architecture", "loss", "class_weight")  # settings of a network in [model]
OF_CLUSTERS = ("workers", "scheduler", "memory", "policy", "speculate")  # keys of [engine]
TEST = "part == 'test'"  # who is set aside where a study does not say


class About(Section):
    """[study]: what officers read and sign."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
    title: str = ""
    purpose: str = ""


class CohortSection(Section):
    """[cohort]: fixed once; every number of the study is about the same patients."""

    where: str | None = None
    missing: str | dict[str, Literal["drop", "mean", "error", "keep"]] = "drop"
    empty_site: Literal["error", "leave_out"] = "error"


class ModelSection(Section):
    """[model]

    kind     of a regression, or of a learner
    options  of a learner, by name; a regression has keys of its own here, and of a network
             `architecture`, `loss` and `class_weight` stand here as well
    """

    kind: str
    formula: str
    options: dict[str, Any] = Field({})
    architecture: str | None = None
    loss: str | None = None
    l2: Annotated[float, Field(ge=0)] = 0.0
    l1: Annotated[float, Field(ge=0)] = 0.0
    class_weight: Literal["balanced"] | dict[str, float] | None = None
    site_effects: bool = False

    @field_validator("kind")
    @classmethod
    def _installed(cls, kind: str) -> str:
        if kind not in REGRESSIONS and kind not in kinds():
            raise ValueError(f"one of {', '.join((*REGRESSIONS, *kinds()))}")
        return kind

    @model_validator(mode="after")
    def _of_its_kind(self) -> ModelSection:
        own = [name for name in ("l2", "l1", "class_weight", "site_effects") if getattr(self, name)]
        if self.kind == NETWORK:
            own = [name for name in own if name not in OF_NETWORKS]
            self._of_a_network()
        elif of_networks := [name for name in OF_NETWORKS[:2] if getattr(self, name) is not None]:
            raise ValueError(f"{', '.join(of_networks)}: of kind = {NETWORK!r} only")
        if self.kind in REGRESSIONS and self.options:
            raise ValueError(
                "[model.options] is of learners; a regression has l2, l1, class_weight"
            )
        if self.kind in REGRESSIONS and self.formula.lstrip().startswith("~"):
            raise ValueError('the formula of a regression reads "outcome ~ term + term"')
        if self.kind not in REGRESSIONS and own:
            raise ValueError(
                f"{', '.join(sorted(own))}: settings of {self.kind} are [model.options]"
            )
        return self

    def _of_a_network(self) -> None:
        """Each setting of a network has one place."""
        if twice := [name for name in OF_NETWORKS if name in self.options]:
            raise ValueError(f"{', '.join(twice)}: of a network in [model], not [model.options]")
        if "strategy" in self.options:
            raise ValueError("the strategy of a network is the section [strategy]")


class SolverSection(Section):
    """[solver]

    compress   of gd and sgd: gradients leave hospitals rounded, and what is lost is sent later
    staleness  of sgd in one trust domain, so of no study: said in words of its own
    """

    name: Literal["newton", "lbfgs", "gd", "sgd"] = "newton"
    max_rounds: Annotated[int | None, Field(gt=0)] = None
    tolerance: Annotated[float, Field(gt=0)] = 1e-10
    step: Annotated[float | None, Field(gt=0)] = None
    batch: Annotated[float | None, Field(gt=0, le=1)] = None
    decay: Annotated[float | None, Field(ge=0)] = None
    warm_rows: Annotated[int | None, Field(ge=0)] = None
    compress: Literal["float16", "int8"] | None = None
    staleness: Annotated[int | None, Field(exclude=True)] = None

    @field_validator("compress")
    @classmethod
    def _of_gradients(cls, compress: str | None, others: ValidationInfo) -> str | None:
        if compress is not None and others.data.get("name") not in ROUNDING:
            raise ValueError(NOT_ROUNDING)
        return compress

    @field_validator("staleness")
    @classmethod
    def _in_one_domain(cls, staleness: int | None) -> None:
        if staleness is not None:
            error = across_borders()
            raise ValueError(f"{error.rule}: {error.next}")

    @property
    def options(self) -> dict[str, Any]:
        names = ("step", "batch", "decay", "warm_rows", "compress")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


class PrivacySection(Section):
    """[privacy]"""

    secure_sums: Literal["auto"] | bool = "auto"
    epsilon: Annotated[float | None, Field(gt=0)] = None
    delta: Annotated[float | None, Field(gt=0, lt=1, validate_default=True)] = None
    min_patients: Annotated[int, Field(ge=1)] = 5
    show_sites: bool = True

    @property
    def noise(self) -> DifferentialPrivacy | None:
        """What is asked of the model's coefficients."""
        if self.epsilon is None or self.delta is None:
            return None
        return DifferentialPrivacy(self.epsilon, self.delta)

    @field_validator("secure_sums", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if value == "auto" or isinstance(value, bool):
            return value
        raise ValueError('true, false or "auto"')

    @field_validator("delta")
    @classmethod
    def _whole_guarantee(cls, delta: float | None, others: ValidationInfo) -> float | None:
        if "epsilon" in others.data and (others.data["epsilon"] is None) != (delta is None):
            raise ValueError("epsilon and delta belong together: give both, or neither")
        return delta


class EngineSection(Section):
    """[engine]

    workers    of "dask": processes that are started for the run; of "spark": cores of this machine
    scheduler  of one that is there, instead: its address ("dask"), or Spark's master
    memory     what a worker of these holds of columns, "4 GB"
    policy     which of their workers gets a partition
    speculate  of "dask": whether partitions of a straggler are also computed by others
    device     on which networks compute, see `polyclinic.core.device`; no part of what is agreed
    """

    name: Literal["embedded", "dask", "spark"] = "embedded"
    partitions: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int | None, Field(ge=1)] = None
    workers: Annotated[int | None, Field(ge=1)] = None
    scheduler: str | None = None
    memory: str | None = None
    policy: Policy | None = None
    speculate: bool | None = None
    device: Annotated[str, Field(pattern=rf"^({PATTERN})?$")] = ""

    @model_validator(mode="after")
    def _of_its_engine(self) -> EngineSection:
        given = [name for name in OF_CLUSTERS if getattr(self, name) is not None]
        if self.name == "embedded" and given:
            raise ValueError(f'{", ".join(given)}: of name = "dask" or "spark"')
        if self.name == "spark" and self.speculate is not None:
            raise ValueError('speculate is of name = "dask": executors of Spark answer all at once')
        if self.name != "embedded" and self.device:
            raise ValueError(f"the device of a worker is that of its environment: {VARIABLE}")
        if self.workers and self.scheduler:
            raise ValueError("a scheduler has its workers: leave one of the two out")
        return self


class EvaluationSection(Section):
    """[evaluation]

    test        with "split": the condition of the patients who are set aside, and judged on alone
    importance  how often each column is exchanged between patients; 0: never
    parts       of images and series that are exchanged one by one, by column: names of variables,
                or into how many parts each side of an image is cut
    """

    validate_: Annotated[Literal["cross-validation", "split", "none"], Field(alias="validate")] = (
        "cross-validation"
    )
    test: str = TEST
    folds: Annotated[int, Field(ge=2, le=50)] = 5
    thresholds: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.5])
    subgroups: list[str] = Field([])
    alone: bool = True
    importance: Annotated[int, Field(ge=0, le=MOST)] = 0
    parts: dict[str, Annotated[int, Field(ge=1)] | list[str]] = Field({})

    @model_validator(mode="after")
    def _exchanged(self) -> EvaluationSection:
        if self.parts and not self.importance:
            raise ValueError("parts are of importance: give it, as importance = 5")
        return self

    @model_validator(mode="after")
    def _condition(self) -> EvaluationSection:
        if self.test != TEST and self.validate_ != "split":
            raise ValueError('test is of validate = "split"')
        if self.validate_ == "split":
            try:
                parse(self.test)
            except InputError as error:
                raise ValueError(f"{error.what}; {error.rule}") from None
        return self


class OutputSection(Section):
    """[output]"""

    folder: str = "runs"
    report: list[Literal["html", "json"]] = Field(["html"])


class Study(Section):
    """A whole study file."""

    format: Literal[1]
    seed: int = 0
    study: About
    data: Data
    cohort: CohortSection = CohortSection()
    model: ModelSection
    strategy: dict[str, Any] = Field({})
    solver: SolverSection = SolverSection()
    privacy: PrivacySection = PrivacySection()
    engine: EngineSection = EngineSection()
    federation: FederationSection = FederationSection()
    evaluation: Annotated[EvaluationSection, Field(validate_default=True)] = EvaluationSection()
    output: OutputSection = OutputSection()

    @field_validator("strategy")
    @classmethod
    def _of_networks(cls, strategy: dict[str, Any], others: ValidationInfo) -> dict[str, Any]:
        model = others.data.get("model")
        if strategy and model is not None and model.kind != NETWORK:
            raise ValueError(f"[strategy] is of networks, not of {model.kind}")
        if strategy:
            try:
                Strategy.from_data(strategy)
            except InputError as error:
                raise ValueError(f"{error.what}; {error.rule}") from None
        return strategy

    @field_validator("privacy")
    @classmethod
    def _rounding_fits(cls, privacy: PrivacySection, others: ValidationInfo) -> PrivacySection:
        solver = others.data.get("solver")
        if solver is not None and solver.compress is not None:
            if privacy.secure_sums is True:
                raise ValueError(f"{MASKED}: leave [solver] compress out, or secure_sums")
            if privacy.noise is not None:
                raise ValueError(f"{NOISY}: leave [solver] compress out, or epsilon and delta")
        return privacy

    @field_validator("solver")
    @classmethod
    def _of_regressions(cls, solver: SolverSection, others: ValidationInfo) -> SolverSection:
        model = others.data.get("model")
        if model is not None and model.kind not in REGRESSIONS and solver != SolverSection():
            raise ValueError(f"[solver] is of regressions; {model.kind} has [model.options]")
        return solver

    @field_validator("evaluation")
    @classmethod
    def _exchanges_of_predictions(
        cls, evaluation: EvaluationSection, others: ValidationInfo
    ) -> EvaluationSection:
        model = others.data.get("model")
        if model is None or not evaluation.importance:
            return evaluation
        if model.kind not in REGRESSIONS and not kind_of(model.kind).predicts:
            raise ValueError(
                "importance is of models that predict a risk, a class or a number, and of "
                f"networks, not of {model.kind}: leave it out"
            )
        return evaluation

    @field_validator("evaluation")
    @classmethod
    def _folds_would_spend(
        cls, evaluation: EvaluationSection, others: ValidationInfo
    ) -> EvaluationSection:
        privacy = others.data.get("privacy")
        folds = evaluation.validate_ == "cross-validation"
        if privacy is not None and privacy.noise is not None and folds:
            raise ValueError(
                "every fold of a cross-validation would spend epsilon again: "
                '[evaluation] validate = "none"'
            )
        return evaluation

    @property
    def options(self) -> dict[str, Any]:
        """Settings of a learner, by name."""
        found = dict(self.model.options)
        if self.model.kind == NETWORK:
            given = {name: getattr(self.model, name) for name in OF_NETWORKS}
            found |= {name: value for name, value in given.items() if value is not None}
            found |= {"strategy": dict(self.strategy)} if self.strategy else {}
        return found

    @property
    def fitted_on(self) -> str | None:
        """Condition of the patients that the model is fitted on; None: all."""
        if self.evaluation.validate_ != "split":
            return self.cohort.where
        return _both(self.cohort.where, f"not ({self.evaluation.test})")

    @property
    def judged_on(self) -> str | None:
        """Condition of the patients who are set aside; None: nobody is."""
        if self.evaluation.validate_ != "split":
            return None
        return _both(self.cohort.where, f"({self.evaluation.test})")

    @property
    def hash(self) -> str:
        """Of every setting except where the output goes."""
        content: dict[str, Any] = self.model_dump(by_alias=True, exclude={"output"})
        engine = content["engine"]
        del engine["device"]
        _forget_unused(content)
        for name in OF_CLUSTERS:
            if engine[name] is None:  # as if the engine had no such key
                del engine[name]
        return codec.digest(content)

    @property
    def short_hash(self) -> str:
        """The hash as people compare it: two groups of four."""
        return f"{self.hash[:4]} {self.hash[4:8]}"


def _both(where: str | None, more: str) -> str:
    return more if where is None else f"({where}) and {more}"


def _forget_unused(content: dict[str, Any]) -> None:
    """Drop keys that say nothing: a study without them is the one that it always was."""
    if content["data"]["unreadable"] == "stop":
        del content["data"]["unreadable"]
    if content["data"]["split"] is None:
        del content["data"]["split"]
    for name in OF_NETWORKS[:2]:
        if content["model"][name] is None:
            del content["model"][name]
    if not content["strategy"]:
        del content["strategy"]
    evaluation = content["evaluation"]
    if evaluation["validate"] != "split":
        del evaluation["test"]
    for name in ("importance", "parts"):
        if not evaluation[name]:
            del evaluation[name]


class SessionSection(Section):
    """[session]: questions of an analyst that are not written down before.

    columns     that may be read
    algorithms  whose steps may run
    """

    columns: Annotated[list[str], Field(min_length=1)]
    algorithms: Annotated[list[str], Field(min_length=1)]

    @field_validator("algorithms")
    @classmethod
    def _known(cls, algorithms: list[str]) -> list[str]:
        known = (*REGRESSIONS, "descriptive", "evaluation", *kinds())
        if unknown := sorted(set(algorithms) - set(known)):
            raise ValueError(f"{', '.join(unknown)}: one of {', '.join(known)}")
        return algorithms


class Session(Section):
    """What an analyst may ask of the hospitals of a hub, in any order."""

    format: Literal[1]
    study: About
    data: Data
    session: SessionSection
    federation: FederationSection = FederationSection()


def with_engine(
    study: Study, name: str | None, workers: int | None, scheduler: str | None
) -> EngineSection:
    """The study's [engine] with what a command line says instead. Raises InputError."""
    given = {"workers": workers, "scheduler": scheduler}
    if name is None and any(given.values()):
        name = "dask" if study.engine.name == "embedded" else study.engine.name
    if name is None:
        return study.engine
    own = study.engine.model_dump()
    if any(given.values()) or name != own["name"]:
        own |= given
    if name == "embedded":
        own |= dict.fromkeys(("memory", "policy", "speculate"))
    if name == "spark":
        own["speculate"] = None
    return validate({**own, "name": name}, EngineSection, "[engine]")


def load_study(path: str | Path) -> Study:
    """Read a study file. Paths in it are relative to it.

    Raises
    ------
    InputError : NO_FILE, BAD_TOML, UNKNOWN_KEY, WRONG_VALUE; nothing was read from a hospital.
    """
    if not Path(path).is_file():
        raise InputError(
            f"{path}: there is no such study file",
            code="NO_FILE",
            rule="a study is one TOML file",
            next="polyclinic demo writes an example",
        )
    study: Study = load_toml(path, Study)
    return study
