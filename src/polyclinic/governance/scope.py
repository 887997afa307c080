"""Which plans a study covers. A hospital that has approved the study answers these and no others.

A plan is compared, part by part, with what the study file says: its step, its patients, its
purpose, its columns, its model. What only a run can know stays free: coefficients, means that fill
gaps, edges of bins, sizes of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.design import Design, exponent
from polyclinic.core.plan import Plan
from polyclinic.data.cohort import Cohort
from polyclinic.data.formula import compile_formula, formula_columns
from polyclinic.governance.paper import Paper
from polyclinic.governance.scope_columns import Outside, columns_of_cohort, columns_read, require
from polyclinic.governance.study_file import Session, Study
from polyclinic.models.descriptive import moments, quantiles
from polyclinic.models.glm.family import MULTINOMIAL
from polyclinic.models.glm.private import NEWTON_ROUNDS
from polyclinic.models.glm.private_scale import Bounds, bounds_of
from polyclinic.models.glm.spec import MAX_ROUNDS, Solver, Spec
from polyclinic.privacy import accounting, noisy

FAMILIES = {"linear": "gaussian", "poisson": "poisson", "gamma": "gamma", "logistic": "binomial"}
SAMPLED = ("newton", "sgd")
TABLE_ROUNDS = moments.MAX_ROUNDS + quantiles.MAX_ROUNDS + 1
SPARE = 60  # rounds of a fit that its solver does not count: means, a warm start, standard errors
SESSION_ROUNDS = 100_000
_MODEL = {"design", "family", "classes", "rows", "response_exponent"}
_DERIVATIVES = _MODEL | {"theta", "order", "shift", "class_weight"}
_SCORES = {"predictors", "folds", "outcome", "thresholds", "where", "classes", "exponent", "least"}
_SPEC = {"family", "classes", "l2", "l1", "rows", "solver"}
MOST_CANDIDATES = 64


@dataclass(frozen=True)
class Scope:
    """What may be asked for a paper; see the module."""

    paper: Paper

    @staticmethod
    def of(paper: Paper) -> Scope:
        """The scope of a paper. Raises InputError for a study that its codebook does not allow."""
        scope = Scope(paper)
        if isinstance(paper.study, Study):
            _ = scope.design, scope.cohort
        else:
            for column in paper.study.session.columns:
                paper.codebook.spec(column)
        return scope

    def refuses(self, plan: Plan) -> str:
        """Why the study does not cover `plan`, for the hospital's own log; "": it does."""
        try:
            self._common(plan)
            if isinstance(self.paper.study, Session):
                self._in_session(plan, self.paper.study)
            else:
                self._in_study(plan)
        except Outside as error:
            return str(error)
        except Exception as error:  # whatever a hostile plan makes of the checks: it is not covered
            return f"the plan has another form ({type(error).__name__})"
        return ""

    def _common(self, plan: Plan) -> None:
        require(plan.purpose == self.paper.study.study.purpose, "another purpose")
        require(set(plan.to) <= set(self.paper.sites), "hospitals that do not take part")
        require(0 <= plan.round <= self.rounds, "more rounds than the study has")
        require(plan.version == 1, "another version of the step")

    def _rounding(self, plan: Plan) -> str:
        """How a step of a study is rounded: gradient rounds as the study says, nothing else."""
        gradients = plan.task == "glm.derivatives" and plan.values.get("order") == 1
        return self.spec.solver.compress if gradients else ""

    @property
    def _study(self) -> Study:
        study = self.paper.study
        if not isinstance(study, Study):
            raise TypeError("a session has no model")
        return study

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns that may be named."""
        study = self.paper.study
        if isinstance(study, Session):
            return tuple(study.session.columns)
        found = formula_columns(study.model.formula, self.paper.codebook)
        return tuple(dict.fromkeys((*found, *study.evaluation.subgroups)))

    @cached_property
    def cohort(self) -> Cohort:
        """The patients of a study."""
        study, section = self._study, self._study.cohort
        rules = section.missing
        missing = {"default": rules} if isinstance(rules, str) else dict(rules)
        columns = formula_columns(study.model.formula, self.paper.codebook)
        return Cohort(section.where, columns, missing)

    @cached_property
    def filled(self) -> tuple[str, ...]:
        """Columns of a study whose gaps a pooled mean fills."""
        return self.cohort.with_rule("mean")

    @cached_property
    def design(self) -> Design:
        """The model matrix of a study; its fills and terms of hospitals are left open."""
        fills = dict.fromkeys(self.filled, 0.0)
        formula, codebook = self._study.model.formula, self.paper.codebook
        return compile_formula(formula, codebook, fills=fills, indicators=self.filled)

    @cached_property
    def spec(self) -> Spec:
        """The model of a study, without what is left open."""
        section, options = self._study.model, self._study.solver
        classes = 0
        family = FAMILIES[section.kind]
        if section.kind == "logistic":
            classes = len(self.paper.codebook.level_names(self.design.response))
            family = "binomial" if classes == 2 else MULTINOMIAL
        rounds = options.max_rounds or MAX_ROUNDS[options.name]
        given: dict[str, Any] = options.options
        solver = Solver(options.name, rounds, options.tolerance, **given)
        l2, l1 = float(section.l2), float(section.l1)
        return Spec(self.design, family, classes, l2, l1, solver=solver)

    @cached_property
    def folds(self) -> int:
        """Folds of a study's cross-validation; 0 without."""
        section = self._study.evaluation
        return section.folds if section.validate_ == "cross-validation" else 0

    @cached_property
    def rounds(self) -> int:
        """How many different questions a run has at most."""
        if isinstance(self.paper.study, Session):
            return SESSION_ROUNDS
        one = NEWTON_ROUNDS if self._noise else 2 * self.spec.solver.max_rounds + SPARE
        subgroups = sum(
            len(self.paper.codebook.level_names(name)) for name in self._study.evaluation.subgroups
        )
        return (self.folds + 1) * one + 2 * TABLE_ROUNDS + subgroups + 10

    @property
    def _noise(self) -> bool:
        return self._study.privacy.noise is not None

    @property
    def outcome(self) -> str:
        """What a study's model explains: "binary", "classes" or "number"."""
        return {"binomial": "binary", MULTINOMIAL: "classes"}.get(self.spec.family, "number")

    @cached_property
    def tasks(self) -> dict[str, Callable[[Plan], None]]:
        """The steps of a study, each with its check."""
        show, binary = self._study.privacy.show_sites, self.outcome == "binary"
        found: dict[str, Callable[[Plan], None]] = {
            "descriptive.together": self._table,
            "descriptive.levels": self._counts,
            "evaluation.scores": self._scores,
        }
        if self._noise:
            private = "glm.private_products"
            if self.spec.family != "gaussian":
                private = "glm.private_newton"
            found[private] = self._private
        else:
            found |= {"glm.moments": self._moments, "glm.derivatives": self._derivatives}
            if self.filled:
                found["glm.present"] = self._present
            if self.spec.family == "gamma":
                found["glm.information"] = self._derivatives
        if show and binary:
            found["evaluation.own"] = self._scores
            if self._study.evaluation.alone and self.folds:
                found["evaluation.alone"] = self._alone
        return found

    @property
    def collected(self) -> tuple[str, ...]:
        """Steps that a hospital answers by itself."""
        by_name = ["descriptive.levels"]
        if self._study.privacy.show_sites:
            by_name += ["descriptive.together", "evaluation.own", "evaluation.alone"]
            by_name += [] if self.outcome == "binary" else ["evaluation.scores"]
        return tuple(name for name in by_name if name in self.tasks)

    def _in_study(self, plan: Plan) -> None:
        require(plan.task in self.tasks, f"{plan.task} is no step of it")
        require(codec.digest(plan.cohort) == codec.digest(self.cohort.to_data()), "other patients")
        if plan.combine == "collect":
            require(plan.task in self.collected, f"{plan.task} by name is no step of it")
        require(plan.compress in ("", self._rounding(plan)), "rounded in another way")
        self.tasks[plan.task](plan)

    def _design(self, data: Mapping[str, Any]) -> int:
        """Compare a design; the number of its terms."""
        terms, effects = list(data["terms"]), []
        if self._study.model.site_effects:
            effects = [term for term in terms if str(term["name"]).startswith("site[T.")]
            terms = [term for term in terms if term not in effects]
            self._effects(effects)
            require(list(data["terms"]) == [*terms, *effects], "another model")
        fills = data["fills"]
        require(set(fills) == set(self.filled), "another model")
        require(all(_number(value) for value in fills.values()), "another model")
        plain = {**data, "terms": terms, "fills": dict.fromkeys(self.filled, 0.0)}
        require(codec.digest(plain) == codec.digest(self.design.to_data()), "another model")
        return len(terms) + len(effects)

    def _effects(self, terms: Sequence[Mapping[str, Any]]) -> None:
        """A term for each of some of the hospitals, but not for all."""
        sites = [term["factors"][0]["column"] for term in terms]
        require(len(set(sites)) == len(sites) < len(self.paper.sites), "another model")
        require(set(sites) <= set(self.paper.sites), "another model")
        for term, site in zip(terms, sites, strict=True):
            factor = {"kind": "site", "column": site, "args": []}
            wanted = {"name": f"site[T.{site}]", "bound": 1.0, "factors": [factor]}
            require(codec.digest(term) == codec.digest(wanted), "another model")

    def _size(self, terms: int) -> int:
        return (terms + int(self.design.intercept)) * self.spec.predictors

    def _rows(self, rows: Mapping[str, Any]) -> None:
        """All rows, all but a fold, or a sample of a solver that takes samples."""
        left = dict(rows)
        if "folds" in left:
            folds, without = left.pop("folds"), left.pop("without")
            require(type(folds) is int and folds == self.folds > 0, "another validation")
            require(type(without) is int and 0 <= without < folds, "another validation")
        if left:
            require(set(left) == {"sample", "seed", "round", "part"}, "other rows")
            require(self.spec.solver.name in SAMPLED, "other rows")
            require(type(left["seed"]) is int and left["seed"] == self._study.seed, "other rows")
            require(_number(left["sample"]) and 0 < left["sample"] <= 1, "other rows")
            require(all(type(left[k]) is int and left[k] >= 0 for k in ("round", "part")), "rows")

    def _model(self, values: Mapping[str, Any]) -> int:
        terms = self._design(values["design"])
        require(values["family"] == self.spec.family, "another model")
        require(values["classes"] == self.spec.classes, "another model")
        self._rows(values["rows"])
        return terms

    def _moments(self, plan: Plan) -> None:
        values = plan.values
        require(set(values) in (_MODEL, _MODEL | {"shift"}), "another form")
        terms = self._model(values)
        require(values["response_exponent"] == self.spec.response_exponent, "another model")
        require("shift" not in values or _array(values["shift"], (terms,)), "another form")

    def _derivatives(self, plan: Plan) -> None:
        values = plan.values
        require(set(values) == _DERIVATIVES, "another form")
        terms = self._model(values)
        require(values["response_exponent"] == self.spec.response_exponent, "another model")
        theta, order, weight = values["theta"], values["order"], values["class_weight"]
        require(type(order) is int and 0 <= order <= 2, "another form")
        require(_array(values["shift"], (terms,)), "another form")
        require(_array(theta, (len(theta), self._size(terms))), "another model")
        require(1 <= len(theta) <= MOST_CANDIDATES, "too many candidates")
        weighted = self._study.model.class_weight is not None
        require(_array(weight, (self.spec.classes if weighted else 0,)), "another model")

    def _present(self, plan: Plan) -> None:
        require(set(plan.values) == {"columns", "exponents"}, "another form")
        require(tuple(plan.values["columns"]) == self.filled, "other columns")
        bounds = [exponent(self.paper.codebook.bound(name)) for name in self.filled]
        require(np.array_equal(plan.values["exponents"], bounds), "another form")

    def _private(self, plan: Plan) -> None:
        """Bounds from the codebook, and at least the noise that the study's epsilon takes."""
        bounds = self.bounds.to_data()
        newton = plan.task == "glm.private_newton"
        extra = {"theta"} if newton else set()
        expected = {"design", "family", "rows", noisy.KEY, *bounds, *extra}
        require(set(plan.values) == expected, "another form")
        terms = self._design(plan.values["design"])
        require(plan.values["family"] == self.spec.family, "another model")
        require(plan.values["rows"] == {}, "other rows")
        given = {name: plan.values[name] for name in bounds}
        require(codec.digest(given) == codec.digest(bounds), "other bounds")
        require(not newton or _array(plan.values["theta"], (terms + 1,)), "another model")
        noise = plan.values[noisy.KEY]
        require(set(noise) == {"multiplier"}, "other noise")
        require(noise["multiplier"] >= self.multiplier * (1 - 1e-9), "less noise")

    @cached_property
    def multiplier(self) -> float:
        """The noise of each round that a study's epsilon takes."""
        noise = self._study.privacy.noise
        if noise is None:
            return 0.0
        rounds = 1 if self.spec.family == "gaussian" else NEWTON_ROUNDS
        return float(accounting.calibrate(noise.epsilon, noise.delta, rounds))

    @property
    def bounds(self) -> Bounds:
        """The scales of a study with noise, from the codebook."""
        return bounds_of(self.spec, self.paper.codebook.declared_ranges(self.design.columns))

    def _coded(self, name: str) -> dict[str, Any]:
        return {"name": name, "levels": len(self.paper.codebook.level_names(name))}

    def _counts(self, plan: Plan) -> None:
        """Rows, patients and events of a hospital by itself."""
        events = [self._coded(self.design.response)] if self.spec.classes == 2 else []
        require(plan.combine == "collect", "another step")
        require(plan.values == {"by": None, "columns": events}, "other columns")

    def _table(self, plan: Plan) -> None:
        """Table 1, overall or of each hospital."""
        require(set(plan.values) == {"parts"}, "another form")
        for part, ask in plan.values["parts"].items():
            if plan.combine == "sum":
                require(set(ask) == {"task", "version", "values"}, "another form")
                self._part(part, ask, ask["values"])
                continue
            require(ask["task"] == "descriptive.each_site" and ask["version"] == 1, "another step")
            inner = ask["values"]
            require(set(inner) == {"task", "version", "sites"}, "another form")
            require(set(inner["sites"]) <= {"", *self.paper.sites}, "other hospitals")
            for values in inner["sites"].values():
                self._part(part, inner, values)

    def _part(self, part: str, ask: Mapping[str, Any], values: Any) -> None:
        tasks = {"levels": "levels", "moments": "moments", "quantiles": "histogram"}
        require(ask["task"] == f"descriptive.{tasks[part]}", "another step of Table 1")
        require(ask["version"] == 1, "another version of the step")
        if values is None:
            return
        codebook, outcome = self.paper.codebook, self.design.response
        names = [name for name in self.cohort.columns if name != outcome]
        coded = [self._coded(name) for name in names if codebook.level_names(name)]
        numbers = [name for name in names if not codebook.level_names(name)]
        by = self._coded(outcome) if codebook.level_names(outcome) else None
        require(values["by"] == by, "other groups in Table 1")
        if part == "levels":
            require(set(values) == {"by", "columns"}, "another form")
            require(list(values["columns"]) == coded, "other columns in Table 1")
        elif part == "moments":
            keys = {"by", "columns", "powers", "centre", "centred", "exponent"}
            require(set(values) == keys, "another form")
            require(list(values["columns"]) == numbers, "other columns in Table 1")
        else:
            require(set(values) == {"by", "edges"}, "another form")
            require(set(values["edges"]) <= set(numbers), "other columns in Table 1")

    def _predictor(self, data: Mapping[str, Any]) -> None:
        require(set(data) == {"kind", "design", "family", "coef"}, "another kind of model")
        require(data["kind"] == "glm", "another kind of model")
        require(data["family"] == self.spec.family, "another model")
        terms = self._design(data["design"])
        shape = (self.spec.predictors, terms + int(self.design.intercept))
        require(_array(data["coef"], shape), "another model")

    def _scores(self, plan: Plan) -> None:
        values, folds = plan.values, plan.values["folds"]
        require(set(values) == _SCORES, "another form")
        require(plan.task != "evaluation.own" or plan.combine == "collect", "another step")
        require(type(folds) is int and folds in (0, self.folds), "another validation")
        require(len(values["predictors"]) == (folds or 1), "another validation")
        for data in values["predictors"]:
            self._predictor(data)
        require(values["outcome"] == self.outcome, "another outcome")
        thresholds = list(self._study.evaluation.thresholds)
        require(list(values["thresholds"]) == thresholds, "other thresholds")
        require(type(values["classes"]) is int and type(values["exponent"]) is int, "another form")
        require(type(values["least"]) is int and values["least"] >= 1, "another form")
        where = values["where"]
        if where is not None:
            require(plan.task == "evaluation.scores" and plan.combine == "sum", "a subgroup alone")
            require(set(where) == {"column", "level"}, "another form")
            require(where["column"] in self._study.evaluation.subgroups, "another subgroup")
            many = len(self.paper.codebook.level_names(where["column"]))
            require(where["level"] in range(many), "another subgroup")

    def _alone(self, plan: Plan) -> None:
        values, spec = plan.values, plan.values["spec"]
        require(plan.combine == "collect", "another step")
        require(set(values) == {"spec", "folds", "least"}, "another form")
        require(type(values["folds"]) is int and values["folds"] == self.folds, "other validation")
        require(type(values["least"]) is int and values["least"] >= 1, "another form")
        require(set(spec) == {*_SPEC, "design", "class_weight"}, "another form")
        self._design(spec["design"])
        wanted = self.spec.to_data()
        same = all(codec.digest(spec[name]) == codec.digest(wanted[name]) for name in _SPEC)
        require(same, "another model")
        chosen, weight = self._study.model.class_weight, spec["class_weight"]
        if isinstance(chosen, dict):
            fits = len(weight) == self.spec.classes and all(map(_number, weight))
            require(fits, "another model")
        else:
            require(weight == chosen, "another model")

    def _in_session(self, plan: Plan, study: Session) -> None:
        """A session: any cohort over its columns, any step of its algorithms."""
        chosen, codebook = study.session.algorithms, self.paper.codebook
        group = plan.task.partition(".")[0]
        models = [name for name in chosen if name in FAMILIES]
        if group == "glm":
            require(bool(models), f"{plan.task} is no step of it")
            families = {FAMILIES[name] for name in models}
            families |= {MULTINOMIAL} if "logistic" in models else set()
            family = plan.values.get("family")
            require(family is None or family in families, f"the {family} family is not in it")
        else:
            require(group in chosen, f"{plan.task} is no step of it")
        named = columns_read(plan.values, set(codebook.usable) | set(codebook.columns))
        named |= columns_of_cohort(plan.cohort)
        for column in sorted(named - set(self.columns)):
            raise Outside(f"{column} is none of its columns")

    def summary(self) -> dict[str, Any]:
        """What `polyclinic site review` tells of it, as plain data."""
        from polyclinic.governance.scope_summary import summary

        return summary(self)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _array(value: Any, shape: tuple[int, ...]) -> bool:
    """A finite array of numbers of this shape."""
    fits = isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind in "fiu"
    return bool(fits and np.all(np.isfinite(value)))
