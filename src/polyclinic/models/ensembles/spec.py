"""What an ensemble over sites is asked to be: one record, plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import InputError
from polyclinic.models import glm
from polyclinic.models.ensembles import neighbours
from polyclinic.models.ensembles.bases import Base, base_from, base_of, explains
from polyclinic.models.learner import Asked, check_options

if TYPE_CHECKING:
    from polyclinic.core.algorithm import Algorithm

MOST_MODELS = 64  # as many sites as a secure sum takes
MOST_FOLDS = 20
METRICS = {"binary": ("auroc", "log_loss"), "number": ("r2", "mse")}
BETTER_HIGH = ("auroc", "r2")
SCORE = "(prediction {})"  # columns of predictions; no column of a table begins with a bracket


@dataclass(frozen=True)
class Spec:
    """An ensemble.

    how        select-best | voting | weighted-average | stacking
    base       `Base.to_data` of what every site trains
    classes    2, or 0 for a number
    settings   of `how`: {"metric"}, {"voting"}, {"weights"} or {"folds", "l2"}
    sampling   at the site, before it trains: "" | under | over
    threshold  "" | f1 | youden | [cost of a false alarm, cost of a missed event]
    least      patients whose risks are taken together where they are scored
    seed       of samples and of the inner folds
    """

    design: Design
    how: str
    base: Mapping[str, Any]
    classes: int
    settings: Mapping[str, Any]
    sampling: str = ""
    threshold: str | tuple[float, float] = ""
    least: int = 5
    seed: int = 0
    rows: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Base:
        """What every site trains."""
        return base_from(self.base, self.design, self.classes)

    @property
    def scored(self) -> bool:
        """Whether every model is judged on the rows of every site."""
        return self.how == "select-best" or self.settings.get("weights") == "loss"

    def to_data(self) -> dict[str, Any]:
        threshold = self.threshold
        return {
            "design": self.design.to_data(),
            "how": self.how,
            "base": dict(self.base),
            "classes": self.classes,
            "settings": dict(self.settings),
            "sampling": self.sampling,
            "threshold": list(threshold) if isinstance(threshold, tuple) else threshold,
            "least": self.least,
            "seed": self.seed,
            "rows": dict(self.rows),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Spec:
        """Raises ValueError for what no options lead to."""
        threshold = data["threshold"]
        settings = {name: check for name, (_, check, _) in OWN[data["how"]].items()}
        good = set(data["settings"]) == set(settings) and data["classes"] in (0, 2)
        if not good or not all(settings[n](v) for n, v in data["settings"].items()):
            raise ValueError("another form")
        return Spec(
            Design.from_data(data["design"]),
            data["how"],
            data["base"],
            data["classes"],
            data["settings"],
            data["sampling"],
            tuple(threshold) if isinstance(threshold, list) else threshold,
            data["least"],
            data["seed"],
            dict(data["rows"]),
        )

    def algorithm(self) -> Algorithm:
        """What fits it; its last model is an `EnsembleResult`."""
        from polyclinic.models.ensembles.algorithm import ensemble

        return ensemble(self)

    def stacked(self, many: int, names: tuple[str, ...] = ()) -> glm.Spec:
        """The regression over the predictions of `many` models."""
        bound = 1.0 if self.classes else self.design.response_bound
        names = names or tuple(str(i) for i in range(many))
        terms = tuple(
            Term(f"model of {names[i]}", (Factor("value", SCORE.format(i)),), bound)
            for i in range(many)
        )
        design = Design(
            terms,
            self.design.response,
            weight=self.design.weight,
            response_bound=self.design.response_bound,
            weight_bound=self.design.weight_bound,
        )
        family = "binomial" if self.classes else "gaussian"
        l2, solver = float(self.settings["l2"]), glm.Solver(warm_rows=0)
        return glm.Spec(design, family, self.classes, l2, rows=self.rows, solver=solver)


def _is_whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < np.inf


def _is_threshold(value: Any) -> bool:
    if value in (None, "", "f1", "youden"):
        return True
    if not isinstance(value, Mapping) or set(value) != {"cost"}:
        return False
    cost = value["cost"]
    pair = isinstance(cost, (list, tuple)) and len(cost) == 2 and all(map(_is_number, cost))
    return pair and max(cost) > 0


OWN: dict[str, dict[str, tuple[Any, Callable[[Any], bool], str]]] = {
    "select-best": {
        "metric": (
            None,
            lambda v: v in (None, *METRICS["binary"], *METRICS["number"]),
            'metric "auroc" or "log_loss", for a number "r2" or "mse"',
        )
    },
    "voting": {
        "voting": ("soft", lambda v: v in ("soft", "hard"), 'voting "soft" or "hard"'),
    },
    "weighted-average": {
        "weights": ("size", lambda v: v in ("size", "loss"), 'weights "size" or "loss"'),
    },
    "stacking": {
        "folds": (5, _is_whole(2, MOST_FOLDS), f"folds 2 to {MOST_FOLDS}"),
        "l2": (0.0, _is_number, "l2 0 or more"),
    },
}
COMMON: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "base": ("logistic", lambda v: isinstance(v, str), "base the name of a model"),
    "base_options": (
        None,
        lambda v: v is None or isinstance(v, Mapping),
        "base_options its options by name",
    ),
    "sampling": (
        None,
        lambda v: v in (None, "", "under", "over"),
        'sampling "under", "over" or None',
    ),
    "threshold": (
        None,
        _is_threshold,
        'threshold "f1", "youden" or {"cost": [of a false alarm, of a missed event]}',
    ),
    "least": (None, lambda v: v is None or _is_whole(5, 10**6)(v), "least 5 or more"),
}


def spec_of(how: str, asked: Asked) -> Spec:
    """The spec of an ensemble.

    Raises
    ------
    InputError : UNKNOWN_OPTION, WRONG_VALUE, HOLDS_ROWS.
    """
    known = {**COMMON, **OWN[how]}
    rule = "; ".join(words for _, _, words in known.values())
    check_options(asked.options, {name: check for name, (_, check, _) in known.items()}, rule)
    given = {name: asked.options.get(name, default) for name, (default, _, _) in known.items()}
    _check_outcome(given, asked.classes)
    _check_weights(given, asked.design)
    base = base_of(given["base"], asked, given["base_options"] or {})
    settings = {name: given[name] for name in OWN[how]}
    if how == "select-best":
        settings["metric"] = _metric(settings["metric"], asked.classes)
    threshold = given["threshold"] or ""
    if isinstance(threshold, Mapping):
        fp, fn = threshold["cost"]
        threshold = (float(fp), float(fn))
    return Spec(
        base.design,
        how,
        base.to_data(),
        asked.classes,
        settings,
        given["sampling"] or "",
        threshold,
        given["least"] or asked.least,
        asked.seed,
        dict(asked.rows),
    )


def _check_outcome(given: Mapping[str, Any], classes: int) -> None:
    wrong = ""
    if classes > 2:
        wrong = f"an outcome of {classes} classes: ensembles explain two classes or a number"
    elif not classes and (given["sampling"] or given["threshold"]):
        wrong = "sampling and threshold are for an outcome of two classes"
    elif not classes and given.get("voting") == "hard":
        wrong = 'voting "hard" is for an outcome of two classes'
    if not wrong:
        needs = {"number": (0,), "binary": (2,), "classes": (2,)}.get(
            explains(given["base"]), (0, 2)
        )
        wrong = "" if classes in needs else f"base {given['base']!r} does not explain this outcome"
    if wrong:
        raise InputError(
            wrong,
            code="WRONG_VALUE",
            rule='"linear" explains a number; "logistic", "knn" and "kernel-svm" two classes',
            next="use another base, or another outcome",
        )


def _check_weights(given: Mapping[str, Any], design: Design) -> None:
    weighted = design.weight is not None or given["sampling"] == "over"
    if weighted and given["base"] in neighbours.MADE and given["base"] not in neighbours.WEIGHTED:
        raise InputError(
            f"base {given['base']!r} has no weights of rows",
            code="WRONG_VALUE",
            rule='sample weights and sampling = "over" need a base in which weights count',
            next='use sampling = "under", or another base',
        )


def _metric(chosen: str | None, classes: int) -> str:
    allowed = METRICS["binary" if classes else "number"]
    if chosen is not None and chosen not in allowed:
        raise InputError(
            f"metric = {chosen!r}",
            code="WRONG_VALUE",
            rule=f"of this outcome the metric is one of {', '.join(allowed)}",
            next="correct the value",
        )
    return chosen or allowed[0]
