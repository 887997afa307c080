"""A coordinator who sends trees and edges of its own, against one hospital's default policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyclinic.core.errors import Refused
from polyclinic.core.plan import Plan
from polyclinic.models.learner import values
from polyclinic.models.trees import Feature, Spec
from polyclinic.models.trees.level import roots
from polyclinic.models.trees.rows import State
from polyclinic.models.trees.stack import Stack, stacked
from polyclinic.privacy.policy import open_policy
from tests.models.trees import world
from tests.models.trees.test_cells import one_split, site

COLUMNS = world.rows(300)
ORDER = np.argsort(COLUMNS["a"])
VICTIMS = [100, 150, 200]  # by rank in column a


def around(rank: int) -> tuple[float, float]:
    """Edges just below and just above one patient."""
    a = COLUMNS["a"][ORDER].astype(np.float32)
    lower, upper = (a[rank - 1 : rank + 1], a[rank : rank + 2])
    return tuple(float(np.float32(pair.mean())) for pair in (lower, upper))  # type: ignore[return-value]


def spec_of(*edges: tuple[float, ...], **more: Any) -> Spec:
    made = world.spec(COLUMNS, "event", loss="logistic", classes=2, names=("a",), trees=4, cell=5)
    return replace(made, features=tuple(Feature("a", each) for each in edges), **more)


def histogram(engine: Any, spec: Spec, trees: Stack, base: float, weight: Any = ()) -> Any:
    """First derivatives of the root, (columns, bins)."""
    weights = np.asarray(weight, dtype=np.float64)
    state = State(np.array([base]), weights, trees, roots(spec, 1)[1], np.array([(0, 0)]))
    return engine.total(Plan("trees.cells", values(spec, **state.to_data())))["g"][0, ..., 0]


def one_edge_moved(engine: Any, rank: int) -> float:
    """The outcome of the patient between two edges: events below one less those below the other."""
    below = []
    for edge in around(rank):
        g = histogram(engine, spec_of((edge,)), Stack.none(1), 0.0)[0]
        below.append(g[0])
    return float(below[1] - below[0])


@pytest.mark.parametrize("rank", VICTIMS)
def test_two_questions_of_which_one_edge_differs(rank: int) -> None:
    found = one_edge_moved(site(COLUMNS, open_policy()), rank)  # half, with the outcome's sign
    assert (found < 0) == (COLUMNS["event"][ORDER[rank]] == 1)
    with pytest.raises(Refused) as refused:
        one_edge_moved(site(COLUMNS), rank)
    assert refused.value.code == "COHORT_TOO_CLOSE"


def left_over(engine: Any, rank: int, spec: Spec) -> float:
    """Two trees add up to a margin of one patient alone; weights of classes tell the outcome."""
    last = len(spec.features) - 1
    first = replace(one_split(spec, 0, 0), value=np.array([[0.0], [0.0], [3.0]]))
    split = 0 if last else 1
    second = replace(one_split(spec, last, split), value=np.array([[0.0], [0.0], [-3.0]]))
    pair, none = stacked([first, second], 1), Stack.none(1)
    sums = [
        [histogram(engine, spec, trees, 0.0, weight)[0].sum() for trees in (pair, none)]
        for weight in ((1.0, 1.0), (1.0, 0.5))
    ]
    (one, two), (three, four) = sums
    return float((three - four) / (one - two)) if one != two else float("nan")


@pytest.mark.parametrize("rank", VICTIMS)
def test_trees_that_leave_a_margin_to_one_patient(rank: int) -> None:
    """0.5 is the weight of who has the outcome."""
    event = COLUMNS["event"][ORDER[rank]] == 1
    once, twice = spec_of(around(rank)), spec_of(*((edge,) for edge in around(rank)))
    for spec in (once, twice):
        open_one = site(COLUMNS, open_policy())
        found = left_over(open_one, rank, replace(spec, cell=1))
        assert found == pytest.approx(0.5 if event else 1.0)
    assert np.isnan(left_over(site(COLUMNS), rank, once))  # both edges are one
    with pytest.raises(Refused) as refused:
        left_over(site(COLUMNS), rank, twice)
    assert refused.value.code == "COHORT_TOO_CLOSE"
