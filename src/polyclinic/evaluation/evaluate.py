"""Evaluation of one model over all sites as an algorithm; its result is a plain dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.design import exponent
from polyclinic.core.plan import Plan
from polyclinic.evaluation import metrics
from polyclinic.evaluation.own import MEANS, ROC_POINTS, STATISTICS

Outcome = Literal["binary", "classes", "number"]
LOSSES = ("brier", "log_loss")


@dataclass(frozen=True)
class Evaluation:
    """One round per part: all rows, the same patients, subgroups, each site's own, each site alone.

    Parameters
    ----------
    predictors : predictor data; with `folds`, one per fold, fitted without it.
    folds : 0 when `predictors` is the one full model, on the same patients.
    outcome : "binary", "classes" or "number".
    thresholds : risks at which decisions are counted.
    subgroups : (column, label, labels of its levels).
    show_sites : ask every site for its own measures.
    alone_spec : model that each site also fits on its own rows, or None.
    full : the full model, for the measures on the same patients beside cross-validation.
    least : patients whose risks are taken together; the sites' policies ask for so many.
    classes : of an outcome with classes.
    """

    predictors: tuple[dict[str, Any], ...]
    folds: int
    outcome: Outcome
    sites: tuple[str, ...]
    thresholds: tuple[float, ...] = (0.5,)
    subgroups: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    show_sites: bool = True
    alone_spec: dict[str, Any] | None = None
    full: dict[str, Any] | None = None
    least: int = 5
    classes: int = 2

    def init(self, seed: int) -> State:
        return {"done": {}}

    def plan(self, state: State) -> Plan | None:
        return next((plan for name, plan in self._parts() if name not in state["done"]), None)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        name = next(name for name, _ in self._parts() if name not in state["done"])
        if plan.combine == "collect":
            kept: Any = {site: _answer(found) for site, found in total.by_site.items()}
        else:
            kept = dict(total.values)
            if "n" in total.hidden:
                kept["hidden_sites"] = int(total.hidden["n"])
                kept["hidden_losses"] = int(np.max(total.hidden.get("losses", 0)))
        return {"done": {**state["done"], name: kept}}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> dict[str, Any]:
        done = state["done"]
        result: dict[str, Any] = {
            "how": "cross-validation" if self.folds else "same patients",
            "folds": self.folds,
            "all": self._measures(done["all"]),
            "sites": self._sites(done),
            "subgroups": self._subgroups(done),
            "alone": {},
            "not_shown": [site for site, found in done.get("sites", {}).items() if _hidden(found)],
            "merged": _merged(done),
        }
        if self.full is not None:
            result["apparent"] = self._measures(done["apparent"])
        if self.outcome == "binary":
            result["prevalence"] = _prevalence(result["all"])
            result["heterogeneity"] = _between(result["sites"])
        for site, found in done.get("alone", {}).items():
            fitted = not _hidden(found) and int(found["fitted"])
            result["alone"][site] = float(found["auroc"]) if fitted else None
        return result

    def _parts(self) -> list[tuple[str, Plan]]:
        """Every round with its name, in order."""
        how = f"scores, {self.folds}-fold validation" if self.folds else "scores, same patients"
        parts = [("all", self._plan("evaluation.scores", how))]
        if self.full is not None:
            parts.append(
                (
                    "apparent",
                    self._plan(
                        "evaluation.scores",
                        "scores, same patients",
                        predictors=[self.full],
                        folds=0,
                    ),
                )
            )
        for column, label, levels in self.subgroups:
            for level, words in enumerate(levels):
                where = {"column": column, "level": float(level)}
                parts.append(
                    (
                        f"{column}={level}",
                        self._plan(
                            "evaluation.scores", f"scores where {label} is {words}", where=where
                        ),
                    )
                )
        if self.show_sites:
            task = "evaluation.own" if self.outcome == "binary" else "evaluation.scores"
            parts.append(
                ("sites", self._plan(task, "each hospital's own measures", combine="collect"))
            )
        if self.alone_spec is not None and self.outcome == "binary":
            values = {"spec": self.alone_spec, "folds": self.folds, "least": self.least}
            parts.append(
                (
                    "alone",
                    Plan(
                        "evaluation.alone", values, "each hospital's own model", combine="collect"
                    ),
                )
            )
        return parts

    def _plan(self, task: str, step: str, combine: Any = "sum", **more: Any) -> Plan:
        values: dict[str, Any] = {
            "predictors": list(self.predictors),
            "folds": self.folds,
            "outcome": self.outcome,
            "thresholds": list(self.thresholds),
            "where": None,
            "classes": self.classes,
            "exponent": self._exponent,
            "least": self.least,
            **more,
        }
        return Plan(task, values, step, combine=combine)

    @property
    def _exponent(self) -> int:
        return exponent(float(self.predictors[0]["design"]["response_bound"]))

    def _measures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        if self.outcome == "binary":
            return _binary(sums, self.thresholds)
        if self.outcome == "classes":
            return _classes(sums)
        return _number(sums, self._exponent)

    def _sites(self, done: Mapping[str, Any]) -> dict[str, Any]:
        measure = _own if self.outcome == "binary" else self._measures
        answers = done.get("sites", {})
        return {site: measure(found) for site, found in answers.items() if not _hidden(found)}

    def _subgroups(self, done: Mapping[str, Any]) -> dict[str, Any]:
        return {
            label: {
                words: {
                    **_without_losses(self._measures(sums), sums),
                    "hidden_sites": sums["hidden_sites"],
                }
                for words, sums in zip(levels, _of_levels(done, column, len(levels)), strict=True)
            }
            for column, label, levels in self.subgroups
        }


def _answer(found: Total) -> dict[str, Any]:
    """What a site answered by name; nothing where it hid all."""
    hidden = any(np.any(flags) for flags in found.hidden.values())
    return {"hidden": True} if hidden else dict(found.values)


def _of_levels(done: Mapping[str, Any], column: str, many: int) -> list[Mapping[str, Any]]:
    return [done[f"{column}={level}"] for level in range(many)]


def _hidden(found: Mapping[str, Any]) -> bool:
    return bool(found.get("hidden", False))


def _merged(done: Mapping[str, Any]) -> dict[str, int]:
    """Levels that a site merged with another before it scored its own patients."""
    counts = {site: int(found.get("merged", 0)) for site, found in done.get("sites", {}).items()}
    return {site: many for site, many in counts.items() if many}


def _without_losses(measures: dict[str, Any], sums: Mapping[str, Any]) -> dict[str, Any]:
    """The losses of all only: where a site hid its own, they are of too few."""
    if sums["hidden_losses"] == sums["hidden_sites"]:
        return measures
    return {**measures, **{name: None for name in LOSSES if name in measures}}


def _binary(sums: Mapping[str, Any], thresholds: tuple[float, ...]) -> dict[str, Any]:
    histogram, n = sums["histogram"], int(sums["n"])
    without, events = (int(v) for v in histogram.sum(axis=1))
    if n == 0:
        return {"n": 0, "events": 0}
    area, error = metrics.auroc(histogram)
    lines = metrics.calibration(
        metrics.bin_log_odds(),
        histogram.sum(axis=0).astype(np.float64),
        histogram[1].astype(np.float64),
    )
    return {
        "n": n,
        "events": events,
        "auroc": metrics.interval(area, error, 0.0, 1.0),
        "auprc": metrics.average_precision(histogram),
        "observed": events / n,
        "predicted": float(sums["predicted"].sum()) / n,
        "brier": float(sums["losses"][0]) / n,
        "log_loss": float(sums["losses"][1]) / n,
        "calibration": {**lines, "bins": metrics.calibration_bins(histogram, sums["predicted"])},
        "roc": metrics.roc(histogram),
        "histogram": metrics.risk_histogram(histogram),
        "decision": metrics.decision_curve(histogram),
        "confusion": [
            metrics.confusion(t, above, (without, events))
            for t, above in zip(thresholds, sums["above"], strict=True)
        ],
    }


def _own(found: Mapping[str, Any]) -> dict[str, Any]:
    n, events = int(found["n"]), int(found["events"])
    value = {
        name: float(v) if d else None
        for name, v, d in zip(STATISTICS, found["statistics"], found["defined"], strict=True)
    }
    value |= {name: float(v) if n else None for name, v in zip(MEANS, found["means"], strict=True)}
    grid = np.linspace(0, 1, ROC_POINTS)
    curve = [{"fpr": float(f), "tpr": float(t)} for f, t in zip(grid, found["roc"], strict=True)]
    return {
        "n": n,
        "events": events,
        "observed": events / n if n else None,
        "predicted": value["predicted"],
        "brier": value["brier"],
        "log_loss": value["log_loss"],
        "auprc": value["auprc"],
        "auroc": metrics.interval(value["auroc"], value["auroc_se"], 0.0, 1.0),
        "calibration": {
            **{
                name: {
                    "value": value[name],
                    "lower": value[f"{name}_lower"],
                    "upper": value[f"{name}_upper"],
                }
                for name in ("slope", "intercept")
            },
            "bins": [],
        },
        "roc": curve if value["auroc"] is not None else [],
    }


def _classes(sums: Mapping[str, Any]) -> dict[str, Any]:
    confusion, n = sums["confusion"], int(sums["n"])
    if n == 0:
        return {"n": 0}
    areas = [metrics.auroc(h) for h in sums["histograms"]]
    return {
        "n": n,
        "accuracy": float(np.trace(confusion)) / n,
        "log_loss": float(sums["losses"][0]) / n,
        "confusion_matrix": confusion.tolist(),
        "auroc_by_class": [metrics.interval(a, e, 0.0, 1.0) for a, e in areas],
    }


def _number(sums: Mapping[str, Any], exponent: int) -> dict[str, Any]:
    n = int(sums["n"])
    if n == 0:
        return {"n": 0}
    unit = 2.0**exponent
    y, yy, rr, r, f, _ = (float(v) for v in sums["sums"])
    spread = yy - y * y / n
    return {
        "n": n,
        "observed": unit * y / n,
        "predicted": unit * f / n,
        "r2": 1.0 - rr / spread if spread > 0 else None,
        "mae": unit * r / n,
        "rmse": unit * float(np.sqrt(rr / n)),
    }


def _prevalence(all_: Mapping[str, Any]) -> dict[str, Any]:
    """The baseline that gives every patient the same risk: the share of events."""
    p = all_["observed"]
    entropy = 0.0 if p in (0.0, 1.0) else -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return {
        "n": all_["n"],
        "events": all_["events"],
        "observed": p,
        "predicted": p,
        "auroc": {"value": 0.5, "lower": None, "upper": None},
        "brier": p * (1 - p),
        "log_loss": float(entropy),
    }


def _between(sites: Mapping[str, Any]) -> dict[str, float | None]:
    """Heterogeneity of the hospitals' AUROCs; standard errors from their intervals."""
    known = [s["auroc"] for s in sites.values() if s["auroc"]["lower"] is not None]
    errors = [max(a["value"] - a["lower"], a["upper"] - a["value"]) / metrics.Z for a in known]
    return metrics.heterogeneity([a["value"] for a in known], errors)
