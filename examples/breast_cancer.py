"""Survival of breast cancer in six regions, of which the smallest has three deaths.

Curves with numbers at risk, a log-rank test, a Cox regression by region with its held-out
concordance, and a report of each. A region with too few deaths for a step of a curve is left out
of it, and named by the warning; in the regression its sums count, within the total only.
Needs TCGA-BRCA: a file that POLYCLINIC_DATA has, see polyclinic datasets.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np

import polyclinic as pc

regions = pc.datasets.load("tcga_brca")
folder = Path(tempfile.mkdtemp())

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always", pc.DataWarning)
    curves = pc.KaplanMeier(grid=np.arange(500.0, 4001.0, 500.0)).fit(regions, "Surv(T, E) ~ 1")
print(*(f"! {warning.message}" for warning in said), sep="\n")
table = curves.table().set_index("time")
print(table[["survival", "lower", "upper", "at_risk"]].round(3).to_string())
curves.plot("Survival").save(folder / "survival.svg")
print(curves.report(folder / "curves.html"))

test = pc.LogRank().fit(regions, "Surv(T, E) ~ race_white")
print(f"\nlog-rank by race: chi-square {test.statistic_:.2f}, p = {test.p_value_:.2f}")

cox = pc.CoxRegression().fit(regions, "Surv(T, E) ~ age_at_index + race_white")
print(cox.summary(exponentiate=True)[["coef", "lower", "upper", "p"]].round(3))
found = cox.evaluate(folds=3)
print(found)
cox.plot("Hazard ratios").save(folder / "hazard_ratios.svg")
print(cox.report(folder / "cox.html"))
