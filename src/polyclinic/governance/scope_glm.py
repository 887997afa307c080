"""Which plans of a generalised linear model a study covers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.plan import Plan
from polyclinic.governance.scope_columns import require
from polyclinic.governance.scope_rows import Agreed, is_array, is_number
from polyclinic.models.glm.family import MULTINOMIAL
from polyclinic.models.glm.private import NEWTON_ROUNDS
from polyclinic.models.glm.private_scale import Bounds, bounds_of
from polyclinic.models.glm.spec import MAX_ROUNDS, Solver, Spec
from polyclinic.privacy import accounting, noisy

FAMILIES = {"linear": "gaussian", "poisson": "poisson", "gamma": "gamma", "logistic": "binomial"}
TITLES = {
    "logistic": "logistic regression",
    "linear": "linear regression",
    "poisson": "Poisson regression",
    "gamma": "gamma regression",
}
SAMPLED = ("newton", "sgd")
SPARE = 60  # rounds of a fit that its solver does not count: means, a warm start, standard errors
_MODEL = {"design", "family", "classes", "rows", "response_exponent"}
_DERIVATIVES = _MODEL | {"theta", "order", "shift", "class_weight"}
_SPEC = {"family", "classes", "l2", "l1", "rows", "solver"}
MOST_CANDIDATES = 64


@dataclass(frozen=True)
class RegressionScope:
    """The part of a scope that is about a regression."""

    agreed: Agreed

    @property
    def outcome(self) -> str:
        """What the model explains: "binary", "classes" or "number"."""
        return {"binomial": "binary", MULTINOMIAL: "classes"}.get(self.spec.family, "number")

    @property
    def rounds(self) -> int:
        """How many different questions a fit asks at most."""
        return NEWTON_ROUNDS if self._noise else 2 * self.spec.solver.max_rounds + SPARE

    @property
    def title(self) -> str:
        """As officers know it."""
        return TITLES[self.agreed.study.model.kind]

    @property
    def most_rounds(self) -> int:
        """Rounds of the fit itself, as officers read it."""
        if not self._noise:
            return self.spec.solver.max_rounds
        return 1 if self.spec.family == "gaussian" else NEWTON_ROUNDS

    @property
    def _noise(self) -> bool:
        return self.agreed.study.privacy.noise is not None

    @cached_property
    def tasks(self) -> dict[str, Callable[[Plan], None]]:
        """The steps of the fit, each with its check."""
        if self._noise:
            gaussian = self.spec.family == "gaussian"
            return {"glm.private_products" if gaussian else "glm.private_newton": self._private}
        found: dict[str, Callable[[Plan], None]] = {
            "glm.moments": self._moments,
            "glm.derivatives": self._derivatives,
        }
        if self.spec.family == "gamma":
            found["glm.information"] = self._derivatives
        return found

    @property
    def collected(self) -> dict[str, str]:
        """A regression needs sums only."""
        return {}

    held_out: tuple[str, ...] = ()  # risks and numbers are scored
    other_outcome = ""
    by_name: tuple[str, ...] = ()

    @property
    def fit_plans(self) -> list[Plan]:
        """A plan of each kind of round, for a dry run."""
        spec = self.spec
        if not self._noise:
            shift = np.zeros(len(spec.design.terms))
            values = spec.values(theta=np.zeros((1, spec.size)), order=2, shift=shift)
            return [Plan("glm.moments", spec.values()), Plan("glm.derivatives", values)]
        values = {
            "design": spec.design.to_data(),
            "family": spec.family,
            "rows": {},
            **self.bounds.to_data(),
            noisy.KEY: {"multiplier": self.multiplier},
        }
        if spec.family == "gaussian":
            return [Plan("glm.private_products", values)]
        theta = np.zeros(len(spec.design.terms) + 1)
        return [Plan("glm.private_newton", {**values, "theta": theta})]

    @cached_property
    def spec(self) -> Spec:
        """The model of a study, without what is left open."""
        section, options = self.agreed.study.model, self.agreed.study.solver
        classes = 0
        family = FAMILIES[section.kind]
        if section.kind == "logistic":
            classes = len(self.agreed.paper.codebook.level_names(self.agreed.design.response))
            family = "binomial" if classes == 2 else MULTINOMIAL
        rounds = options.max_rounds or MAX_ROUNDS[options.name]
        given: dict[str, Any] = options.options
        solver = Solver(options.name, rounds, options.tolerance, **given)
        l2, l1 = float(section.l2), float(section.l1)
        return Spec(self.agreed.design, family, classes, l2, l1, solver=solver)

    def rounding(self, plan: Plan) -> str:
        """How a step of a study is rounded: gradient rounds as the study says, nothing else."""
        gradients = plan.task == "glm.derivatives" and plan.values.get("order") == 1
        return self.spec.solver.compress if gradients else ""

    def _size(self, terms: int) -> int:
        return (terms + int(self.agreed.design.intercept)) * self.spec.predictors

    def _model(self, values: Mapping[str, Any]) -> int:
        terms = self.agreed.check_design(values["design"])
        require(values["family"] == self.spec.family, "another model")
        require(values["classes"] == self.spec.classes, "another model")
        self._rows(values["rows"])
        return terms

    def _moments(self, plan: Plan) -> None:
        values = plan.values
        require(set(values) in (_MODEL, _MODEL | {"shift"}), "another form")
        terms = self._model(values)
        require(values["response_exponent"] == self.spec.response_exponent, "another model")
        require("shift" not in values or is_array(values["shift"], (terms,)), "another form")

    def _derivatives(self, plan: Plan) -> None:
        values = plan.values
        require(set(values) == _DERIVATIVES, "another form")
        terms = self._model(values)
        require(values["response_exponent"] == self.spec.response_exponent, "another model")
        theta, order, weight = values["theta"], values["order"], values["class_weight"]
        require(type(order) is int and 0 <= order <= 2, "another form")
        require(is_array(values["shift"], (terms,)), "another form")
        require(is_array(theta, (len(theta), self._size(terms))), "another model")
        require(1 <= len(theta) <= MOST_CANDIDATES, "too many candidates")
        weighted = self.agreed.study.model.class_weight is not None
        require(is_array(weight, (self.spec.classes if weighted else 0,)), "another model")

    def _private(self, plan: Plan) -> None:
        """Bounds from the codebook, and at least the noise that the study's epsilon takes."""
        bounds = self.bounds.to_data()
        newton = plan.task == "glm.private_newton"
        extra = {"theta"} if newton else set()
        expected = {"design", "family", "rows", noisy.KEY, *bounds, *extra}
        require(set(plan.values) == expected, "another form")
        terms = self.agreed.check_design(plan.values["design"])
        require(plan.values["family"] == self.spec.family, "another model")
        require(plan.values["rows"] == {}, "other rows")
        given = {name: plan.values[name] for name in bounds}
        require(codec.digest(given) == codec.digest(bounds), "other bounds")
        require(not newton or is_array(plan.values["theta"], (terms + 1,)), "another model")
        noise = plan.values[noisy.KEY]
        require(set(noise) == {"multiplier"}, "other noise")
        require(noise["multiplier"] >= self.multiplier * (1 - 1e-9), "less noise")

    @cached_property
    def multiplier(self) -> float:
        """The noise of each round that a study's epsilon takes."""
        noise = self.agreed.study.privacy.noise
        if noise is None:
            return 0.0
        rounds = 1 if self.spec.family == "gaussian" else NEWTON_ROUNDS
        return float(accounting.calibrate(noise.epsilon, noise.delta, rounds))

    @property
    def bounds(self) -> Bounds:
        """The scales of a study with noise, from the codebook."""
        return bounds_of(
            self.spec, self.agreed.paper.codebook.declared_ranges(self.agreed.design.columns)
        )

    def check_predictor(self, data: Mapping[str, Any]) -> None:
        """Compare a predictor with the model."""
        require(set(data) == {"kind", "design", "family", "coef"}, "another kind of model")
        require(data["kind"] == "glm", "another kind of model")
        require(data["family"] == self.spec.family, "another model")
        terms = self.agreed.check_design(data["design"])
        shape = (self.spec.predictors, terms + int(self.agreed.design.intercept))
        require(is_array(data["coef"], shape), "another model")

    def check_alone(self, plan: Plan) -> None:
        """Compare the model that a hospital is to fit by itself."""
        spec = plan.values["spec"]
        require(set(spec) == {*_SPEC, "design", "class_weight"}, "another form")
        self.agreed.check_design(spec["design"])
        wanted = self.spec.to_data()
        same = all(codec.digest(spec[name]) == codec.digest(wanted[name]) for name in _SPEC)
        require(same, "another model")
        chosen, weight = self.agreed.study.model.class_weight, spec["class_weight"]
        if isinstance(chosen, dict):
            fits = len(weight) == self.spec.classes and all(map(is_number, weight))
            require(fits, "another model")
        else:
            require(weight == chosen, "another model")

    def _rows(self, rows: Mapping[str, Any]) -> None:
        """All rows, all but a fold, or a sample of a solver that takes samples."""
        left = self.agreed.check_rows(rows)
        if left:
            require(set(left) == {"sample", "seed", "round", "part"}, "other rows")
            require(self.spec.solver.name in SAMPLED, "other rows")
            seed = self.agreed.study.seed
            require(type(left["seed"]) is int and left["seed"] == seed, "other rows")
            require(is_number(left["sample"]) and 0 < left["sample"] <= 1, "other rows")
            require(all(type(left[k]) is int and left[k] >= 0 for k in ("round", "part")), "rows")
