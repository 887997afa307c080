"""Permutation importance over hospitals: how the loss grows when a column is that of other rows.

Each hospital lets its own rows exchange a column (a number, a category, a whole image or series, or
a part of one) and scores them by a model that it was given; importance is the mean loss over all
hospitals less that of the rows as they are, its spread that over the repeats. The loss is

- of risks and classes -log of the probability of what happened, of a number the squared error, the
  mean over rows;
- of durations the share of pairs within a hospital that the model ranks wrongly, 1 - concordance;
- of masks 1 - Dice, the mean over rows.

What leaves the site: the number of rows, and for every repeat one sum of losses; of durations the
pairs ranked wrongly (of equal risk: a half each), and the number of pairs. It is judged as the sums
of `evaluation.scores`, `evaluation.pairs` and `evaluation.masks` are, in each repeat under the
exchanged rows, by the patient who is scored and by the one whose value he was given; a repeat that
few patients carry is left out and flagged. As there, models that are no sum over terms are scored
by the mean risk of `least` patients with neighbouring risks.
Reference: Breiman (2001), "Random forests"; Fisher, Rudin & Dominici (2019), "All models are wrong,
but many are useful".
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
from polyclinic.core.groups import group_size
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation import exposure as judged
from polyclinic.evaluation.masks import DICE, MasksTask, cells_of, dice
from polyclinic.evaluation.masks import shares_of as shares_of_masks
from polyclinic.evaluation.pairs import ONE_RISK, PairsTask, pairs_of
from polyclinic.evaluation.rows import predictors_of, scored
from polyclinic.evaluation.shuffled import Shuffle, order_of, shuffled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NAME = "evaluation.importance"


class _Risks:
    """Risks, classes and numbers, as `evaluation.scores` judges them."""

    def slots(self, plan: Plan) -> tuple[str, ...]:
        return (*judged.slots(plan), ONE_RISK)

    def exposure(self, plan: Plan, rows: Partition) -> Exposure:
        found = judged.exposure(plan, rows, alone=False)
        if all(judged.of_terms(predictor) for predictor in predictors_of(plan)):
            return found
        return replace(found, slots={**found.slots, ONE_RISK: group_size(plan.values["least"])})

    def sums(self, plan: Plan, rows: Partition) -> tuple[float, int]:
        one = scored(plan, rows)
        return float(judged.losses(plan, one).sum()), len(one.outcome)


class _Pairs:
    """Durations, as `evaluation.pairs` judges them."""

    def slots(self, plan: Plan) -> tuple[str, ...]:
        return PairsTask().slots(plan)

    def exposure(self, plan: Plan, rows: Partition) -> Exposure:
        return PairsTask().exposure(plan, rows, {})

    def sums(self, plan: Plan, rows: Partition) -> tuple[float, int]:
        _, wrong, tied = counts = pairs_of(plan, rows).counts.tolist()
        return wrong + 0.5 * tied, sum(counts)


class _Masks:
    """Masks, as `evaluation.masks` judges the sums of Dice; its pixels do not leave here."""

    def slots(self, plan: Plan) -> tuple[str, ...]:
        return MasksTask().slots(plan)

    def exposure(self, plan: Plan, rows: Partition) -> Exposure:
        return _of_dice(MasksTask().exposure(plan, rows, {}))

    def sums(self, plan: Plan, rows: Partition) -> tuple[float, int]:
        each = dice(cells_of(plan, 0, rows))
        return float((1 - each).sum()), len(each)


WAYS: dict[str, _Risks | _Pairs | _Masks] = {
    **dict.fromkeys(("binary", "classes", "number"), _Risks()),
    "survival": _Pairs(),
    "mask": _Masks(),
}


@dataclass(frozen=True)
class ImportanceTask:
    """Losses of the rows of a site, as they are or with a column of other rows."""

    name: str = NAME
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        m = shuffle_of(plan).repeats
        found = (
            Leaf("n", (), "count", "int64", unit="rows"),
            Leaf("left_out", (m,), "flag", "int64", support="weights"),
            Leaf("losses", (m,), "loss", support="weights"),
        )
        if plan.values["outcome"] != "survival":
            return found
        return (*found, Leaf("pairs", (m,), "pairs", "int64", support="weights"))

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Those of the scores, and the smallest group of risks."""
        return _way(plan).slots(plan)

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the sums; a candidate for each repeat."""
        masks = plan.values["outcome"] == "mask"
        names = DICE if masks else judged.candidates(plan)[0]
        return names, shuffle_of(plan).repeats

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """Of the rows of every repeat, by those who are scored and those who give."""
        shuffle, found = shuffle_of(plan), []
        for repeat in range(shuffle.repeats):
            order, rows = _rows(plan, repeat, partition)
            one = _way(plan).exposure(plan, rows)
            if partition.key is not None and shuffle.column:
                one = _worse(one, _of_givers(plan, rows, order))
            found.append(one)
        slots = dict(found[0].slots)
        for one in found[1:]:
            slots = {name: judged.fewer(count, one.slots[name]) for name, count in slots.items()}
        return replace(
            found[0],
            slots=slots,
            leverage=max(one.leverage for one in found),
            columns={
                name: _side_by_side([one.columns[name] for one in found])
                for name in found[0].columns
            },
            weights=_side_by_side([one.weights for one in found if one.weights is not None]),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        repeats, way = range(shuffle_of(plan).repeats), _way(plan)
        found = [way.sums(plan, _rows(plan, repeat, partition)[1]) for repeat in repeats]
        leaves: dict[str, Any] = {
            "n": partition.n_rows,
            "left_out": np.zeros(len(found), dtype=np.int64),
            "losses": np.array([loss for loss, _ in found]),
        }
        if plan.values["outcome"] == "survival":
            leaves["pairs"] = np.array([count for _, count in found], dtype=np.int64)
        return Contribution(leaves, Evidence(partition.n_patients))


def _way(plan: Plan) -> _Risks | _Pairs | _Masks:
    return WAYS[plan.values["outcome"]]


def _of_dice(found: Exposure) -> Exposure:
    return replace(found, columns={name: found.columns[name] for name in DICE})


def _of_givers(plan: Plan, rows: Partition, order: Ints) -> Mapping[str, Shares]:
    """Shares in the sums of those who gave what was exchanged."""
    if plan.values["outcome"] == "mask":
        return shares_of_masks(plan, rows, order)
    return judged.shares_of(plan, _given(rows, order), np.ones(rows.n_rows, dtype=bool))


def shuffle_of(plan: Plan) -> Shuffle:
    """What is exchanged, read once. Raises BAD_MESSAGE."""
    return plan.once("shuffle", lambda: _shuffle(plan))


def _shuffle(plan: Plan) -> Shuffle:
    found = Shuffle.from_data(plan.values["shuffle"])
    design = predictors_of(plan)[0].design
    fixed = {design.response, design.event, design.weight, *design.strata}
    one = plan.values["folds"] == 0 and len(plan.values["predictors"]) == 1
    whole = plan.values["where"] is None and plan.combine == "sum"
    known = plan.values["outcome"] in WAYS
    if not one or not whole or not known or found.column in fixed:
        raise PolyclinicError(
            "an importance of another form",
            code="BAD_MESSAGE",
            rule="one model, all rows, summed, and a column that the model reads",
        )
    return found


def _rows(plan: Plan, repeat: int, partition: Partition) -> tuple[Ints, Partition]:
    """Who gives, and the rows of a repeat; the same object each time."""

    def make() -> tuple[Ints, Partition, Partition]:
        shuffle = shuffle_of(plan)
        order = order_of(shuffle, repeat, partition.keys)
        return order, shuffled(shuffle, order, partition), partition

    order, rows, _ = plan.once(f"repeat {repeat} of {id(partition)}", make)
    return order, rows


def _given(rows: Partition, order: Ints) -> Partition:
    """The exchanged rows in the order of those who give, under their keys."""
    back = np.argsort(order, kind="stable")
    columns = {name: values[back] for name, values in rows.columns.items()}
    return replace(rows, columns=columns, cache={})


def _worse(one: Exposure, given: Mapping[str, Shares]) -> Exposure:
    """The larger parts of the two ways in which the same sums belong to patients."""
    columns = {name: _larger(shares, given[name]) for name, shares in one.columns.items()}
    weights = one.weights
    if weights is not None and "(weight)" in given:
        weights = _larger(weights, given["(weight)"])
    return replace(one, columns=columns, weights=weights)


def _larger(a: Shares, b: Shares) -> Shares:
    larger = {name: np.maximum(value, getattr(b, name)) for name, value in vars(a).items()}
    return Shares(**{**larger, "total": np.minimum(a.total, b.total)})


def _side_by_side(shares: Sequence[Shares]) -> Shares:
    names = ("total", "squares", "first", "second")
    return Shares(*(np.array([getattr(one, name) for one in shares]) for name in names))


@dataclass(frozen=True)
class Importance:
    """A round for the rows as they are, then one for each shuffle.

    Parameters
    ----------
    predictor : the model's data.
    outcome : "binary", "classes", "number", "survival" or "mask".
    shuffles : by name.
    least : patients whose risks are taken together.
    """

    predictor: Mapping[str, Any]
    outcome: str
    shuffles: Mapping[str, Shuffle]
    least: int = 5
    classes: int = 2

    def init(self, seed: int) -> State:
        return {"done": []}

    def plan(self, state: State) -> Plan | None:
        at = len(state["done"])
        asked = [("", Shuffle("")), *self.shuffles.items()]
        if at == len(asked):
            return None
        name, shuffle = asked[at]
        step = f"loss with {name} of other rows" if name else "loss of the rows as they are"
        values = {
            "predictors": [dict(self.predictor)],
            "folds": 0,
            "outcome": self.outcome,
            "thresholds": [],
            "where": None,
            "classes": self.classes,
            "exponent": self._exponent,
            "least": self.least,
            "shuffle": shuffle.to_data(),
        }
        return Plan(NAME, values, step)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        kept = {name: np.asarray(total[name]) for name in ("n", "left_out", "losses")}
        if self.outcome == "survival":
            kept["pairs"] = np.asarray(total["pairs"])
        return {"done": [*state["done"], kept]}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> dict[str, Any]:
        """loss: the mean of the rows as they are; columns: by name the increase, its spread over
        the repeats, and how many repeats were not left out. None where no repeat was left."""
        (base,), others = state["done"][:1], state["done"][1:]
        plain = self._means(base)
        found = {}
        for name, sums in zip(self.shuffles, others, strict=True):
            more = self._means(sums) - (plain if len(plain) else np.nan)
            good = len(more) > 0 and len(plain) > 0
            found[name] = {
                "increase": float(more.mean()) if good else None,
                "sd": float(more.std()) if good else None,
                "repeats": len(more) if good else 0,
            }
        return {"loss": float(plain[0]) if len(plain) else None, "columns": found}

    def _means(self, sums: Mapping[str, Any]) -> Floats:
        """Mean losses of the repeats that no site left out."""
        inside = sums["left_out"] == 0
        unit = 4.0**self._exponent if self.outcome == "number" else 1.0
        of = sums["pairs"][inside] if self.outcome == "survival" else sums["n"]
        return np.asarray(sums["losses"][inside] * unit / np.maximum(of, 1))

    @property
    def _exponent(self) -> int:
        return exponent(float(self.predictor["design"]["response_bound"]))
