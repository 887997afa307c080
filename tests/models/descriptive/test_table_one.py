from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from polyclinic.core.errors import Refused
from polyclinic.core.fit import fit
from polyclinic.models.descriptive import Column, Describe, TableOne
from polyclinic.privacy.policy import Policy
from tests.core.wiring import OPEN, cut, domain, federation, partition
from tests.models.descriptive.patients import AGE, DOSE, PAIN, SEX, SIZES, columns, frame

ASKED = (AGE, DOSE, SEX, PAIN)
HEADER = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
]


def check_numbers(cell, values):
    known = values.dropna()
    assert cell["n"] == len(known)
    assert cell["mean"] == pytest.approx(known.mean(), rel=1e-12)
    assert cell["sd"] == pytest.approx(known.std(), rel=1e-12)
    for name, q in (("q1", 0.25), ("median", 0.5), ("q3", 0.75)):
        assert cell[name]["lower"] - 1e-9 <= np.quantile(known, q) <= cell[name]["upper"] + 1e-9


def check_levels(cell, values, k=1):
    counts = values.value_counts()
    for i, level in enumerate(cell["levels"].values()):
        n = int(counts.get(i, 0))
        assert level["n"] == (n if n == 0 or n >= k else None)
        if level["n"] is not None:
            assert level["percent"] == pytest.approx(100 * n / values.notna().sum())


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_equals_pandas_per_site_and_overall(partitions):
    pooled = frame()
    pooled["site"] = np.repeat(list("abcd"), SIZES)
    engine = federation(cut(columns(), SIZES), OPEN, partitions)
    table = fit(TableOne(ASKED, by=SEX), engine).model
    assert list(table["sites"]) == ["a", "b", "c", "d"]
    scopes = [(table["overall"], pooled)]
    scopes += [(table["sites"][site], rows) for site, rows in pooled.groupby("site")]
    for scope, rows in scopes:
        groups = [
            (scope["all"], rows),
            (scope["by"]["female"], rows[rows.sex == 0]),
            (scope["by"]["male"], rows[rows.sex == 1]),
        ]
        for group, mine in groups:
            assert group["rows"] == group["patients"] == len(mine)
            for name in ("age", "dose"):
                check_numbers(group["columns"][name], mine[name])
                assert group["columns"][name]["missing"] == mine[name].isna().sum()
            for name in ("sex", "pain"):
                check_levels(group["columns"][name], mine[name])
                assert group["columns"][name]["missing"] == mine[name].isna().sum()


def test_one_domain_gives_the_same_figures_as_sites():
    sites = fit(Describe(ASKED), federation(cut(columns(), SIZES), OPEN)).model
    pooled = fit(Describe(ASKED), domain(partition(columns()), 3)).model
    mean = [scope["all"]["columns"]["dose"]["mean"] for scope in (sites, pooled)]
    assert mean[0] == pytest.approx(mean[1], rel=1e-14)
    assert sites["all"]["columns"]["pain"] == pooled["all"]["columns"]["pain"]


def test_small_cells_are_hidden_and_the_overall_count_with_them():
    pain = np.r_[np.zeros(30), np.ones(30), np.full(3, 2.0), np.zeros(20), np.full(20, 2.0)]
    table = fit(TableOne((PAIN,)), federation(cut({"pain": pain}, (63, 40)))).model
    a = table["sites"]["a"]["all"]["columns"]["pain"]["levels"]["much"]
    assert a == {"n": None, "at_least": 0, "hidden_sites": 1, "percent": None}
    assert table["sites"]["b"]["all"]["columns"]["pain"]["levels"]["much"]["n"] == 20
    overall = table["overall"]["all"]["columns"]["pain"]["levels"]["much"]
    assert overall == {"n": None, "at_least": 20, "hidden_sites": 1, "percent": None}


def test_sums_only_when_a_site_forbids_its_own_column():
    engine = federation(cut(columns(), SIZES), Policy(collect=()))
    assert fit(TableOne(ASKED, by_site=False), engine).model["sites"] == {}
    with pytest.raises(Refused) as caught:
        fit(TableOne(ASKED), engine)
    assert caught.value.code == "COLLECT_NOT_ALLOWED"


def test_few_rounds_and_plain_data():
    run = fit(TableOne(ASKED, by=SEX), federation(cut(columns(), SIZES)))
    assert json.loads(json.dumps(run.model, allow_nan=False)) == run.model
    assert len(run.rounds) <= 20


def test_rows_are_not_patients():
    key = np.repeat(np.arange(20), 3)
    data = {"pain": np.tile([0.0, 1.0, 1.0], 20)}
    data["pain"][:6] = 2.0  # six rows of two patients
    part = partition(data, key, "a")
    group = fit(Describe((PAIN,)), federation({"a": part})).model["all"]
    assert (group["rows"], group["patients"]) == (60, 20)
    levels = group["columns"]["pain"]["levels"]
    assert [levels[name]["n"] for name in PAIN.levels] == [
        None,
        36,
        None,
    ]  # 20 less the other two is the small one


def test_an_empty_site_and_no_columns():
    data = columns()
    table = fit(TableOne(ASKED), federation(cut(data, (300, 0, 186)), OPEN)).model
    nobody = table["sites"]["b"]["all"]
    assert (nobody["rows"], nobody["patients"]) == (0, 0)
    assert nobody["columns"]["age"]["mean"] is None
    assert nobody["columns"]["age"]["median"] is None
    assert table["overall"]["all"]["rows"] == 486
    assert fit(TableOne(()), federation(cut(data, (486,)))).model["columns"] == []


def test_heart_disease_at_four_hospitals(data_dir):
    """The archive's files, a row a patient; 0 is a missing cholesterol and blood pressure."""
    frames = {
        site: pd.read_csv(
            data_dir / "heart-disease" / f"processed.{site}.data", names=HEADER, na_values="?"
        )
        for site in ("cleveland", "hungarian", "switzerland", "va")
    }
    parts = {}
    for site, rows in frames.items():
        rows["chol"] = rows.chol.where(rows.chol > 0)
        rows["trestbps"] = rows.trestbps.where(rows.trestbps > 0)
        rows["cp"] -= 1
        rows["disease"] = (rows.num > 0).astype(float)
        parts[site] = partition({name: rows[name] for name in rows}, site=site)
    asked = (
        Column("age", "integer", lower=18, upper=110, bound=110),
        Column("sex", "binary", ("0", "1")),
        Column("cp", "category", ("1", "2", "3", "4")),
        Column("trestbps", "number", lower=40, upper=300, bound=300),
        Column("chol", "number", lower=50, upper=800, bound=800),
        Column("oldpeak", "number", lower=-5, upper=10, bound=10),
        Column("ca", "integer", lower=0, upper=3, bound=3),
    )
    disease = Column("disease", "binary", ("0", "1"))
    table = fit(TableOne(asked, by=disease), federation(parts)).model
    pooled = pd.concat(frames.values())
    overall = table["overall"]["all"]
    assert (overall["rows"], overall["patients"]) == (920, 920)
    for name in ("age", "trestbps", "oldpeak"):
        check_numbers(overall["columns"][name], pooled[name])
    for site, rows in frames.items():
        check_numbers(table["sites"][site]["all"]["columns"]["age"], rows.age)
        check_levels(table["sites"][site]["all"]["columns"]["cp"], rows.cp, k=5)
    for level, rows in pooled.groupby("disease"):
        check_numbers(table["overall"]["by"][str(int(level))]["columns"]["age"], rows.age)
    chest_pain = table["sites"]["switzerland"]["all"]["columns"]["cp"]["levels"]
    assert [chest_pain[code]["n"] for code in "1234"] == [None, None, 17, 98]
    assert table["sites"]["switzerland"]["all"]["columns"]["chol"]["n"] == 0
    vessels = table["overall"]["all"]["columns"]["ca"]  # hungarian has 3, va 2 values
    assert vessels["hidden_sites"] == 2
    kept = pd.concat([frames["cleveland"], frames["switzerland"]]).ca
    check_numbers(vessels, kept)
    median = overall["columns"]["age"]["median"]
    assert median["value"] == pytest.approx(pooled.age.median(), abs=1.0)
