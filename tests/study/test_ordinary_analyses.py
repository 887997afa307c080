"""Analyses of the kind that is published are not refused: real data, sites of 200 or more patients.

Under the default policy. All but two pass by every hospital's own sums; in these two, a pair of
columns leaves a patient or two at one hospital alone, and secure sums carry the analysis. Each
analysis has hospitals of its own: a ledger remembers what was asked before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.errors import Refused
from polyclinic.core.fit import fit
from polyclinic.models.descriptive import (
    Correlation,
    CrossTable,
    Histogram,
    Moments,
    Quantiles,
    TableOne,
)
from polyclinic.study.describe import describe_columns

HEART = [
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg"),
    *("thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"),
]
Frame = pd.DataFrame


def heart(folder: Path) -> Frame:
    """The four hospitals' columns with few gaps; categories as texts."""
    parts = [
        pd.read_csv(folder / f"heart-disease/processed.{name}.data", names=HEART, na_values="?")
        for name in ("cleveland", "hungarian", "switzerland", "va")
    ]
    found = pd.concat(parts, ignore_index=True).drop(columns=["slope", "ca", "thal", "chol"])
    found["disease"] = (found.pop("num") > 0).astype(int)
    for name in ("cp", "restecg"):
        found[name] = "l" + found[name].astype("Int64").astype(str)
    return found[found["oldpeak"].fillna(0) >= 0].dropna()


def breast(folder: Path) -> Frame:
    raw = pd.read_csv(folder / "tcga-brca/brca.csv")
    stage = raw.filter(regex="^ajcc_pathologic_stage").to_numpy()
    size = raw.filter(regex="^ajcc_pathologic_t_").to_numpy()
    return pd.DataFrame(
        {
            "age": raw["age_at_index"],
            "dead": raw["E"].astype(int),
            "days": raw["T"],
            "stage": np.where(stage.any(1), "s" + stage.argmax(1).astype(str), "other"),
            "size": np.where(size.any(1), "t" + size.argmax(1).astype(str), "other"),
            "lobular": raw["primary_diagnosis_Lobular carcinoma, NOS"],
            "therapy": raw["treatment_or_therapy_yes"],
            "black": raw["race_black or african american"],
        }
    ).dropna()


def intensive(folder: Path) -> Frame:
    """First stay of each patient of the eICU demo."""
    stay = pd.read_csv(folder / "eicu-demo/patient.csv")
    stay = stay.drop_duplicates("uniquepid")
    apache = pd.read_csv(folder / "eicu-demo/apachepatientresult.csv")
    apache = apache[(apache["apacheversion"] == "IVa") & (apache["apachescore"] >= 0)]
    merged = stay.merge(apache, on="patientunitstayid")
    found = pd.DataFrame(
        {
            "age": pd.to_numeric(merged["age"].replace("> 89", "90")),
            "woman": (merged["gender"] == "Female").astype(int),
            "white": (merged["ethnicity"] == "Caucasian").astype(int),
            "height": merged["admissionheight"],
            "weight": merged["admissionweight"],
            "apache": merged["apachescore"],
            "days": merged["actualiculos"],
            "vent": (merged["actualventdays"].fillna(0) > 0).astype(int),
            "dead": (merged["actualhospitalmortality"] == "EXPIRED").astype(int),
            "unit": merged["unittype"].where(
                merged["unittype"].isin(["Med-Surg ICU", "MICU", "CCU-CTICU"]), "other"
            ),
        }
    ).dropna()
    found["nights"] = np.floor(found["days"]).astype(int)
    return found[(found["days"] > 0) & found["height"].between(130, 220) & (found["weight"] > 30)]


DEALT: dict[str, tuple[Callable[[Path], Frame], int]] = {
    "heart": (heart, 3),
    "breast": (breast, 4),
    "intensive": (intensive, 4),
}
Analysis = Callable[[pc.Sites], Any]


def regression(
    kind: type, formula: str, robust: bool = False, needs_secure: bool = False
) -> Analysis:
    def run(sites: pc.Sites) -> None:
        model = kind().fit(sites, formula)
        if robust:
            model.covariance(robust=True)
        refusals = model.formula_data.federation.summing.refusals
        assert set(refusals.values()) == ({"LEVEL_TOO_SMALL"} if needs_secure else set())
        assert np.isfinite(model.covariance()).all()

    return run


def statistic(make: Callable[..., Any], columns: str, by: str = "") -> Analysis:
    def run(sites: pc.Sites) -> None:
        described = describe_columns(sites.codebook, columns.split())
        group = describe_columns(sites.codebook, [by or columns.split()[0]])[0]
        fit(make(described, **({"by": group} if by else {})), sites.federation(sums="clear"))

    return run


def table_one(columns: str, by: str) -> Analysis:
    return statistic(TableOne, columns, by)


def cross(a: str, b: str) -> Analysis:
    def run(sites: pc.Sites) -> None:
        fit(CrossTable(*describe_columns(sites.codebook, [a, b])), sites.federation(sums="clear"))

    return run


def evaluated(formula: str, folds: int) -> Analysis:
    def run(sites: pc.Sites) -> None:
        model = pc.LogisticRegression().fit(sites, formula)
        groups = ("sex",) if "sex" in formula else ()
        how = "cross-validation" if folds else "none"
        model.evaluate(validate=how, folds=folds or 2, subgroups=groups, alone=False)
        assert model.formula_data.federation.summing.refusals == {}

    return run


LOGIT, LINEAR, POISSON, GAMMA = (
    pc.LogisticRegression,
    pc.LinearRegression,
    pc.PoissonRegression,
    pc.GammaRegression,
)
ANALYSES: dict[str, tuple[str, Analysis]] = {
    "heart: logistic, age and sex": ("heart", regression(LOGIT, "disease ~ age + sex")),
    "heart: logistic, nine predictors": (
        "heart",
        regression(
            LOGIT,
            "disease ~ age + sex + C(cp) + trestbps + fbs + C(restecg) + thalach + exang + oldpeak",
        ),
    ),
    "heart: logistic, interaction": (
        "heart",
        regression(LOGIT, "disease ~ age * sex + C(cp) + exang * oldpeak"),
    ),
    "heart: logistic, spline of age": (
        "heart",
        regression(LOGIT, "disease ~ ns(age, df=3) + sex + C(cp) + thalach"),
    ),
    "heart: linear, blood pressure": (
        "heart",
        regression(LINEAR, "trestbps ~ age + sex + C(cp) + fbs", robust=True),
    ),
    "heart: linear, heart rate with interaction": (
        "heart",
        regression(LINEAR, "thalach ~ age * exang + sex * C(restecg)"),
    ),
    "heart: gamma, heart rate": ("heart", regression(GAMMA, "thalach ~ age + sex + exang")),
    "heart: Table 1 by disease": (
        "heart",
        table_one("age sex cp trestbps fbs restecg thalach exang oldpeak", "disease"),
    ),
    "heart: quantiles": ("heart", statistic(Quantiles, "age trestbps thalach")),
    "heart: chest pain by disease": ("heart", cross("cp", "disease")),
    "heart: correlations": ("heart", statistic(Correlation, "age trestbps thalach oldpeak")),
    "heart: histograms": ("heart", statistic(Histogram, "age trestbps thalach oldpeak")),
    "heart: evaluation in sample": (
        "heart",
        evaluated("disease ~ age + sex + C(cp) + thalach", 0),
    ),
    "heart: five-fold cross-validation": (
        "heart",
        evaluated("disease ~ age + sex + C(cp) + thalach", 5),
    ),
    "breast: logistic, death": ("breast", regression(LOGIT, "dead ~ age + lobular + therapy")),
    "breast: logistic, stage": (
        "breast",
        regression(LOGIT, "dead ~ age + C(stage) + therapy + black", needs_secure=True),
    ),
    "breast: poisson, death by follow-up": (
        "breast",
        regression(POISSON, "dead ~ age + therapy + lobular"),
    ),
    "breast: linear, age by stage": (
        "breast",
        regression(LINEAR, "age ~ C(stage) + C(size) + lobular"),
    ),
    "breast: Table 1 by death": ("breast", table_one("age days stage lobular therapy", "dead")),
    "breast: means by therapy": ("breast", statistic(Moments, "age days", "therapy")),
    "breast: stage by death": ("breast", cross("stage", "dead")),
    "breast: evaluation": ("breast", evaluated("dead ~ age + therapy + lobular", 0)),
    "intensive care: logistic, mortality": (
        "intensive",
        regression(LOGIT, "dead ~ age + woman + apache + vent"),
    ),
    "intensive care: logistic, units and spline": (
        "intensive",
        regression(LOGIT, "vent ~ ns(age, df=3) + C(unit) + woman + apache"),
    ),
    "intensive care: poisson, nights": (
        "intensive",
        regression(
            POISSON, "nights ~ age + apache + vent + C(unit)", robust=True, needs_secure=True
        ),
    ),
    "intensive care: gamma, length of stay": (
        "intensive",
        regression(GAMMA, "days ~ age + apache + vent * woman"),
    ),
    "intensive care: linear, weight": (
        "intensive",
        regression(LINEAR, "weight ~ height + woman * age", robust=True),
    ),
    "intensive care: Table 1 by mortality": (
        "intensive",
        table_one("age woman white height weight apache days vent unit", "dead"),
    ),
    "intensive care: quantiles by unit": (
        "intensive",
        statistic(Quantiles, "age apache days weight", "unit"),
    ),
    "intensive care: correlations": (
        "intensive",
        statistic(Correlation, "age height weight apache days"),
    ),
}


@pytest.fixture(scope="module")
def frames(data_dir: Path) -> dict[str, Frame]:
    """Each data set with its rows dealt to hospitals, as cards are."""
    found = {}
    for name, (make, sites) in DEALT.items():
        frame = make(data_dir).reset_index(drop=True)
        order = np.random.default_rng(0).permutation(len(frame))
        frame["site"] = [f"{name[0]}{place % sites}" for place in order]
        assert frame["site"].value_counts().min() >= 200
        found[name] = frame
    return found


@pytest.mark.parametrize("name", ANALYSES)
def test_an_ordinary_analysis_is_not_refused(name: str, frames: dict[str, Frame]) -> None:
    data, run = ANALYSES[name]
    run(pc.split(frames[data], "site"))


def test_robust_errors_need_enough_patients_where_two_columns_meet(
    frames: dict[str, Frame],
) -> None:
    """One patient has both the stage and the size: the squared residual would tell the age."""
    cells = pd.crosstab(frames["breast"]["stage"], frames["breast"]["size"])
    assert cells.loc["s4", "t0"] == 1
    model = LINEAR().fit(pc.split(frames["breast"], "site"), "age ~ C(stage) + C(size) + lobular")
    assert np.isfinite(model.covariance()).all()
    with pytest.raises(Refused, match="LEVEL_TOO_SMALL"):
        model.covariance(robust=True)


def test_there_are_thirty() -> None:
    assert len(ANALYSES) == 30
