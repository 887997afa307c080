"""`report.html`: one file, no network, no script; for a clinician to read, an auditor to check."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from polyclinic.core.checkpoint import write_atomic
from polyclinic.report import sentences, tripod, words
from polyclinic.report.figures import FIGURES, RATIOS, steps
from polyclinic.report.table_one import table_rows

GLOSSARY = (
    (
        "AUROC",
        "Area under the ROC curve: of all pairs of one patient with and one without the "
        "outcome, the share in which the model gives the higher risk to the right one.",
    ),
    ("95 % interval", "The range in which the true value lies in 95 of 100 such studies."),
    (
        "Odds ratio",
        "How many times higher the odds of the outcome are per step of a measurement, "
        "the other measurements being equal.",
    ),
    ("Calibration", "Whether predicted risks agree with what was observed."),
    (
        "Cross-validation",
        "Every patient is judged by a model that was fitted without that patient.",
    ),
    (
        "Net benefit",
        "Patients rightly treated, less those wrongly treated weighed by the threshold.",
    ),
    ("Threshold", "The risk above which one would act."),
    ("Subgroup", "Patients who share a level of a column, for example one sex."),
    ("Gate", "The place in a hospital that everything passes which leaves; it checks and logs it."),
    ("Sum", "What leaves a hospital: totals over many patients, never a row of one."),
)


def render_report(results: Mapping[str, Any]) -> str:
    """The report as one HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("polyclinic.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (files("polyclinic.report") / "templates" / "style.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(style=style, **_context(results))


def write_report(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the report whole or not at all. Raises CANNOT_WRITE."""
    write_atomic(Path(path), render_report(results).encode())


def _context(results: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: make(results) for name, make in FIGURES.items()}
    evaluation = results.get("evaluation")
    risk = bool(evaluation and evaluation["all"].get("auroc"))
    return {
        "r": results,
        "figures": figures,
        "evaluation": evaluation,
        "risk": risk,
        "title": results["study"]["title"] or results["study"]["name"],
        "hash": " ".join((results["study"]["hash"][:4], results["study"]["hash"][4:8])),
        "same": bool(evaluation and not evaluation["folds"]),
        "answer": sentences.answer(results),
        "lights": sentences.lights(results),
        "who": sentences.who(results),
        "matters": sentences.matters(results),
        "apart": sentences.apart(results) if risk else "",
        "right": sentences.right(results) if risk else "",
        "helps": sentences.helps(results) if risk else "",
        "fails": sentences.fails(results) if risk else "",
        "left": sentences.left(results),
        "figures3": _three(results),
        "flow": _flow(results),
        "table_one": _table_one(results),
        "terms": _terms(results),
        "ratio": RATIOS.get(results["model"]["kind"]),
        "measures": _measures(evaluation) if evaluation else [],
        "leaves": _leaves(results),
        "tripod": tripod.items(results),
        "glossary": GLOSSARY,
        "words": words,
    }


def _three(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The three figures of the first screen: (figure, words)."""
    model, found = results["model"], results.get("evaluation", {}).get("all", {})
    shown = [(f"{model['patients']:,}", f"patients in {words.plural(model['sites'], 'hospital')}")]
    if found.get("auroc", {}).get("value") is not None:
        shown.append((f"{100 * found['auroc']['value']:.0f} of 100", "pairs ranked rightly"))
        shown.append(
            (
                f"{words.percent(found['observed'])} and {words.percent(found['predicted'])}",
                f"of 100 with {results['data']['outcome_label']}: observed and predicted",
            )
        )
    elif found.get("r2") is not None:
        shown.append((f"{words.percent(found['r2'])} %", "of the differences explained"))
        shown.append((f"{found['mae']:.3g}", "mean error of a prediction"))
    elif found.get("accuracy") is not None:
        shown.append((f"{words.percent(found['accuracy'])} of 100", "classes named rightly"))
    return shown


def _flow(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Boxes: a hospital, what was left out and why, what was used."""
    reasons = {"condition": "not in the cohort", "missing": "values missing"}
    boxes = []
    for site in results["data"]["sites"]:
        out = [
            f"{words.count(count)} {reasons.get(reason, reason)}"
            for reason, count in site["left_out"].items()
            if count != 0
        ]
        rows = "" if site["rows"] is None else f"{site['rows']:,} rows in the file"
        used = f"{site['patients']:,} used"
        if site["events"] is not None:
            used += f", {site['events']:,} with {results['data']['outcome_label']}"
        boxes.append(
            {
                "name": site["name"],
                "rows": rows,
                "used": used,
                "out": "; ".join(out) + " left out" if out else "none left out",
            }
        )
    return boxes


def _table_one(results: Mapping[str, Any]) -> dict[str, Any] | None:
    if "table_one" not in results:
        return None
    labels = {name: entry["label"] for name, entry in results["labels"].items()}
    levels = {name: entry["levels"] for name, entry in results["labels"].items()}
    heads, rows = table_rows(results["table_one"], labels, levels)
    return {"heads": heads, "rows": rows}


def _terms(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The full coefficient table, in words and numbers."""
    import math

    shown = []
    for term in results["model"]["terms"]:
        places = words.decimals(term["se"])
        step, label = steps(term)
        line = {
            "label": label if term["name"] != "Intercept" else "Intercept",
            "name": term["name"],
            "coef": words.fixed(term["coef"], places),
            "se": words.fixed(term["se"], places),
            "interval": words.between(term, places),
            "p": words.p_value(term["p"]),
            "ratio": "",
        }
        if term["lower"] is not None and not term["name"].endswith("Intercept"):
            parts = [math.exp(min(step * term[k], 700.0)) for k in ("coef", "lower", "upper")]
            line["ratio"] = (
                f"{words.fixed(parts[0], 2)} ({words.fixed(parts[1], 2)} to "
                f"{words.fixed(parts[2], 2)})"
            )
        shown.append(line)
    return shown


def _measures(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One line per hospital, subgroup and baseline."""
    groups = [(name, group) for name, group in evaluation["sites"].items()]
    for label, levels in evaluation["subgroups"].items():
        groups += [(f"{label}: {level}", group) for level, group in levels.items()]
    groups.append(("all", evaluation["all"]))
    if "apparent" in evaluation:
        groups.append(("all, on the same patients", evaluation["apparent"]))
    if evaluation.get("prevalence"):
        groups.append(("the same risk for all", evaluation["prevalence"]))
    return [_measure(name, group, evaluation["alone"].get(name)) for name, group in groups]


def _measure(name: str, group: Mapping[str, Any], own: float | None) -> dict[str, Any]:
    share = "auroc" in group
    text = words.percent if share else (lambda v, n=0: "-" if v is None else f"{v:.4g}")
    return {
        "name": name,
        "n": f"{group['n']:,}",
        "auroc": words.fixed(group["auroc"]["value"], 3) if share else "-",
        "interval": words.between(group.get("auroc")),
        "observed": text(group.get("observed"), group["n"]),
        "predicted": text(group.get("predicted"), group["n"]),
        "brier": words.fixed(group.get("brier"), 3),
        "own": words.fixed(own, 3) if own else "-",
        "r2": words.fixed(group.get("r2"), 3),
        "mae": text(group.get("mae")) if not share else "-",
        "accuracy": words.fixed(group.get("accuracy"), 3),
    }


def _leaves(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What left, per hospital and step."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for leaf in results["left"]:
        line = lines.setdefault(
            (leaf["site"], leaf["step"]),
            {
                "site": leaf["site"],
                "step": leaf["step"],
                "leaves": [],
                "numbers": 0,
                "bytes": 0,
                "times": leaf["times"],
                "seen": leaf["seen"],
            },
        )
        shape = " x ".join(map(str, leaf["shape"])) or "1"
        line["leaves"].append(f"{leaf['leaf']} ({shape})")
        line["numbers"] += leaf["numbers"]
        line["bytes"] += leaf["bytes"]
    return list(lines.values())
