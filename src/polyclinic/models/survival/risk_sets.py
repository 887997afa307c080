"""The site's half of a Cox regression with one baseline for all sites, on an agreed grid.

What leaves the site, per interval of the grid, of the patients who left in it: how many had the
event; at given coefficients the sums of r = w exp(eta), of r x and of r x x'. The sites add up to
the risk sets of all patients together. Intervals are taken together into runs that do not depend on
the coefficients, and a run's sums are shared out evenly to its intervals. A run holds ten patients
per coefficient and at least twenty; none or enough with the event and without; none or enough with
and without every column that says yes or no, and of every pair of those. So no sum is that of a
few, and none can be solved for single patients. Those who have the event within the grid are behind
sums of their own, so another grid has none or enough of them more or less; a few after its end are
counted with the last of them. A site that cannot make such a run is left out, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.survival.exposure import Asked, Exposed, Own, exposure_of, judged
from polyclinic.models.survival.rows import key_of, rows_of, spec_of
from polyclinic.models.survival.spec import CoxSpec
from polyclinic.models.survival.steps import base_runs, interval_of, rows_for, united
from polyclinic.models.survival.tasks import theta_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
PER_COEFFICIENT, FEWEST = 10, 20  # patients of a run
MOST_PAIRS = 2000  # of yes-or-no columns: above, a run asks for every column by itself only


@dataclass(frozen=True)
class Grid:
    """Rows on the grid.

    rows   places of those that are used, (n,)
    event  which of them have the event within the grid, (n,)
    left   ends of the run in which each one left, (2, n)
    out    the site is left out
    """

    rows: Ints
    event: Bools
    left: Ints
    out: bool

    def runs(self) -> list[Ints]:
        """Places in `rows` of each run, in order of time."""
        order = np.argsort(self.left[0], kind="stable")
        cuts = np.flatnonzero(np.diff(self.left[0][order])) + 1
        return [run for run in np.split(order, cuts) if len(run)]


def grid_of(spec: CoxSpec, partition: Partition) -> Grid:
    """Where the rows lie; made once, whatever the coefficients."""
    made: Grid = partition.cached(f"grid {key_of(spec)}", lambda: _grid(spec, partition))
    return made


def _grid(spec: CoxSpec, partition: Partition) -> Grid:
    rows = rows_of(spec, partition)
    used = np.flatnonzero(rows.used)
    edges = np.asarray(spec.edges)
    interval = interval_of(rows.time[used], edges)
    event = rows.event[used] & (interval < len(edges))
    late = rows.event[used] & ~event
    if 0 < partition.patients(_mask(partition, used[late])) < spec.least:
        event = event | late  # events of all less those of the grid would be these few
    if spec.least <= 1:  # one trust domain
        return Grid(used, event, np.stack([interval] * 2), False)
    fewest = rows_for(spec.least, partition.key)
    marks, least = _marks(rows.x[used], event, fewest)
    size = rows_for(max(spec.least, FEWEST, PER_COEFFICIENT * rows.x.shape[1]), partition.key)
    status = np.nan_to_num(partition.columns[str(spec.design.event)][used]).astype(np.int64)
    status = np.where(interval == len(edges), 0, status)
    base = base_runs(interval, len(edges) + 1, status, fewest)
    *left, whole = united(*base, len(edges) + 1, size, marks, least)
    return Grid(used, event, np.stack(left), not whole)


def _marks(x: Floats, event: Bools, least: int) -> tuple[Bools, Ints]:
    """What must not be rare in a run, and of how many patients it must be."""
    found, wanted = [event, ~event], [least, least]
    yes = [x[:, j] != 0 for j in range(x.shape[1]) if len(np.unique(x[:1000, j])) <= 2]
    for one in yes:
        found += [one, ~one]
        wanted += [least, least]
    if len(yes) * len(yes) <= MOST_PAIRS:
        for one, two in combinations(yes, 2):
            found += [one & two, one & ~two, ~one & two, ~one & ~two]
            wanted += [(least + 1) // 2] * 4
    return np.column_stack(found), np.array(wanted)


@dataclass(frozen=True)
class RiskSetsTask(Exposed):
    """Sums per interval at candidates "theta" (m, n_terms)."""

    name: str = "survival.risk_sets"
    version: int = 1
    grain: Grain = "site"

    def asked(self, plan: Plan) -> Asked:
        return Asked(theta_of(plan), int(plan.values["state"]["order"]), True)

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        m, p = theta_of(plan).shape
        steps, order = len(spec_of(plan).edges) + 1, plan.values["state"]["order"]
        leaves = [
            Leaf("too_large", (m,), "flag", "int64", support="weights"),
            Leaf("deaths", (steps,), "events", support="cells"),
            Leaf("left_out", (), "flag", "int64"),
            Leaf("observed", (p,), "sum over events"),
            Leaf("r", (m, steps), "weights of who left", support="weights"),
        ]
        if order >= 1:
            leaves.append(Leaf("rx", (m, steps, p), "weighted sums", support="weights"))
        if order == 2:
            size = p * (p + 1) // 2
            leaves.append(Leaf("rxx", (m, steps, size), "weighted products", support="weights"))
        return tuple(leaves)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        spec, theta = spec_of(plan), theta_of(plan)
        order, steps = plan.values["state"]["order"], len(spec.edges) + 1
        grid, rows = grid_of(spec, partition), rows_of(spec, partition)
        risk = _risk(spec, partition, theta)[grid.rows]
        lost = ~np.isfinite(risk).all(axis=0)
        risk = np.where(lost, 0.0, risk)
        weight = _weight(spec, partition)[grid.rows] * grid.event
        deaths, behind = np.zeros(steps), np.zeros(steps, np.int64)
        parts = [] if grid.out else grid.runs()
        for run in parts:
            here, _ = _place(grid, run)
            inside = slice(here.start, min(here.stop, steps - 1))  # after the grid none is counted
            deaths[inside] += weight[run].sum() / max(inside.stop - inside.start, 1)
            died = grid.rows[run[grid.event[run]]]
            behind[inside] += partition.patients(_mask(partition, died))
        x = rows.x[grid.rows]
        values: dict[str, Any] = {
            "too_large": lost.astype(np.int64),
            "deaths": deaths,
            "left_out": int(grid.out),
            "observed": weight @ x * (not grid.out),
            **_sums(x, risk, grid, parts, steps, order),
        }
        return Contribution(values, Evidence(partition.n_patients, {"deaths": behind}))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """That of the regression, with the weights of the run in which they say least."""
        spec, asked = spec_of(plan), self.asked(plan)
        base = exposure_of(spec, partition, own, asked)
        grid = grid_of(spec, partition)
        columns = spec.design.columns
        names = judged(spec.design, asked)
        if grid.out or not len(grid.rows):  # nothing leaves but that it is left out
            nothing = Shares.of(np.zeros((1, len(theta_of(plan)))))
            columns_of_none = dict.fromkeys(names, nothing)
            return Exposure(columns=columns_of_none, weights=nothing, members=base.members)
        keys, parts = partition.keys[grid.rows], grid.runs()
        risk = np.nan_to_num(_risk(spec, partition, theta_of(plan)), posinf=1e300)[grid.rows]
        x = np.abs(rows_of(spec, partition).x[grid.rows])
        smallest = min(partition.patients(_mask(partition, grid.rows[run])) for run in parts)
        p, n = x.shape[1], partition.patients(rows_of(spec, partition).used)
        shares = dict(base.columns)
        for j, name in enumerate(spec.design.names if asked.order else ()):
            part = x[:, j, None] ** asked.order * risk
            shares[name] = _worst([Shares.of(part[run], keys[run]) for run in parts])
        happened = (grid.event, *(run[grid.event[run]] for run in parts))
        members = tuple(
            Members(columns, np.unique(partition.persons[grid.rows[some]]))
            for some in (*parts, *happened)
        )
        return Exposure(
            coefficients=min(p * n // smallest, n) if asked.order else 0,
            slots=base.slots,
            joint=base.joint,
            values=base.values,
            columns={name: shares[name] for name in names},
            weights=_worst([Shares.of(risk[run], keys[run]) for run in parts]),
            levels=base.levels,
            alone=base.alone,
            members=(*base.members, *members),
        )


def _mask(partition: Partition, rows: Ints) -> Bools:
    found = np.zeros(partition.n_rows, dtype=bool)
    found[rows] = True
    return found


def _worst(shares: list[Shares]) -> Shares:
    """Per candidate that of the run in which two patients make up most."""
    parts = [
        np.divide(s.first + s.second, s.total, out=np.zeros_like(s.total), where=s.total > 0)
        for s in shares
    ]
    worst = np.argmax(parts, axis=0)

    def pick(name: str) -> Floats:
        every = np.array([getattr(s, name) for s in shares])
        return np.asarray(np.take_along_axis(every, worst[None], axis=0)[0])

    return Shares(pick("total"), pick("squares"), pick("first"), pick("second"))


def _weight(spec: CoxSpec, partition: Partition) -> Floats:
    rows = rows_of(spec, partition)
    return np.ones(partition.n_rows) if rows.weight is None else rows.weight


def _risk(spec: CoxSpec, partition: Partition, theta: Floats) -> Floats:
    """w exp(eta) of all rows at each candidate, (n_rows, m)."""
    rows = rows_of(spec, partition)
    eta = rows.x @ theta.T
    if rows.offset is not None:
        eta = eta + rows.offset[:, None]
    with np.errstate(over="ignore"):
        risk = np.exp(eta) * _weight(spec, partition)[:, None]
    return np.where(risk < 2.0**50, risk, np.inf)


def _place(grid: Grid, run: Ints) -> tuple[slice, int]:
    """The intervals of a run, and how many they are."""
    last, first = sorted(grid.left[:, run[0]].tolist(), reverse=True)
    return slice(first, last + 1), last + 1 - first


def _sums(
    x: Floats, risk: Floats, grid: Grid, parts: list[Ints], steps: int, order: int
) -> dict[str, Floats]:
    """Sums of r, r x and the upper triangles of r x x', per interval."""
    m, p = risk.shape[1], x.shape[1]
    upper = np.triu_indices(p)
    found = {"r": np.zeros((m, steps)), "rx": np.zeros((m, steps, p))}
    found["rxx"] = np.zeros((m, steps, len(upper[0])))
    for run in parts:
        here, width = _place(grid, run)
        rows = x[run]
        for k in range(m):
            w = risk[run, k] / width
            found["r"][k, here] += w.sum()
            if order >= 1:
                found["rx"][k, here] += w @ rows
            if order == 2:
                found["rxx"][k, here] += (rows.T @ (rows * w[:, None]))[upper]
    return dict(list(found.items())[: order + 1])


tasks: list[Any] = [RiskSetsTask()]
