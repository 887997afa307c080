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


def items(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """{"number", "item", "text"} of every item."""
    study, model, data = results["study"], results["model"], results["data"]
    found = results.get("evaluation", {})
    performance = AUTHORS
    every = found.get("all", {})
    if every.get("concordance", {}).get("value") is not None:
        area = every["concordance"]
        performance = (
            f"concordance {fixed(area['value'], 2)} ({between(area, 2)}), {judged(found)}; "
            "results per hospital in section 7"
        )
    if every.get("auroc"):
        area = found["all"]["auroc"]
        performance = (
            f"AUROC {fixed(area['value'], 3)} ({between(area)}), {judged(found)}; "
            "calibration, decisions and results per hospital in sections 4 to 7"
        )
    missing = (
        "; ".join(
            f"{column}: {rule}" for column, rule in study["missing"].items() if rule != "drop"
        )
        or "rows without a value were left out"
    )
    took_part = results.get("federation", {}).get("hospitals")
    sites = ", ".join(took_part or [site["name"] for site in data["sites"]])
    sites += f"; {gone}" if (gone := without(results)) else ""
    how = f"with noise ({noise.level(results)})" if noise.of(results) else "exact"
    filled = {
        1: ("Title", study["title"]),
        2: ("Abstract", "section 1"),
        3: ("Background", AUTHORS),
        4: ("Objectives", study["purpose"] or AUTHORS),
        5: ("Data", f"{data['codebook']}; {data['source']}; hospitals: {sites}"),
        6: ("Participants", f"condition: {study['cohort']}; {sentences.who(results)}"),
        7: ("Data preparation", f"by the codebook (hash {results['hashes']['codebook'][:12]})"),
        8: ("Outcome", _outcome(data)),
        9: ("Predictors", study["formula"].split("~")[-1].strip()),
        10: (
            "Sample size",
            noise.patients(results)
            + (f", {model['events']:,} events" if model["events"] is not None else ""),
        ),
        11: ("Missing data", missing),
        12: (
            "Analytical methods",
            f"{_method(model)}, {how} over all hospitals; {study['guarantee']}",
        ),
        13: ("Class imbalance", AUTHORS),
        14: ("Fairness", "subgroups in section 7" if found.get("subgroups") else AUTHORS),
        15: (
            "Model output",
            _output(model, every),
        ),
        16: (
            "Training and evaluation",
            "judged "
            + judged(found)
            + (", folds by patient inside each hospital" if found["folds"] else "")
            if found
            else AUTHORS,
        ),
        17: ("Ethical approval", AUTHORS),
        18: (
            "Open science",
            "versions, seeds and hashes in section 8; protocol and funding: " + AUTHORS,
        ),
        19: ("Patient and public involvement", AUTHORS),
        20: ("Participants (results)", "section 2"),
        21: ("Model development (results)", f"{noise.patients(results)} at every step"),
        22: (
            "Model specification",
            "section 3, and the model's file"
            if "blocks" in model
            else "all coefficients in section 3",
        ),
        23: ("Model performance", performance),
        24: ("Model updating", AUTHORS),
        25: ("Interpretation", AUTHORS),
        26: ("Limitations", AUTHORS),
        27: ("Usability in current care", AUTHORS),
    }
    return [
        {"number": str(n), "item": item, "text": text} for n, (item, text) in sorted(filled.items())
    ]
