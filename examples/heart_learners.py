"""Learners over four hospitals, side by side: a table of cross-validated AUROCs, a report of each.

Those that promise the pooled answer are held against scikit-learn on the pooled rows.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.naive_bayes import GaussianNB

import polyclinic as pc

COLUMNS = ["age", "sex", "thalach", "exang", "oldpeak"]
FORMULA = "disease ~ " + " + ".join(COLUMNS)

sites = pc.datasets.heart_disease()
learners = {
    "linear SVM": pc.LinearSVC(),
    "decision tree": pc.DecisionTreeClassifier(max_depth=2),
    "Gaussian naive Bayes": pc.GaussianNB(),
    "best model of a hospital": pc.SelectBest(),
}
folder, table = Path(tempfile.mkdtemp()), {}
for name, learner in learners.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pc.DataWarning)  # they stand in the reports
        learner.fit(sites, FORMULA)
        found = learner.evaluate(folds=2, alone=False)
    table[name] = found.table["auroc"]
    learner.report(folder / f"{name.replace(' ', '_')}.html", title=name)
print(pd.DataFrame(table).T.round(3).to_string())
print(f"reports in {folder}")

tree = learners["decision tree"]
print(tree.to_text())
(folder / "tree.svg").write_text(tree.to_svg(), encoding="utf-8")

rows = pd.concat([sites.local(name) for name in sites.names])
rows = rows.assign(disease=(rows["num"] > 0).astype(float))[["disease", *COLUMNS]]
rows = rows.astype(float).dropna()
pooled = GaussianNB().fit(rows[COLUMNS], rows["disease"])
ours = learners["Gaussian naive Bayes"].predict_proba(rows[COLUMNS])
np.testing.assert_allclose(ours, pooled.predict_proba(rows[COLUMNS]), rtol=1e-6)
print("Gaussian naive Bayes: as scikit-learn on the pooled rows")
