"""What the parts of a scope share: the patients, the model matrix, the rows of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.design import Design
from polyclinic.data.cohort import Cohort, rules_of
from polyclinic.data.formula import compile_formula, complete_columns, formula_columns
from polyclinic.governance.paper import Paper
from polyclinic.governance.scope_columns import require
from polyclinic.governance.study_file import Study


@dataclass(frozen=True)
class Agreed:
    """What a paper with a study says of the rows."""

    paper: Paper

    @property
    def study(self) -> Study:
        study = self.paper.study
        if not isinstance(study, Study):
            raise TypeError("a session has no model")
        return study

    @cached_property
    def cohort(self) -> Cohort:
        """The patients that a study's model is fitted on."""
        study, section = self.study, self.study.cohort
        formula, codebook = study.model.formula, self.paper.codebook
        missing = rules_of(section.missing, complete_columns(formula, codebook))
        return Cohort(study.fitted_on, formula_columns(formula, codebook), missing)

    @cached_property
    def judged(self) -> Cohort | None:
        """The patients who are set aside, and judged on alone; None: nobody is."""
        where = self.study.judged_on
        return None if where is None else replace(self.cohort, where=where)

    @cached_property
    def filled(self) -> tuple[str, ...]:
        """Columns of a study whose gaps a pooled mean fills."""
        return self.cohort.with_rule("mean")

    @cached_property
    def design(self) -> Design:
        """The model matrix of a study; its fills and terms of hospitals are left open."""
        fills = dict.fromkeys(self.filled, 0.0)
        formula, codebook = self.study.model.formula, self.paper.codebook
        return compile_formula(formula, codebook, fills=fills, indicators=self.filled)

    @cached_property
    def folds(self) -> int:
        """Folds of a study's cross-validation; 0 without."""
        section = self.study.evaluation
        return section.folds if section.validate_ == "cross-validation" else 0

    def check_design(self, data: Mapping[str, Any], wanted: Design | None = None) -> int:
        """Compare a design with the study's (or `wanted`, made of it); the number of its terms."""
        terms, effects = list(data["terms"]), []
        if self.study.model.site_effects:
            effects = [term for term in terms if str(term["name"]).startswith("site[T.")]
            terms = [term for term in terms if term not in effects]
            self._effects(effects)
            require(list(data["terms"]) == [*terms, *effects], "another model")
        fills = data["fills"]
        require(set(fills) == set(self.filled), "another model")
        require(all(is_number(value) for value in fills.values()), "another model")
        plain = {**data, "terms": terms, "fills": dict.fromkeys(self.filled, 0.0)}
        require(
            codec.digest(plain) == codec.digest((wanted or self.design).to_data()), "another model"
        )
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

    def check_rows(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """All rows, or all but a fold; what else is said of them."""
        left = dict(rows)
        if "folds" in left:
            folds, without = left.pop("folds"), left.pop("without")
            require(type(folds) is int and folds == self.folds > 0, "another validation")
            require(type(without) is int and 0 <= without < folds, "another validation")
        return left


def is_number(value: Any) -> bool:
    """A finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def is_array(value: Any, shape: tuple[int, ...]) -> bool:
    """A finite array of numbers of this shape."""
    fits = isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind in "fiu"
    return bool(fits and np.all(np.isfinite(value)))
