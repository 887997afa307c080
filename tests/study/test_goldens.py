"""Golden numbers on the four heart hospitals.

Recipe: statsmodels 0.15, ``GLM(y, X, family=Binomial()).fit()`` on the pooled rows of the four UCI
files, columns as in the formula with integer levels; zeros of chol and trestbps are missing except
in B. A: rows complete in its columns (857). B: any ``?`` in ten columns drops the row, zeros kept
(740). C: chol and fbs filled by their means over the 851 rows, plus 0/1 columns.
"""

from __future__ import annotations

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.data.codebook import Codebook
from polyclinic.privacy.policy import open_policy

from .conftest import CODEBOOK

A = {
    "Intercept": (-1.287857, 1.060152), "age": (0.030164, 0.010977), "sex": (1.402161, 0.234683),
    "C(cp)[T.2]": (-1.126656, 0.439824), "C(cp)[T.3]": (-0.481312, 0.404739),
    "C(cp)[T.4]": (1.037721, 0.390905), "thalach": (-0.016037, 0.004082),
    "exang": (0.975507, 0.215874), "oldpeak": (0.541313, 0.102217),
}  # fmt: skip
B = {
    "Intercept": (-2.197833, 1.356412), "age": (0.021330, 0.012618), "sex": (1.299613, 0.256907),
    "C(cp)[T.2]": (-0.418834, 0.487646), "C(cp)[T.3]": (-0.014581, 0.452003),
    "C(cp)[T.4]": (1.431577, 0.440324), "trestbps": (0.006164, 0.005725),
    "chol": (-0.001943, 0.001165), "fbs": (0.526597, 0.292557),
    "C(restecg)[T.1]": (-0.078208, 0.302903), "C(restecg)[T.2]": (0.256040, 0.253436),
    "thalach": (-0.014009, 0.004557), "exang": (1.008121, 0.231108),
    "oldpeak": (0.628537, 0.114646),
}  # fmt: skip
C = {
    "chol": (0.003863, 0.001853), "sex": (1.314403, 0.250595), "oldpeak": (0.574882, 0.106436),
    "chol_missing": (1.029, 0.313), "fbs_missing": (1.063, 0.443),
}  # fmt: skip
FORMULA_A = "disease ~ age + sex + C(cp) + thalach + exang + oldpeak"
FORMULA_B = (
    "disease ~ age + sex + C(cp) + trestbps + chol + fbs + C(restecg) + thalach + exang + oldpeak"
)


def agree(table, golden):
    for term, (coef, se) in golden.items():
        digits = 7 if len(str(coef).split(".")[1]) > 3 else 4
        np.testing.assert_allclose(table.coef[term], coef, atol=0.51 * 10.0 ** -(digits - 1))
        np.testing.assert_allclose(table.se[term], se, atol=0.51 * 10.0 ** -(digits - 1))


def test_a_and_its_validation(heart):
    model = pc.LogisticRegression().fit(heart.with_policy(open_policy()), FORMULA_A)
    assert list(model.summary().index) == list(A)
    agree(model.summary(), A)
    np.testing.assert_allclose(model.result_.deviance, 722.757956, atol=1e-6)
    found = model.evaluate(subgroups=("sex",)).measures
    np.testing.assert_allclose(found["all"]["auroc"]["value"], 0.876568, atol=6e-5)
    np.testing.assert_allclose(found["apparent"]["auroc"]["value"], 0.886335, atol=6e-5)
    assert areas(found) == {
        "cleveland": [0.870, 0.830, 0.910], "hungarian": [0.890, 0.851, 0.929],
        "switzerland": [0.757, 0.544, 0.969], "va": [0.724, 0.622, 0.826],
    }  # fmt: skip
    shares = [
        (round(100 * g["observed"]), round(100 * g["predicted"])) for g in found["sites"].values()
    ]
    assert shares == [(46, 49), (36, 42), (93, 71), (79, 80)]


def areas(measures):
    return {
        name: [round(group["auroc"][k], 3) for k in ("value", "lower", "upper")]
        for name, group in measures["sites"].items()
    }


def test_a_under_the_default_policy(heart):
    """Risks leave as means of five patients, and rare levels are scored as the next one."""
    model = pc.LogisticRegression().fit(heart, FORMULA_A)
    agree(model.summary(), A)
    found = model.evaluate().measures
    np.testing.assert_allclose(found["all"]["auroc"]["value"], 0.876568, atol=4e-4)
    np.testing.assert_allclose(found["apparent"]["auroc"]["value"], 0.886335, atol=4e-4)
    assert found["merged"] == {"switzerland": 2, "va": 1} and found["not_shown"] == []
    assert areas(found) == {
        "cleveland": [0.870, 0.830, 0.910], "hungarian": [0.890, 0.851, 0.929],
        "switzerland": [0.748, 0.539, 0.956], "va": [0.719, 0.617, 0.821],
    }  # fmt: skip


def test_b_zeros_read_as_values(heart_files):
    content = Codebook.load(CODEBOOK).model_dump(by_alias=True, exclude_none=True)
    for column in ("chol", "trestbps"):
        content["columns"][column] |= {"missing": [], "range": (0, 800)}
    sites = pc.read(heart_files, schema=Codebook.from_dict(content))
    content["site"]["switzerland"] = {}
    sites = pc.read(heart_files, schema=Codebook.from_dict(content))
    model = pc.LogisticRegression().fit(sites, FORMULA_B)
    assert model.result_.scale.moments.n == 740
    agree(model.summary(), B)
    np.testing.assert_allclose(model.result_.deviance, 621.784323, atol=1e-6)
    assert model.summary().coef["chol"] < 0  # zeros read as values make cholesterol protect


def test_chol_read_as_missing_harms_and_needs_switzerland_left_out(heart):
    with pytest.raises(pc.EmptySite, match=r"switzerland has no complete row.*chol: 123 of 123"):
        pc.LogisticRegression().fit(heart, FORMULA_B)
    columns = FORMULA_B.replace("C(", "").replace(")", "").replace("~", "+").split(" + ")
    cohort = heart.cohort(columns=columns, empty_site="leave_out")
    model = pc.LogisticRegression().fit(cohort, FORMULA_B)
    assert model.result_.scale.moments.n == 661
    table = model.summary()
    assert round(table.coef["chol"], 4) == 0.0042 and round(table.p["chol"], 3) == 0.029


def test_c_means_and_indicators(heart):
    columns = FORMULA_B.replace("C(", "").replace(")", "").replace("~", "+").split(" + ")
    cohort = heart.cohort(
        "age >= 18", columns=columns, missing={"default": "drop", "chol": "mean", "fbs": "mean"}
    )
    model = pc.LogisticRegression().fit(cohort, FORMULA_B)
    agree(model.summary(), C)
    np.testing.assert_allclose(model.result_.deviance, 669.370369, atol=1e-6)
    np.testing.assert_allclose(model.formula_data.fills["chol"], 247.222057, atol=1e-6)
    np.testing.assert_allclose(model.formula_data.fills["fbs"], 0.147520, atol=1e-6)
    assert model.result_.scale.moments.n == 851
    names = list(model.summary().index)
    assert names[names.index("chol") + 1] == "chol_missing"


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_any_cut_of_the_rows_gives_the_same_model(heart, partitions):
    one = pc.LogisticRegression().fit(heart, FORMULA_A)
    cut = pc.LogisticRegression().fit(heart, FORMULA_A, engine=pc.Embedded(partitions))
    np.testing.assert_allclose(cut.coef_, one.coef_, rtol=1e-10)
    np.testing.assert_allclose(cut.summary().se, one.summary().se, rtol=1e-10)
