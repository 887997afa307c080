"""With and without a compiler: the same bits. And sums against plain counting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polyclinic.core.design import Design, Term
from polyclinic.core.errors import PolyclinicError
from polyclinic.models.trees import Feature, Spec, kernels
from polyclinic.models.trees.bins import both_ways, place, quantile_edges, sampled
from polyclinic.models.trees.groups import joined, lines_of
from polyclinic.models.trees.level import units
from polyclinic.models.trees.split import Rules, scan
from tests.models.trees import world

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def same_numbers(monkeypatch):
    """Whichever tests ran before."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(3))


@pytest.mark.parametrize("lanes", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lines_are_the_sums_of_their_rows(lanes, dtype):
    bins = RNG.integers(0, 9, (500, 5)).astype(dtype)
    values = RNG.integers(-(2**34), 2**34, (500, lanes))
    order = RNG.permutation(500)[:333].astype(np.int32)
    columns = np.array([0, 3, 4])
    found = {}
    for fast in (True, False):
        found[fast] = np.zeros((3, 9, lanes), np.int64)
        kernels.add_lines(bins, order, values, columns, found[fast], fast)
    exact = np.zeros((3, 9, lanes), np.int64)
    for j, column in enumerate(columns):
        np.add.at(exact[j], bins[order, column], values[order])
    assert np.array_equal(found[True], exact) and np.array_equal(found[False], exact)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("many", [4, 14])
def test_nodes_are_the_sums_of_their_rows(many, width, monkeypatch):
    bins = RNG.integers(0, 7, (600, 14)).astype(np.uint8)
    values = RNG.integers(-(2**34), 2**34, (600, width + 1))
    second = RNG.integers(0, 2**kernels.HESSIAN_BITS + 1, 600)
    values[:, -1] = second + (1 << kernels.COUNT)
    order = RNG.permutation(600).astype(np.int32)
    ranges = np.array([0, 300, 300]), np.array([250, 300, 600])
    columns = np.sort([RNG.permutation(14)[:many] for _ in range(4)], axis=1)
    at = np.array([0, 1, 3])
    monkeypatch.setattr(kernels, "MOST_ROWS", 100)
    for fast in (True, False):
        out = (
            np.zeros((4, many, 7, width), np.int64),
            np.zeros((4, many, 7), np.int64),
            np.zeros((4, many, 7), np.int64),
        )
        kernels.add_nodes(bins, order, ranges, values, columns, at, out, fast)
        assert not out[2][1:3].any()
        for node, begin, stop in zip(at, *ranges, strict=True):
            rows = order[begin:stop]
            for j, column in enumerate(columns[node]):
                for b in range(7):
                    here = rows[bins[rows, column] == b]
                    assert np.array_equal(out[0][node, j, b], values[here, :-1].sum(axis=0))
                    assert out[1][node, j, b] == second[here].sum()
                    assert out[2][node, j, b] == len(here)


@pytest.mark.parametrize("many", [0, 1, 2, 7, 255])
def test_bins_are_places_among_the_edges(many):
    edges = np.sort(RNG.choice(10_000, many, replace=False)).astype(np.float32) / 7
    x = np.concatenate([RNG.uniform(-9, 1500, 300), edges, [1e300, -1e300, np.inf, -np.inf]])
    feature = Feature("x", tuple(map(float, edges)), 0, True)
    for fast in (True, False):
        out = np.zeros(len(x) + 1, np.uint16)
        place(np.append(x, np.nan), feature, edges, 256, out, fast)
        with np.errstate(over="ignore"):
            exact = (edges <= x.astype(np.float32)[:, None]).sum(axis=1)
        assert np.array_equal(out, np.append(exact, 256))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("most", [3, 255, 700])
def test_bins_of_all_columns_at_once(most, order):
    many = [0, 1, 2, 14, 15, 16, 17, 33, 255, 700]
    edges = [np.sort(RNG.choice(10_000, k, replace=False)) / 7 for k in many if k <= most]
    x = RNG.uniform(-9, 1500, (1300, len(edges)))
    for j, at in enumerate(edges):
        x[: len(at), j] = at
        x[-5:, j] = [1e300, -1e300, np.inf, -np.inf, np.nan]
    features = tuple(
        Feature(f"x{j}", tuple(np.float32(at).astype(float).tolist()), 0, True)
        for j, at in enumerate(edges)
    )
    terms = tuple(Term(one.name, (), 1.0) for one in features)
    asked, columns = Spec(Design(terms, "y"), features), {"X": np.array(x, order=order)}
    bins, across = both_ways(columns, asked, True)
    slow, turned = both_ways(columns, asked, False)
    assert bins.dtype == slow.dtype and np.array_equal(bins, slow)
    assert np.array_equal(across, turned) and np.array_equal(across, bins.T)
    for j, one in enumerate(features):
        with np.errstate(over="ignore"):
            places = (np.float32(one.edges) <= np.float32(x[:-1, j])[:, None]).sum(axis=1)
        assert np.array_equal(bins[:, j], np.append(places, asked.widest))
    strict = replace(asked, features=tuple(replace(one, missing=False) for one in features))
    for fast in (True, False):
        with pytest.raises(PolyclinicError, match="column x0 has missing values"):
            both_ways(columns, strict, fast)


def test_edges_are_quantiles_of_the_finite_values():
    x = np.append(RNG.normal(size=5000), [np.nan, np.inf])
    values = np.unique(x[:-2].astype(np.float32)).astype(np.float64)
    at = np.quantile(values, np.linspace(0, 1, 17)[1:-1], method="lower")
    above = values[np.searchsorted(values, at) + 1]
    assert quantile_edges(x, 16) == tuple(((at + above) / 2).astype(np.float32).tolist())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bins", [3, 256])
def test_values_that_float32_does_not_hold_have_no_edge_between_them(bins):
    assert quantile_edges(np.array([1e300, -1e300] * 9), bins) == ()
    assert quantile_edges(np.array([1e300, 2.0, 1.0, np.nan, np.inf] * 9), bins) == (1.5,)
    assert quantile_edges(np.array([np.nan, np.inf]), bins) == ()


def test_edges_of_many_rows_are_found_by_as_many_for_each_bin():
    assert sampled(32_000, 32) == slice(None)
    assert [len(sampled(10**6, bins)) for bins in (32, 64, 256)] == [32_000, 64_000, 100_000]
    x = np.random.default_rng(0).normal(size=100_000)
    inner = np.searchsorted(np.sort(x), quantile_edges(x, 32))
    held = np.diff(np.concatenate([[0], inner, [len(x)]]))
    assert len(held) == 32 and np.abs(held / len(x) * 32 - 1.0).max() < 0.15


def test_every_row_of_a_leaf_gets_its_value():
    order, ranges = RNG.permutation(50)[:40].astype(np.int32), (np.array([0, 9, 9]), [9, 9, 40])
    values, start = RNG.normal(size=(3, 2)), RNG.normal(size=(50, 2))
    for fast in (True, False):
        margin = np.asfortranarray(start.copy())
        kernels.add_values(margin, order, (ranges[0], np.array(ranges[1])), values, fast)
        moved = np.zeros((50, 2))
        moved[order[:9]], moved[order[9:]] = values[0], values[2]
        assert np.array_equal(margin, start + moved)


def test_lanes_are_rounded_derivatives_and_one_row():
    """Ties go to the even number; what is beyond the bits stays at their end."""
    first = np.array([[0.5, -1.5], [2.5, 1e12], [-1e12, 0.0], [3.25, -0.49]])
    second, weight = np.array([0.5, 1e9, -3.0, 1.25]), np.array([1.0, 1.0, 2.0, 3.0])
    for fast in (True, False):
        out = np.zeros((4, 3), np.int64)
        kernels.to_lanes(first, second, weight, (1.0, 2.0), out, fast)
        most = 1 << kernels.GRADIENT_BITS
        assert out[:, :2].tolist() == [[0, -2], [2, most], [-most, 0], [10, -1]]
        row, top = 1 << kernels.COUNT, 1 << kernels.HESSIAN_BITS
        assert (out[:, 2] - row).tolist() == [1, top, 0, 8]


def test_rows_are_divided_in_their_order():
    column = RNG.integers(0, 6, 200).astype(np.uint8)
    left = np.array([True, False, True, False, False, True])
    for fast in (True, False):
        order = np.arange(0, 200, 2, dtype=np.int32)
        n_left = kernels.divide(column, order, left, fast)
        assert np.all(left[column[order[:n_left]]]) and not np.any(left[column[order[n_left:]]])
        assert np.all(np.diff(order[:n_left]) > 0) and np.all(np.diff(order[n_left:]) > 0)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_the_best_splits_are_the_same_bits(missing, lanes, bounded):
    if bounded and lanes > 1:
        return
    shape = (6, 4, 11)
    n = RNG.integers(0, 5, shape) * (RNG.uniform(size=shape) > 0.3)
    h = n * 2**28
    g = RNG.integers(-(2**34), 2**34, (*shape, lanes)) * (n[..., None] > 0)
    last = np.full(shape[:2], shape[2] - 1)
    last[2, 1] = 0
    signs = RNG.integers(-1, 2, shape[:2]) if bounded else np.zeros(shape[:2], np.int64)
    low = np.full(6, -0.5 if bounded else -np.inf)
    asked = world.spec(world.rows(), "number")
    rules = Rules(1.0, 0.5, 2.0, 3, 0.0)
    found = {}
    for fast in (True, False):
        gains, places = np.zeros(shape[:2]), np.zeros((*shape[:2], 2), np.int64)
        scan(g, h, n, last, missing, units(asked), rules, signs, low, -low, gains, places, fast)
        found[fast] = gains.tobytes(), places.tobytes()
    assert found[True] == found[False]
    assert np.count_nonzero(gains) > 5 and gains[2, 1] == 0


def test_groups_are_the_same_bits():
    bins = np.clip(RNG.normal(15, 5, (400, 3)), 0, 30).astype(np.uint8)
    parts = RNG.integers(0, 2**30, (400, 2))
    sides = [RNG.uniform(size=400) < 0.4, None]
    sides[1] = ~sides[0]
    lines = {
        fast: [lines_of(bins[side], parts[side], 31, None, fast) for side in sides]
        for fast in (True, False)
    }
    for one, two in zip(lines[True], lines[False], strict=True):
        assert all(
            np.array_equal(a, b)
            for a, b in zip(vars(one).values(), vars(two).values(), strict=True)
        )
    root = lines_of(bins, parts, 31)
    before = joined([root], None, 5, fast=False)
    assert np.array_equal(before, joined([root], None, 5, fast=True))
    after = joined(lines[True], before, 5, fast=False)
    assert np.array_equal(after, joined(lines[True], before, 5, fast=True))
    assert 1 < len(np.unique(after[0])) < len(np.unique(before[0])) < 31


def test_shares_of_joined_bins_are_those_of_their_patients():
    bins = RNG.integers(0, 12, (200, 2)).astype(np.uint8)
    parts = RNG.integers(0, 50, (200, 2))
    lines = lines_of(bins, parts, 12)
    where = joined([lines], None, 30)
    moved = lines.at(where)
    exact = lines_of(np.stack([where[j][bins[:, j]] for j in range(2)], axis=1), parts, 12)
    for one, two in zip(vars(moved).values(), vars(exact).values(), strict=True):
        assert np.array_equal(one, two)


def test_patients_with_several_rows_are_counted_once_and_added_up():
    patient = np.array([0, 0, 0, 1, 1, 2])
    bins = np.array([[1], [1], [2], [2], [2], [0]], dtype=np.uint8)
    found = lines_of(bins, np.array([[3], [4], [9], [2], [2], [5]]), 4, patient)
    assert found.rows.tolist() == [[1, 2, 3, 0]] and found.count.tolist() == [[1, 1, 2, 0]]
    assert found.once.tolist() == [[1, 1, 1, 0]] and found.most.tolist() == [16]
    assert found.total[0, :, 0].tolist() == [5, 7, 13, 0]
    assert found.first[0, :, 0].tolist() == [5, 7, 9, 0]
    assert found.second[0, :, 0].tolist() == [0, 0, 4, 0]
