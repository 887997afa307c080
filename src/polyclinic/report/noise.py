"""What a reader must know of a model that was fitted with noise, from the results alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyclinic.report.words import fold, plural

Results = Mapping[str, Any]
SHORTENED = (
    "A patient whose values together lie far from the middle of their ranges is shortened, that "
    "is, counts less than 1, so that nobody can move a sum by more than was agreed"
)
NOT_COVERED = "exact sums, which this guarantee does not cover"


def of(results: Results) -> Mapping[str, Any] | None:
    """Epsilon and delta of the coefficients; None for an exact fit."""
    found: Mapping[str, Any] | None = results["model"].get("noise")
    return found


def is_counted(results: Results) -> bool:
    """False where the number of patients is known with noise only."""
    found = of(results)
    return found is None or bool(found["counted"])


def level(results: Results) -> str:
    """For example "epsilon 3, delta 1e-06"; "" for an exact fit."""
    found = of(results)
    return "" if found is None else f"epsilon {found['epsilon']:g}, delta {found['delta']:g}"


def patients(results: Results) -> str:
    """How many, for example "857 patients"; said to be noisy where only that is known."""
    text = plural(results["model"]["patients"], "patient")
    return text if is_counted(results) else f"about {text} (a noisy count)"


def rests(results: Results) -> str:
    """How "It rests on so many patients" goes on."""
    if of(results) is None and not results["model"].get("pooled", True):
        return "."
    if of(results) is None:
        return ", and is the model that pooling their records would have given."
    text = (
        f", with noise in the sums behind {_what(results)} ({level(results)}) that hides every "
        f"single patient: {_what(results)} differ from those of pooled records"
    )
    if not results["model"]["terms"]:
        return f"{text}."
    if any(term["se"] is not None for term in results["model"]["terms"]):
        return f"{text}, and their intervals include the noise."
    return f"{text}, and the noise is too large for intervals."


def covered(results: Results) -> str:
    """What the guarantee does not cover; "" for an exact fit."""
    if of(results) is None:
        return ""
    shown = ["the counts of patients"] if is_counted(results) else []
    shown += ["Table 1"] if "table_one" in results else []
    shown += ["the measures of the model"] if "evaluation" in results else []
    if not shown:
        return ""
    listed = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"{listed[:1].upper()}{listed[1:]} are {NOT_COVERED}."


def figures(results: Results) -> str:
    """Which further figures are noisy; "" for an exact fit."""
    if of(results) is None:
        return ""
    if not results["model"]["terms"]:
        return "All figures of the model itself come from the same noisy sums."
    return (
        "The deviance and what follows from it come from the same noisy sums as the coefficients. "
        f"{SHORTENED}."
    )


def lines(results: Results) -> list[str]:
    """The same for the terminal."""
    if of(results) is None:
        return []
    text = f"noise  {level(results)}: noise was added to the sums behind {_what(results)}"
    more = covered(results)
    return [fold(f"{text}. {more}" if more else f"{text}.", indent=" " * 7)]


def _what(results: Results) -> str:
    """What the noise is in: coefficients, or of a learner its trees."""
    return "the coefficients" if results["model"]["terms"] else "the trees"
