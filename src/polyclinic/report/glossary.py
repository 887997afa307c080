"""About ten words that a report uses, for readers who do not compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyclinic.report.terms import RATIOS

ALWAYS = (
    (
        "95 % interval",
        "The values that agree with the data: in 95 of 100 studies like this one such an interval "
        "holds the true value.",
    ),
    (
        "p",
        "How often data at least this far from no association would turn up if there were none. "
        "Read it after the estimate and its interval.",
    ),
    (
        "Standard error",
        "By how much an estimate would typically differ from study to study.",
    ),
    (
        "Cross-validation",
        "Every patient is judged by a model that was fitted without that patient.",
    ),
    ("Sums", "What leaves a hospital: totals over many patients, never a row of one."),
)
RATIO = {
    "logistic": (
        "Odds ratio",
        "How many times higher the odds of the outcome are per step of a measurement, the other "
        "measurements being equal. Above 1 the outcome is more frequent, below 1 less.",
    ),
    "poisson": (
        "Rate ratio",
        "How many times higher the expected count is per step of a measurement, the other "
        "measurements being equal.",
    ),
    "gamma": (
        "Ratio of means",
        "How many times higher the expected value is per step of a measurement, the other "
        "measurements being equal.",
    ),
}
RISK = (
    (
        "AUROC",
        "Area under the ROC (receiver operating characteristic) curve: of all pairs of one patient "
        "with and one without the outcome, the share in which the model gives the higher risk to "
        "the one with it. 0.5 is chance, 1 is never wrong.",
    ),
    (
        "Calibration slope",
        "1 when risks are right; below 1 when high risks are too high and low ones too low; above "
        "1 when they are too cautious.",
    ),
    (
        "Net benefit",
        "Patients rightly treated, less those wrongly treated, weighed by the threshold.",
    ),
    (
        "Brier score",
        "Mean squared difference between the predicted risk and what happened (1 or 0). Lower is "
        "better.",
    ),
    (
        "I2",
        "The part of the differences between hospitals that chance does not explain.",
    ),
)
NOISE = (
    (
        "Epsilon, delta",
        "How well noise hides a single patient: no finding is more than e to the power of epsilon "
        "times as likely with a patient's data as without them, up to an extra chance of delta. "
        "Smaller is better hidden.",
    ),
)
NUMBER = (
    ("R2", "The share of the differences between patients that the model explains; 1 is all."),
    ("Mean error", "By how much a prediction is off on average, in the unit of the outcome."),
)
CLASSES = (
    ("Log loss", "How surprised the model was by the true classes; 0 is never. Lower is better."),
)


SURVIVAL = (
    (
        "Concordance",
        "Of pairs of patients of one hospital of whom it is known who had the event first, the "
        "share in which the model gives that one the higher risk. 0.5 is chance, 1 is never "
        "wrong.",
    ),
)
HAZARD = (
    "Hazard ratio",
    "How many times more often the event happens per day at risk, per unit of a measurement or "
    "against the first level, the other measurements being equal.",
)


def glossary(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(word, meaning) of the words that this report uses."""
    kind = results["model"]["kind"]
    found = (results.get("evaluation") or {}).get("all") or {}
    words = [RATIO[kind]] if kind in RATIOS else []
    words += [HAZARD] if kind == "cox" else []
    words += ALWAYS
    words += NOISE if results["model"].get("noise") else ()
    if "auroc" in found:
        words += RISK
    elif "concordance" in found:
        words += SURVIVAL
    elif "accuracy" in found:
        words += CLASSES
    elif found and "dice" not in found:
        words += NUMBER
    return words
