from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core import ring
from polyclinic.core.contribution import Contribution, Evidence, Sum
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.privacy import vector
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.policy import open_policy
from polyclinic.privacy.secure import encoding

LEAVES = (
    Leaf("n", (), "count", "int64"),
    Leaf("x", (2, 2)),
    Leaf("cells", (3,), "histogram", "int64", support="cells", small="hide"),
)


def release(n, x, cells):
    evidence = Evidence(100, {"cells": np.array(cells)})
    summed = Sum.of(LEAVES, Contribution({"n": n, "x": x, "cells": np.array(cells)}, evidence))
    return Gate("a", open_policy(5)).release(Plan("toy.sum", {}), LEAVES, summed)


def test_what_is_joined_and_added_comes_back():
    one = release(-7, np.array([[1.5, -(2.0**-60)], [1e15, 0.1]]), [9, 3, 0])
    two = release(2**40, np.array([[0.25, 3.0], [-1e15, 0.2]]), [8, 7, 2])
    total = ring.add(vector.join(LEAVES, one), vector.join(LEAVES, two))
    assert total.shape == (vector.length(LEAVES), 2)
    words, hidden = vector.split(LEAVES, total)
    assert words["n"].tolist() == [2**40 - 7]
    assert words["cells"].tolist() == [17, 7, 0]
    assert hidden["cells"].tolist() == [0, 1, 1]
    assert ring.decode(words["x"]).tolist() == [1.75, 3.0 - 2.0**-60, 0.0, 0.1 + 0.2]


def test_a_total_of_integers_that_is_not_whole_is_found():
    broken = vector.join(LEAVES, release(1, np.zeros((2, 2)), [9, 9, 9]))
    broken[0, 0] = 1
    with pytest.raises(PolyclinicError, match="GUARD"):
        vector.split(LEAVES, broken)


WHOLE = (
    Leaf("n", (), "count", "int64"),
    Leaf("change", (3,), "update", "int64"),
    Leaf("cells", (2,), "histogram", "int64", support="cells", small="hide"),
)


def whole(n, change, cells):
    evidence = Evidence(100, {"cells": np.array(cells)})
    values = {"n": n, "change": np.array(change), "cells": np.array(cells)}
    summed = Sum.of(WHOLE, Contribution(values, evidence))
    return Gate("a", open_policy(5)).release(Plan("toy.sum", {}), WHOLE, summed)


def test_whole_numbers_travel_in_half_the_bytes_with_the_same_totals():
    assert (vector.profile(WHOLE), vector.profile(LEAVES)) == ("fast64", "exact128")
    most = 2**56
    parts = [whole(-7, [most, -most, 3], [9, 3]), whole(2, [most, -most, -5], [8, 7])]
    joined = [vector.join(WHOLE, one) for one in parts]
    assert joined[0].shape == (vector.length(WHOLE),)
    words, hidden = vector.split(WHOLE, joined[0] + joined[1])
    assert words["n"].tolist() == [-5]
    assert words["change"].tolist() == [2 * most, -2 * most, -2]
    assert (words["cells"].tolist(), hidden["cells"].tolist()) == ([17, 7], [0, 1])


@pytest.mark.parametrize("value", [2**56 + 1, -(2**56) - 1, 2**62, -(2**63)])
def test_a_whole_number_that_could_wrap_a_total_is_refused(value):
    with pytest.raises(PolyclinicError, match="RANGE"):
        vector.join(WHOLE, whole(1, [0, value, 0], [9, 9]))


def test_sixty_four_largest_numbers_stay_inside_the_guard():
    one = vector.join(WHOLE, whole(0, [2**56, -(2**56), 0], [9, 9]))
    ring_ = encoding.PROFILES["fast64"]
    framed = encoding.frame(ring_, one, len(one), bytes(range(32)))
    total = np.zeros_like(framed)
    for _ in range(64):
        total += framed
    opened = encoding.unframe(ring_, total, bytes(range(32)), 64)
    assert vector.split(WHOLE, opened)[0]["change"].tolist() == [2**62, -(2**62), 0]
