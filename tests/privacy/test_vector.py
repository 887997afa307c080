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
