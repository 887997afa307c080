from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.core.contribution import Contribution, Evidence, Sum, open_total
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf

LEAVES = (Leaf("n", (), ring="int64"), Leaf("x", (2, 3)), Leaf("far", (1,), scale=-40))
cells = st.dictionaries(
    st.sampled_from("ab"),
    st.lists(st.integers(0, 9), min_size=2, max_size=2).map(
        lambda counts: np.array(counts, dtype=np.int64)
    ),
)
evidence = st.builds(Evidence, st.integers(0, 99), cells)


def same(a, b):
    return (
        a.patients == b.patients
        and set(a.cells) == set(b.cells)
        and all(np.array_equal(a.cells[name], b.cells[name]) for name in a.cells)
    )


@given(evidence, evidence, evidence)
def test_evidence_is_a_commutative_monoid(a, b, c):
    assert same(a + b, b + a)
    assert same((a + b) + c, a + (b + c))
    assert same(Evidence() + a, a)
    assert same(a + Evidence(), a)


def contribution(n=3, x=1.5, far=2.0**-70):
    return Contribution({"n": n, "x": np.full((2, 3), x), "far": np.array([far])}, Evidence(n))


def test_arrays_come_back_in_their_shapes():
    total = open_total(
        LEAVES, (Sum.of(LEAVES, contribution()) + Sum.of(LEAVES, contribution(4, -0.5))).words
    )
    assert int(total["n"]) == 7
    assert total["x"].shape == (2, 3)
    assert np.all(total["x"] == 1.0)
    assert total["far"][0] == 2.0**-69
    assert (total["n"].dtype, total["x"].dtype) == (np.int64, np.float64)


@pytest.mark.parametrize(
    "leaves",
    [
        {"n": 1, "x": np.zeros((2, 3))},
        {"n": 1, "x": np.zeros((2, 3)), "far": np.zeros(1), "more": 1},
        {"n": 1, "x": np.zeros((3, 2)), "far": np.zeros(1)},
        {"n": 1, "x": np.zeros(6), "far": np.zeros(1)},
        {"n": 1.0, "x": np.zeros((2, 3)), "far": np.zeros(1)},
        {"n": np.zeros(1, np.int64), "x": np.zeros((2, 3)), "far": np.zeros(1)},
    ],
)
def test_arrays_that_are_not_as_declared(leaves):
    with pytest.raises(PolyclinicError) as caught:
        Sum.of(LEAVES, Contribution(leaves, Evidence(9)))
    assert caught.value.code == "SCHEMA_MISMATCH"


def test_numbers_of_one_scale_are_told_apart():
    leaves = [
        Leaf("a", (2, 3), scale=3),
        Leaf("n", (4,), ring="int64"),
        Leaf("b", (1,)),
        Leaf("none", (0,), scale=3),
        Leaf("c", (5,), scale=3),
    ]
    rng = np.random.default_rng(0)
    given = {one.name: rng.integers(-99, 99, one.shape) for one in leaves}
    summed = Sum.of(leaves, Contribution(given, Evidence(1)))
    alone = [
        Sum.of([one], Contribution({one.name: given[one.name]}, Evidence(1))) for one in leaves
    ]
    found = open_total(leaves, summed.words).values
    assert list(found) == list(summed.words) == list(given)
    for one, own in zip(leaves, alone, strict=True):
        assert summed.words[one.name].tobytes() == own.words[one.name].tobytes()
        assert np.array_equal(found[one.name], given[one.name])


def test_adding_does_not_change_what_was_added():
    one, two = Sum.of(LEAVES, contribution()), Sum.of(LEAVES, contribution())
    before = {name: words.copy() for name, words in one.words.items()}
    _ = one + two
    assert all(np.array_equal(one.words[name], before[name]) for name in before)
