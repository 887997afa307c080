"""The sentence that answers each section's title, from the results alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyclinic.report import noise
from polyclinic.report.terms import RATIOS, effect, effect_places, is_intercept, steps
from polyclinic.report.words import (
    LEAST,
    between,
    bytes_,
    fixed,
    percent,
    plural,
    short,
    warning_mark,
)

Results = Mapping[str, Any]
WEAK = 0.6  # an AUROC whose interval reaches below this hardly ranks better than chance


def answer(results: Results) -> list[str]:
    """The study's answer in two sentences."""
    model, found = results["model"], (results.get("evaluation") or {}).get("all") or {}
    outcome = results["data"]["outcome_label"]
    who = f"{noise.patients(results)} of {plural(model['sites'], 'hospital')}"
    if more := left_out(results):
        who = f"{model['patients']:,} of the {model['patients'] + more:,} patients of "
        who += plural(model["sites"], "hospital")
    rests = f"It rests on {who}{noise.rests(results)}"
    area = (found.get("auroc") or {}).get("value")
    if area is not None:
        first = (
            f"From {_inputs(results)} the model tells patients with and without {outcome} apart: "
            f"given one of each, it ranks the one with it higher in {100 * area:.0f} of 100 pairs."
        )
    elif (found.get("concordance") or {}).get("value") is not None:
        share = 100 * found["concordance"]["value"]
        first = (
            f"From {_inputs(results)} the model ranks patients by {_event(results)}: of two "
            f"patients the one with the higher risk has it first in {share:.0f} of 100 pairs."
        )
    elif found.get("r2") is not None:
        first = (
            f"From {_inputs(results)} the model explains {percent(found['r2'])} % of the "
            f"differences in {outcome} between patients; it is off by {short(found['mae'])} "
            "on average."
        )
    elif found.get("accuracy") is not None:
        first = (
            f"From {_inputs(results)} the model names the right class of {outcome} for "
            f"{percent(found['accuracy'])} of 100 patients."
        )
    elif model.get("headline"):
        first = model["headline"]
    elif "blocks" in model:
        about = f" and {outcome}" if outcome else ""
        title = model["title"][:1].upper() + model["title"][1:]
        first = f"{title}: {_inputs(results)}{about}."
    else:
        first = f"{_inputs(results).capitalize()} and {outcome}: what is associated with it."
    return [first, rests]


def _event(results: Results) -> str:
    """ "death" """
    data = results["data"]
    return str(results["labels"].get(data.get("event"), {}).get("label", data["outcome_label"]))


def _inputs(results: Results) -> str:
    """ "six measurements" """
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
             "eleven", "twelve")  # fmt: skip
    data = results["data"]
    n = len([c for c in results["labels"] if c not in (data["outcome"], data.get("event"))])
    return f"{words[n] if n < len(words) else n} measurement{'' if n == 1 else 's'}"


def lights(results: Results) -> list[dict[str, str]]:
    """One line per hospital: a sign, the hospital, and in words what to do."""
    groups = (results.get("evaluation") or {}).get("sites") or {}
    lines = []
    for name, group in groups.items():
        if "auroc" not in group:
            continue
        text = _light(group)
        state = "look" if text else "ok"
        sign = "look" if text else "ok"
        lines.append(
            {"state": state, "sign": sign, "hospital": name, "text": text or _works(group)}
        )
    for name in (results.get("evaluation") or {}).get("not_shown") or []:
        text = "not shown: its own numbers may not be seen alone"
        lines.append({"state": "look", "sign": "look", "hospital": name, "text": text})
    return lines


def _works(group: Mapping[str, Any]) -> str:
    pairs = f"{100 * group['auroc']['value']:.0f} of 100 pairs ranked rightly"
    return f"predicted risks are about right, {pairs}"


def _light(group: Mapping[str, Any]) -> str:
    """What is wrong in a hospital, "" when nothing is."""
    area = group["auroc"]
    slope = (group.get("calibration") or {}).get("slope") or {}
    if area["value"] is None or area["lower"] is None or group.get("predicted") is None:
        return "too few patients with or without the outcome to say whether the model works"
    mark = warning_mark(group)
    if mark:
        return f"predicts {mark.removesuffix(' here')}, do not use unadjusted"
    if slope.get("upper") is not None and slope["upper"] < 1:
        return (
            "right on average, but high risks are too high and low ones too low; "
            f"ranks {100 * area['value']:.0f} of 100 pairs rightly"
        )
    if area["lower"] < WEAK:
        return "too few patients to say whether the model ranks them better than chance"
    return ""


def who(results: Results) -> str:
    """Who was studied."""
    model, sites = results["model"], results["data"]["sites"]
    outs = [count for site in sites for count in site["left_out"].values()]
    least = sum(count for count in outs if count is not None)
    few = sum(count is None for count in outs)
    text = noise.patients(results)
    if model["events"] is not None:
        text += f", {model['events']:,} of them with {results['data']['outcome_label']},"
    text += " were studied"
    if more := left_out(results):
        text += f"; {more:,} more are of hospitals that the model leaves out"
    if not outs:
        return f"{text}; no hospital shows how many it left out."
    text += "; "
    if few:
        return text + f"{least + few:,} to {least + few * (LEAST - 1):,} were left out."
    return text + (f"{least:,} were left out." if least else "none was left out.")


def left_out(results: Results) -> int:
    """Patients of the cohort who are not in the model, where each hospital shows its own."""
    counts = [site["patients"] for site in results["data"]["sites"]]
    if not counts or None in counts or "blocks" not in results["model"]:
        return 0
    return max(int(sum(counts)) - int(results["model"]["patients"]), 0)


def matters(results: Results) -> str:
    """Which term is most clearly associated with the outcome."""
    kind, outcome = results["model"]["kind"], results["data"]["outcome_label"]
    terms = [t for t in results["model"]["terms"] if not is_intercept(t) and t["p"] is not None]
    if not terms:
        why = "an L1 penalty" if noise.of(results) is None else "the noise is too large"
        return f"The model has no standard errors ({why}), so no term can be called clear."
    clear = sorted((t for t in terms if t["p"] < 0.05), key=lambda t: -abs(t["z"]))
    if not clear:
        return f"No measurement is clearly associated with {outcome}."
    found, places = effect(clear[0], kind), effect_places(clear[0], kind)
    assert found is not None, "a term with a p-value has an interval"
    value, lower, upper = (fixed(v, places) for v in found)
    return (
        f"Most clearly associated with {outcome}: {steps(clear[0])[1]} "
        f"({RATIOS.get(kind, 'difference')} {value}, 95 % interval {lower} to {upper}). "
        f"{len(clear)} of {plural(len(terms), 'term')} "
        f"{'has an interval' if len(clear) == 1 else 'have intervals'} that leave"
        f'{"s" if len(clear) == 1 else ""} out "no association".'
    )


def apart(results: Results) -> str:
    """How well patients are told apart."""
    area = results["evaluation"]["all"]["auroc"]
    if area["value"] is None:
        return "This cannot be said: all patients have the same outcome."
    return (
        "Given one patient with and one without the outcome, the model gives the higher risk to "
        f"the right one in {100 * area['value']:.0f} of 100 pairs; chance gives 50. "
        f"(Area under the ROC curve, AUROC: {fixed(area['value'], 3)}, 95 % interval "
        f"{between(area)}.)"
    )


def right(results: Results) -> str:
    """Whether the risks are right."""
    group = results["evaluation"]["all"]
    slope = (group.get("calibration") or {}).get("slope") or {}
    if slope.get("value") is None or slope.get("lower") is None:
        return "Whether the risks are right cannot be said from these data."
    if slope["lower"] <= 1 <= slope["upper"]:
        words = "Risks are about right"
    elif slope["value"] < 1:
        words = "High risks are too high and low risks too low"
    else:
        words = "Risks are too cautious: high ones too low, low ones too high"
    n = group["n"]
    return (
        f"{words}: calibration slope {fixed(slope['value'], 2)} (95 % interval "
        f"{between(slope, 2)}; 1 is exactly right). Of 100 patients {percent(group['observed'], n)}"
        f" had the outcome; the model expected {percent(group['predicted'], n)}."
    )


def helps(results: Results) -> str:
    """What acting above each threshold does."""
    parts = []
    for line in results["evaluation"]["all"].get("confusion") or []:
        found, healthy = line["sensitivity"]["value"], line["specificity"]["value"]
        if found is not None and healthy is not None:
            parts.append(
                f"acting above a risk of {percent(line['threshold'])} % finds {percent(found)} of "
                f"100 patients with the outcome and falsely alarms {percent(1 - healthy)} of 100 "
                "without it"
            )
    text = "; ".join(parts)
    return (text[:1].upper() + text[1:] + ".") if text else "No threshold was asked for."


def fails(results: Results) -> str:
    """Where the model is weakest, and how far hospitals differ."""
    evaluation = results["evaluation"]
    groups = {
        n: g
        for n, g in evaluation["sites"].items()
        if (g.get("auroc") or {}).get("value") is not None
    }
    if not groups:
        return "The hospitals did not show measures of their own."
    name = min(groups, key=lambda n: groups[n]["auroc"]["value"])
    area = groups[name]["auroc"]
    off = [
        f"{n} ({mark.removesuffix(' here')})"
        for n, g in groups.items()
        if (mark := warning_mark(g))
    ]
    text = f"It tells patients apart least well in {name}: AUROC {fixed(area['value'], 3)} "
    text += f"(95 % interval {between(area)})"
    return text + (f"; predicted risks are off in {', '.join(off)}." if off else ".")


def spread(results: Results) -> str:
    """What to expect in a hospital that took no part; "" where it is not known."""
    found = results["evaluation"].get("heterogeneity") or {}
    if found.get("predicted_lower") is None:
        return ""
    return (
        "In another hospital like these the AUROC is expected between "
        f"{fixed(found['predicted_lower'], 2)} and {fixed(found['predicted_upper'], 2)} "
        f"(95 % prediction interval). Of the spread between hospitals {percent(found['i2'])} % is "
        "more than chance (I2)."
    )


def baselines(results: Results) -> str:
    """The model beside each hospital's own model and beside the same risk for all."""
    evaluation = results["evaluation"]
    own = {n: v for n, v in (evaluation.get("alone") or {}).items() if v is not None}
    groups = evaluation["sites"]
    shared = {n: (groups.get(n, {}).get("auroc") or {}).get("value") for n in own}
    own = {n: v for n, v in own.items() if shared[n] is not None}
    better = [n for n, v in own.items() if shared[n] > v]
    text = ""
    if own:
        text = (
            f"The shared model ranks patients better than the hospital's own model in "
            f"{len(better)} of {plural(len(own), 'hospital')} (AUROC of their own models: "
            + ", ".join(f"{name} {fixed(value, 3)}" for name, value in own.items())
            + "). "
        )
    same, model = evaluation.get("prevalence") or {}, evaluation["all"]
    if same.get("brier") is not None and model.get("brier") is not None:
        text += (
            f"Its mean squared error (Brier score) is {fixed(model['brier'], 3)}; giving all "
            f"patients the same risk has {fixed(same['brier'], 3)}."
        )
    return text.strip()


def computed(results: Results) -> str:
    """How it was computed."""
    model = results["model"]
    done = "The fit converged" if model["converged"] else "The fit did not converge"
    rounds = plural(model["rounds"], "noisy round" if noise.of(results) else "round")
    return f"{done} after {rounds}; every number is about the same {noise.patients(results)}."


def left(results: Results) -> str:
    """How much left the hospitals."""
    if not results["left"]:
        return "Nothing is on record."
    total = sum(line["bytes"] for line in results["left"])
    kinds = len({line["step"] for line in results["left"]})
    return (
        f"Sums over patients only, no row of one: {bytes_(total)} in all from "
        f"{plural(results['model']['sites'], 'hospital')}, in {plural(kinds, 'kind')} of step."
    )
