"""Table 1: every column described, by the levels of one column, overall and per site.

Overall figures come from sums over sites. Figures per site are collected in rounds of their own, so
a site that allows sums only still takes part in a table without the columns per site.

What leaves the site: the arrays of moments.py, levels.py and histogram.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.descriptive.column import Column
from polyclinic.models.descriptive.levels import Levels
from polyclinic.models.descriptive.moments import Moments
from polyclinic.models.descriptive.quantiles import Quantiles
from polyclinic.models.descriptive.together import EachSite, Together

QUARTILES = (0.25, 0.5, 0.75)
_NAMES = {"median": "0.5", "q1": "0.25", "q3": "0.75", "low": "low", "high": "high"}


@dataclass(frozen=True)
class Describe:
    """Every column described: numbers by mean, sd, quartiles; levels by counts and percent.

    Model: ``{"all": Group, "by": {level: Group}}``; Group = ``{"rows", "patients", "columns"}``. A
    number column has n, missing, hidden_sites, mean, sd, median, q1, q3, low, high (see
    `Quantiles`), a column of levels has n, missing, hidden_sites, levels (see `Levels`). Counts
    that a site hid are None.

    Parameters
    ----------
    by_site : describe each site by itself instead; the model is then ``{site: ...}``.
    """

    columns: tuple[Column, ...]
    by: Column | None = None
    by_site: bool = False

    def init(self, seed: int) -> State:
        return self._together.init(seed)

    def plan(self, state: State) -> Plan | None:
        return self._together.plan(state)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return self._together.update(state, plan, total)

    def model(self, state: State) -> dict[str, Any]:
        parts = self._together.model(state)
        if not self.by_site:
            return self._scope(parts)
        return {
            site: self._scope({name: part[site] for name, part in parts.items()})
            for site in parts["levels"]
        }

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    @property
    def _together(self) -> Together:
        numbers = tuple(column for column in self.columns if not column.has_levels)
        coded = tuple(column for column in self.columns if column.has_levels)
        parts: dict[str, Algorithm] = {"levels": Levels(coded, self.by)}
        if numbers:
            parts["moments"] = Moments(numbers, self.by)
            parts["quantiles"] = Quantiles(numbers, QUARTILES, self.by, tolerance=1e-3)
        if not self.by_site:
            return Together(parts, "table 1")
        each = {name: EachSite(part) for name, part in parts.items()}
        return Together(each, "table 1 of each site", "collect")

    def _scope(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        levels = self.by.levels if self.by else ()
        return {
            "all": self._group({name: part["all"] for name, part in parts.items()}),
            "by": {
                level: self._group({name: part["by"][level] for name, part in parts.items()})
                for level in levels
            },
        }

    def _group(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        counts = parts["levels"]
        columns = {}
        for column in self.columns:
            if column.has_levels:
                found = dict(counts["columns"][column.name])
            else:
                found = _number(parts["moments"][column.name], parts["quantiles"][column.name])
            columns[column.name] = {"kind": column.kind, **found}
        return {"rows": counts["rows"], "patients": counts["patients"], "columns": columns}


@dataclass(frozen=True)
class TableOne:
    """Table 1. Model: ``{"by", "columns", "overall", "sites"}``.

    `overall` and each of `sites` are as `Describe` gives them; `by` is None or ``{"name",
    "levels"}``; `columns` lists ``{"name", "kind", "levels"}`` in order.

    Parameters
    ----------
    by_site : also one table per site (collected: a site must allow it).
    """

    columns: tuple[Column, ...]
    by: Column | None = None
    by_site: bool = True

    def init(self, seed: int) -> State:
        return self._stages.init(seed)

    def plan(self, state: State) -> Plan | None:
        return self._stages.plan(state)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return self._stages.update(state, plan, total)

    def model(self, state: State) -> dict[str, Any]:
        overall, *sites = self._stages.model(state)
        return {
            "by": {"name": self.by.name, "levels": list(self.by.levels)} if self.by else None,
            "columns": [
                {"name": c.name, "kind": c.kind, "levels": list(c.levels)} for c in self.columns
            ],
            "overall": overall,
            "sites": sites[0] if sites else {},
        }

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    @property
    def _stages(self) -> Stages:
        overall = Describe(self.columns, self.by)
        sites = Describe(self.columns, self.by, by_site=True)
        if not self.by_site:
            return Stages((lambda _: overall,))
        return Stages((lambda _: overall, lambda _: sites))


def _number(moments: Mapping[str, Any], quantiles: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("n", "missing", "hidden_sites", "mean", "sd")
    return {name: moments[name] for name in kept} | {
        name: quantiles[key] for name, key in _NAMES.items()
    }
