"""Arrays of several chunks, with compiled passes: the same bytes wherever they are computed."""

from __future__ import annotations

import numpy as np
import pytest

import polyclinic as pc
from tests.engines.near import near

N = 140_000  # a fit of machines begins on a sample, and the last chunk is a short one


def rows():
    rng = np.random.default_rng(4)
    centres = 4.0 * rng.normal(size=(5, 4))
    x = centres[rng.integers(0, 5, N)] + rng.normal(size=(N, 4))
    return x, (x @ [0.4, -0.3, 0.2, 0.0] + rng.logistic(size=N) > 0).astype(float)


def clusters(x, y, engine):
    found = pc.KMeans(5, scale="sd").fit(x, engine=engine)
    return found.cluster_centers_, found.sizes_, found.inertia_, found.labels_


def hinge(x, y, engine):
    found = pc.LinearSVC(loss="hinge", probability=False).fit(x, y, engine=engine)
    assert any(done.step == "all rows" for done in found.rounds_)
    return found.coef_, found.intercept_, found.gap_, found.n_iter_


def tree(x, y, engine):
    found = pc.DecisionTreeClassifier(max_depth=4).fit(x, y, engine=engine)
    return tuple(found.result_.trees.to_data().values())


@pytest.mark.parametrize("work", [clusters, hinge, tree])
def test_the_bytes_are_those_of_one_process(work, tmp_path):
    pytest.importorskip("numba")
    x, y = rows()
    expected = work(x, y, pc.Embedded())
    for workers in (1, 3):
        found = work(x, y, near(tmp_path, workers=workers))
        for mine, other in zip(found, expected, strict=True):
            assert np.asarray(mine).tobytes() == np.asarray(other).tobytes()
