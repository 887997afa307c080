"""The tables of the report as rows of text, from the results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyclinic.report import gate, noise, sentences, words
from polyclinic.report.suppress import LEAST, shown_events
from polyclinic.report.table_one import table_rows
from polyclinic.report.terms import RATIOS, effect, effect_places, step_words, unit_words, with_unit

Results = Mapping[str, Any]
Row = dict[str, Any]
NOT_SHOWN = "not shown"
REASONS = {"condition": "not in the cohort", "missing": "values missing"}


def flow(results: Results) -> list[Row]:
    """Boxes: a hospital, what was left out and why, what was used."""
    outcome = results["data"]["outcome_label"]
    sites = results["data"]["sites"]
    events, some = _events(results), sentences.left_out(results) > 0
    boxes = []
    for i, site in enumerate(sites):
        out = [
            f"{words.count(count)} left out: {REASONS.get(reason, reason)}"
            for reason, count in site["left_out"].items()
            if count != 0
        ]
        rows = "" if site["rows"] is None else words.plural(site["rows"], "row") + " in the file"
        with_ = f"{events[i]} with {outcome}" if events else ""
        used = words.patients_of(site) + (" in the cohort" if some else " used")
        boxes.append({"name": site["name"], "rows": rows, "out": out, "used": used, "with": with_})
    return boxes


def _events(results: Results) -> list[str]:
    """Events per hospital and of all as they may be shown; empty for an outcome without."""
    model = results["model"]
    if model["events"] is None:
        return []
    shown = shown_events(results["data"]["sites"], model)
    return [NOT_SHOWN if count is None else f"{count:,}" for count in shown]


def table_one(results: Results) -> Row | None:
    """Table 1: the outcome first, then a row per measurement or level."""
    if "table_one" not in results:
        return None
    labels = {n: with_unit(e["label"], e["unit"]) for n, e in results["labels"].items()}
    levels = {n: e["levels"] for n, e in results["labels"].items()}
    heads, rows = table_rows(results["table_one"], labels, levels)
    events = _events(results)
    if (
        events
        and noise.is_counted(results)
        and heads == [*(s["name"] for s in results["data"]["sites"]), "all"]
    ):
        sizes = [*(s["patients"] for s in results["data"]["sites"]), results["model"]["patients"]]
        cells = [
            text
            if text == NOT_SHOWN or n is None
            else f"{text} ({words.percent(_number(text) / n, n)})"
            for text, n in zip(events, sizes, strict=True)
        ]
        name = f"{results['data']['outcome_label']}, n (%)"
        rows.insert(1, {"name": name, "level": False, "cells": cells})
    return {"heads": heads, "rows": rows}


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def terms(results: Results) -> list[Row]:
    """The full coefficient table: the effect per step, and the coefficient per unit."""
    kind, shown = results["model"]["kind"], []
    for term in results["model"]["terms"]:
        places, found = words.decimals(term["se"]), effect(term, kind)
        line = {
            "label": term["label"],
            "step": step_words(term),
            "coef": words.fixed(term["coef"], places),
            "se": words.fixed(term["se"], places),
            "interval": words.between(term, places),
            "p": words.p_value(term["p"]),
            "effect": "",
            "unit": unit_words(term["unit"]),
        }
        if found and kind in RATIOS:
            at = effect_places(term, kind)
            value, lower, upper = (words.fixed(v, at) for v in found)
            line["effect"] = f"{value} ({lower} to {upper})"
        shown.append(line)
    return shown


def thresholds(results: Results) -> list[Row]:
    """At each threshold: found, falsely alarmed, and how many alarms are right, of 100."""
    lines = []
    for line in results["evaluation"]["all"].get("confusion") or []:
        healthy = line["specificity"]
        alarmed = {
            "value": None if healthy["value"] is None else 1 - healthy["value"],
            "lower": None if healthy["upper"] is None else 1 - healthy["upper"],
            "upper": None if healthy["lower"] is None else 1 - healthy["lower"],
        }
        lines.append(
            {
                "threshold": f"{words.percent(line['threshold'])} %",
                "found": _of_100(line["sensitivity"], line.get("tp"), line.get("fn")),
                "alarmed": _of_100(alarmed, line.get("fp"), line.get("tn")),
                "right": _of_100(line["ppv"], line.get("tp"), line.get("fp")),
            }
        )
    return lines


def _of_100(share: Mapping[str, Any], part: int | None, rest: int | None) -> str:
    """ "96 (94 to 97)"; not shown where it would give 1 to 4 patients away."""
    if any(count is not None and 0 < count < LEAST for count in (part, rest)):
        return NOT_SHOWN
    if share["value"] is None:
        return "-"
    low, high = (words.percent(share[key]) for key in ("lower", "upper"))
    return f"{words.percent(share['value'])} ({low} to {high})"


def measures(results: Results) -> Row:
    """{"heads", "rows", "notes"}: performance by hospital, subgroup, all, and the baselines."""
    evaluation = results["evaluation"]
    groups = list(evaluation["sites"].items())
    for label, levels in evaluation["subgroups"].items():
        groups += [(f"{label}: {level}", group) for level, group in levels.items()]
    groups.append(("all", evaluation["all"]))
    if evaluation.get("apparent"):
        groups.append(("all, on the same patients", evaluation["apparent"]))
    if evaluation.get("prevalence"):
        groups.append(("the same prediction for all", evaluation["prevalence"]))
    columns = _columns(evaluation["all"])
    rows: list[Row] = [
        {"name": name, "total": name == "all", "cells": [cell(group) for _, cell in columns]}
        for name, group in groups
    ]
    hidden = [
        {"name": name, "total": False, "cells": [NOT_SHOWN] * len(columns)}
        for name in evaluation.get("not_shown") or []
    ]
    at = len(evaluation["sites"])
    notes = (words.own_not_shown(evaluation), words.levels_merged(evaluation))
    return {
        "heads": [head for head, _ in columns],
        "rows": rows[:at] + hidden + rows[at:],
        "notes": [text for text in notes if text],
    }


def _columns(every: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
    """(head, text of a group) by the kind of outcome."""
    n = ("patients", lambda g: f"{g['n']:,}")
    if "auroc" in every:
        return (
            n,
            ("AUROC (95 % interval)", lambda g: _with_interval(g.get("auroc"), 3)),
            ("observed of 100", _observed),
            ("predicted of 100", lambda g: words.percent(g.get("predicted"), g["n"])),
            (
                "calibration slope",
                lambda g: _with_interval((g.get("calibration") or {}).get("slope"), 2),
            ),
            ("Brier score", lambda g: words.fixed(g.get("brier"), 3)),
        )
    if "concordance" in every:
        return (
            n,
            ("events", lambda g: words.small(g["events"])),
            ("concordance (95 % interval)", lambda g: _with_interval(g["concordance"], 2)),
        )
    if "dice" in every:
        return (n, ("mean Dice", lambda g: words.fixed(g.get("dice"), 3)))
    if "accuracy" in every:
        return (
            n,
            ("right class, of 100", lambda g: words.percent(g.get("accuracy"), g["n"])),
            ("log loss", lambda g: words.fixed(g.get("log_loss"), 3)),
        )
    return (
        n,
        ("share explained (R2)", lambda g: words.fixed(g.get("r2"), 3)),
        ("mean error", lambda g: words.short(g.get("mae"))),
        ("observed mean", lambda g: words.short(g.get("observed"))),
        ("predicted mean", lambda g: words.short(g.get("predicted"))),
    )


def _observed(group: Mapping[str, Any]) -> str:
    if words.hides_events(group):
        return NOT_SHOWN
    return words.percent(group.get("observed"), group["n"])


def _with_interval(found: Mapping[str, Any] | None, places: int) -> str:
    if not found or found["value"] is None:
        return "-"
    text = words.fixed(found["value"], places)
    return text if found["lower"] is None else f"{text} ({words.between(found, places)})"


def leaves(results: Results) -> list[Row]:
    """What left, a row per step; hospitals that sent the same share a row."""
    steps: dict[tuple[str, str], Row] = {}
    for leaf in results["left"]:
        line = steps.setdefault(
            (leaf["step"], leaf["site"]),
            {"arrays": {}, "numbers": 0, "bytes": 0, "times": 0, "seen": leaf["seen"]},
        )
        shape = " x ".join(map(str, leaf["shape"])) or "1"
        line["arrays"][leaf["leaf"]] = shape
        line["numbers"] += leaf["numbers"]
        line["bytes"] += leaf["bytes"]
        line["times"] = max(line["times"], leaf["times"])
    rows: list[Row] = []
    for (step, site), line in steps.items():
        same = next((r for r in rows if r["step"] == step and r["line"] == line), None)
        if same is None:
            rows.append({"step": step, "sites": [site], "line": line})
        else:
            same["sites"].append(site)
    everyone = {leaf["site"] for leaf in results["left"]}
    return [_left_row(row, everyone, results["gate"]["ledger"]) for row in rows]


def refused(results: Results) -> list[str]:
    """What the hospitals refused and why, for example "va: counts and means, a level ..."."""
    return [
        f"{site}: {step} ({gate.WHY.get(code, code)})"
        for site, ledger in results["gate"]["ledger"].items()
        for step, code in ledger["refused"]
    ]


def budgets(results: Results) -> list[str]:
    """What noise has cost each hospital's data, and of how much; empty where there was none."""
    lines = []
    for site, ledger in results["gate"]["ledger"].items():
        spent, limit, delta = [*(ledger["budget"] or [0.0]), None, None][:3]
        if spent:
            of = "" if limit is None else f" of {limit:g}"
            at = "" if delta is None else f" (delta {delta:g})"
            lines.append(f"{site}: epsilon {spent:.3g}{of} spent{at}")
    return lines


def _behind(row: Row, ledgers: Mapping[str, Any]) -> str:
    """Patients behind a step at its hospitals, fewest to most."""
    found = [
        n for s in row["sites"] for n in ledgers.get(s, {}).get("patients", {}).get(row["step"], [])
    ]
    if not found:
        return "-"
    least, most = min(found), max(found)
    return f"{words.count(least)}" if least == most else f"{words.count(least)} to {most:,}"


def _left_row(row: Row, everyone: set[str], ledgers: Mapping[str, Any]) -> Row:
    line = row["line"]
    whole = len(everyone) > 1 and set(row["sites"]) == everyone
    arrays = [f"{name} ({shape})" for name, shape in line["arrays"].items()]
    return {
        "step": row["step"],
        "who": f"each of the {len(everyone)}" if whole else ", ".join(row["sites"]),
        "arrays": arrays,
        "patients": _behind(row, ledgers),
        "times": f"{line['times']:,}",
        "numbers": f"{line['numbers']:,}",
        "bytes": words.bytes_(line["bytes"]),
        "seen": line["seen"],
    }
