from __future__ import annotations

import json

import numpy as np
import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import Cohort
from polyclinic.data.formula import formula_columns
from polyclinic.data.table import Table

NAN = np.nan
FORMULA_A = "disease ~ age + sex + C(cp) + thalach + exang + oldpeak"
FORMULA_C = (
    "disease ~ age + sex + C(cp) + trestbps + chol + fbs + C(restecg) + thalach + exang + oldpeak"
)


def counts(tables, cohort: Cohort) -> list[int]:
    return [len(cohort.rows(table)) for table in tables.values()]


def test_complete_in_the_columns_of_the_formula(tables, heart):
    cohort = Cohort(columns=formula_columns(FORMULA_A, heart))
    assert counts(tables, cohort) == [303, 293, 117, 144]
    assert sum(counts(tables, cohort)) == 857
    diseased = [int(t.columns["disease"][cohort.rows(t)].sum()) for t in tables.values()]
    assert diseased == [139, 106, 109, 114]
    assert [cohort.left_out(t)["missing"] for t in tables.values()] == [0, 1, 6, 56]


def test_means_for_two_columns_and_a_condition(tables, heart):
    cohort = Cohort(
        "age >= 18",
        formula_columns(FORMULA_C, heart),
        {"default": "drop", "chol": "mean", "fbs": "mean"},
    )
    assert counts(tables, cohort) == [303, 292, 116, 140]
    assert [cohort.left_out(t) for t in tables.values()] == [
        {"condition": 0, "missing": n} for n in (0, 2, 7, 60)
    ]
    assert cohort.with_rule("mean") == ("chol", "fbs")
    rows = {site: cohort.rows(t) for site, t in tables.items()}
    gaps = [
        sum(int(np.isnan(t.columns[c][rows[s]]).sum()) for s, t in tables.items())
        for c in ("chol", "fbs")
    ]
    assert gaps == [180, 85]
    known = np.concatenate([t.columns["chol"][rows[s]] for s, t in tables.items()])
    assert np.nanmean(known) == pytest.approx(247.222057, abs=5e-7)


@pytest.fixture
def table() -> Table:
    codebook = Codebook.from_dict(
        {
            "name": "x",
            "columns": {
                "age": {"type": "integer"},
                "bmi": {"type": "number"},
                "sex": {"type": "binary", "levels": {"0": "f", "1": "m"}},
            },
        }
    )
    columns = {
        "age": np.array([20.0, 40.0, NAN, 60.0, 50.0]),
        "bmi": np.array([20.0, NAN, 30.0, 40.0, 25.0]),
        "sex": np.array([0.0, 1.0, 1.0, NAN, 0.0]),
    }
    return Table("a", columns, np.array([0, 1, 1, 2, 0]), codebook)


@pytest.mark.parametrize(
    ("where", "columns", "rows"),
    [
        (None, (), [0, 1, 2, 3, 4]),
        (None, ("age",), [0, 1, 3, 4]),
        (None, ("age", "bmi", "sex"), [0, 4]),
        ("age > 30", (), [1, 3, 4]),
        ("not (age > 30)", (), [0]),  # unknown is not included, whichever way it is asked
        ("age > 30 or sex == 1", (), [1, 2, 3, 4]),
        ("age > 30 and sex == 1", (), [1]),
        ("age is missing", (), [2]),
        ("age is not missing and bmi < 41", (), [0, 3, 4]),
        ("age > 30", ("bmi",), [3, 4]),
        ("age > 1000", (), []),
    ],
)
def test_rows(table, where, columns, rows):
    assert Cohort(where, columns).rows(table).tolist() == rows


def test_left_out_counts_patients_and_not_rows(table):
    # patient 0 has rows 0 and 4, patient 1 rows 1 and 2, patient 2 row 3
    assert Cohort("age > 30").left_out(table) == {"condition": 0, "missing": 0}
    assert Cohort("age < 30", ("bmi",)).left_out(table) == {"condition": 2, "missing": 0}
    assert Cohort(None, ("sex",)).left_out(table) == {"condition": 0, "missing": 1}
    assert Cohort("bmi > 22", ("age", "sex")).left_out(table) == {"condition": 0, "missing": 2}


def test_a_gap_where_none_is_allowed(table):
    cohort = Cohort(None, ("age", "bmi"), {"default": "drop", "bmi": "error"})
    with pytest.raises(InputError) as caught:
        cohort.rows(table)
    assert caught.value.code == "MISSING_VALUES" and caught.value.site == "a"
    assert caught.value.what == "a, column bmi: 1 row has no value"
    inside = Cohort("bmi is not missing", ("age", "bmi"), {"default": "drop", "bmi": "error"})
    assert inside.rows(table).tolist() == [0, 3, 4]


def test_the_mean_rule_keeps_the_row(table):
    assert Cohort(None, ("age", "bmi"), {"default": "mean"}).rows(table).tolist() == [0, 1, 2, 3, 4]


def test_it_travels_as_plain_data():
    cohort = Cohort("age > 30", ("age", "bmi"), {"default": "drop", "bmi": "mean"})
    assert Cohort.from_data(json.loads(json.dumps(cohort.to_data()))) == cohort


@pytest.mark.parametrize(
    ("where", "columns", "missing", "code"),
    [
        ("age >", (), {}, "BAD_EXPRESSION"),
        ("__import__('os').system('id')", (), {}, "BAD_EXPRESSION"),
        (None, ("age",), {"default": "guess"}, "WRONG_VALUE"),
        (None, ("agee",), {}, "UNKNOWN_COLUMN"),
        ("agee > 3", (), {}, "UNKNOWN_COLUMN"),
    ],
)
def test_what_is_refused(table, where, columns, missing, code):
    with pytest.raises(InputError) as caught:
        Cohort(where, columns, missing).rows(table)
    assert caught.value.code == code and caught.value.rule and caught.value.next


def test_an_empty_table(table):
    nobody = Table(
        "a", {n: v[:0] for n, v in table.columns.items()}, table.patient[:0], table.codebook
    )
    cohort = Cohort("age > 3", ("age",))
    assert cohort.rows(nobody).tolist() == []
    assert cohort.left_out(nobody) == {"condition": 0, "missing": 0}
