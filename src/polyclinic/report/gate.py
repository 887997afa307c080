"""What the hospitals' gates did, in a reader's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.report.words import fold, plural

WHY = {
    "TOO_FEW_PATIENTS": "too few patients",
    "SUBSET_TOO_SMALL": "too few patients in the cohort, or outside it",
    "LEVEL_TOO_SMALL": "a level has too few patients",
    "TOO_MANY_LEVELS": "a column has too many levels for its patients",
    "SATURATED": "too few patients for so many coefficients",
    "EFFECTIVE_SIZE": "too few patients carry a sum",
    "LEVERAGE": "one patient decides a coefficient",
    "ALONE_NOT_ALLOWED": "its policy",
    "SEEN_TOGETHER": "the sums were part of a total before",
}
ALONE = "this site"  # who sees a release
NUMBERS = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]


def lines(results: Mapping[str, Any]) -> list[str]:
    """Which hospitals may not release alone and why, and what was done."""
    gate, hospitals = results["gate"], results["model"]["sites"]
    if gate["sums"] == "clear":
        return []
    total = NUMBERS[hospitals] if hospitals < len(NUMBERS) else str(hospitals)
    text = f"secure sums: only the total of the {total} is seen"
    if alone := seen_alone(results["left"]):
        text += f", but of each hospital itself: {'; '.join(alone)}"
    if not gate["refusals"]:
        return [fold(f"gate   {text}", indent=" " * 7)]
    return [
        fold(f"gate   {refusals(gate['refusals'])}", indent=" " * 7),
        fold(f"       going on with {text}", indent=" " * 7),
    ]


def seen_alone(left: Sequence[Mapping[str, Any]]) -> list[str]:
    """The steps in which a hospital's own sums were seen."""
    return list(dict.fromkeys(line["step"] for line in left if line["seen"] == ALONE))


def refusals(codes: Mapping[str, str]) -> str:
    """For example "2 hospitals may not release alone: a level has too few patients"."""
    reasons = "; ".join(dict.fromkeys(WHY.get(code, code) for code in codes.values()))
    return f"{plural(len(codes), 'hospital')} may not release alone: {reasons}"
