from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from polyclinic.core.errors import InputError
from polyclinic.data.formula import compile_formula
from polyclinic.data.synthetic import hospitals


def pooled(found):
    """The pooled logistic fit by statsmodels, as (names, coefficients, standard errors)."""
    design = compile_formula(found.formula, found.codebook)
    matrix = np.vstack([design.matrix(t.columns) for t in found.tables.values()])
    y = np.concatenate([t.columns["outcome"] for t in found.tables.values()])
    result = sm.GLM(y, sm.add_constant(matrix), family=sm.families.Binomial()).fit()
    return ("Intercept", *design.names), result.params, result.bse


@pytest.mark.parametrize("seed", [0, 1])
def test_the_pooled_fit_recovers_the_truth(seed):
    found = hospitals(4, 20_000, case_mix_shift=0.5, size_imbalance=0.3, random_state=seed)
    names, coefficient, se = pooled(found)
    assert set(names) == set(found.truth)
    truth = np.array([found.truth[name] for name in names])
    assert np.max(np.abs(coefficient - truth) / se) < 4
    assert np.max(se) < 0.1  # 4 standard errors are little here


def test_a_label_shift_is_seen_between_hospitals():
    found = hospitals(3, 9000, label_shift=1.0)
    rates = [t.columns["outcome"].mean() for t in found.tables.values()]
    assert rates[0] < rates[1] - 0.1 < rates[2] - 0.2


def test_a_case_mix_shift_moves_the_columns_and_not_the_truth():
    found, plain = hospitals(3, 9000, case_mix_shift=1.0), hospitals(3, 9000)
    means = [t.columns["x1"].mean() for t in found.tables.values()]
    np.testing.assert_allclose(means, [-1, 0, 1], atol=0.1)
    last = [np.mean(t.columns["c1"] == 2) for t in found.tables.values()]
    assert last[0] < last[1] < last[2]
    assert found.truth == plain.truth


def test_sizes_and_missing_cells():
    found = hospitals(4, 10_001, size_imbalance=0.5, missingness=0.2, n_categories=1)
    sizes = [t.n_rows for t in found.tables.values()]
    assert sum(sizes) == 10_001
    np.testing.assert_allclose(sizes, 10_001 * np.array([8, 4, 2, 1]) / 15, atol=2)
    table = found.tables["h1"]
    for name in ("x1", "c1"):
        assert np.isnan(table.columns[name]).mean() == pytest.approx(0.2, abs=0.03)
    assert not np.isnan(table.columns["outcome"]).any()
    assert [t.n_rows for t in hospitals(5, 5).tables.values()] == [1] * 5


def test_the_columns_keep_to_the_codebook():
    found = hospitals(2, 5000, case_mix_shift=20.0)
    for table in found.tables.values():
        assert set(table.columns) == set(found.codebook.usable)
        low, high = found.codebook.columns["x1"].range
        assert table.columns["x1"].min() >= low and table.columns["x1"].max() <= high
        assert set(np.unique(table.columns["c1"])) <= {0.0, 1.0, 2.0}


def test_the_same_seed_gives_the_same_hospitals():
    first, again, other = (hospitals(2, 100, random_state=s) for s in (3, 3, 4))
    frames = [pd.DataFrame(dict(f.tables["h2"].columns)) for f in (first, again, other)]
    pd.testing.assert_frame_equal(frames[0], frames[1])
    assert not frames[0].equals(frames[2])


def test_without_columns_there_is_an_intercept():
    found = hospitals(2, 100, n_numbers=0, n_categories=0)
    assert found.truth == {"Intercept": -0.5} and found.formula == "outcome ~ 1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_sites": 0},
        {"n_sites": 5, "n_patients": 4},
        {"n_numbers": -1},
        {"missingness": 1.0},
        {"size_imbalance": -0.1},
    ],
)
def test_wrong_values_are_refused_with_the_rule(wrong):
    with pytest.raises(InputError) as caught:
        hospitals(**wrong)
    assert caught.value.code == "WRONG_VALUE" and next(iter(wrong)) in caught.value.rule
