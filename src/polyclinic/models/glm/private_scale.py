"""Declared ranges: they scale the rows of a private fit, and lead its coefficients back.

Everything here follows from the codebook and the formula, nothing from a hospital's rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.glm.scale import Scale
from polyclinic.models.glm.spec import Spec
from polyclinic.models.private import UNDECLARED

Floats = NDArray[np.float64]
Range = tuple[float, float]
Ranges = Mapping[str, Range]

USUAL_SQUARE = 1.0 / 3.0  # mean square of a number that lies anywhere in [-1, 1] alike
SMALLEST_LARGEST = 2.0
_INDICATORS = ("level", "missing", "site", "bspline")


@dataclass(frozen=True)
class Bounds:
    """Scales of a private fit.

    centre, unit   of the terms, (n_terms,): (x - centre) / unit lies in [-1, 1]
    row_norm       longest row that counts in full, the leading 1 included
    outcome_centre, outcome_unit   the same for a number as outcome
    largest        largest count
    """

    centre: Floats
    unit: Floats
    row_norm: float
    outcome_centre: float = 0.0
    outcome_unit: float = 1.0
    largest: float = 1.0

    def to_data(self) -> dict[str, Any]:
        """As it stands in a plan."""
        return dict(vars(self))


def bounds_of(spec: Spec, ranges: Ranges) -> Bounds:
    """Scales of `spec` from declared ranges by column.

    A number is centred on the middle of its range; columns of which one at most is above 0, like
    the levels of a category, stay 0 to 1, because together they are not longer than one of them.
    The row norm allows each number the mean square of a uniform one: a longer row counts less.

    Raises
    ------
    InputError : NO_RANGE where neither `ranges` nor the design bounds a column.
    """
    design, p = spec.design, len(spec.design.terms)
    centre, unit, squares = np.zeros(p), np.ones(p), 0.0
    groups = [_group(term) for term in design.terms]
    sizes = Counter(group for group in groups if group)
    for j, term in enumerate(design.terms):
        group = groups[j]
        if group and sizes[group] > 1:
            squares += 1.0 / sizes[group]
            continue
        low, high = _term_range(term, ranges)
        if design.intercept:
            centre[j] = 0.5 * (low + high)
        unit[j] = max(high - centre[j], centre[j] - low) or 1.0
        squares += 1.0 if _is_indicator(term) else USUAL_SQUARE
    row_norm = math.sqrt(1.0 + squares)
    if spec.family == "binomial":
        return Bounds(centre, unit, row_norm)
    low, high = _response_range(design, ranges)
    if spec.family == "poisson":
        return Bounds(centre, unit, row_norm, largest=max(high, SMALLEST_LARGEST))
    middle = 0.5 * (low + high) if design.intercept else 0.0
    return Bounds(centre, unit, row_norm, middle, max(high - middle, middle - low) or 1.0)


@dataclass(frozen=True)
class PrivateScale(Scale):
    """Maps scaled coefficients to raw ones: raw = transform() @ scaled + origin()."""

    bounds: Bounds

    @property
    def quadratic(self) -> Floats:
        """Matrix of the L2 penalty in scaled units, (size, size)."""
        slope = self._slopes()
        return np.diag(np.where(self.is_term, self.spec.l2 * slope * slope, 0.0))

    def _slopes(self) -> Floats:
        lead = np.ones(int(self.spec.design.intercept))
        return np.concatenate([lead, 1.0 / self.bounds.unit])

    def transform(self) -> Floats:
        """Matrix from scaled to raw coefficients, (size, size)."""
        matrix = np.diag(self._slopes())
        if self.spec.design.intercept:
            matrix[0, 1:] = -self.bounds.centre / self.bounds.unit
        return np.asarray(self.bounds.outcome_unit * matrix)

    def origin(self) -> Floats:
        """Raw coefficients of the scaled ones 0, (size,)."""
        raw = np.zeros(self.spec.size)
        raw[: int(self.spec.design.intercept)] = self.bounds.outcome_centre
        return raw

    def plan(self, theta: Floats, order: int, step: str, **rows: Any) -> Plan:
        """No exact sum belongs to a private fit. Raises NO_PRIVATE_VERSION."""
        raise InputError(
            f"{step}: not for a model fitted with noise",
            code="NO_PRIVATE_VERSION",
            rule="a round without noise would undo the privacy of the rounds with it",
            next="use the standard errors of the fit; they include the noise",
        )


def _group(term: Term) -> tuple[str, str] | None:
    """Terms of which the squares add up to 1 at most in every row."""
    if len(term.factors) != 1 or term.factors[0].kind not in ("level", "bspline", "site"):
        return None
    factor = term.factors[0]
    return (factor.kind, "" if factor.kind == "site" else factor.column)


def _is_indicator(term: Term) -> bool:
    return bool(term.factors) and all(factor.kind in _INDICATORS for factor in term.factors)


def _response_range(design: Design, ranges: Ranges) -> Range:
    bound = design.response_bound
    if design.response in ranges:
        return _checked(design.response, ranges[design.response])
    if not 0 < bound < UNDECLARED:
        raise _no_range(design.response)
    return -bound, bound


def _term_range(term: Term, ranges: Ranges) -> Range:
    """Smallest and largest value of a term: the product of its factors', within its bound."""
    if not term.factors and term.name in ranges:
        return _checked(term.name, ranges[term.name])
    low, high = 1.0, 1.0
    for factor in term.factors:
        ends = _factor_range(factor, ranges)
        if ends is None:
            low, high = -math.inf, math.inf
            break
        products = [a * b for a in (low, high) for b in ends]
        low, high = min(products), max(products)
    if not term.factors:
        low, high = -math.inf, math.inf
    declared = 0 < term.bound < UNDECLARED
    if not declared and not math.isfinite(high - low):
        raise _no_range(term.name)
    bound = term.bound if declared else math.inf
    return max(low, -bound), min(high, bound)


def _factor_range(factor: Factor, ranges: Ranges) -> Range | None:
    """None where only the term's bound is known."""
    if factor.kind in _INDICATORS:
        return 0.0, 1.0
    if factor.column not in ranges or factor.kind == "natural":
        return None
    low, high = _checked(factor.column, ranges[factor.column])
    points = [low, high, *([0.0] if low < 0.0 < high else [])]  # monotone on each side of 0
    with np.errstate(all="ignore"):
        values = factor.evaluate({factor.column: np.array(points)}, {})
    if not np.isfinite(values).all():
        return None
    return float(values.min()), float(values.max())


def _checked(name: str, ends: Range) -> Range:
    low, high = float(ends[0]), float(ends[1])
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise _no_range(name)
    return low, high


def _no_range(name: str) -> InputError:
    return InputError(
        f"{name} has no range in the codebook",
        code="NO_RANGE",
        rule="noise is measured against the range that a column may have, never against its values",
        next=f"give {name} a range in the codebook",
    )
