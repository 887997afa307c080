"""`report.html`: one file, no network, no script; for a clinician to read, an auditor to check."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from polyclinic.core.checkpoint import write_atomic
from polyclinic.privacy.dp import TOGETHER
from polyclinic.report import blocks, exchanged, noise, sentences, tables, tripod, words
from polyclinic.report.figures import FIGURES
from polyclinic.report.glossary import glossary
from polyclinic.report.tables import Row
from polyclinic.report.terms import RATIOS, compared_with

SECTIONS = (
    "The answer",
    "Who was studied",
    "What matters",
    "How well it tells patients apart",
    "Are the risks right?",
    "Where would it help?",
    "Where does it fail?",
    "How it was computed",
    "What left each hospital",
    "Reporting items (TRIPOD+AI)",
    "Words",
)
OF_RISK, OF_EVALUATION = (4, 5, 6), (7,)  # sections that a report without these leaves out
ON_THE_SAME = " (on the same patients)"


def render_report(results: Mapping[str, Any], network: Sequence[Row] = ()) -> str:
    """The report as one HTML text; `network`: what travelled, of a run over a hub."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("polyclinic.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (files("polyclinic.report") / "templates" / "style.css").read_text(encoding="utf-8")
    context = {**_context(results), "network": network}
    return environment.get_template("report.html.j2").render(
        style=style + _page_header(context["running"]), **context
    )


def write_report(
    results: Mapping[str, Any], path: str | os.PathLike[str], network: Sequence[Row] = ()
) -> None:
    """Write the report whole or not at all. Raises CANNOT_WRITE."""
    write_atomic(Path(path), render_report(results, network).encode())


def _context(results: Mapping[str, Any]) -> dict[str, Any]:
    evaluation, study = results.get("evaluation"), results["study"]
    risk = bool(evaluation and evaluation["all"].get("auroc"))
    short_hash = " ".join((study["hash"][:4], study["hash"][4:8])).strip()
    running = f"study {study['name']}" + (f", hash {short_hash}" if short_hash else "")
    return {
        "r": results,
        "evaluation": evaluation,
        "risk": risk,
        "title": study["title"] or study["name"],
        "running": running,
        "headings": _headings(results, risk),
        "figures": {name: make(results) for name, make in FIGURES.items()},
        "three": _three(results),
        "flow": tables.flow(results),
        "table_one": tables.table_one(results),
        "terms": tables.terms(results),
        "blocks": blocks.drawn(results),
        "ratio": RATIOS.get(results["model"]["kind"]),
        "compared": compared_with(results),
        "thresholds": tables.thresholds(results) if risk else [],
        "measures": tables.measures(results) if evaluation else None,
        "importance": exchanged.importance(results),
        "leaves": tables.leaves(results),
        "refused": tables.refused(results),
        "budgets": tables.budgets(results),
        "tripod": tripod.items(results),
        "glossary": glossary(results),
        "say": sentences,
        "noise": noise,
        "together": TOGETHER,
        "words": words,
    }


def _headings(results: Mapping[str, Any], risk: bool) -> dict[int, str]:
    """Number and title of the sections that this report has."""
    evaluation = results.get("evaluation")
    same = bool(evaluation and evaluation["how"] == "same patients")
    headings = {}
    for number, title in enumerate(SECTIONS, 1):
        if (number in OF_RISK and not risk) or (number in OF_EVALUATION and not evaluation):
            continue
        if number == 3 and "blocks" in results["model"]:
            title = "What was found"
        marked = same and number in (*OF_RISK, *OF_EVALUATION)
        headings[number] = title + (ON_THE_SAME if marked else "")
    return headings


def _three(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The three figures of the first screen: (figure, words)."""
    model, data = results["model"], results["data"]
    found = (results.get("evaluation") or {}).get("all") or {}
    sure = "" if noise.is_counted(results) else "about "
    more = sentences.left_out(results)
    who = f"of {model['patients'] + more:,} " if more else ""
    who += f"patients in {words.plural(model['sites'], 'hospital')}"
    shown = [(f"{sure}{model['patients']:,}", who)]
    if (found.get("auroc") or {}).get("value") is not None:
        observed, predicted = (
            words.percent(found[k], found["n"]) for k in ("observed", "predicted")
        )
        shown.append((f"{100 * found['auroc']['value']:.0f} of 100", "pairs ranked rightly"))
        shown.append(
            (
                f"{predicted} of 100",
                f"expected by the model to have {data['outcome_label']}; {observed} had it",
            )
        )
    elif (found.get("concordance") or {}).get("value") is not None:
        area = found["concordance"]
        shown.append((f"{100 * area['value']:.0f} of 100", "pairs ranked rightly; chance is 50"))
        shown.append((f"{found['events']:,}", "had the event"))
    elif found.get("dice") is not None:
        shown.append((f"{found['dice']:.2f}", "mean Dice of the masks; 1 is the same mask"))
    elif found.get("r2") is not None:
        shown.append((f"{words.percent(found['r2'])} %", "of the differences explained"))
        shown.append((words.short(found["mae"]), "mean error of a prediction"))
    elif found.get("accuracy") is not None:
        shown.append((f"{words.percent(found['accuracy'])} of 100", "classes named rightly"))
    return shown


def _page_header(text: str) -> str:
    """The line above every printed page."""
    plain = re.sub(r"[^\w ,.:-]", " ", text)  # what may stand in a string of a style sheet
    return f'\n@page {{ @top-left {{ content: "Polyclinic report, {plain}"; }} }}\n'
