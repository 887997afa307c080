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

Over a hospital whose rows are in chunks the site asks them for the same (grid_runs.py), and for the
sums and shares of each run; what the gate reads beside these is found by risk sets (by_steps.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Answer, Grain, Question, Steps, answered
from polyclinic.models.exact import PARTS, WIDE, floats_of
from polyclinic.models.survival import grid_runs
from polyclinic.models.survival.behind import Behind, behind_here, weights_of
from polyclinic.models.survival.by_steps import Asker, ByRiskSets, Part
from polyclinic.models.survival.exposure import Asked, Own, exposure_of, judged
from polyclinic.models.survival.grid_runs import Here, Runs, here, runs_of
from polyclinic.models.survival.pieces import whole
from polyclinic.models.survival.rows import key_of, rows_of, spec_of
from polyclinic.models.survival.spec import CoxSpec
from polyclinic.models.survival.tasks import lost_of, theta_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
MOST = 2**22  # whole numbers that are asked for at once
WEIGHTS, SUMS = "(weights)", ("r", "rx", "rxx")
PARTS_OF = ("total", "squares", "first", "second")


def runs_here(spec: CoxSpec, partition: Partition) -> Runs:
    """Of rows in one place; made once, whatever the coefficients."""

    def make() -> Runs:
        return answered(runs_of(spec), lambda q: grid_runs.told(spec, partition, q.values))

    made: Runs = partition.cached(f"grid {key_of(spec)}", make)
    return made


@dataclass(frozen=True)
class RiskSetsTask(ByRiskSets):
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
        spec, order = spec_of(plan), plan.values["state"]["order"]
        runs = runs_here(spec, partition)
        at = here(spec, partition, runs)
        risk, lost = _risk_of(spec, partition, at, theta_of(plan))
        x = rows_of(spec, partition).x[at.rows]
        sums = _sums(x, risk, at.parts, runs.widths, order)
        behind = behind_here(spec, partition, at)
        return _contribution(runs, behind, sums, lost, partition.n_patients)

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Of rows in one place."""
        spec, asked = spec_of(plan), self.asked(plan)
        runs = runs_here(spec, partition)
        at = here(spec, partition, runs)
        base = exposure_of(spec, partition, own, asked)
        shares = self._shares(plan, partition, at, at.parts)
        behind = behind_here(spec, partition, at)
        patients = partition.patients(rows_of(spec, partition).used)
        return self._exposed(plan, base, shares, behind, patients)

    def asking(self, asker: Asker) -> Steps:
        spec, order = spec_of(asker.plan), asker.plan.values["state"]["order"]
        name = f"survival grid {key_of(spec)}"
        if name not in asker.kept:
            runs = yield from runs_of(spec)
            found = yield Question({"ask": "behind", "runs": vars(runs)})
            asker.kept[name] = runs, found["n_patients"], Behind.from_data(found)
        runs, n_patients, behind = asker.kept[name]
        yield from asker.at_times()
        first, *later = _bands(len(runs.ends), *theta_of(asker.plan).shape)
        found, base = yield from asker.parts(runs=vars(runs), band=first)
        told = [found]
        for band in later:
            told.append((yield Question({"ask": "sums", "runs": vars(runs), "band": band})))
        sums = {
            name: np.concatenate([floats_of(one[name], WIDE) for one in told], axis=1)
            for name in SUMS[: order + 1]
        }
        lost = np.any([one["lost"] > 0 for one in told], axis=0) | lost_of(sums)
        for name, one in sums.items():
            one[lost] = 0.0
            sums[name] = one / runs.widths.reshape(-1, *[1] * (one.ndim - 2))
        shares = {
            name: _joined([Shares(**one["by run"][name]) for one in told], np.concatenate)
            for name in found["by run"]
        }
        exposure = self._exposed(asker.plan, base, shares, behind, found["patients"])
        return _contribution(runs, behind, sums, lost, n_patients), exposure

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """The answer of one chunk."""
        spec, asked = spec_of(plan), question.values
        if asked["ask"] in ("left", "marks"):
            return grid_runs.told(spec, partition, asked)
        if asked["ask"] == "behind":
            at = here(spec, partition, Runs(**asked["runs"]))
            return {**Behind.of(spec, partition, at).to_data(), "n_patients": partition.n_patients}
        if asked["ask"] == "sums":
            return self._told(plan, partition, asked)
        return super().part(plan, question, partition)

    def found(self, plan: Plan, part: Part) -> dict[str, Any]:
        """Sums and shares of the first runs."""
        return self._told(plan, part.partition, part.asked)

    def _told(self, plan: Plan, partition: Partition, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a chunk tells of some runs."""
        spec, order = spec_of(plan), plan.values["state"]["order"]
        at = here(spec, partition, Runs(**asked["runs"]))
        parts = at.parts[slice(*asked["band"])]
        risk, lost = _risk_of(spec, partition, at, theta_of(plan))
        x = rows_of(spec, partition).x[at.rows]
        sums = _sums(x, risk, parts, np.ones(len(parts), np.int64), order)
        shares = self._shares(plan, partition, at, parts)
        return {
            **{name: whole(one) for name, one in sums.items()},
            "lost": (lost | lost_of(sums)).astype(np.int64),
            "by run": {name: vars(one) for name, one in shares.items()},
        }

    def _shares(
        self, plan: Plan, partition: Partition, at: Here, parts: list[Ints]
    ) -> dict[str, Shares]:
        """Of the columns that are summed, and of the weights, by run and candidate."""
        spec, order = spec_of(plan), self.asked(plan).order
        risk = np.nan_to_num(_risk(spec, partition, theta_of(plan)), posinf=1e300)[at.rows]
        x, keys = np.abs(rows_of(spec, partition).x[at.rows]), partition.keys[at.rows]

        def of(part: Floats) -> Shares:
            return _joined([Shares.of(part[run], keys[run]) for run in parts], np.stack)

        if not parts:
            return {}
        with np.errstate(over="ignore"):
            names = spec.design.names if order else ()
            found = {name: of(x[:, j, None] ** order * risk) for j, name in enumerate(names)}
            return {**found, WEIGHTS: of(risk)}

    def _exposed(
        self,
        plan: Plan,
        base: Exposure,
        shares: Mapping[str, Shares],
        behind: Behind,
        patients: int,
    ) -> Exposure:
        """That of the regression, with the weights of the run in which they say least."""
        spec, asked = spec_of(plan), self.asked(plan)
        names = judged(spec.design, asked)
        if not len(behind.who):  # nothing leaves but that it is left out
            nothing = Shares.of(np.zeros((1, len(theta_of(plan)))))
            columns_of_none = dict.fromkeys(names, nothing)
            return Exposure(columns=columns_of_none, weights=nothing, members=base.members)
        worst = {name: _worst(one) for name, one in shares.items()}
        weights = worst.pop(WEIGHTS)
        columns, p = {**base.columns, **worst}, len(spec.design.names)
        return Exposure(
            coefficients=min(p * patients // int(behind.who.min()), patients) if asked.order else 0,
            slots=base.slots,
            joint=base.joint,
            values=base.values,
            columns={name: columns[name] for name in names},
            weights=weights,
            levels=base.levels,
            alone=base.alone,
            members=(*base.members, *behind.members),
        )


def _contribution(
    runs: Runs, behind: Behind, sums: Mapping[str, Floats], lost: Bools, n_patients: int
) -> Contribution:
    """What leaves, of sums by run that are shared out to its intervals."""
    steps = len(runs.number)
    deaths, died = np.zeros(steps), np.zeros(steps, np.int64)
    for (first, last), weight, patients in zip(runs.ends, behind.deaths, behind.died, strict=True):
        inside = slice(first, min(last + 1, steps - 1))  # after the grid none is counted
        deaths[inside] += weight / max(inside.stop - inside.start, 1)
        died[inside] += patients
    values: dict[str, Any] = {
        "too_large": lost.astype(np.int64),
        "deaths": deaths,
        "left_out": int(runs.out),
        "observed": behind.observed,
        **{name: runs.spread(one) for name, one in sums.items()},
    }
    return Contribution(values, Evidence(n_patients, {"deaths": died}))


def _bands(runs: int, m: int, p: int) -> list[tuple[int, int]]:
    """Runs whose sums are asked for at once: from which one on, and up to which one."""
    width = max(1, MOST // (PARTS * m * (1 + p + p * (p + 1) // 2)))
    return [(first, min(first + width, runs)) for first in range(0, max(runs, 1), width)]


def _joined(shares: list[Shares], join: Callable[[list[Floats]], Floats]) -> Shares:
    return Shares(*(join([vars(one)[name] for one in shares]) for name in PARTS_OF))


def _worst(shares: Shares) -> Shares:
    """Per candidate that of the run in which two patients make up most."""
    top, total = shares.first + shares.second, shares.total
    parts = np.divide(top, total, out=np.zeros_like(total), where=total > 0)
    worst = np.argmax(parts, axis=0)[None]
    return Shares(*(np.take_along_axis(vars(shares)[n], worst, axis=0)[0] for n in PARTS_OF))


def _risk(spec: CoxSpec, partition: Partition, theta: Floats) -> Floats:
    """w exp(eta) of all rows at each candidate, (n_rows, m)."""
    rows = rows_of(spec, partition)
    eta = rows.x @ theta.T
    if rows.offset is not None:
        eta = eta + rows.offset[:, None]
    with np.errstate(over="ignore"):
        risk = np.exp(eta) * weights_of(spec, partition)[:, None]
    return np.where(risk < 2.0**50, risk, np.inf)


def _risk_of(spec: CoxSpec, partition: Partition, at: Here, theta: Floats) -> tuple[Floats, Bools]:
    """The same of the rows that are used, and candidates that are too large, of which it is 0."""
    risk = _risk(spec, partition, theta)[at.rows]
    lost = np.asarray(~np.isfinite(risk).all(axis=0))
    return np.where(lost, 0.0, risk), lost


def _sums(
    x: Floats, risk: Floats, parts: list[Ints], widths: Ints, order: int
) -> dict[str, Floats]:
    """Sums of r, r x and the upper triangles of r x x' over each run, per interval of it,
    (m, n_runs, ...)."""
    m, p = risk.shape[1], x.shape[1]
    upper = np.triu_indices(p)
    found = {"r": np.zeros((m, len(parts))), "rx": np.zeros((m, len(parts), p))}
    found["rxx"] = np.zeros((m, len(parts), len(upper[0])))
    for i, (run, width) in enumerate(zip(parts, widths.tolist(), strict=True)):
        rows = x[run]
        for k in range(m):
            w = risk[run, k] / width
            found["r"][k, i] = w.sum()
            if order >= 1:
                found["rx"][k, i] = w @ rows
            if order == 2:
                found["rxx"][k, i] = (rows.T @ (rows * w[:, None]))[upper]
    return dict(list(found.items())[: order + 1])


tasks: list[Any] = [RiskSetsTask()]
