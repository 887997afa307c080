"""Passes over rows, compiled and not, beside numpy's plain arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import KMeans

import polyclinic as pc
from polyclinic.core.design import Design, Term
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.simple import KMeansSpec, Scale, moments
from polyclinic.models.simple.kmeans_tasks import nodes_of
from polyclinic.models.simple.nearest import LEAST_ROWS, Scaled, added, closer, nearest

pytest.importorskip("numba")
RNG = np.random.default_rng(8)
X = RNG.normal(size=(900, 5)) * [1, 2, 3, 4, 5] + 7.0
CENTRE, SCALE = X.mean(axis=0), X.std(axis=0)
Z = (X - CENTRE) / SCALE
WEIGHT = RNG.integers(0, 3, 900).astype(float)
CENTRES = RNG.normal(size=(4, 5))
QUICK = pytest.mark.parametrize("quick", [True, False])


@QUICK
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_nearest_and_sums_by_it(quick, order):
    rows = Scaled(np.array(X, order=order), CENTRE, SCALE)
    label = nearest(rows, CENTRES, quick)
    far = np.square(Z[:, None] - CENTRES).sum(axis=2)
    assert np.array_equal(label, far.argmin(axis=1))
    label[::7] = -1
    found, used = added(rows, WEIGHT, label, CENTRES, quick), label >= 0
    assert found.n.tolist() == np.bincount(label[used], minlength=4).tolist()
    weight = np.where(used, WEIGHT, 0.0)[:, None] * (label[:, None] == np.arange(4))
    np.testing.assert_allclose(found.weight, weight.sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.x, weight.T @ Z, rtol=1e-12, atol=1e-12)
    assert found.spread == pytest.approx((weight * far).sum(), rel=1e-12)


@QUICK
def test_ties_go_to_the_first_and_what_is_not_finite_shows(quick):
    x = np.array([[0.5], [1.5], [1.0], [2.0]])
    for off in (0.0, 1e8):
        centres = off + np.array([[0.0], [1.0], [2.0], [2.0]])
        assert nearest(Scaled.of(off + x), centres, quick).tolist() == [0, 1, 1, 2]
    broken = np.array([[0.0], [np.nan], [np.inf]])
    centres = np.array([[0.0], [1.0]])
    with np.errstate(invalid="ignore"):
        label = nearest(Scaled.of(broken), centres, quick)
        assert not np.isfinite(added(Scaled.of(broken), np.ones(3), label, centres, quick).x).all()


@QUICK
def test_halves_of_halves_of_space(quick):
    axes = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    split = {"node": np.array([1, 2, 5]), "axis": np.array([0, 3, 1]), "at": np.array([0.1, 0, -1])}
    y = Z @ axes
    low = y[:, 0] <= 0.1
    node = np.where(low, np.where(y[:, 3] > 0, 5, 4), 3)
    node = np.where(node == 5, np.where(y[:, 1] > -1, 11, 10), node)
    assert np.array_equal(nodes_of(Scaled(X, CENTRE, SCALE), axes, split, quick), node)


def test_powers_block_by_block(monkeypatch):
    monkeypatch.setattr(moments, "BLOCK_ROWS", 70)
    exponent = np.array([0, 3, -2, 5, 1])
    z = (X - CENTRE) / 2.0**exponent
    first, second = moments.powers(X, WEIGHT, CENTRE, exponent)
    np.testing.assert_allclose(first, WEIGHT @ z, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(second, WEIGHT @ z**2, rtol=1e-12)


@QUICK
def test_the_closer_of_two(quick):
    before = RNG.uniform(0, 9, 900)
    wanted = np.minimum(before, np.square(Z - CENTRES[:, None]).sum(axis=2))
    np.testing.assert_allclose(closer(Z, CENTRES, before, quick), wanted, rtol=1e-13)


@pytest.mark.parametrize("partitions", [1, 2])
def test_over_many_rows_it_is_scikit_learns(partitions):
    n = partitions * LEAST_ROWS + 10
    x = 3.0 * RNG.normal(size=(4, 3))[RNG.integers(0, 4, n)] + RNG.normal(size=(n, 3))
    scale, start = x.std(axis=0), x[:4]
    design = Design(tuple(Term(name, (), 16.0) for name in "abc"), "")
    init = tuple(map(tuple, start.tolist()))
    spec = KMeansSpec(design, 4, group=1, scale=Scale("sd"), init=init, tol=0.0, max_iter=500)
    domain = pc.Embedded(partitions).domain(Partition({"X": x}))
    ours = fit(spec.algorithm(), domain).model[-1]
    theirs = KMeans(4, init=start / scale, n_init=1, tol=0.0, max_iter=500).fit(x / scale)
    assert ours.converged and ours.sizes.tolist() == np.bincount(theirs.labels_).tolist()
    np.testing.assert_allclose(ours.centres / scale, theirs.cluster_centers_, rtol=1e-9, atol=1e-9)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-10)
    assert np.array_equal(ours.label(x), theirs.labels_)
    found = fit(replace(spec, init=()).algorithm(), domain).model[-1]
    best = KMeans(4, n_init=5, random_state=0).fit(x / scale).inertia_
    assert found.inertia <= 1.01 * best
