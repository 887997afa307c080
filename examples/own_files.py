"""Your own files: two hospitals' CSV files, one codebook, findings, a cohort, a model, a report.

The files are made up here so that the example runs anywhere; the codebook is what two hospitals
would agree on, and hospital b writes its sex column in its own way.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import polyclinic as pc

CODEBOOK = """
format = 1
name   = "readmission"
title  = "Readmission within 30 days, two hospitals"

[file]
missing = [""]
[patient]
id = "patient"

[columns]
age      = { type = "integer", unit = "a", range = [18, 110], label = "age" }
sex      = { type = "binary", levels = { 0 = "female", 1 = "male" }, label = "sex" }
severity = { type = "category", levels = { 1 = "mild", 2 = "moderate", 3 = "severe" } }
readmitted = { type = "binary", levels = { 0 = "no", 1 = "yes" } }
[target]
column = "readmitted"

[site.b.map]
sex = { column = "gender", levels = { F = 0, M = 1 } }
"""


def invent(rng: np.random.Generator, n_patients: int, shift: float) -> pd.DataFrame:
    """Patients whose risk grows with age and severity."""
    age = rng.integers(20, 95, n_patients)
    sex = rng.integers(0, 2, n_patients)
    severity = rng.integers(1, 4, n_patients)
    logit = -4 + shift + 0.03 * age + 0.5 * severity
    readmitted = (rng.uniform(size=n_patients) < 1 / (1 + np.exp(-logit))).astype(int)
    patient = np.arange(n_patients) + 1000
    return pd.DataFrame(
        {"patient": patient, "age": age, "sex": sex, "severity": severity, "readmitted": readmitted}
    )


def main() -> None:
    """Write the files, read them back as two hospitals, and fit."""
    rng = np.random.default_rng(7)
    folder = Path(tempfile.mkdtemp())
    (folder / "readmission.toml").write_text(CODEBOOK, encoding="utf-8")
    invent(rng, 400, 0.0).to_csv(folder / "a.csv", index=False)
    other = invent(rng, 250, 0.4).rename(columns={"sex": "gender"})
    other["gender"] = other["gender"].map({0: "F", 1: "M"})
    other.to_csv(folder / "b.csv", index=False)

    sites = pc.read(
        {"a": folder / "a.csv", "b": folder / "b.csv"}, schema=folder / "readmission.toml"
    )
    print(sites.check())
    cohort = sites.cohort("age >= 30", columns=["age", "sex", "severity", "readmitted"])
    print(cohort.table_one(by="readmitted"))
    model = pc.LogisticRegression().fit(cohort, "readmitted ~ age + sex + C(severity)")
    print(model)
    print(model.report(folder / "report.html"))


if __name__ == "__main__":
    main()
