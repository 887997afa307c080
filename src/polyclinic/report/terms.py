"""A model's terms in words: units, the step in which a ratio is read, what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

RATIOS = {"logistic": "odds ratio", "poisson": "rate ratio", "gamma": "ratio of means"}
UNITS = {
    "1": "",
    "a": "years",
    "mo": "months",
    "wk": "weeks",
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "mm[Hg]": "mm Hg",
    "/min": "beats/min",
    "Cel": "degrees Celsius",
}


def unit_words(unit: str) -> str:
    """A unit of UCUM as clinicians write it in text."""
    plain = unit.replace("[", " ").replace("]", "").replace("{", "").replace("}", "")
    return UNITS.get(unit, plain.strip())


def with_unit(label: str, unit: str) -> str:
    """ "age, years" """
    words = unit_words(unit)
    return f"{label}, {words}" if words else label


def is_intercept(term: Mapping[str, Any]) -> bool:
    """True for the intercept, also of one class among several."""
    return str(term["name"]).split(": ")[-1] == "Intercept"


def step_words(term: Mapping[str, Any]) -> str:
    """ "10 years"; empty for a term that is 0 or 1."""
    step = float(term["step"])
    return f"{step:g} {unit_words(term['unit'])}".strip() if step else ""


def steps(term: Mapping[str, Any]) -> tuple[float, str]:
    """(step, words) in which a term's effect is read: (10.0, "age, per 10 years")."""
    words = step_words(term)
    if not words:
        return 1.0, str(term["label"])
    return float(term["step"]), f"{term['label']}, per {words}"


def effect(term: Mapping[str, Any], kind: str) -> tuple[float, float, float] | None:
    """Ratio (or difference) per step with its interval; None where there is no interval."""
    if term["lower"] is None or is_intercept(term):
        return None
    step = steps(term)[0]
    value, lower, upper = (float(term[key]) * step for key in ("coef", "lower", "upper"))
    if kind not in RATIOS:
        return value, lower, upper
    return _exp(value), _exp(lower), _exp(upper)


def _exp(value: float) -> float:
    return math.exp(max(min(value, 700.0), -700.0))


def effect_places(term: Mapping[str, Any], kind: str) -> int:
    """Decimals in which an effect is shown: two for a ratio, else by its standard error."""
    from polyclinic.report.words import decimals

    step = steps(term)[0]
    return 2 if kind in RATIOS else decimals(abs(float(term["se"]) * step))


def compared_with(results: Mapping[str, Any]) -> str:
    """What each level, and each class of the outcome, is compared with; "" for numbers only."""
    outcome = results["data"]["outcome"]
    firsts = {
        column: (entry["label"], str(next(iter(entry["levels"].values()))))
        for column, entry in results["labels"].items()
        if entry["levels"]
    }
    label, first_class = firsts.pop(outcome, ("", ""))
    text = ""
    if firsts:
        shown = "; ".join(f"{name}: {first}" for name, first in firsts.values())
        text = f"Each level is compared with the first of its kind: {shown}. "
    if results["model"]["family"] == "multinomial":
        text += f"Each class of {label} is compared with {first_class}."
    return text.strip()
