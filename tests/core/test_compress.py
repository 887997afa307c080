"""Rounded differences: what survives the trip, and that what rounding takes off comes later."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polyclinic.core import ring
from polyclinic.core.compress import HELD, KINDS, Answers, known_after, rounded, sent
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf

# At the foot of float64 a step of 127 has no room.
numbers = st.floats(-(2.0**50), 2.0**50).map(lambda x: x if abs(x) > 2.0**-900 else 0.0)
rows = arrays(np.float64, st.integers(0, 12), elements=numbers)
GRADIENT = Leaf("gradient", (2, 3), lossy=True)


@given(rows)
def test_int8_has_at_most_127_steps_of_one_power_of_two(values):
    kept = rounded(values, "int8")
    largest = np.abs(values).max(initial=0.0)
    if not largest:
        assert not kept.any()
        return
    step = 2.0 ** np.ceil(np.log2(largest / 127.4999))
    assert (np.abs(kept - values) <= step / 2).all()
    fine = [s for s in (step / 2, step) if np.abs(kept).max() <= 127 * s]
    assert any(np.array_equal(kept / s, np.rint(kept / s)) for s in fine)


@given(rows)
def test_float16_keeps_eleven_bits_of_the_largest_and_never_overflows(values):
    kept = rounded(values, "float16")
    assert np.isfinite(kept).all()
    floor = np.abs(values).max(initial=0.0) * 2.0**-38
    assert (np.abs(kept - values) <= np.maximum(np.abs(values) * 2.0**-11, floor)).all()


@given(rows, st.sampled_from(list(KINDS)))
def test_what_has_survived_once_survives_again_and_signs_do_not_matter(values, kind):
    kept = rounded(values, kind)
    np.testing.assert_array_equal(rounded(kept, kind), kept)
    np.testing.assert_array_equal(rounded(-values, kind), -kept)


def test_ties_go_to_even():
    ties = np.array([127.0, 0.5, 1.5, 2.5, -0.5, -1.5])
    np.testing.assert_array_equal(rounded(ties, "int8"), [127, 0, 2, 2, 0, -2])
    assert rounded(np.array([127.5]), "int8") == 128  # 64 steps of two


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_comes_ever_closer_to_a_sum_that_stays(kind):
    values = np.tile(np.random.default_rng(1).normal(size=3) * [1.0, 1e3, 1e-3], (2, 1))
    words, known, far = ring.encode(values), None, []
    for _ in range(9):
        part = sent(GRADIENT, words, kind, known, 0)
        known = known_after([GRADIENT], {"gradient": part}, known, 0)
        far.append(np.abs(ring.decode(known["gradient"]) - values.ravel()).max())
    assert all(b <= a / 100 or b < 2.0**-60 for a, b in pairwise(far)), far
    assert far[-1] < 2.0**-60


def test_the_parts_of_sites_add_up_to_what_is_known_of_the_total():
    rng = np.random.default_rng(2)
    of_sites, of_total = [None, None, None], None
    for _ in range(4):
        sums = [ring.encode(rng.normal(size=6) * 50) for _ in of_sites]
        parts = [
            sent(GRADIENT, one, "int8", known, 1) for one, known in zip(sums, of_sites, strict=True)
        ]
        of_sites = [
            known_after([GRADIENT], {"gradient": part}, known, 1)
            for part, known in zip(parts, of_sites, strict=True)
        ]
        total = ring.add(ring.add(parts[0], parts[1]), parts[2])
        of_total = known_after([GRADIENT], {"gradient": total}, of_total, 1)
    whole = ring.zeros(6)
    for known in of_sites:
        whole = ring.add(whole, known["gradient"])
    assert of_total["gradient"].tobytes() == whole.tobytes()


def test_other_leaves_are_left_alone():
    leaf, words = Leaf("loss", (2,)), ring.encode(np.array([1 / 3, 2 / 3]))
    assert sent(leaf, words, "int8", None, 0) is words
    assert known_after([leaf], {"loss": words}, None, 0) == {}


@pytest.mark.parametrize("known", [{}, {"gradient": ring.zeros(4)}, {"gradient": ring.zeros(6)}])
def test_a_row_that_is_not_there_is_refused(known):
    with pytest.raises(PolyclinicError) as caught:
        sent(GRADIENT, ring.zeros(6), "int8", known, 2)
    assert caught.value.code == "BAD_MESSAGE"


def test_the_last_answers_that_were_used_are_held():
    answers = Answers()
    for i in range(10):
        if i:
            answers.find("0")
        answers.keep(str(i), f"at {i}", {"gradient": ring.zeros(i)})
    held = [one["content"] for one in answers.to_data()]
    assert held == ["7", "8", "0", "9"] and len(held) == HELD
    again = Answers.from_data(answers.to_data())
    assert again.find("8")[0] == "at 8" and again.find("") == ("", None)
    with pytest.raises(PolyclinicError) as caught:
        again.find("6")
    assert caught.value.code == "LEFTOVER_LOST"
