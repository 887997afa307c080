"""Patients behind the levels of a model matrix: the counts that the gate looks at.

Every term is looked at, and every factor of a product: a sum over all patients but one, beside the
sum over all, is that one's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design, Factor, Term

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Key = NDArray[np.int64] | None
FEW_VALUES = 20  # a column of no more distinct values than this is counted value by value
LOOKED_AT = 1000  # rows that show whether a column can have so few


@dataclass(frozen=True)
class Data:
    """The rows that are summed.

    columns  as in a partition, `y` the outcome, `key` ordinals of the rows' patients in order
    """

    columns: Mapping[str, Floats]
    fills: Mapping[str, float]
    y: Floats
    classes: int
    key: Key

    @cached_property
    def seen(self) -> Indicators:
        """What has been looked at."""
        return Indicators(self)


def factors_of(design: Design) -> Design:
    """The factors of products that are no term themselves, each as a term under a name of its own.

    Site terms have no patients of their own and are left out.
    """
    alone = {term.factors[0] for term in design.terms if len(term.factors) == 1}
    taken, made = set(design.names), []
    for term in design.terms:
        for factor in term.factors if len(term.factors) > 1 else ():
            if factor.kind == "site" or factor in alone:
                continue
            alone.add(factor)
            name = f"{factor.kind} {factor.column} {factor.args}"
            while name in taken:
                name += "'"
            taken.add(name)
            made.append(Term(name, (factor,), term.bound))
    return replace(design, terms=tuple(made))


def few_values(design: Design, x: Floats, key: Key) -> dict[str, dict[str, int]]:
    """Patients per value of the columns `x` (n_rows, n_terms) that have few; "*": it has many."""
    values: dict[str, dict[str, int]] = {}
    for j, name in enumerate(design.names):
        many = len(np.unique(x[:LOOKED_AT, j])) > FEW_VALUES
        found = np.zeros(0) if many else np.unique(x[:, j])
        if many or len(found) > FEW_VALUES:
            values[name] = {"*": 0}
        else:
            values[name] = {_text(float(v)): patients(x[:, j] == v, key) for v in found}
    return values


def _text(value: float) -> str:
    """A name of the value that no other value has."""
    return str(int(value)) if value.is_integer() and abs(value) < 2.0**53 else repr(value)


def filled_slots(design: Design) -> tuple[str, ...]:
    """Names of `filled_counts`."""
    return tuple(f"filled: {column}" for column in design.fills)


def filled_counts(design: Design, columns: Mapping[str, Floats], key: Key) -> dict[str, int]:
    """Patients whose gap in a column is filled: other fills would show their other values."""
    names = zip(filled_slots(design), design.fills, strict=True)
    return {name: patients(np.isnan(columns[column]), key) for name, column in names}


def patients(mask: Bools, key: Key) -> int:
    """Patients with a row in `mask`; rows of a patient stand together."""
    if key is None:
        return int(np.count_nonzero(mask))
    inside = key[mask]
    return int(np.count_nonzero(np.diff(inside))) + 1 if len(inside) else 0


def value_counts(design: Design, data: Data) -> dict[str, dict[str, int]]:
    """Patients per value of a column of few values within a product, where both can be told apart.

    Several functions of one column, like `pain` and `pain^2`, each times the same, are equations
    for the sums over the patients of each of its values.
    """
    forms: dict[str, set[Factor]] = {}
    for term in design.terms:
        for factor in term.factors:
            forms.setdefault(factor.column, set()).add(factor)
    found: dict[str, dict[str, int]] = {}
    seen = data.seen
    for term in design.terms:
        for column in {f.column for f in term.factors if f.kind != "site"}:
            rest, _ = seen.of(tuple(f for f in term.factors if f.column != column))
            x = data.columns[column]
            if rest is None or len(forms[column]) < 2:
                continue
            if len(np.unique(x[:LOOKED_AT])) > FEW_VALUES:
                continue
            for name, inside in (("", rest), (" less", ~rest)):
                values = {_text(float(v)): inside & (x == v) for v in np.unique(x[~np.isnan(x)])}
                counts = {v: 2 * patients(mask, data.key) for v, mask in values.items()}
                found[f"{column} in {term.name!r}{name}"] = counts
    return found


def product_counts(design: Design, data: Data) -> dict[str, int]:
    """Patients who have all factors of a product that say yes or no, and who lack one of them.

    By the names of the products' own values 1 and 0: also beside many values, their sums over all
    columns less one would be of those who lack it.
    """
    found: dict[str, int] = {}
    seen = data.seen
    for term in design.terms:
        mask, many = seen.of(term.factors)
        if len(term.factors) > 1 and mask is not None and many:
            found[f"{term.name} = 0"] = patients(~mask, data.key)
            found[f"{term.name} = 1"] = patients(mask, data.key)
    return found


class Indicators:
    """Who has the factors that say yes or no, and whether there are others beside them.

    It refers to the rows and not to the `Data` that refers to it: a circle would keep all of them
    in memory until Python looks for circles, which it does rarely in a worker of Dask.
    """

    def __init__(self, data: Data) -> None:
        self._columns, self._fills = data.columns, data.fills
        self._y, self._classes = data.y, data.classes
        self._known: dict[Factor, Bools | None] = {}

    def of(self, factors: tuple[Factor, ...]) -> tuple[Bools | None, bool]:
        """Rows that have all of the factors, None where there is none; True: some have values."""
        found = [self._one(factor) for factor in factors if factor.kind != "site"]
        known = [mask for mask in found if mask is not None]
        return np.all(known, axis=0) if known else None, len(known) < len(found)

    def outcome(self, label: int) -> Bools | None:
        """Rows that have the outcome; None where it has other values."""
        says_yes = self._classes > 0 or _only(self._y)
        return self._y == label if says_yes else None

    def _one(self, factor: Factor) -> Bools | None:
        if factor not in self._known:
            self._known[factor] = self._look(factor)
        return self._known[factor]

    def _look(self, factor: Factor) -> Bools | None:
        raw = self._columns[factor.column]
        if factor.kind not in ("level", "missing") and _only(raw):
            return np.asarray(raw == 1.0)  # whatever is made of it
        x = factor.evaluate(self._columns, self._fills)
        return np.asarray(x == 1.0) if _only(x) else None


def _only(x: Floats) -> bool:
    """Whether every number is 0 or 1; a gap is none."""
    return bool(np.all((x == 0.0) | (x == 1.0) | np.isnan(x)))
