"""Several algorithms in the same rounds, and one algorithm for every site at once.

`Together` asks what all its parts ask in one plan, so a table of many statistics needs as many
rounds as its slowest part. `EachSite` runs one instance of an algorithm per site, each with its own
state, in the same rounds; it collects, so a site's policy must allow it by name.

What leaves the site: exactly the arrays of the parts, named ``part/array``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Algorithm, State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposing, Exposure, Members
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Combine, Plan
from polyclinic.core.task import Grain, Task, lookup
from polyclinic.models.descriptive.exposure import Own

Ask = Mapping[str, Any]  # {"task", "version", "values"}: one part of a plan


@dataclass(frozen=True)
class TogetherTask:
    """The contributions of several tasks as one. Plan values: parts, by name."""

    name: str = "descriptive.together"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return tuple(
            _renamed(leaf, part)
            for part, ask in sorted(plan.values["parts"].items())
            for leaf in _task(ask, self).leaves(_plan(plan, part, ask))
        )

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Those of the parts."""
        found = Exposure()
        for part, ask in sorted(plan.values["parts"].items()):
            arrays = _of_part(own, f"{part}/")
            one = _exposure(_task(ask, self), _plan(plan, part, ask), partition, arrays)
            cells = {f"{part}/{name}": shares for name, shares in one.cells.items()}
            found = replace(found, cells={**found.cells, **cells})
            members = tuple(_renamed_cell(found, part) for found in one.members)
            found = replace(found, members=(*found.members, *members))
        return found

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """None: small cells are hidden one by one."""
        return ()

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """None."""
        return (), 0

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        leaves: dict[str, Any] = {}
        cells: dict[str, NDArray[np.int64]] = {}
        for part, ask in sorted(plan.values["parts"].items()):
            one = _task(ask, self).local(_plan(plan, part, ask), partition)
            leaves |= {f"{part}/{name}": array for name, array in one.leaves.items()}
            cells |= {f"{part}/{name}": counts for name, counts in one.evidence.cells.items()}
        return Contribution(leaves, Evidence(partition.n_patients, cells))


@dataclass(frozen=True)
class EachSiteTask:
    """One task with values of the site's own. Plan values: task, version, sites.

    ``sites[name]`` are the values for that site, ``sites[""]`` those for a site that is not named;
    None: nothing is left to ask there, and zeros are answered. The declared arrays are the same at
    every site.
    """

    name: str = "descriptive.each_site"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        if plan.combine != "collect":  # the total of one hospital's answer is that answer
            raise PolyclinicError(
                f"{plan.task} is not added up",
                code="BAD_MESSAGE",
                rule="what hospitals are asked one by one they answer by name: combine = collect",
            )
        ask, inner = self._asked(plan)
        return _task(ask, self).leaves(inner)

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Those of the task that this site is asked for."""
        place, ask = self._asked_of(plan, partition.site)
        if ask["values"] is None:
            return Exposure()
        return _exposure(_task(ask, self), _plan(plan, f"site {place}", ask), partition, own)

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """None: small cells are hidden one by one."""
        return ()

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """None."""
        return (), 0

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        place, ask = self._asked_of(plan, partition.site)
        if ask["values"] is None:
            return _nothing(self.leaves(plan), partition)
        return _task(ask, self).local(_plan(plan, f"site {place}", ask), partition)

    def _asked_of(self, plan: Plan, site: str) -> tuple[str, Ask]:
        sites = plan.values["sites"]
        place = site if site in sites else ""
        return place, {**plan.values, "values": sites[place]}

    def _asked(self, plan: Plan) -> tuple[Ask, Plan]:
        values = next(v for _, v in sorted(plan.values["sites"].items()) if v is not None)
        ask = {**plan.values, "values": values}
        return ask, _plan(plan, "any site", ask)


@dataclass(frozen=True)
class Together:
    """Independent algorithms in the same rounds; model: their results by name."""

    parts: Mapping[str, Algorithm]
    step: str = "statistics"
    combine: Combine = "sum"

    def init(self, seed: int) -> State:
        return {name: part.init(seed) for name, part in self.parts.items()}

    def plan(self, state: State) -> Plan | None:
        plans = {name: part.plan(state[name]) for name, part in self.parts.items()}
        asks = {name: _ask(plan) for name, plan in plans.items() if plan is not None}
        if not asks:
            return None
        return Plan("descriptive.together", {"parts": asks}, self.step, combine=self.combine)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        new = dict(state)
        for name, ask in plan.values["parts"].items():
            inner = _plan(plan, name, ask)
            new[name] = self.parts[name].update(state[name], inner, _part(total, f"{name}/"))
        return new

    def model(self, state: State) -> dict[str, Any]:
        return {name: part.model(state[name]) for name, part in self.parts.items()}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class EachSite:
    """One instance of `each` per site, in the same rounds; model: results by site.

    The arrays that `each` asks for must have the same shapes at all sites in every round. In a
    domain without sites the result stands under "".
    """

    each: Algorithm

    def init(self, seed: int) -> State:
        return {"names": [], "start": self.each.init(seed), "states": {}}

    def plan(self, state: State) -> Plan | None:
        states: dict[str, State] = state["states"] or {"": state["start"]}
        plans = {site: self.each.plan(inner) for site, inner in states.items()}
        first = next((plan for plan in plans.values() if plan is not None), None)
        if first is None:
            return None
        asked = {site: None if plan is None else dict(plan.values) for site, plan in plans.items()}
        values = {"task": first.task, "version": first.version, "sites": asked}
        return Plan("descriptive.each_site", values, f"{first.step}, each site", combine="collect")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        states: dict[str, State] = dict(state["states"])
        asked = plan.values["sites"]
        for site, answer in total.by_site.items():
            ask = {**plan.values, "values": asked[site if site in asked else ""]}
            if ask["values"] is not None:
                before = states[site] if site in states else state["start"]
                states[site] = self.each.update(before, _plan(plan, f"site {site}", ask), answer)
        return {**state, "names": list(total.by_site), "states": states}

    def model(self, state: State) -> dict[str, Any]:
        return {site: self.each.model(state["states"][site]) for site in state["names"]}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


def _ask(plan: Plan) -> dict[str, Any]:
    return {"task": plan.task, "version": plan.version, "values": dict(plan.values)}


def _plan(plan: Plan, place: str, ask: Ask) -> Plan:
    """The part of `plan` that `ask` describes, made once per plan."""

    def made() -> Plan:
        return Plan(ask["task"], ask["values"], version=ask["version"], combine=plan.combine)

    return plan.once(f"part {place}", made)


def _task(ask: Ask, outer: Task) -> Task:
    """The task that `ask` names: a statistic of this package.

    A site that allows these tables to be collected has thereby allowed no other algorithm.
    """
    task = lookup(ask["task"], ask["version"])
    plain = task.grain == "row" and isinstance(task, Exposing)  # one with noise is asked by itself
    if not plain or not task.name.startswith("descriptive."):
        raise PolyclinicError(
            f"{outer.name} cannot run {task.name}",
            code="UNKNOWN_TASK",
            rule="tables are made of descriptive statistics by row",
        )
    return task


def _exposure(task: Task, plan: Plan, partition: Partition, own: Own) -> Exposure:
    return task.exposure(plan, partition, own) if isinstance(task, Exposing) else Exposure()


def _renamed(leaf: Leaf, part: str) -> Leaf:
    return replace(leaf, name=f"{part}/{leaf.name}")


def _renamed_cell(members: Members, part: str) -> Members:
    if members.cell is None:
        return members
    leaf, place = members.cell
    return replace(members, cell=(f"{part}/{leaf}", place))


def _nothing(leaves: tuple[Leaf, ...], partition: Partition) -> Contribution:
    zeros = {
        leaf.name: np.zeros(leaf.shape, np.int64 if leaf.ring == "int64" else np.float64)
        for leaf in leaves
    }
    cells = {
        leaf.name: np.zeros(leaf.shape, np.int64) for leaf in leaves if leaf.support == "cells"
    }
    return Contribution(zeros, Evidence(partition.n_patients, cells))


def _part(total: Total, prefix: str) -> Total:
    """The arrays of one part, under their own names."""

    by_site = {site: _part(one, prefix) for site, one in total.by_site.items()}
    return replace(
        total,
        values=_of_part(total.values, prefix),
        hidden=_of_part(total.hidden, prefix),
        by_site=by_site,
    )


def _of_part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
