"""Rows dealt to made-up hospitals."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.deal import deal

LABELS = np.repeat([0, 1, 2], [500, 300, 200])


@pytest.mark.parametrize("how", ["iid", "dirichlet", "quantity"])
@pytest.mark.parametrize("hospitals", [1, 3, 7])
def test_every_row_is_at_one_hospital_and_none_is_too_small(how, hospitals):
    found = deal(1000, hospitals, how, by=LABELS, alpha=0.3, min_rows=20)
    sizes = np.bincount(found, minlength=hospitals)
    assert len(found) == 1000 and set(found) == set(range(hospitals)) and sizes.min() >= 20
    assert np.array_equal(found, deal(1000, hospitals, how, by=LABELS, alpha=0.3, min_rows=20))
    other = deal(1000, hospitals, how, by=LABELS, alpha=0.3, min_rows=20, seed=1)
    assert hospitals == 1 or not np.array_equal(found, other)


def mix(found, hospital):
    return np.bincount(LABELS[found == hospital], minlength=3) / np.count_nonzero(found == hospital)


def test_a_small_alpha_skews_labels_and_a_large_one_does_not():
    prior = np.array([0.5, 0.3, 0.2])
    even = deal(1000, 5, "dirichlet", by=LABELS, alpha=1e4)
    assert max(np.abs(mix(even, h) - prior).max() for h in range(5)) < 0.12
    skewed = deal(1000, 5, "dirichlet", by=LABELS, alpha=0.05)
    assert np.mean([mix(skewed, h).max() for h in range(5)]) > 0.8
    assert set(np.bincount(skewed)) == {200}


def test_the_first_hospitals_mix_is_the_dirichlet_draw():
    # Hsu et al. 2019: q ~ Dir(alpha p); the mean of many first hospitals' mixes is p, and the
    # variance of a share is p (1 - p) / (alpha + 1) and what drawing rows adds
    alpha, p = 1.0, np.array([0.5, 0.3, 0.2])
    mixes = np.array(
        [mix(deal(1000, 20, "dirichlet", by=LABELS, alpha=alpha, seed=s), 0) for s in range(300)]
    )
    spread = p * (1 - p) / (alpha + 1) * (1 - 1 / 50) + p * (1 - p) / 50
    assert np.abs(mixes.mean(axis=0) - p).max() < 0.08
    assert np.abs(mixes.var(axis=0) / spread - 1).max() < 0.3


def test_by_column_each_value_is_a_hospital():
    found = deal(1000, 99, "column", by=np.array(["x", "y"] * 500))
    assert found.tolist() == [0, 1] * 500


@pytest.mark.parametrize(
    "wrong",
    [
        {"how": "even"},
        {"how": "dirichlet", "by": None},
        {"how": "dirichlet", "by": LABELS[:5]},
        {"how": "iid", "hospitals": 0},
        {"how": "iid", "min_rows": 300},
        {"how": "quantity", "alpha": 0.0},
        {"how": "column", "min_rows": 201},
    ],
)
def test_what_cannot_be_dealt_is_refused(wrong):
    asked = {"hospitals": 4, "how": "iid", "by": LABELS, **wrong}
    with pytest.raises(InputError):
        deal(1000, asked.pop("hospitals"), asked.pop("how"), **asked)
