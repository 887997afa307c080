"""Death in hospital over four kinds of intensive care unit: boosting by sums.

Beside it stand what every unit finds alone, and what scikit-learn finds on the pooled rows in the
same number of folds. The unit of cardiac surgery has few deaths, and gains most from the others.
Needs Physionet 2012: a folder physionet-2012 below the one that POLYCLINIC_DATA names.
"""

import tempfile
from pathlib import Path

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

import polyclinic as pc

COLUMNS = ["Age", "BUN_last", "GCS_last", "HR_mean", "Urine_mean", "WBC_last", "ventilated"]
TREES, FOLDS = 12, 2
OPTIONS = {"max_depth": 3, "learning_rate": 0.2}

units = pc.datasets.load("physionet_2012")
# A gap says something, too: trees keep it. Only patients without an outcome are left out.
patients = units.cohort(columns=["died", *COLUMNS], missing={"default": "keep", "died": "drop"})
model = pc.GradientBoostingClassifier(n_estimators=TREES, max_bins=16, **OPTIONS)
model.fit(patients, "died ~ " + " + ".join(COLUMNS))
found = model.evaluate(folds=FOLDS)
table = found.table[["n", "events", "auroc", "lower", "upper"]]
table["alone"] = pd.Series(found.measures["alone"])
print(table.round(3))

rows = pd.concat([units.local(name) for name in units.names])[["died", *COLUMNS]].astype(float)
pooled = HistGradientBoostingClassifier(max_iter=TREES, max_bins=255, **OPTIONS)
folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
risk = cross_val_predict(pooled, rows[COLUMNS], rows["died"], cv=folds, method="predict_proba")
area = roc_auc_score(rows["died"], risk[:, 1])
print(f"pooled rows, scikit-learn: AUROC {area:.3f}")
# Sixteen agreed bins instead of 255 found ones: near, within what chance does.
assert abs(area - found.measures["all"]["auroc"]["value"]) < 0.02

folder = Path(tempfile.mkdtemp())
model.plot("Importance").save(folder / "importance.svg")
print(model.report(folder / "report.html", title="Death in hospital, four intensive care units"))
