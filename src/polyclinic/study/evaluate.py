"""Evaluation of a fitted formula model over sites: cross-validation, then sums of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from polyclinic.core.algorithm import Algorithm
from polyclinic.core.errors import InputError
from polyclinic.core.federation import Federation
from polyclinic.core.fit import Callback, Round, Run, Store, fit
from polyclinic.evaluation import Evaluation, FoundMasks, HeldOut, Outcome
from polyclinic.models import glm
from polyclinic.models.glm.alone import predictor_of
from polyclinic.models.glm.family import MULTINOMIAL
from polyclinic.models.learner import Spec, kind_of, last
from polyclinic.models.survival import CoxSpec
from polyclinic.study.formula import FormulaData

StoreFor = Callable[[str], Store | None]


@dataclass(frozen=True)
class Evaluated:
    """Measures of a model.

    measures  plain nested dict: "all", "sites", "subgroups", "alone", "prevalence", ...
    rounds    the rounds that found them
    """

    measures: dict[str, Any]
    rounds: tuple[Round, ...]

    @property
    def table(self) -> pd.DataFrame:
        """One line per hospital and one for all: n, events, auroc, lower, upper, slope, intercept,
        or n, r2, mae, rmse for a number as outcome, n, events, concordance, lower, upper for a
        survival model. A hospital that is not seen alone has a
        line without numbers."""
        lines = [_line(name, found) for name, found in self.measures.get("sites", {}).items()]
        hidden: list[dict[str, Any]] = [
            {"hospital": name} for name in self.measures.get("not_shown", [])
        ]
        lines += [*hidden, _line("all", self.measures["all"])]
        frame = pd.DataFrame(lines).set_index("hospital")
        return frame.astype({"n": "Int64"}) if hidden else frame

    def __repr__(self) -> str:
        note = f"\n{self.measures['note']}" if "note" in self.measures else ""
        return f"Evaluated({self.measures['how']})\n{self.table.to_string()}{note}"

    def _repr_html_(self) -> str:
        return str(self.table.to_html(escape=True))


def _line(name: str, found: dict[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {"hospital": name, "n": found["n"]}
    if "auroc" in found:
        auroc, calibration = found["auroc"], found.get("calibration") or {}
        line |= {
            "events": found.get("events"),
            "auroc": auroc["value"],
            "lower": auroc["lower"],
            "upper": auroc["upper"],
            "slope": (calibration.get("slope") or {}).get("value"),
            "intercept": (calibration.get("intercept") or {}).get("value"),
        }
    if "concordance" in found:
        area = found["concordance"]
        line |= {"events": found["events"], "concordance": area["value"]}
        line |= {"lower": area["lower"], "upper": area["upper"]}
    wanted = ("dice", "accuracy", "r2", "mae", "rmse", "d2", "log_loss", "brier")
    return line | {key: found[key] for key in wanted if key in found}


def no_store(name: str) -> Store | None:
    """For runs that keep nothing on disk."""
    return None


@dataclass(frozen=True)
class Judged:
    """A model that is evaluated.

    spec       as it was fitted, a regression's or a learner's
    outcome    what it explains; "survival": the order in which patients have an event;
               "mask": a part of an image
    full       the fitted model, as predictor data
    alone      what each hospital is to fit by itself, or None
    classes    of an outcome with classes
    """

    spec: Any
    outcome: Outcome | Literal["survival", "mask"]
    full: dict[str, Any]
    alone: dict[str, Any] | None = None
    classes: int = 2

    @staticmethod
    def regression(spec: glm.Spec, full: dict[str, Any]) -> Judged:
        """A generalised linear model."""
        kinds: dict[str, Outcome] = {"binomial": "binary", MULTINOMIAL: "classes"}
        outcome = kinds.get(spec.family, "number")
        return Judged(spec, outcome, full, spec.to_data(), max(spec.classes, 2))

    @staticmethod
    def learner(kind: str, spec: Spec, classes: int, full: dict[str, Any]) -> Judged:
        """Another model, of so many classes (0: of a number)."""
        if kind_of(kind).held_out:
            return Judged(spec, "survival", full)
        outcome: Outcome = "number" if not classes else "binary" if classes == 2 else "classes"
        alone = {**spec.to_data(), "learner": kind}
        return Judged(spec, outcome, full, alone, max(classes, 2))

    def without(self, fold: int, folds: int) -> Algorithm:
        """What fits it to all rows but a fold's."""
        spec = replace(self.spec, rows={"folds": folds, "without": fold})
        return glm.glm(spec) if isinstance(spec, glm.Spec) else spec.algorithm()


def _predictor(model: Any) -> dict[str, Any]:
    found = last(model)
    predictor = predictor_of(found) if isinstance(found, glm.GLMFit) else found.predictor()
    return dict(predictor.to_data())


def cross_validate(
    judged: Judged,
    federation: Federation,
    folds: int,
    seed: int,
    store_for: StoreFor = no_store,
    callbacks: Sequence[Callback] = (),
) -> tuple[list[dict[str, Any]], tuple[Round, ...]]:
    """One predictor per fold, each fitted without that fold's patients."""
    predictors: list[dict[str, Any]] = []
    rounds: tuple[Round, ...] = ()
    for fold in range(folds):
        store = store_for(f"fold-{fold + 1}")
        algorithm = judged.without(fold, folds)
        run: Run = fit(algorithm, federation, seed=seed, store=store, callbacks=callbacks)
        predictors.append(_predictor(run.model))
        rounds += tuple(replace(r, step=f"validation: {r.step}") for r in run.rounds)
    return predictors, rounds


def evaluate(
    judged: Judged,
    data: FormulaData,
    *,
    folds: int = 5,
    thresholds: Sequence[float] = (0.5,),
    subgroups: Sequence[str] = (),
    show_sites: bool = True,
    alone: bool = True,
    seed: int = 0,
    store_for: StoreFor = no_store,
    callbacks: Sequence[Callback] = (),
) -> Evaluated:
    """Evaluate a model on the rows of `data`.

    folds       0: on the same patients that the model was fitted on; the result is marked so
    thresholds  risks at which decisions are shown
    subgroups   columns with levels: the same measures within each level
    show_sites  ask each site for its own measures
    alone       also fit the model at each site on its own rows, as a baseline
    callbacks   called after every round
    """
    rounds: tuple[Round, ...] = ()
    predictors = [judged.full]
    if folds:
        predictors, rounds = cross_validate(
            judged, data.federation, folds, seed, store_for, callbacks
        )
    algorithm: Algorithm
    if judged.outcome == "survival" or judged.outcome == "mask":
        if subgroups:
            raise InputError(
                f"subgroups: {', '.join(subgroups)}",
                code="WRONG_VALUE",
                rule="a model of durations or masks is judged over hospitals, not within subgroups",
                next="leave [evaluation] subgroups out",
            )
        full = judged.full if folds else None
        spec = judged.spec if isinstance(judged.spec, CoxSpec) else None
        algorithm = HeldOut(tuple(predictors), folds, full, show_sites, spec, max(data.least, 1))
        if judged.outcome == "mask":
            algorithm = FoundMasks(tuple(predictors), folds, full, show_sites)
    else:
        algorithm = Evaluation(
            predictors=tuple(predictors),
            folds=folds,
            outcome=judged.outcome,
            sites=data.federation.sites,
            thresholds=tuple(thresholds),
            subgroups=tuple(_levels_of(data, column) for column in subgroups),
            show_sites=show_sites,
            full=judged.full if folds else None,
            least=data.least,
            alone_spec=judged.alone if alone and show_sites and folds else None,
            classes=judged.classes,
        )
    store = store_for("evaluation")
    run = fit(algorithm, data.federation, seed=seed, store=store, callbacks=callbacks)
    return Evaluated(run.model, rounds + run.rounds)


def _levels_of(data: FormulaData, column: str) -> tuple[str, str, tuple[str, ...]]:
    """The column, its label and those of its levels. Raises WRONG_VALUE for one without levels."""
    spec = data.codebook.spec(column)
    if not spec.levels:
        raise InputError(
            f"subgroups: {column} has no levels",
            code="WRONG_VALUE",
            rule="a subgroup is a level of a category or binary column",
            next="define a binary column under [derived]",
        )
    return column, data.codebook.label(column), tuple(spec.levels.values())
