"""Gradient boosting over five regions with many gaps, beside what each region finds alone.

Needs the eICU demo's tables: a folder eicu-demo below the one that POLYCLINIC_DATA names.
"""

import pandas as pd

import polyclinic as pc

STATE = ["age", "intubated", "vent", "motor", "temperature", "heartrate", "meanbp"]
COLUMNS = [*STATE, "wbc", "creatinine", "albumin", "bun"]
formula = "died ~ " + " + ".join(COLUMNS)

sites = pc.datasets.eicu_demo()
# A gap says something, too: trees keep it. Only patients without an outcome are left out.
patients = sites.cohort(columns=["died", *COLUMNS], missing={"default": "keep", "died": "drop"})
model = pc.GradientBoostingClassifier(
    n_estimators=25, max_depth=2, learning_rate=0.2, max_bins=16
).fit(patients, formula)
print(model.result_.blocks()[0].get("text", model))

found = model.evaluate(folds=3)
table = found.table[["n", "events", "auroc"]]
table["alone"] = pd.Series(found.measures["alone"])
print(table.round(3))
