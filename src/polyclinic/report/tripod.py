"""TRIPOD+AI: the 27 items of a report on a prediction model, filled from the record where it can.

Source: Collins et al., "TRIPOD+AI statement", BMJ 2024;385:e078378.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyclinic.report import noise, sentences
from polyclinic.report.words import KINDS, between, fixed, judged, without

AUTHORS = "for the authors"


def _outcome(data: Mapping[str, Any]) -> str:
    return f"{data['outcome']}: {data['outcome_label']}" if data["outcome"] else "none"


def _method(model: Mapping[str, Any]) -> str:
    if "blocks" in model:
        settings = [
            f"{name} {value}" for name, value in model["options"].items() if value is not None
        ]
        return ", ".join([model["title"], *settings])
    return f"{KINDS[model['kind']]}, penalties l1 {model['l1']:g}, l2 {model['l2']:g}"


def _output(model: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if "auroc" in found or model["events"] is not None:
        return "predicted risk"
    if "concordance" in found:
        return "relative hazard"
    if "accuracy" in found:
        return "probability of each class"
    if "dice" in found:
        return "a mask"
    if "blocks" in model and not found:
        return "no prediction for a patient"
    return "predicted value"


def _performance(found: Mapping[str, Any]) -> str:
    every = found.get("all", {})
    if every.get("auroc"):
        area = every["auroc"]
        return (
            f"AUROC {fixed(area['value'], 3)} ({between(area)}), {judged(found)}; "
            "calibration, decisions and results per hospital in sections 4 to 7"
        )
    area = every.get("concordance", {})
    if area.get("value") is not None:
        return (
            f"concordance {fixed(area['value'], 2)} ({between(area, 2)}), {judged(found)}; "
            "results per hospital in section 7"
        )
    return AUTHORS


def _missing(rules: Mapping[str, str]) -> str:
    kept = [f"{column}: {rule}" for column, rule in rules.items() if rule != "drop"]
    return "; ".join(kept) or "rows without a value were left out"


def _hospitals(results: Mapping[str, Any]) -> str:
    took_part = results.get("federation", {}).get("hospitals")
    sites = ", ".join(took_part or [site["name"] for site in results["data"]["sites"]])
    return f"{sites}; {gone}" if (gone := without(results)) else sites


def _size(results: Mapping[str, Any]) -> str:
    events = results["model"]["events"]
    return noise.patients(results) + (f", {events:,} events" if events is not None else "")


def _judged(found: Mapping[str, Any]) -> str:
    if not found:
        return AUTHORS
    return f"judged {judged(found)}" + (
        ", folds by patient inside each hospital" if found["folds"] else ""
    )


def _introduction(results: Mapping[str, Any]) -> dict[int, tuple[str, str]]:
    study = results["study"]
    return {
        1: ("Title", study["title"]),
        2: ("Abstract", "section 1"),
        3: ("Background", AUTHORS),
        4: ("Objectives", study["purpose"] or AUTHORS),
    }


def _methods(results: Mapping[str, Any]) -> dict[int, tuple[str, str]]:
    study, model, data = results["study"], results["model"], results["data"]
    found = results.get("evaluation", {})
    how = f"with noise ({noise.level(results)})" if noise.of(results) else "exact"
    return {
        5: ("Data", f"{data['codebook']}; {data['source']}; hospitals: {_hospitals(results)}"),
        6: ("Participants", f"condition: {study['cohort']}; {sentences.who(results)}"),
        7: ("Data preparation", f"by the codebook (hash {results['hashes']['codebook'][:12]})"),
        8: ("Outcome", _outcome(data)),
        9: ("Predictors", study["formula"].split("~")[-1].strip()),
        10: ("Sample size", _size(results)),
        11: ("Missing data", _missing(study["missing"])),
        12: (
            "Analytical methods",
            f"{_method(model)}, {how} over all hospitals; {study['guarantee']}",
        ),
        13: ("Class imbalance", AUTHORS),
        14: ("Fairness", "subgroups in section 7" if found.get("subgroups") else AUTHORS),
        15: ("Model output", _output(model, found.get("all", {}))),
        16: ("Training and evaluation", _judged(found)),
        17: ("Ethical approval", AUTHORS),
    }


def _rest(results: Mapping[str, Any]) -> dict[int, tuple[str, str]]:
    """Open science, results and discussion."""
    return {
        18: (
            "Open science",
            f"versions, seeds and hashes in section 8; protocol and funding: {AUTHORS}",
        ),
        19: ("Patient and public involvement", AUTHORS),
        20: ("Participants (results)", "section 2"),
        21: ("Model development (results)", f"{noise.patients(results)} at every step"),
        22: (
            "Model specification",
            "section 3, and the model's file"
            if "blocks" in results["model"]
            else "all coefficients in section 3",
        ),
        23: ("Model performance", _performance(results.get("evaluation", {}))),
        24: ("Model updating", AUTHORS),
        25: ("Interpretation", AUTHORS),
        26: ("Limitations", AUTHORS),
        27: ("Usability in current care", AUTHORS),
    }


def items(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """{"number", "item", "text"} of every item."""
    filled = _introduction(results) | _methods(results) | _rest(results)
    return [
        {"number": str(n), "item": item, "text": text} for n, (item, text) in sorted(filled.items())
    ]
