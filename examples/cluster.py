"""One hospital's visits as Parquet files, and two processes that fit over them together.

Then two learners over an array that both processes hold.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import polyclinic as pc

SCHEMA = """
format = 1
name = "visits"
[patient]
id = "patient"
[columns]
patient = { type = "text" }
age = { type = "integer", unit = "a", range = [0, 120] }
sex = { type = "category", levels = { f = "female", m = "male" } }
hba1c = { type = "number", unit = "%", range = [3, 20] }
readmitted = { type = "binary", levels = { 0 = "no", 1 = "yes" } }
"""


def write(folder: Path, patients: int = 4000, files: int = 4) -> None:
    """Made-up visits; all rows of a patient stand side by side."""
    rng = np.random.default_rng(7)
    (folder / "visits").mkdir(parents=True, exist_ok=True)
    (folder / "visits.toml").write_text(SCHEMA)
    for number in range(files):
        patient = np.repeat(np.arange(patients // files) + number * patients, 3)
        frame = pd.DataFrame(
            {
                "patient": patient,
                "age": rng.integers(18, 95, len(patient)),
                "sex": rng.choice(["f", "m"], len(patient)),
                "hba1c": np.round(rng.normal(6.2, 0.9, len(patient)).clip(4, 12), 1),
            }
        )
        risk = 1 / (1 + np.exp(4 - 0.02 * frame.age - 0.3 * frame.hba1c))
        frame["readmitted"] = (rng.uniform(size=len(frame)) < risk).astype(int)
        frame.to_parquet(folder / "visits" / f"{number}.parquet", row_group_size=1000, index=False)


def main(folder: Path) -> None:
    write(folder)
    data = pc.scan(folder / "visits/*.parquet", schema=folder / "visits.toml")
    with pc.cluster(workers=2) as c:
        model = pc.LogisticRegression().fit(data, "readmitted ~ age + C(sex) + hba1c", engine=c)
        print(model)

        visits = pd.read_parquet(folder / "visits")
        X, y = c.hold(visits[["age", "hba1c"]]), visits["readmitted"]
        for learner in (pc.LogisticRegression(), pc.DecisionTreeClassifier(max_depth=3)):
            risk = learner.fit(X, y, engine=c).predict_proba(X)[:, 1]
            print(f"{type(learner).__name__}: AUROC {roc_auc_score(y, risk):.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "visits-example"))
