from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("axes", [("first",), ("last",), ("groups", "last")])
def test_large_cells_alone_stay_shown(axes):
    assert not np.any(covered([[5, 6], [7, 8]], axes))
