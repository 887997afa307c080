"""What a treatment effect is asked to be: one record of plain data, and the models beneath it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from polyclinic.core.algorithm import Algorithm
from polyclinic.core.design import Design, Term
from polyclinic.core.errors import InputError
from polyclinic.models.glm.spec import Solver
from polyclinic.models.glm.spec import Spec as GLMSpec

METHODS = ("aipw", "ipw", "regression")
ESTIMANDS = ("ate", "att")
LEAST_TRIM, MOST_TRIM = 0.001, 0.1
MOST_FOLDS = 20
SOLVER = Solver(warm_rows=0)  # all rows in every round, so that hospitals know which ones
BESIDE = {"aipw": ("aipw", "ipw", "regression"), "ipw": ("ipw",), "regression": ("regression",)}


@dataclass(frozen=True)
class Spec:
    """An effect to estimate.

    design      outcome, covariates, and the treatment as one of the terms
    treatment   its column, 0/1
    binary      whether the outcome is 0/1
    method      aipw | ipw | regression
    estimand    ate: of all patients; att: of those who were treated
    trim        propensities are held within [trim, 1 - trim]; nobody is left out
    modifiers   columns whose terms may change the effect
    folds       parts of the patients for cross-fitting; 0: models of all patients
    cross_fit   whether the average effect is cross-fitted, too; the modifiers always are
    rows        {}: all
    """

    design: Design
    treatment: str
    binary: bool
    method: str = "aipw"
    estimand: str = "ate"
    trim: float = 0.01
    modifiers: tuple[str, ...] = ()
    folds: int = 5
    cross_fit: bool = False
    rows: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_design(self)
        _check_options(self)

    @property
    def arm(self) -> Term:
        """The treatment's term: 1 for those who were treated."""
        return next(term for term in self.design.terms if _of(term, self.treatment))

    @property
    def covariates(self) -> tuple[Term, ...]:
        """All other terms."""
        return tuple(term for term in self.design.terms if not _of(term, self.treatment))

    @property
    def modifying(self) -> tuple[Term, ...]:
        """The covariates' terms that may change the effect."""
        chosen = set(self.modifiers)
        return tuple(t for t in self.covariates if {f.column for f in t.factors} <= chosen)

    @cached_property
    def matrix(self) -> Design:
        """The covariates as a model matrix."""
        return replace(self.design, terms=self.covariates)

    @property
    def methods(self) -> tuple[str, ...]:
        """The method that was asked for, and those that its models give as well."""
        return (self.method,) if self.cross_fit else BESIDE[self.method]

    @property
    def models_outcome(self) -> bool:
        """Whether the outcome is modelled."""
        return self.method != "ipw" or bool(self.modifiers)

    def propensity(self, rows: Mapping[str, Any] | None = None) -> GLMSpec:
        """The model of the treatment, given the covariates."""
        design = replace(
            self.design, terms=self.covariates, response=self.treatment, response_bound=1.0
        )
        return GLMSpec(design, "binomial", 2, rows=dict(rows or {}), solver=SOLVER)

    def outcome(self, rows: Mapping[str, Any] | None = None) -> GLMSpec:
        """The model of the outcome, each coefficient one of its own in each arm."""
        arm = self.arm
        products = tuple(
            Term(f"{arm.name}:{t.name}", arm.factors + t.factors, arm.bound * t.bound)
            for t in self.covariates
        )
        design = replace(self.design, terms=(*self.covariates, arm, *products))
        family, classes = ("binomial", 2) if self.binary else ("gaussian", 0)
        return GLMSpec(design, family, classes, rows=dict(rows or {}), solver=SOLVER)

    def nuisance(self) -> tuple[GLMSpec, ...]:
        """Every model that a run may fit."""
        parts: list[dict[str, Any]] = [{}]
        if self.cross_fit or self.modifiers:
            parts += [{"folds": self.folds, "without": k} for k in range(self.folds)]
        found = [self.propensity(rows) for rows in parts]
        return (*found, *(self.outcome(rows) for rows in parts if self.models_outcome))

    def algorithm(self) -> Algorithm:
        """What estimates it; its model is an `Effect`."""
        from polyclinic.models.effects.algorithm import Effects

        return Effects(self)

    def to_data(self) -> dict[str, Any]:
        return {
            "design": self.design.to_data(),
            "treatment": self.treatment,
            "binary": self.binary,
            "method": self.method,
            "estimand": self.estimand,
            "trim": float(self.trim),
            "modifiers": list(self.modifiers),
            "folds": self.folds,
            "cross_fit": self.cross_fit,
            "rows": dict(self.rows),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Spec:
        return Spec(
            **{
                **data,
                "design": Design.from_data(data["design"]),
                "modifiers": tuple(data["modifiers"]),
                "rows": dict(data.get("rows", {})),
            }
        )


def _of(term: Term, column: str) -> bool:
    return any(factor.column == column for factor in term.factors)


def _check_design(spec: Spec) -> None:
    design, treatment = spec.design, spec.treatment
    own = [term for term in design.terms if _of(term, treatment)]
    plain = len(own) == 1 and len(own[0].factors) == 1 and own[0].factors[0].kind in _PLAIN
    filled = bool({treatment, design.response} & set(design.fills))
    if not plain or treatment == design.response or filled:
        raise InputError(
            f"{treatment} is no treatment that stands in the formula once, as it is",
            code="BAD_TREATMENT",
            rule="the treatment is a 0/1 column, a term by itself; gaps in it and in the outcome "
            "are not filled; what may change its effect are effect_modifiers",
            next=f'"{design.response} ~ {treatment} + age + ...", treatment = "{treatment}"',
        )
    if not spec.covariates or design.weight or design.offset or not design.intercept:
        raise InputError(
            "this formula has no treatment effect",
            code="BAD_FORMULA",
            rule="covariates, an intercept, no weights( ), no offset( )",
            next="correct the formula",
        )


_PLAIN = ("value", "level")


def _check_options(spec: Spec) -> None:
    found = {t for term in spec.covariates for t in {f.column for f in term.factors}}
    rules = [
        (spec.method in METHODS, "method", spec.method, f"one of {', '.join(METHODS)}"),
        (spec.estimand in ESTIMANDS, "estimand", spec.estimand, f"one of {', '.join(ESTIMANDS)}"),
        (
            LEAST_TRIM <= spec.trim <= MOST_TRIM,
            "trim",
            spec.trim,
            f"a number from {LEAST_TRIM} to {MOST_TRIM}",
        ),
        (2 <= spec.folds <= MOST_FOLDS, "folds", spec.folds, f"a number from 2 to {MOST_FOLDS}"),
        (
            set(spec.modifiers) <= found,
            "effect_modifiers",
            ", ".join(spec.modifiers),
            "columns of the formula's covariates",
        ),
        (
            not spec.cross_fit or spec.method == "aipw",
            "cross_fit",
            spec.cross_fit,
            'for method = "aipw" only: the others need the errors of their models',
        ),
    ]
    for fits, name, value, rule in rules:
        if not fits:
            raise InputError(
                f"{name} = {value}",
                code="WRONG_VALUE",
                rule=f"{name} is {rule}",
                next=f"correct {name}",
            )
