"""What a model rests on, in words: how its loss grows when patients exchange a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyclinic.report.names import Names
from polyclinic.report.words import cell, fixed, judged, short

Results = Mapping[str, Any]
NOTE = (
    "Columns that say the same stand in for each other: exchanging one of them then shows little. "
    "What a model rests on need not be a cause."
)
NOT_SHOWN = "not shown"


def importance(results: Results) -> dict[str, Any] | None:
    """{"say", "head", "rows", "note"}; None of a study that did not ask."""
    found = results.get("importance")
    if found is None:
        return None
    head = ["exchanged between patients", f"{found['measure']} grows by", "sd", "exchanges"]
    return {
        "say": _sentence(found, Names(results["labels"])),
        "head": head,
        "rows": [_row(line, Names(results["labels"])) for line in found["columns"]],
        "note": f"Mean over the exchanges, judged {_who(found)}; sd: between them. {NOTE}",
    }


def _who(found: Mapping[str, Any]) -> str:
    return judged({"folds": 0, "how": found["how"]})


def _row(line: Mapping[str, Any], names: Names) -> list[str]:
    numbers = (line["increase"], line["sd"])
    texts = [NOT_SHOWN if value is None else cell(float(value)) for value in numbers]
    return [_label(str(line["column"]), names), *texts, str(line["repeats"])]


def _label(name: str, names: Names) -> str:
    """ "chest pain", "X-ray: 0-13, 14-27" """
    column, colon, part = name.partition(": ")
    return f"{names.column(column)}{colon}{part}"


def _sentence(found: Mapping[str, Any], names: Names) -> str:
    """The column on which most rests, and what it does to the loss."""
    known = [line for line in found["columns"] if line["increase"] is not None]
    if found["loss"] is None or not known:
        return "On what the model rests is not shown: it would be about too few patients."
    first = known[0]
    if first["increase"] <= 2 * first["sd"]:
        return (
            "No single measurement decides: when patients exchange any one of them, the model "
            f"errs about as much as before ({found['measure']} {short(found['loss'])})."
        )
    what, before, after = _label(first["column"], names), found["loss"], first["increase"]
    return (
        f"The model rests most on {what}: when each patient is given that of another, "
        f"{_change(found['measure'], before, before + after)}."
    )


def _change(measure: str, before: float, after: float) -> str:
    if measure == "share of pairs ranked wrongly":
        return f"it ranks {100 * after:.0f} of 100 pairs wrongly instead of {100 * before:.0f}"
    if measure == "1 - Dice":
        return (
            f"the mean Dice of its masks falls from {fixed(1 - before, 2)} to {fixed(1 - after, 2)}"
        )
    return f"its error ({measure}) grows from {short(before)} to {short(after)}"
