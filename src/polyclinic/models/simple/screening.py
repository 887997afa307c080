"""Which columns go with an outcome, one by one.

    classes, number      F = (between / (k - 1)) / (within / (n - k)), one-way analysis of variance
    classes, category    chi-square of the cross-table
    number, number       F = r^2 (n - 2) / (1 - r^2), r Pearson's correlation
    number, category     analysis of variance of the outcome by level

and mutual information of column and outcome: levels as they are, numbers cut where a normal one
would be in parts of equal size. p-values are adjusted for the number of columns by Benjamini and
Hochberg, *JRSS B* 57 (1995). What is hidden somewhere is not tested: it would be another table.

What leaves the site: the tables of `screening_tasks.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.contribution import Total
from polyclinic.core.design import Design
from polyclinic.core.plan import Plan
from polyclinic.models.descriptive import Column, Levels, Moments, Together
from polyclinic.models.descriptive.correlation import Products
from polyclinic.models.distributions import normal_quantile
from polyclinic.models.simple.rows import values
from polyclinic.models.simple.screening_tasks import THIRDS, task
from polyclinic.models.simple.univariate import Found, Tables, tests_of

Floats = NDArray[np.float64]
OUTCOME = Column(THIRDS, "category", ("low", "middle", "high"))
ROUNDS = 8  # at most


@dataclass(frozen=True)
class ScreeningSpec:
    """What is looked at.

    columns  beside the outcome
    classes  of the outcome; 0: a number
    bins     parts that a number is cut into for the mutual information
    """

    design: Design
    columns: tuple[Column, ...]
    classes: int
    bins: int = 4
    rows: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> Column:
        name, bound = self.design.response, self.design.response_bound
        if self.classes:
            return Column(name, "category", tuple(str(k) for k in range(self.classes)))
        return Column(name, "number", (), -bound, bound, bound)

    @property
    def numbers(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if not column.has_levels)

    @property
    def categories(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.has_levels)

    def to_data(self) -> dict[str, Any]:
        return {
            "design": self.design.to_data(),
            "rows": dict(self.rows),
            "columns": [
                {
                    "name": column.name,
                    "kind": column.kind,
                    "levels": list(column.levels),
                    "lower": column.lower,
                    "upper": column.upper,
                    "bound": float(column.bound),
                }
                for column in self.columns
            ],
            "classes": self.classes,
            "bins": self.bins,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> ScreeningSpec:
        columns = tuple(Column(**{**c, "levels": tuple(c["levels"])}) for c in data["columns"])
        made = Design.from_data(data["design"])
        return ScreeningSpec(made, columns, data["classes"], data["bins"], dict(data["rows"]))

    def algorithm(self) -> Screening:
        return Screening(self)

    def first(self) -> dict[str, Algorithm]:
        """What is asked first: all that needs no cut."""
        if self.classes:
            found: dict[str, Algorithm] = {"moments": Moments(self.numbers, self.outcome)}
            return found | {"levels": Levels(self.categories, self.outcome)}
        by = {f"by {column.name}": Moments((self.outcome,), column) for column in self.categories}
        return {"moments": Moments((self.outcome, *self.numbers)), **by}

    def second(self, moments: Mapping[str, Any]) -> dict[str, Algorithm]:
        """What is cut or multiplied, at places that follow from means and standard deviations."""
        by = self.outcome if self.classes else OUTCOME
        edges = {c.name: _edges(moments[c.name], self.bins) for c in self.numbers}
        found: dict[str, Algorithm] = {"bins": Bins(by, edges)}
        if not self.classes:
            found["levels"] = Levels(self.categories, by)
            found["correlation"] = Products((self.outcome, *self.numbers), moments)
        return found

    def wanted(self) -> dict[str, Any]:
        """Of each part the task and its values, for `check_tables`."""
        by = (self.outcome if self.classes else OUTCOME).coded()
        groups = 1 + by["levels"]
        edges = {c.name: np.zeros((groups, self.bins - 1)) for c in self.numbers}
        found = {
            "bins": ("descriptive.histogram", {"by": by, "edges": edges}),
            "levels": (
                "descriptive.levels",
                {"by": by, "columns": [column.coded() for column in self.categories]},
            ),
        }
        if self.classes:
            return found | {"moments": _moments(self.numbers, by)}
        size = 1 + len(self.numbers)
        products = {
            "columns": [self.outcome.name, *(c.name for c in self.numbers)],
            "centre": np.zeros(size),
            "exponent": np.zeros(size, dtype=np.int64),
        }
        found["correlation"] = ("descriptive.products", products)
        found["moments"] = _moments((self.outcome, *self.numbers), None)
        for column in self.categories:
            found[f"by {column.name}"] = _moments((self.outcome,), column.coded())
        return found


def _moments(columns: Sequence[Column], by: Mapping[str, Any] | None) -> tuple[str, Any]:
    shape = (1 if by is None else 1 + int(by["levels"]), len(columns))
    return (
        "descriptive.moments",
        {
            "columns": [column.name for column in columns],
            "by": by,
            "centre": np.zeros(shape),
            "exponent": np.zeros(shape, dtype=np.int64),
            "powers": 2,
            "centred": bool,
        },
    )


def _edges(figures: Mapping[str, Any], bins: int) -> Floats:
    """Where a normal number is cut into parts of equal size, (bins - 1,)."""
    mean, sd = figures["mean"] or 0.0, figures["sd"] or 0.0
    return np.asarray(mean + sd * normal_quantile(np.arange(1, bins) / bins))


@dataclass(frozen=True)
class Bins:
    """One round: rows per bin of each column, by level of `by`; model: {column: table}."""

    by: Column
    edges: Mapping[str, Floats]

    def init(self, seed: int) -> State:
        return {"done": not self.edges}

    def plan(self, state: State) -> Plan | None:
        if state["done"]:
            return None
        groups = 1 + len(self.by.levels)
        edges = {name: np.tile(edges, (groups, 1)) for name, edges in self.edges.items()}
        return Plan("descriptive.histogram", {"by": self.by.coded(), "edges": edges}, "bins")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        tables, hidden = {}, {}
        for name in self.edges:
            tables[name] = total[f"bins:{name}"][1:].T
            none = np.zeros_like(total[f"bins:{name}"])
            hidden[name] = bool(total.hidden.get(f"bins:{name}", none)[1:].any())
        return {"done": True, "tables": tables, "hidden": hidden}

    def model(self, state: State) -> dict[str, Any]:
        """None for a table with a hidden cell."""
        tables, hidden = state.get("tables", {}), state.get("hidden", {})
        return {name: None if hidden[name] else table for name, table in tables.items()}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class Screening:
    """The rounds; model: `ScreeningFit`."""

    spec: ScreeningSpec

    def _stages(self) -> Stages:
        def first(results: Sequence[Any]) -> Algorithm:
            return Together(self.spec.first(), "columns beside the outcome")

        def second(results: Sequence[Any]) -> Algorithm:
            found = self.spec.second(results[0]["moments"]["all"])
            return Together(found, "columns in parts beside the outcome")

        return Stages((first, second))

    def init(self, seed: int) -> State:
        return {"inner": self._stages().init(seed), "rounds": 0}

    def plan(self, state: State) -> Plan | None:
        inner = self._stages().plan(state["inner"])
        if inner is None:
            return None
        cuts = self._cuts(state["inner"])
        asked = values(self.spec.to_data(), parts=inner.values["parts"], cuts=cuts)
        return Plan(task.name, asked, inner.step)

    def _cuts(self, inner: State) -> Floats:
        """Where a number outcome is cut; empty before its spread is known."""
        if self.spec.classes or not inner["done"]:
            return np.zeros(0)
        first = self._stages().make[0](()).model(inner["done"][0])
        return _edges(first["moments"]["all"][self.spec.outcome.name], len(OUTCOME.levels))

    def update(self, state: State, plan: Plan, total: Total) -> State:
        inner = self._stages().plan(state["inner"])
        if inner is None:
            return state
        found = self._stages().update(state["inner"], inner, total)
        return {"inner": found, "rounds": state["rounds"] + 1}

    def model(self, state: State) -> ScreeningFit:
        first, second = self._stages().model(state["inner"])
        tables = Tables(self.spec.outcome, self.spec.classes, {**first, **second})
        found = tests_of(self.spec.columns, tables)
        whole = tables.parts["levels"]["all"]
        n = max((one.n for one in found), default=0)
        rows = (whole["rows"] or n, whole["patients"] or n)
        return ScreeningFit(self.spec, tuple(found), *rows, state["rounds"])

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class ScreeningFit:
    """The tests, in the order of the columns."""

    spec: ScreeningSpec
    found: tuple[Found, ...]
    n: int
    patients: int
    rounds: int
    converged: bool = True

    def predictor(self) -> None:
        return None

    def warnings(self) -> list[str]:
        return [f"{one.column} is not tested: {one.note}" for one in self.found if one.p is None]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """One line per column."""
        return {"screening": [one.to_data() for one in self.found]}

    def blocks(self) -> list[dict[str, Any]]:
        """The columns, most clearly associated first."""
        order = sorted(self.found, key=lambda one: (one.p is None, one.p or 0.0))
        rows = [
            [
                one.column,
                one.test,
                "" if one.statistic is None else f"{one.statistic:.2f}",
                _p(one.p),
                _p(one.q),
                "" if one.effect is None else f"{one.effect:.3f}",
                "" if one.information is None else f"{one.information:.3f}",
            ]
            for one in order
        ]
        head = ["column", "test", "statistic", "p", "p, adjusted", "effect", "mutual information"]
        return [
            {
                "title": "Columns beside the outcome, one by one",
                "kind": "table",
                "head": head,
                "rows": rows,
                "note": "Adjusted for the number of columns (Benjamini-Hochberg). Effect: share of "
                "variance between groups (F), Cramer's V (chi-square), correlation (r). Mutual "
                "information in nats, of numbers in parts.",
            }
        ]


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
