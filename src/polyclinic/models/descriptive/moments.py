"""Count, missing, mean, variance and skewness of many columns, by group.

Round 1 sums x and x^2, round 2 sums the deviations d = x - m from the mean m of round 1:

    mean = m + S1/n,   variance = (S2 - S1^2/n) / (n - 1),   Sk = sum of d^k

(the corrected two-pass algorithm of Chan, Golub & LeVeque, *The American Statistician* 37, 1983).
All sums are of numbers scaled by powers of two: in round 1 by the bound that the codebook declares,
afterwards by the spread that the round before has shown, so that a column keeps its digits in the
ring whatever its unit. A third round happens only where the spread is far below the bound.

What leaves the site: per column and group, the number of rows with and without a value, and the
sums of d, d^2 (and d^3). Entries with too few patients behind them are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.design import exponent
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.descriptive import rows
from polyclinic.models.descriptive.column import Column, names
from polyclinic.models.descriptive.exposure import Counted, Known, Own

Floats = NDArray[np.float64]

MAX_ROUNDS = 5
HIGHEST = 3  # power that is summed
FARTHEST = 2.0**17  # standard deviations; nobody in a sum of fewer than 2**34 rows is farther away
RESOLVED = 2.0**-10  # a scaled variance that the ring's unit of 2**-64 holds to 1e-14
CANCELLED = 2.0**-48  # what S2 - S1^2/n leaves of S2 in float64
EQUAL = 2.0**-50  # a spread this small beside the mean is rounding of the values themselves


@dataclass(frozen=True)
class MomentsTask(Counted):
    """Sums of powers of deviations. Plan values: columns, by, centre, exponent, powers, centred."""

    name: str = "descriptive.moments"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        _check_powers(plan)
        shape = (rows.n_groups(plan.values["by"]), len(plan.values["columns"]))
        counts = [
            Leaf(name, shape, "count", "int64", support="cells", small="hide", closed=("groups",))
            for name in ("n", "missing")
        ]
        sums = [
            Leaf(name, shape, "sum of powers", support="cells", small="hide", closed=("groups",))
            for name in self._powers(plan)
        ]
        return (*counts, *sums)

    def known(self, plan: Plan) -> Sequence[Known]:
        names = plan.values["columns"]
        return tuple(Known((name,), "n", c, len(names)) for c, name in enumerate(names))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Also how patients share in the sums of powers: one far value can be nearly all of it.

        The highest power shows that first, and all numbers of a cell are hidden together.
        """
        found, asked = super().exposure(plan, partition, own), plan.values
        masks, size = rows.groups(partition, asked["by"]), len(asked["columns"])
        z = np.zeros((partition.n_rows, len(masks), size))
        for c in range(size):
            for g, mask in enumerate(masks):
                known, z[:, g, c] = _scaled(plan, partition, g, c)
                z[~(known & mask), g, c] = 0.0
        highest = Shares.of(np.abs(z) ** asked["powers"], partition.key)
        if asked["centred"]:
            highest = beyond(highest, np.asarray(np.any(np.abs(z) >= FARTHEST, axis=0)))
        return replace(found, cells=dict.fromkeys(("n", *self._powers(plan)), highest))

    def _powers(self, plan: Plan) -> list[str]:
        return [f"s{power}" for power in range(1, plan.values["powers"] + 1)]

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        asked = plan.values
        leaves = {
            leaf.name: np.zeros(leaf.shape, np.int64 if leaf.ring == "int64" else float)
            for leaf in self.leaves(plan)
        }
        behind = {name: np.zeros(array.shape, np.int64) for name, array in leaves.items()}
        masks = rows.groups(partition, asked["by"])
        for c in range(len(asked["columns"])):
            for g, mask in enumerate(masks):
                present, z = _scaled(plan, partition, g, c)
                known, missing = mask & present, ~present
                z = z[known]
                leaves["n"][g, c] = z.size
                leaves["missing"][g, c] = np.count_nonzero(mask & missing)
                behind["missing"][g, c] = partition.patients(mask & missing)
                for name in ("n", *self._powers(plan)):
                    behind[name][g, c] = partition.patients(known)
                for power, name in enumerate(self._powers(plan), 1):
                    leaves[name][g, c] = np.sum(z**power)
        return Contribution(leaves, Evidence(partition.n_patients, behind))


def _check_powers(plan: Plan) -> None:
    """As many sums of powers as there are patients in a cell are equations for their values."""
    if plan.values["powers"] not in range(1, HIGHEST + 1):
        raise PolyclinicError(
            f"{plan.task} with powers up to {plan.values['powers']}",
            code="BAD_MESSAGE",
            rule=f"sums of powers go up to {HIGHEST}, which skewness needs",
        )


def beyond(shares: Shares, far: rows.Mask) -> Shares:
    """Entries with a value at the limit are hidden.

    The limit moves with centre and scale, so two such sums could differ by one patient's value.
    """
    return replace(shares, first=np.where(far, np.inf, shares.first))


def _scaled(plan: Plan, partition: Partition, g: int, c: int) -> tuple[rows.Mask, Floats]:
    """Where column number `c` is known, and its deviations in the scale of group `g`."""
    asked = plan.values
    column = rows.values(partition, asked["columns"][c])
    present = ~np.isnan(column)
    z = np.ldexp(column - asked["centre"][g, c], -int(asked["exponent"][g, c]))
    if asked["centred"]:
        # Only at a site whose rows were hidden from the mean can this change anything.
        z = np.clip(z, -FARTHEST, FARTHEST)
    return present, z


@dataclass(frozen=True)
class Moments:
    """Mean, variance, standard deviation and, if asked, skewness of each column.

    Model: ``{"all": {column: figures}, "by": {level: {column: figures}}}`` with figures n, missing,
    mean, variance, sd, skew, hidden_sites. `variance` divides by n - 1; `skew` is m3 / m2^1.5. They
    are about the rows of the sites that were not hidden; `missing` is None where a site hid it.
    """

    columns: tuple[Column, ...]
    by: Column | None = None
    skew: bool = False

    def init(self, seed: int) -> State:
        shape = (1 if self.by is None else 1 + len(self.by.levels), len(self.columns))
        exponents = np.array([exponent(column.bound) for column in self.columns], dtype=np.int64)
        return {
            "round": 0,
            "centre": np.zeros(shape),
            "done": not self.columns,
            "exponent": np.broadcast_to(exponents, shape).copy(),
        }

    def plan(self, state: State) -> Plan | None:
        if state["done"]:
            return None
        centred = state["round"] > 0
        values = {
            "columns": names(self.columns),
            "by": self.by.coded() if self.by else None,
            "centre": state["centre"],
            "exponent": state["exponent"],
            "powers": 3 if self.skew and centred else 2,
            "centred": centred,
        }
        return Plan("descriptive.moments", values, "variances" if centred else "means")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        asked, n = plan.values, total["n"]
        known = np.maximum(n, 1)
        shift = total["s1"] / known
        square = total["s2"] / known
        variance = np.maximum(square - shift**2, 0.0)
        centre = asked["centre"] + np.ldexp(shift, asked["exponent"])
        spread = np.ldexp(np.sqrt(variance), asked["exponent"])
        settled = (
            (variance >= RESOLVED)
            | (spread <= EQUAL * np.abs(centre))
            | ((total["s1"] == 0) & (total["s2"] == 0))
        )
        number = state["round"] + 1
        done = bool(np.all((n == 0) | (settled & (number > 1)))) or number == MAX_ROUNDS
        shown = np.sqrt(np.maximum(np.maximum(variance, CANCELLED * square), 2.0**-60))
        finer = np.vectorize(exponent, otypes=[np.int64])(shown)
        return {
            "round": number,
            "done": done,
            "centre": centre,
            "exponent": asked["exponent"] + np.where(n > 0, finer, 0),
            "sums": {leaf: total[leaf] for leaf in total.values},
            "asked": {"centre": asked["centre"], "exponent": asked["exponent"]},
            "hidden": total.hidden.get("n", np.zeros_like(n)),
            "hidden_missing": total.hidden.get("missing", np.zeros_like(n)),
        }

    def model(self, state: State) -> dict[str, Any]:
        groups = [
            {}
            if "sums" not in state
            else {column.name: self._figures(state, g, c) for c, column in enumerate(self.columns)}
            for g in range(len(state["centre"]))
        ]
        levels = self.by.levels if self.by else ()
        return {"all": groups[0], "by": dict(zip(levels, groups[1:], strict=True))}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def _figures(self, state: State, g: int, c: int) -> dict[str, Any]:
        sums = {name: array[g, c].item() for name, array in state["sums"].items()}
        n, scale = sums["n"], 2.0 ** int(state["asked"]["exponent"][g, c])
        figures: dict[str, Any] = {
            "n": n,
            "missing": None if state["hidden_missing"][g, c] else sums["missing"],
            "mean": None,
            "variance": None,
            "sd": None,
            "hidden_sites": int(state["hidden"][g, c]),
        }
        if self.skew:
            figures["skew"] = None
        if n == 0:
            return figures
        shift = sums["s1"] / n
        figures["mean"] = float(state["asked"]["centre"][g, c]) + shift * scale
        second = max(sums["s2"] / n - shift**2, 0.0)
        if scale * second**0.5 <= EQUAL * abs(figures["mean"]):
            second = 0.0
        if n > 1:
            figures["sd"] = scale * (second * n / (n - 1)) ** 0.5
            figures["variance"] = scale * scale * second * n / (n - 1)
        if "s3" in sums and second > 0:
            third = sums["s3"] / n - 3 * shift * sums["s2"] / n + 2 * shift**3
            figures["skew"] = third / second**1.5
        return figures
