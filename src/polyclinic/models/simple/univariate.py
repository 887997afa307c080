"""Tests of one column beside the outcome, from summed tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.descriptive import Column, CrossTable
from polyclinic.models.distributions import f_tail

Ints = NDArray[np.int64]
HIDDEN = "a hospital hid a part of too few patients"


@dataclass(frozen=True)
class Found:
    """One column.

    test         "F", "chi2" or "r"
    statistic    F, chi-square, or for "r" the F of the correlation
    df           degrees of freedom: (between, within), or (df,)
    effect       eta squared, Cramer's V, or the correlation
    information  mutual information with the outcome, in nats
    p, q         p-value, and adjusted for the number of columns
    note         why there is no test
    """

    column: str
    test: str
    n: int = 0
    statistic: float | None = None
    df: tuple[int, ...] = ()
    p: float | None = None
    q: float | None = None
    effect: float | None = None
    information: float | None = None
    note: str = ""

    def to_data(self) -> dict[str, Any]:
        """As a line of a table."""
        return {**vars(self), "df": " and ".join(map(str, self.df))}


@dataclass(frozen=True)
class Tables:
    """What was summed, by part.

    classes  of the outcome; 0: a number
    """

    outcome: Column
    classes: int
    parts: Mapping[str, Any]


def tests_of(columns: Sequence[Column], tables: Tables) -> list[Found]:
    """Every column's test, with p-values adjusted for their number."""
    found = []
    for column in columns:
        if column.has_levels:
            one, table = _category(column, tables)
        else:
            one, table = _number(column, tables)
        information = None if table is None else mutual_information(table)
        found.append(replace(one, information=information))
    known = [i for i, one in enumerate(found) if one.p is not None]
    adjusted = benjamini_hochberg([found[i].p or 0.0 for i in known])
    for i, q in zip(known, adjusted, strict=True):
        found[i] = replace(found[i], q=q)
    return found


def _number(column: Column, tables: Tables) -> tuple[Found, Ints | None]:
    table = tables.parts["bins"].get(column.name)
    if tables.classes:
        moments = tables.parts["moments"]
        whole = moments["all"][column.name]
        groups = [group[column.name] for group in moments["by"].values()]
        return variance(column.name, whole, groups), table
    return _correlation(column.name, tables.parts["correlation"]), table


def _category(column: Column, tables: Tables) -> tuple[Found, Ints | None]:
    table = _table(column, tables)
    if not tables.classes:
        moments = tables.parts[f"by {column.name}"]
        whole = moments["all"][tables.outcome.name]
        groups = [group[tables.outcome.name] for group in moments["by"].values()]
        return variance(column.name, whole, groups), table
    if table is None:
        return Found(column.name, "chi2", note=HIDDEN), None
    test = CrossTable(column, tables.outcome, correction=False).test(table)
    n, used = int(table.sum()), [np.count_nonzero(table.sum(axis=axis)) for axis in (0, 1)]
    if test["chi2"] is None:
        return Found(column.name, "chi2", n, note=test["note"]), table
    effect = float(np.sqrt(test["chi2"] / (n * (min(used) - 1))))
    line = Found(column.name, "chi2", n, test["chi2"], (test["df"],), test["p"], effect=effect)
    return line, table


def _table(column: Column, tables: Tables) -> Ints | None:
    """Rows by level of the column and group of the outcome; None where one is hidden."""
    groups = [group["columns"][column.name] for group in tables.parts["levels"]["by"].values()]
    lines = [[group["levels"][level]["n"] for group in groups] for level in column.levels]
    if any(n is None for line in lines for n in line):
        return None
    return np.array(lines, dtype=np.int64)


def variance(name: str, whole: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Found:
    """One-way analysis of variance from the moments of groups."""
    n = int(whole["n"])
    if whole["hidden_sites"] or any(group["hidden_sites"] for group in groups):
        return Found(name, "F", n, note=HIDDEN)
    used = [group for group in groups if group["n"] > 0]
    n, k = sum(group["n"] for group in used), len(used)
    if k < 2 or n <= k:
        return Found(name, "F", n, note="there are fewer than two groups, or too few rows")
    mean = sum(group["n"] * group["mean"] for group in used) / n
    between = sum(group["n"] * (group["mean"] - mean) ** 2 for group in used)
    within = sum((group["n"] - 1) * (group["variance"] or 0.0) for group in used)
    if not between + within > 0:
        return Found(name, "F", n, note="it is the same in all rows")
    statistic = between / (k - 1) / (within / (n - k)) if within > 0 else float("inf")
    p = float(f_tail(statistic, k - 1, n - k))
    effect = between / (between + within)
    return Found(name, "F", n, float(statistic), (k - 1, n - k), p, effect=float(effect))


def _correlation(name: str, found: Mapping[str, Any]) -> Found:
    i, j = found["columns"].index(name), 0
    n, r = int(found["n"][i, j]), float(found["correlation"][i, j])
    if found["hidden_sites"][i, j] or found["hidden_sites"][i, i]:
        return Found(name, "r", n, note=HIDDEN)
    if not np.isfinite(r) or n <= 2:
        return Found(name, "r", n, note="it, or the outcome, is the same in all rows")
    rest = 1.0 - r * r
    statistic = r * r * (n - 2) / rest if rest > 0 else float("inf")
    p = float(f_tail(statistic, 1, n - 2))
    return Found(name, "r", n, float(statistic), (1, n - 2), p, effect=r)


def mutual_information(table: Ints) -> float | None:
    """Of a table of counts, in nats; None of an empty one."""
    n = table.sum()
    if n == 0:
        return None
    p = table / n
    expected = np.outer(p.sum(axis=1), p.sum(axis=0))
    used = p > 0
    return float(max(np.sum(p[used] * np.log(p[used] / expected[used])), 0.0))


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the same order."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)[::-1]
    m = len(values)
    steps = values[order] * m / np.arange(m, 0, -1)
    out = np.empty(m)
    out[order] = np.minimum(np.minimum.accumulate(steps), 1.0)
    return [float(q) for q in out]
