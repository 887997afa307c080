"""Table 1 as rows to print: one column per hospital and one for all, small cells hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.report.suppress import suppress
from polyclinic.report.words import fixed, percent

HIDDEN = "not shown"
Part = Mapping[str, Any]


def table_rows(
    table: Mapping[str, Any],
    labels: Mapping[str, str],
    level_labels: Mapping[str, Mapping[str, str]],
) -> tuple[list[str], list[dict[str, Any]]]:
    """(column heads, rows). A row is {"name", "level": bool, "cells": [text, ...]}."""
    groups = {site: part["all"] for site, part in table["sites"].items()}
    heads = [*groups, "all"]
    everyone = [*groups.values(), table["overall"]["all"]]
    sizes = [_size(group) for group in everyone]
    patients = suppress([[group["patients"] for group in everyone]], [None] * len(everyone))[0]
    rows = [
        _row(
            "patients",
            [
                HIDDEN if gone else _count(group["patients"])
                for group, gone in zip(everyone, patients, strict=True)
            ],
        )
    ]
    for column in table["columns"]:
        name = column["name"]
        found = [group["columns"][name] for group in everyone]
        label = labels.get(name, name)
        if column["kind"] in ("binary", "category"):
            words = level_labels.get(name, {})
            rows += _level_rows(label, column["levels"], found, sizes, words)
        else:
            rows += _number_rows(label, found)
    return heads, rows


def _row(name: str, cells: Sequence[str], level: bool = False) -> dict[str, Any]:
    return {"name": name, "level": level, "cells": list(cells)}


def _size(group: Part) -> int | None:
    """What the levels of a column and its missing values add up to."""
    rows = group["rows"]
    return int(group["patients"] if rows is None else rows) if group["patients"] else None


def _level_rows(
    label: str,
    levels: Sequence[str],
    found: Sequence[Part],
    sizes: Sequence[int | None],
    words: Mapping[str, str],
) -> list[dict[str, Any]]:
    names = [*levels, "missing"]
    counts = [[cell["levels"][level]["n"] for cell in found] for level in levels]
    counts.append([cell["missing"] for cell in found])
    *parts, whole = sizes  # groups of a column with missing values do not add up to all
    summed = None in sizes or sum(size or 0 for size in parts) == whole
    hidden = suppress(counts, sizes, summed=summed)
    rows = [_row(f"{label}, n (%)", [""] * len(found))]
    for i, name in enumerate(names):
        if name == "missing" and not any(hidden[i]) and not any(counts[i]):
            continue
        cells = []
        for j, count in enumerate(counts[i]):
            # the whole is known where neither it nor the missing values are hidden
            size, missing = sizes[j], counts[-1][j]
            known = None if size is None or missing is None or hidden[-1][j] else size - missing
            shown = None if hidden[i][j] else count
            cells.append(_share(shown, known if name != "missing" else None))
        rows.append(_row(words.get(name, name), cells, level=True))
    return rows


def _number_rows(label: str, found: Sequence[Part]) -> list[dict[str, Any]]:
    places = _places(found[-1]["sd"])  # of all hospitals, so that a row has one
    rows = [
        _row(f"{label}, mean (sd)", [_mean(cell, places) for cell in found]),
        _row("median (quartiles)", [_median(cell, places) for cell in found], level=True),
    ]
    missing = [cell["missing"] for cell in found]
    if any(count != 0 for count in missing):
        hidden = suppress([missing], [None] * len(found))[0]
        cells = [HIDDEN if gone else _count(n) for n, gone in zip(missing, hidden, strict=True)]
        rows.append(_row("missing", cells, level=True))
    return rows


def _share(count: int | None, whole: int | None) -> str:
    if count is None:
        return HIDDEN
    return f"{count:,} ({percent(count / whole, whole)})" if whole else f"{count:,}"


def _count(count: int | None) -> str:
    return HIDDEN if count is None else f"{count:,}"


def _mean(cell: Part, places: int) -> str:
    if cell["mean"] is None:
        return HIDDEN if cell["n"] is None else "-"
    return f"{fixed(cell['mean'], places)} ({fixed(cell['sd'], places)})"


def _median(cell: Part, places: int) -> str:
    values = [cell[name] for name in ("median", "q1", "q3")]
    if any(value is None for value in values):
        return "-"
    if cell["kind"] != "number" or abs(cell["sd"] or 0) >= 10:
        places = 0
    median, q1, q3 = (fixed(value["value"], places) for value in values)
    return f"{median} ({q1} to {q3})"


def _places(sd: float | None) -> int:
    """Decimals of a mean beside its standard deviation."""
    if sd is None or sd >= 10:
        return 0 if sd is not None and sd >= 100 else 1
    return 1 if sd >= 1 else 2
