"""Small cells: an attacker with a linear program of his own must not find them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from polyclinic.report.suppress import shown_events, suppress

SIZES = [303, 294, 123, 200]
CHEST_PAIN = [[23, 11, 4, 8], [50, 106, 4, 14], [86, 54, 17, 47], [144, 123, 98, 131]]


def with_all(counts: list[list[int]]) -> list[list[int]]:
    return [[*row, sum(row)] for row in counts]


def feasible(counts, hidden, lower, upper):
    """Smallest and largest integer of every hidden cell, by integer programming over all cells.

    Written without the code under test: every cell of the table is a variable, the shown ones are
    fixed, hospitals sum to the last column and levels to the patients of their column.
    """
    shape = np.shape(counts)
    cells = list(product(range(shape[0]), range(shape[1])))
    place = {cell: k for k, cell in enumerate(cells)}
    known = np.array([counts[i][j] for i, j in cells], dtype=float)
    gone = np.array([hidden[i][j] for i, j in cells])
    low, high = np.where(gone, lower, known), np.where(gone, upper, known)
    rows, sums = [], []
    for j in range(shape[1]):
        row = np.zeros(len(cells))
        row[[place[i, j] for i in range(shape[0])]] = 1
        rows.append(row)
        sums.append(sum(counts[i][j] for i in range(shape[0])))
    for i in range(shape[0]):
        row = np.zeros(len(cells))
        row[[place[i, j] for j in range(shape[1] - 1)]] = 1
        row[place[i, shape[1] - 1]] = -1
        rows.append(row)
        sums.append(0)
    found = {}
    for cell in cells:
        if not hidden[cell[0]][cell[1]]:
            continue
        ends = []
        for sign in (1, -1):
            aim = np.zeros(len(cells))
            aim[place[cell]] = sign
            answer = milp(
                aim,
                constraints=LinearConstraint(np.array(rows), sums, sums),
                bounds=Bounds(low, high),
                integrality=np.ones(len(cells)),
            )
            assert answer.success, answer.message
            ends.append(round(sign * answer.fun))
        found[cell] = tuple(ends)
    return found


def alike(counts, hidden):
    """Bounds of a reader who knows only which cells are hidden: zeros are shown, unless all of a
    hospital's cells that are above zero are hidden."""
    lower = [
        0 if all(hidden[i][j] or counts[i][j] == 0 for i in range(len(counts))) else 1
        for _ in counts
        for j in range(len(counts[0]))
    ]
    lower = np.array(lower, dtype=float)
    return lower, np.full(len(lower), 1e6)


def guessed(counts):
    """Bounds of a reader who has guessed which hidden cells are the small ones."""
    flat = np.array(counts).ravel()
    small = (flat > 0) & (flat < 5)
    return np.where(small, 1.0, 5.0), np.where(small, 4.0, 1e6)


def test_chest_pain_of_the_four_hospitals():
    counts = with_all(CHEST_PAIN)
    hidden = suppress(counts, [*SIZES, sum(SIZES)])
    assert hidden[0][2] and hidden[1][2], "the two fours of Switzerland"
    assert hidden[0][0] is False and hidden[0][1] is False, "large hospitals lose nothing"
    ends = feasible(counts, hidden, *guessed(counts))
    assert ends[0, 2] == (1, 4) and ends[1, 2] == (1, 4)


def test_hiding_only_the_two_fours_is_what_the_attack_breaks():
    counts = with_all(CHEST_PAIN)
    hidden = [[value == 4 for value in row] for row in counts]
    assert feasible(counts, hidden, *guessed(counts)) == {(0, 2): (4, 4), (1, 2): (4, 4)}


def test_a_table_without_small_cells_is_shown_whole():
    counts = with_all([[20, 30], [0, 7]])
    assert not np.any(suppress(counts, [20, 37, 57]))


def test_a_single_row_hides_a_second_cell_when_its_sum_is_shown():
    assert suppress([[0, 3, 60, 12, 75]], [None] * 5) == [[False, True, False, True, False]]


def test_a_sum_that_a_gate_hid_is_not_taken_for_a_small_cell():
    counts = [
        [23, 11, None, None, None],
        [50, 105, None, 7, None],
        [86, 54, 17, 28, 185],
        [144, 123, 92, 106, 465],
    ]
    hidden = suppress(counts, [303, 293, 117, 144, 857])
    assert [row[4] for row in hidden] == [True, True, False, False]
    assert hidden[2] == [False, False, True, True, False], "17 and 28 keep each other hidden"
    assert hidden[3] == [False] * 5


def test_events_are_hidden_where_those_without_are_few():
    sites = [
        {"patients": 60, "events": 58},
        {"patients": 80, "events": 40},
        {"patients": 90, "events": 30},
    ]
    assert shown_events(sites, {"patients": 230, "events": 128}) == [None, None, 30, 128]


tables = (
    st.integers(2, 4)
    .flatmap(
        lambda columns: st.lists(
            st.lists(
                st.sampled_from([0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 9, 14, 23, 60]),
                min_size=columns,
                max_size=columns,
            ),
            min_size=2,
            max_size=5,
        )
    )
    .filter(lambda rows: all(sum(row[j] for row in rows) >= 10 for j in range(len(rows[0]))))
)


@pytest.mark.filterwarnings("error")
@settings(max_examples=40)
@given(tables)
@example([[4, 60], [4, 60]])
@example([[1, 9], [9, 1]])
@example([[0, 4, 0], [60, 60, 60]])
def test_no_hidden_cell_can_be_worked_out(rows):
    counts = with_all(rows)
    totals = [sum(row[j] for row in counts) for j in range(len(counts[0]))]
    hidden = suppress(counts, totals)
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            assert hidden[i][j] or not 0 < count < 5
    for cell, (low, high) in feasible(counts, hidden, *alike(counts, hidden)).items():
        assert high >= 5, f"{cell} is certain to be under 5"
        assert low < high, f"{cell} is known to be {low}"


@settings(max_examples=40)
@given(tables)
def test_a_reader_who_guesses_the_small_cells_learns_nothing_more(rows):
    counts = with_all(rows)
    totals = [sum(row[j] for row in counts) for j in range(len(counts[0]))]
    hidden = suppress(counts, totals)
    ends = feasible(counts, hidden, *guessed_where(counts, hidden))
    for (i, j), found in ends.items():
        whole = all(hidden[k][j] or counts[k][j] == 0 for k in range(len(counts)))
        if 0 < counts[i][j] < 5 and not whole:
            assert found == (1, 4)


def guessed_where(counts, hidden):
    """As `guessed`; a zero that is hidden with its whole column is left at zero."""
    lower, upper = guessed(counts)
    zero = np.array(counts).ravel() == 0
    return np.where(zero, 0.0, lower), np.where(zero, 0.0, upper)
