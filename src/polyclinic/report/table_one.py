"""Table 1 as rows to print: one column per hospital and one for all, small cells hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.report.suppress import hidden_cells
from polyclinic.report.words import fixed, percent

HIDDEN = "not shown"


def table_rows(
    table: Mapping[str, Any],
    labels: Mapping[str, str],
    level_labels: Mapping[str, Mapping[str, str]],
) -> tuple[list[str], list[dict[str, Any]]]:
    """(column heads, rows). A row is {"name", "level": bool, "cells": [text, ...]}."""
    groups = {site: part["all"] for site, part in table["sites"].items()}
    heads = [*groups, "all"]
    everyone = [*groups.values(), table["overall"]["all"]]
    rows: list[dict[str, Any]] = [
        {"name": "patients", "level": False, "cells": [_count(g["patients"]) for g in everyone]}
    ]
    for column in table["columns"]:
        name = column["name"]
        found = [group["columns"][name] for group in everyone]
        label = labels.get(name, name)
        if column["kind"] in ("binary", "category"):
            rows += _level_rows(
                label, column["levels"], found, everyone, level_labels.get(name, {})
            )
        else:
            rows.append(
                {
                    "name": f"{label}, mean (sd)",
                    "level": False,
                    "cells": [_mean(cell) for cell in found],
                }
            )
            rows.append(
                {
                    "name": "median (quartiles)",
                    "level": True,
                    "cells": [_median(cell) for cell in found],
                }
            )
            if any(cell["missing"] != 0 for cell in found):
                rows.append(
                    {
                        "name": "missing",
                        "level": True,
                        "cells": [_count(_safe(cell["missing"])) for cell in found],
                    }
                )
    return heads, rows


def _level_rows(
    label: str,
    levels: Sequence[str],
    found: Sequence[Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    words: Mapping[str, str],
) -> list[dict[str, Any]]:
    names = [*levels, "missing"]
    counts = [
        [*(cell["levels"][level]["n"] for level in levels), cell["missing"]] for cell in found
    ]
    masks = [
        hidden_cells(cells, group["patients"]) for cells, group in zip(counts, groups, strict=True)
    ]
    for row in range(len(names)):  # the total of a level would give a hospital's hidden cell back
        masks[-1][row] = masks[-1][row] or any(mask[row] for mask in masks[:-1])
    rows: list[dict[str, Any]] = [
        {"name": f"{label}, n (%)", "level": False, "cells": [""] * len(found)}
    ]
    for i, name in enumerate(names):
        if name == "missing" and all(cells[i] == 0 for cells in counts):
            continue
        cells = [
            HIDDEN
            if mask[i] or cells[i] is None
            else _share(cells[i], sum(c or 0 for c in cells[:-1]) if not any(mask) else None)
            for cells, mask in zip(counts, masks, strict=True)
        ]
        rows.append({"name": words.get(name, name), "level": True, "cells": cells})
    return rows


def _share(count: int | None, whole: int | None) -> str:
    if count is None:
        return HIDDEN
    return f"{count:,} ({percent(count / whole, whole)})" if whole else f"{count:,}"


def _count(count: int | None) -> str:
    return HIDDEN if count is None else f"{count:,}"


def _safe(count: int | None) -> int | None:
    return None if count is None or 0 < count < 5 else count


def _mean(cell: Mapping[str, Any]) -> str:
    if cell["mean"] is None:
        return HIDDEN if cell["n"] is None else "-"
    places = _places(cell["sd"])
    return f"{fixed(cell['mean'], places)} ({fixed(cell['sd'], places)})"


def _median(cell: Mapping[str, Any]) -> str:
    values = [cell[name] for name in ("median", "q1", "q3")]
    if any(value is None for value in values):
        return "-"
    places = 0 if cell["kind"] != "number" else _places(cell["sd"])
    median, q1, q3 = (fixed(value["value"], places) for value in values)
    return f"{median} ({q1} to {q3})"


def _places(sd: float | None) -> int:
    if sd is None or sd >= 10:
        return 0 if sd is not None and sd >= 100 else 1
    return 1 if sd >= 1 else 2
