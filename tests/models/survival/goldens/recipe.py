"""Makes brca.json: numbers of lifelines 0.30.3 and scikit-survival 0.28.0 over TCGA-BRCA.

python -m venv peers && peers/bin/pip install lifelines==0.30.3 scikit-survival==0.28.0
peers/bin/python tests/models/survival/goldens/recipe.py DATA/tcga-brca
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines import AalenJohansenFitter, CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test, proportional_hazard_test
from lifelines.utils import restricted_mean_survival_time
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored
from sksurv.nonparametric import cumulative_incidence_competing_risks, kaplan_meier_estimator
from sksurv.util import Surv

warnings.simplefilter("ignore")
TERMS = ["age_at_index", "race_white", "ajcc_pathologic_t_T2", "ajcc_pathologic_t_T3"]
TIMES = [200.0, 500.0, 1000.0, 2000.0, 3000.0, 4000.0]


def rows(folder: Path) -> pd.DataFrame:
    frame = pd.read_csv(folder / "brca.csv")
    folds = pd.read_csv(folder / "train_test_split.csv").set_index("pid")["fold2"]
    frame["site"] = frame["pid"].map(folds).str[-1]
    frame = frame.dropna(subset=["site"]).sort_values("site", kind="stable")
    return frame.reset_index(drop=True)


def cox(frame: pd.DataFrame, **options) -> dict:
    strata = options.pop("strata", None)
    model = CoxPHFitter()
    columns = [*TERMS, "T", "E", *([strata] if strata else []), *options.pop("extra", [])]
    model.fit(
        frame[columns],
        "T",
        "E",
        strata=strata,
        fit_options={"precision": 1e-12, "r_precision": 1e-14},
        **options,
    )
    found = {
        "coef": model.params_[TERMS].tolist(),
        "se": model.standard_errors_[TERMS].tolist(),
        "loglik": model.log_likelihood_,
    }
    if strata is None and "weights_col" not in options:
        found["ratio"] = model.log_likelihood_ratio_test().test_statistic
    if not options.get("robust") and "weights_col" not in options:
        tests = {}
        for scale in ("identity", "rank", "log"):
            if scale == "log" and not frame["T"].min() > 0:
                continue
            test = proportional_hazard_test(model, frame[columns], time_transform=scale)
            tests[scale] = dict(zip(test.name, test.test_statistic.tolist(), strict=True))
        found["proportional"] = tests
    return found


def ridge(frame: pd.DataFrame, alpha: float) -> list[float]:
    model = CoxPHSurvivalAnalysis(alpha=alpha, ties="efron", tol=1e-14)
    outcome = Surv.from_arrays(frame["E"] == 1, frame["T"])
    return model.fit(frame[TERMS].to_numpy(float), outcome).coef_.tolist()


def curve(frame: pd.DataFrame) -> dict:
    model = KaplanMeierFitter().fit(frame["T"], frame["E"])
    bounds = model.confidence_interval_survival_function_
    at = lambda table: [float(table.asof(t)) for t in TIMES]  # noqa: E731
    mean, variance = restricted_mean_survival_time(model, t=3000.0, return_variance=True)
    time, survival = kaplan_meier_estimator(frame["E"] == 1, frame["T"])
    return {
        "times": TIMES,
        "survival": at(model.survival_function_.iloc[:, 0]),
        "lower": at(bounds.iloc[:, 0]),
        "upper": at(bounds.iloc[:, 1]),
        "at_risk": [int((frame["T"] >= t).sum()) for t in TIMES],
        "median": model.median_survival_time_,
        "rmst": float(mean),
        "rmst_variance": float(variance),
        "sksurv": [float(survival[np.searchsorted(time, t, side="right") - 1]) for t in TIMES],
    }


def incidence(frame: pd.DataFrame) -> dict:
    status = np.where(frame["E"] == 1, np.where(frame["age_at_index"] < 60, 1, 2), 0)
    time, curves = cumulative_incidence_competing_risks(status, frame["T"].to_numpy())
    place = [np.searchsorted(time, t, side="right") - 1 for t in TIMES]
    model = AalenJohansenFitter(seed=0, calculate_variance=True)
    jittered = model.fit(frame["T"], pd.Series(status), event_of_interest=1)
    return {
        "times": TIMES,
        "cause 1": curves[1][place].tolist(),
        "cause 2": curves[2][place].tolist(),
        "variance": [float(jittered.variance_.asof(t)) for t in TIMES],
        "lifelines": [float(jittered.cumulative_density_.iloc[:, 0].asof(t)) for t in TIMES],
    }


def logrank(frame: pd.DataFrame, group: str) -> dict:
    test = multivariate_logrank_test(frame["T"], frame[group], frame["E"])
    return {"chi2": test.test_statistic, "p": test.p_value}


def main(folder: Path) -> None:
    frame = rows(folder)
    frame["weight"] = 1.0 + frame.index % 3
    untied = frame.assign(T=frame["T"] + 0.5 * frame["T"].groupby(frame["T"]).rank("first"))
    untied["T"] += 1e-3 * frame.index
    stage = frame["ajcc_pathologic_t_T2"] + 2 * frame["ajcc_pathologic_t_T3"]
    plain = CoxPHFitter().fit(frame[[*TERMS, "T", "E"]], "T", "E")
    risk = plain.predict_log_partial_hazard(frame).to_numpy()
    found = {
        "terms": TERMS,
        "stratified": cox(frame, strata="site"),
        "pooled": cox(frame),
        "weighted": cox(frame, strata="site", weights_col="weight", extra=["weight"], robust=True),
        "untied": cox(untied),
        "untied robust": cox(untied, strata="site", robust=True),
        "untied weighted": cox(
            untied, strata="site", weights_col="weight", extra=["weight"], robust=True
        ),
        "ridge": ridge(frame, 20.0),
        "concordance": concordance_index_censored(frame["E"] == 1, frame["T"], risk)[0],
        "curve": curve(frame),
        "curves": {str(k): curve(part) for k, part in frame.groupby("race_white")},
        "logrank": logrank(frame, "race_white"),
        "logrank by stage": logrank(frame.assign(stage=stage), "stage"),
        "incidence": incidence(frame),
        "incidence untied": incidence(untied),
    }
    target = Path(__file__).with_name("brca.json")
    target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
