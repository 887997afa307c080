from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from polyclinic.core.errors import Refused
from polyclinic.core.fit import fit
from polyclinic.models.descriptive import CrossTable
from polyclinic.privacy.policy import Policy
from tests.core.wiring import OPEN, cut, domain, federation, partition
from tests.models.descriptive.patients import PAIN, SEX, SIZES, columns, frame


@pytest.mark.parametrize("partitions", [1, 3, 7])
@pytest.mark.parametrize("by_site", [True, False])
def test_equals_pandas_and_scipy(partitions, by_site):
    data, pooled = columns(), frame()
    expected = pd.crosstab(pooled.sex, pooled.pain).to_numpy()
    for engine in (
        federation(cut(data, SIZES), OPEN, partitions),
        domain(partition(data), partitions),
    ):
        found = fit(CrossTable(SEX, PAIN, by_site), engine).model
        assert found["overall"]["counts"] == expected.tolist()
        reference = chi2_contingency(expected)
        test = found["overall"]["test"]
        assert test["chi2"] == pytest.approx(reference.statistic, rel=1e-12)
        assert test["p"] == pytest.approx(reference.pvalue, rel=1e-12)
        assert test["df"] == reference.dof
        assert test["smallest_expected"] == pytest.approx(reference.expected_freq.min())
    assert bool(found["sites"]) is by_site


@given(st.lists(st.integers(0, 30), min_size=6, max_size=6), st.booleans())
def test_the_chi_square_is_scipys(cells, correction):
    for shape, a, b in (((2, 3), SEX, PAIN), ((2, 2), SEX, SEX)):
        table = np.array(cells[: shape[0] * shape[1]]).reshape(shape)
        full = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
        assume(full.size and min(full.shape) > 1)
        found = CrossTable(a, b, correction=correction).test(table)
        reference = chi2_contingency(full, correction=correction)
        assert found["chi2"] == pytest.approx(reference.statistic, rel=1e-12, abs=1e-14)
        assert found["p"] == pytest.approx(reference.pvalue, rel=1e-12)


def test_per_site_tables_are_the_sites_own():
    data, pooled = columns(), frame()
    found = fit(CrossTable(SEX, PAIN, by_site=True), federation(cut(data, SIZES), OPEN)).model
    first = pooled[: SIZES[0]]
    assert found["sites"]["a"]["counts"] == pd.crosstab(first.sex, first.pain).to_numpy().tolist()


def test_a_hidden_cell_is_none_and_stops_the_test():
    sex = np.r_[np.zeros(40), np.ones(10)]
    pain = np.r_[np.zeros(20), np.ones(20), np.zeros(4), np.ones(6)]
    data = {"sex": np.r_[sex, sex], "pain": np.r_[pain, np.ones(50)]}
    found = fit(CrossTable(SEX, PAIN), federation(cut(data, (50, 50)))).model["overall"]
    # Only the 4 is small; the cells beside, above and across it would give it back.
    assert found["counts"] == [[None, None, 0], [None, None, 0]]
    assert found["hidden"] == [[1, 1, 0], [1, 1, 0]]
    assert found["at_least"][1][0] == 0
    assert found["test"] == {
        "chi2": None,
        "df": None,
        "p": None,
        "smallest_expected": None,
        "note": "a cell is hidden",
    }


def test_a_site_may_forbid_tables_of_its_own():
    engine = federation(cut(columns(), SIZES), Policy(collect=("descriptive.together",)))
    fit(CrossTable(SEX, PAIN), engine)
    with pytest.raises(Refused) as caught:
        fit(CrossTable(SEX, PAIN, by_site=True), engine)
    assert caught.value.code == "COLLECT_NOT_ALLOWED"


@pytest.mark.parametrize("pain", [[np.nan] * 10, [1.0] * 10])
def test_no_test_without_two_levels(pain):
    found = fit(CrossTable(SEX, PAIN), domain(partition({"sex": [0.0, 1.0] * 5, "pain": pain})))
    assert found.model["overall"]["test"]["note"] == "a column has fewer than two levels in use"


@pytest.mark.parametrize("wrong", [3.0, 0.5, -1.0])
def test_an_unknown_level_is_bad_data(wrong):
    data = {"sex": [0.0, 1.0] * 5, "pain": [0.0] * 9 + [wrong]}
    with pytest.raises(Refused) as caught:
        fit(CrossTable(SEX, PAIN), federation(cut(data, (10,))))
    assert caught.value.code == "BAD_DATA"
