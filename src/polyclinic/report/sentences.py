"""The sentence that answers each section's title, from the results alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from polyclinic.report.figures import RATIOS, steps
from polyclinic.report.words import between, fixed, percent, plural, warning_mark

Results = Mapping[str, Any]


def answer(results: Results) -> list[str]:
    """The study's answer in two sentences."""
    model, found = results["model"], results.get("evaluation", {}).get("all", {})
    outcome = results["data"]["outcome_label"]
    who = f"{plural(model['patients'], 'patient')} of {plural(model['sites'], 'hospital')}"
    area = found.get("auroc", {}).get("value")
    if area is not None:
        return [
            f"From {plural(_inputs(results), 'measurement')} the model tells patients with and "
            f"without {outcome} apart: given one of each, it ranks the one with it higher in "
            f"{100 * area:.0f} of 100 pairs.",
            f"It rests on {who}; the coefficients are those that pooling their records would give.",
        ]
    if found.get("r2") is not None:
        return [
            f"The model explains {percent(found['r2'])} % of the differences in {outcome} between "
            f"patients; its predictions are off by {found['mae']:.3g} on average.",
            f"It rests on {who}; the coefficients are those that pooling their records would give.",
        ]
    if found.get("accuracy") is not None:
        return [
            f"The model names the right class of {outcome} for {percent(found['accuracy'])} of 100 "
            "patients.",
            f"It rests on {who}; the coefficients are those that pooling their records would give.",
        ]
    return [
        f"The model of {outcome} rests on {who}.",
        "Its coefficients are those that pooling their records would give.",
    ]


def _inputs(results: Results) -> int:
    columns = {c for c in results["labels"] if c != results["data"]["outcome"]}
    return len(columns)


def lights(results: Results) -> list[dict[str, str]]:
    """One traffic line per hospital: sign, hospital and what to do, in words."""
    lines = []
    for name, group in results.get("evaluation", {}).get("sites", {}).items():
        area = group.get("auroc")
        if area is None or group.get("predicted") is None:
            continue
        mark = warning_mark(group)
        weak = area["lower"] is not None and area["lower"] < 0.5
        if mark:
            lines.append(
                {
                    "sign": "!",
                    "state": "look",
                    "hospital": name,
                    "text": f"predicts {mark.removesuffix(' here')}, do not use unadjusted",
                }
            )
        elif weak or area["value"] is None:
            lines.append(
                {
                    "sign": "!",
                    "state": "look",
                    "hospital": name,
                    "text": "too few patients to say whether the model works",
                }
            )
        else:
            lines.append(
                {"sign": "ok", "state": "ok", "hospital": name, "text": "risks about right"}
            )
    return lines


def who(results: Results) -> str:
    """Who was studied."""
    model, sites = results["model"], results["data"]["sites"]
    outs = [v for s in sites for v in s["left_out"].values()]
    out = sum(v for v in outs if v is not None)
    few = " or more" if any(v is None for v in outs) else ""
    events = (
        ""
        if model["events"] is None
        else (f", {model['events']:,} with {results['data']['outcome_label']}")
    )
    left = f"{out:,}{few} were left out" if out or few else "none was left out"
    return f"{plural(model['patients'], 'patient')}{events}, were studied; {left}."


def matters(results: Results) -> str:
    """Which term is most clearly associated with the outcome."""
    kind = results["model"]["kind"]
    terms = [
        t
        for t in results["model"]["terms"]
        if not t["name"].endswith("Intercept") and t["p"] is not None
    ]
    if not terms:
        return "The model has no standard errors (an L1 penalty)."
    clear = sorted((t for t in terms if t["p"] < 0.05), key=lambda t: -abs(t["z"]))
    if not clear:
        return "No measurement is clearly associated with the outcome."
    step, label = steps(clear[0])
    value, lower, upper = (clear[0][k] * step for k in ("coef", "lower", "upper"))
    if kind in RATIOS:
        value, lower, upper = math.exp(value), math.exp(lower), math.exp(upper)
    word = RATIOS.get(kind, "difference")
    return (
        f"Most clearly associated: {label} ({word} {fixed(value, 2)}, 95 % interval "
        f"{fixed(lower, 2)} to {fixed(upper, 2)}); {len(clear)} of {len(terms)} terms have an "
        f"interval that excludes no association."
    )


def apart(results: Results) -> str:
    """How well patients are told apart."""
    area = results["evaluation"]["all"]["auroc"]
    return (
        f"Given one patient with and one without the outcome, the model ranks them rightly in "
        f"{100 * area['value']:.0f} of 100 pairs (AUROC {fixed(area['value'], 3)}, 95 % "
        f"interval {between(area)}; 50 of 100 is chance)."
    )


def right(results: Results) -> str:
    """Whether the risks are right."""
    slope = results["evaluation"]["all"]["calibration"]["slope"]
    if slope["value"] is None:
        return "Whether the risks are right cannot be said from these data."
    if slope["lower"] <= 1 <= slope["upper"]:
        words = "Risks are about right"
    elif slope["value"] < 1:
        words = "High risks are too high and low risks too low"
    else:
        words = "Risks are too cautious: high ones too low, low ones too high"
    return f"{words}: calibration slope {fixed(slope['value'], 2)} ({between(slope, 2)})."


def helps(results: Results) -> str:
    """What acting above each threshold does."""
    lines = results["evaluation"]["all"]["confusion"]
    parts = []
    for line in lines:
        found, alarm = line["sensitivity"]["value"], line["specificity"]["value"]
        if found is not None and alarm is not None:
            parts.append(
                f"acting above {line['threshold']:.0%} finds {percent(found)} of 100 with "
                f"the outcome and alarms {percent(1 - alarm)} of 100 without it"
            )
    text = "; ".join(parts)
    return (text[:1].upper() + text[1:] + ".") if text else "No threshold was asked for."


def fails(results: Results) -> str:
    """Where the model is weakest."""
    groups = {
        n: g
        for n, g in results["evaluation"]["sites"].items()
        if g.get("auroc", {}).get("value") is not None
    }
    if not groups:
        return "The hospitals did not show measures of their own."
    name = min(groups, key=lambda n: groups[n]["auroc"]["value"])
    area = groups[name]["auroc"]
    text = f"It is weakest in {name}: AUROC {fixed(area['value'], 3)} ({between(area)})."
    between_ = results["evaluation"].get("heterogeneity") or {}
    if between_.get("i2") is not None:
        text += f" {percent(between_['i2'])} % of the spread between hospitals is not chance (I2)."
    return text


def left(results: Results) -> str:
    """How much left the hospitals."""
    total = sum(line["bytes"] for line in results["left"])
    steps_ = len({line["step"] for line in results["left"]})
    return (
        f"Sums only, no row of a patient: {total / 1e6:.1f} MB in all, in "
        f"{plural(steps_, 'kind')} of step."
    )
