from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import null_space
from scipy.optimize import linprog

from polyclinic.privacy.suppress import cover


def covered(behind, axes, k=5):
    behind = np.array(behind)
    return cover(behind, (behind > 0) & (behind < k), axes, k).astype(int).tolist()


def test_a_single_small_cell_takes_the_next_smallest_with_it():
    assert covered([3, 20, 40, 0], ("last",)) == [1, 1, 0, 0]


def test_small_cells_that_are_too_few_together_take_one_more():
    assert covered([1, 2, 20, 40], ("last",), k=5) == [1, 1, 1, 0]
    assert covered([4, 4, 20, 40], ("last",), k=5) == [1, 1, 0, 0]


def test_without_known_totals_a_small_cell_is_hidden_alone():
    assert covered([3, 20, 40], ()) == [1, 0, 0]


def test_a_cross_table_is_covered_by_rows_and_columns():
    assert covered([[20, 20], [4, 6]], ("first", "last")) == [[1, 1], [1, 1]]


def test_groups_add_up_to_the_first_of_them():
    # All 30 = 3 + 27: the 27 gives the 3 away; the sum itself is no part of that line.
    assert covered([30, 3, 27], ("groups",)) == [0, 1, 1]


def test_patients_in_no_group_are_a_cell_as_well():
    # 40 = 20 + 18 + 2 without a group: one of the groups goes, or the two are what is left.
    assert covered([40, 20, 18], ("groups",)) == [0, 0, 1]
    assert covered([43, 20, 18], ("groups",)) == [0, 0, 0]


def test_a_line_with_nothing_else_in_it_stays_as_it_is():
    assert covered([[0, 3, 0], [9, 9, 9]], ("last",)) == [[0, 1, 0], [0, 0, 0]]


@given(
    st.lists(st.integers(0, 12), min_size=6, max_size=12).filter(lambda x: len(x) % 3 == 0),
    st.integers(2, 8),
)
def test_no_line_gives_a_hidden_count_back(counts, k):
    behind = np.array(counts).reshape(-1, 3)
    hidden = cover(behind, (behind > 0) & (behind < k), ("first", "last"), k)
    assert np.all(hidden[(behind > 0) & (behind < k)])
    for line, mark in [*zip(behind, hidden, strict=True), *zip(behind.T, hidden.T, strict=True)]:
        gone = line[mark & (line > 0)]
        shown = line[~mark & (line > 0)]
        assert len(gone) != 1 or not len(shown)
        assert not len(gone) or gone.sum() >= k or not len(shown)


BRIDGE = np.array(
    [
        [3, 4, 50, 60, 40],
        [4, 3, 2, 50, 30],
        [70, 30, 3, 4, 50],
        [40, 80, 4, 3, 60],
        [60, 50, 90, 70, 40],
    ]
)


def by_lines(behind, k):
    """The table with every line covered, and nothing looked at beyond single lines."""
    small = (behind > 0) & (behind < k)
    assert all(n != 1 for n in [*small.sum(axis=0), *small.sum(axis=1)])
    return small


def test_a_cell_between_two_hidden_blocks_is_what_the_lines_leave():
    hidden = by_lines(BRIDGE, 5)
    shown = np.where(hidden, 0, BRIDGE)
    rows, columns = (BRIDGE.sum(axis=i) - shown.sum(axis=i) for i in (1, 0))
    assert rows[0] + rows[1] - columns[0] - columns[1] == BRIDGE[1, 2] == 2
    assert determined(BRIDGE, hidden, ("first", "last"), 5) == [(1, 2)]
    hidden = cover(BRIDGE, hidden, ("first", "last"), 5)
    assert determined(BRIDGE, hidden, ("first", "last"), 5) == []
    # The cheapest way around: 30 patients, not the 40 and more of any other.
    assert hidden[2, 1] and np.count_nonzero(hidden) == 10


def totals(behind, hidden, axes, k, sum_known):
    """Coefficients of what is known about the hidden cells, and their places."""
    unknown = [tuple(at) for at in np.argwhere(hidden) if not (sum_known and at[0] == 0)]
    rests = []
    if "groups" in axes:
        rest = behind[0] - behind[1:].sum(axis=0)
        rests = [(len(behind), *at) for at in np.argwhere((rest > 0) & (rest < k))]
    lines = []
    for axis in axes:
        drop = len(behind.shape) - 1 if axis == "last" else 0
        for at in {tuple(np.delete(u, drop)) for u in unknown + rests}:
            line = [float(tuple(np.delete(u, drop)) == at) for u in unknown + rests]
            if axis == "groups":
                line = [-v if u[0] == 0 else v for u, v in zip(unknown + rests, line, strict=True)]
            lines.append(line)
    return np.array(lines), unknown


def determined(behind, hidden, axes, k):
    """Hidden cells of which the totals leave one value only, by the null space."""
    found = set()
    for sum_known in (True, False) if "groups" in axes else (False,):
        known, unknown = totals(behind, hidden, axes, k, sum_known)
        if len(unknown):
            free = null_space(known)
            found |= {
                at
                for at, row in zip(unknown, free, strict=False)
                if np.abs(row).max(initial=0) < 1e-9
            }
    return sorted(tuple(int(i) for i in at) for at in found)


def tables(rows, columns):
    """Tables with many small cells and zeros; the first row no less than the sum of the others."""
    cell = st.sampled_from([0, 0, 1, 2, 3, 4, 9, 20, 31, 44])
    return st.lists(cell, min_size=rows * columns, max_size=rows * columns).map(
        lambda cells: np.array(cells).reshape(rows, columns)
    )


@pytest.mark.parametrize("axes", [("first", "last"), ("last",), ("groups",), ("groups", "last")])
@given(st.data(), st.integers(2, 6), st.integers(2, 6), st.integers(2, 7))
@settings(max_examples=150, deadline=None)
def test_no_hidden_cell_is_what_the_totals_determine(axes, data, n_rows, n_columns, k):
    behind = data.draw(tables(n_rows, n_columns))
    if "groups" in axes:
        rest = data.draw(tables(1, n_columns))
        behind = np.vstack([behind.sum(axis=0) + rest[0], behind])
    hidden = cover(behind, (behind > 0) & (behind < k), axes, k)
    for at in determined(behind, hidden, axes, k):
        # Only where nothing else could be hidden.
        assert at in determined(behind, behind > 0, axes, k)


@given(tables(4, 4), st.integers(2, 7))
@settings(max_examples=25, deadline=None)
def test_a_hidden_cell_has_a_range(behind, k):
    """By linear programming: what numbers of 0 or more the totals of rows and columns allow."""
    axes = ("first", "last")
    hidden = cover(behind, (behind > 0) & (behind < k), axes, k)
    known, unknown = totals(behind, hidden, axes, k, False)
    if not unknown:
        return
    right = known @ np.array([behind[at] for at in unknown])
    for i, at in enumerate(unknown):
        aim = np.eye(len(unknown))[i]
        ends = [linprog(sign * aim, A_eq=known, b_eq=right).fun * sign for sign in (1, -1)]
        alone = at in determined(behind, behind > 0, axes, k)
        assert ends[1] - ends[0] > 1e-6 or alone


def test_a_sum_over_groups_is_not_what_the_groups_show():
    behind = np.array([[40], [18], [22]])
    hidden = np.array([[True], [False], [False]])  # one patient is nearly all of the sum
    assert cover(behind, hidden, ("groups",), 5).all()


def test_a_large_table_is_covered_fast():
    behind = np.random.default_rng(1).poisson(8.0, (40, 60))
    start = time.perf_counter()
    hidden = cover(behind, (behind > 0) & (behind < 5), ("first", "last"), 5)
    assert time.perf_counter() - start < 2.0
    assert determined(behind, hidden, ("first", "last"), 5) == []


@pytest.mark.parametrize("axes", [("first",), ("last",), ("groups", "last")])
def test_large_cells_alone_stay_shown(axes):
    assert not np.any(covered([[5, 6], [7, 8]], axes))
