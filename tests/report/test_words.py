"""Numbers as people read them; the golden coefficient tables, fitted here with statsmodels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

from polyclinic.report import words

NAMES = [
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg"),
    *("thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"),
]
MODEL_A = """\
term             coef        se       z        p      95 % interval
Intercept       -1.29      1.06   -1.21     0.22    -3.37   to  0.79
age            0.0302    0.0110    2.75    0.006    0.0086  to  0.0517
sex             1.402     0.235    5.97   <0.001    0.942   to  1.862
C(cp)[T.2]     -1.127     0.440   -2.56    0.010   -1.989   to -0.265
C(cp)[T.3]     -0.481     0.405   -1.19     0.23   -1.275   to  0.312
C(cp)[T.4]      1.038     0.391    2.65    0.008    0.272   to  1.804
thalach      -0.01604   0.00408   -3.93   <0.001   -0.02404 to -0.00804
exang           0.976     0.216    4.52   <0.001    0.552   to  1.399
oldpeak         0.541     0.102    5.30   <0.001    0.341   to  0.742"""
MODEL_C = """\
term                  coef        se       z        p      95 % interval
Intercept            -3.59      1.37   -2.62    0.009    -6.28   to -0.91
age                 0.0216    0.0122    1.76    0.078   -0.0024  to  0.0455
sex                  1.314     0.251    5.25   <0.001    0.823   to  1.806
C(cp)[T.2]          -0.868     0.464   -1.87    0.062   -1.777   to  0.042
C(cp)[T.3]          -0.395     0.428   -0.92     0.36   -1.233   to  0.443
C(cp)[T.4]           1.151     0.414    2.78    0.005    0.339   to  1.963
trestbps           0.00588   0.00577    1.02     0.31   -0.00544 to  0.01720
chol               0.00386   0.00185    2.08    0.037    0.00023 to  0.00749
chol_missing         1.029     0.313    3.28    0.001    0.415   to  1.643
fbs                  0.591     0.298    1.99    0.047    0.008   to  1.174
fbs_missing          1.063     0.443    2.40    0.016    0.194   to  1.932
C(restecg)[T.1]     -0.112     0.288   -0.39     0.70   -0.676   to  0.453
C(restecg)[T.2]      0.258     0.253    1.02     0.31   -0.237   to  0.754
thalach           -0.01266   0.00443   -2.86    0.004   -0.02134 to -0.00398
exang                1.096     0.227    4.82   <0.001    0.651   to  1.541
oldpeak              0.575     0.106    5.40   <0.001    0.366   to  0.783"""


@pytest.fixture(scope="module")
def rows(data_dir: Path) -> pd.DataFrame:
    folder = data_dir / "heart-disease"
    parts = [
        pd.read_csv(folder / f"processed.{site}.data", names=NAMES, na_values="?")
        for site in ("cleveland", "hungarian", "switzerland", "va")
    ]
    found = pd.concat(parts, ignore_index=True)
    for name in ("chol", "trestbps"):
        found.loc[found[name] == 0, name] = np.nan
    return found.assign(disease=(found.num > 0).astype(int))


def terms(formula: str, rows: pd.DataFrame) -> list[dict[str, object]]:
    fitted = smf.glm(formula, rows, family=sm.families.Binomial()).fit(tol=1e-12)
    ends = fitted.conf_int()
    return [
        {
            "name": name.replace(".0]", "]"),
            "coef": fitted.params[name],
            "se": fitted.bse[name],
            "z": fitted.tvalues[name],
            "p": fitted.pvalues[name],
            "lower": ends.loc[name, 0],
            "upper": ends.loc[name, 1],
        }
        for name in formula_order(fitted.params.index, formula)
    ]


def formula_order(names: pd.Index, formula: str) -> list[str]:
    """Intercept first, then the formula's own order; statsmodels puts categories first."""
    parts = [part.strip() for part in formula.split("~")[1].split("+")]
    found = [name for part in parts for name in names if name.split("[")[0] == part]
    return ["Intercept", *found]


def test_table_of_model_a(rows: pd.DataFrame) -> None:
    used = rows.dropna(subset=["age", "sex", "cp", "thalach", "exang", "oldpeak"])
    found = terms("disease ~ age + sex + C(cp) + thalach + exang + oldpeak", used)
    assert words.coefficient_table(found) == MODEL_A


def test_table_of_model_c(rows: pd.DataFrame) -> None:
    used = rows.dropna(
        subset=["age", "sex", "cp", "trestbps", "restecg", "thalach", "exang", "oldpeak"]
    )
    filled = used.assign(
        chol_missing=used.chol.isna().astype(int),
        fbs_missing=used.fbs.isna().astype(int),
        chol=used.chol.fillna(used.chol.mean()),
        fbs=used.fbs.fillna(used.fbs.mean()),
    )
    formula = (
        "disease ~ age + sex + C(cp) + trestbps + chol + chol_missing + fbs + fbs_missing"
        " + C(restecg) + thalach + exang + oldpeak"
    )
    table = words.coefficient_table(terms(formula, filled))
    assert table == MODEL_C
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.22445, "0.22"), (0.0995, "0.10"), (0.0994, "0.099"), (0.00598, "0.006"),
     (0.00051, "0.001"), (0.00049, "<0.001"), (0.0, "<0.001"), (1.0, "1.00"), (None, "-"),
     (float("nan"), "-")],
)  # fmt: skip
def test_p_values(p: float | None, text: str) -> None:
    assert words.p_value(p) == text


@pytest.mark.parametrize(
    ("se", "places"), [(1.06, 2), (0.0110, 4), (0.2346, 3), (12.3, 1), (123.0, 0), (9.999, 1)]
)
def test_three_significant_digits_of_an_error(se: float, places: int) -> None:
    assert words.decimals(se) == places


def test_numbers_of_the_writing_rules() -> None:
    assert words.fixed(-0.0004, 3) == "0.000", "no minus before zero"
    assert words.count(12345) == "12,345"
    assert words.count(None) == words.count(3) == "under 5"
    assert words.percent(0.4567, 999) == "46" and words.percent(0.4567, 1000) == "45.7"
    assert [words.bytes_(n) for n in (999, 15_400, 1_800_000)] == ["< 1 kB", "15 kB", "1.8 MB"]
    assert words.between({"lower": 0.8534, "upper": 0.8997}) == "0.853 to 0.900"
    assert words.plural(1, "round") == "1 round" and words.plural(1200, "row") == "1,200 rows"


@pytest.mark.parametrize(
    ("how", "folds", "text"),
    [
        ("cross-validation", 5, "in 5-fold cross-validation"),
        ("same patients", 0, "on the same patients"),
        ("other hospitals", 0, "on other hospitals"),
    ],
)
def test_on_whom_a_model_was_judged(how: str, folds: int, text: str) -> None:
    evaluation = {"how": how, "folds": folds, "sites": {}, "all": {"n": 9, "accuracy": 0.5}}
    assert words.judged(evaluation) == text
    first = words.evaluation_table({"evaluation": evaluation}).splitlines()[0]
    assert ("too good" in first) is (how == "same patients")
    assert text.removeprefix("in ") in first
