"""The figures of the report, each with its result in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from polyclinic.report.svg import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    QUIET,
    Figure,
    canvas,
    finish,
    percent_axes,
)
from polyclinic.report.words import between, decimals, fixed

Results = Mapping[str, Any]
RATIOS = {"logistic": "odds ratio", "poisson": "rate ratio", "gamma": "ratio of means"}


def figure(name: str, results: Results) -> Figure | None:
    """The figure called `name`, or None when the results hold nothing for it."""
    return FIGURES[name](results)


def steps(term: Mapping[str, Any]) -> tuple[float, str]:
    """(step, words) in which a term's ratio is read: "age, per 10 years"."""
    step = float(term["step"])
    if step == 0:
        return 1.0, term["label"]
    return step, f"{term['label']}, per {step:g} {unit_words(term['unit'])}".rstrip()


def unit_words(unit: str) -> str:
    """A unit as clinicians write it in text."""
    words = {
        "a": "years",
        "mo": "months",
        "d": "days",
        "wk": "weeks",
        "mm[Hg]": "mm Hg",
        "/min": "beats/min",
        "1": "",
        "Cel": "degrees Celsius",
    }
    plain = unit.replace("[", " ").replace("]", "").replace("{", "").replace("}", "")
    return words.get(unit, plain)


def forest(results: Results) -> Figure | None:
    """Ratio (or coefficient) per term with its interval."""
    kind = results["model"]["kind"]
    terms = [
        t
        for t in results["model"]["terms"]
        if t["name"].split(": ")[-1] != "Intercept" and t["lower"] is not None
    ]
    if not terms or len(terms) > 60:
        return None
    ratio, lines = kind in RATIOS, []
    for term in terms:
        step, words = steps(term)
        values = [term[k] * step for k in ("coef", "lower", "upper")]
        lines.append((words, [math.exp(min(v, 50)) for v in values] if ratio else values))
    fig, ax = canvas(7.2, 0.42 * len(lines) + 1.1)
    for row, (_, (value, lower, upper)) in enumerate(reversed(lines)):
        ax.plot([lower, upper], [row, row], color=COLOURS[0], linewidth=2, solid_capstyle="butt")
        ax.plot(value, row, marker="s", color=COLOURS[0], markersize=6)
    places = 2 if ratio else max(decimals(t["se"]) - 1 for t in terms)
    shown = [
        (w, fixed(v[0], places), f"{fixed(v[1], places)} to {fixed(v[2], places)}")
        for w, v in lines
    ]
    ax.set_yticks(range(len(lines)), [_fold(w) for w, _, _ in reversed(shown)])
    ax.axvline(1 if ratio else 0, color=INK, linewidth=0.8)
    if ratio:
        low = min([0.1, *(v[1] for _, v in lines)])
        high = max([10, *(v[2] for _, v in lines)])
        ax.set_xscale("log")
        ax.set_xlim(max(low, 1e-3), min(high, 1e3))
        ticks = [
            t
            for t in (0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100, 1000)
            if max(low, 1e-3) <= t <= min(high, 1e3)
        ]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
    ax.set_xlabel(RATIOS.get(kind, "coefficient") + ", 95 % interval")
    twin = ax.twinx()
    twin.set_ylim(ax.get_ylim())
    twin.set_yticks(range(len(lines)), [f"{v}  ({i})" for _, v, i in reversed(shown)])
    twin.tick_params(length=0)
    for side in ("right", "left"):
        twin.spines[side].set_visible(False)
    strongest = max(lines, key=lambda line: abs(math.log(line[1][0])) if ratio else abs(line[1][0]))
    sentence = (
        f"{len(lines)} terms; furthest from {'1' if ratio else '0'}: {strongest[0]} with "
        f"{fixed(strongest[1][0], places)}."
    )
    return finish(
        fig,
        "forest",
        "What matters",
        sentence,
        ("term", RATIOS.get(kind, "coefficient"), "95 % interval"),
        shown,
    )


def _fold(text: str) -> str:
    if len(text) <= 34:
        return text
    cut = text.rfind(" ", 0, 34)
    return text[:cut] + "\n" + text[cut + 1 :] if cut > 0 else text


def roc(results: Results) -> Figure | None:
    """Found against false alarms, a line per hospital and one for all."""
    groups = _groups(results)
    lines = [(n, g) for n, g in groups.items() if g.get("roc")]
    if not lines:
        return None
    fig, ax = canvas(6.0, 5.4)
    percent_axes(ax, "false alarms, % of those without the outcome", "found, % of those with it")
    ax.plot([0, 100], [0, 100], color=QUIET, linewidth=1, linestyle=":", label="chance")
    for i, (name, group) in enumerate(lines):
        style = _style(i, name)
        points = np.array([[p["fpr"], p["tpr"]] for p in group["roc"]]) * 100
        ax.plot(
            points[:, 0],
            points[:, 1],
            drawstyle="default",
            **style,
            label=f"{name}  {fixed(group['auroc']['value'], 3)} ({between(group['auroc'])})",
        )
    ax.legend(loc="lower right", fontsize=9, title="AUROC (95 % interval)", title_fontsize=9)
    area = groups["all"]["auroc"]
    return finish(
        fig,
        "roc",
        "How well the model tells patients apart",
        f"AUROC {fixed(area['value'], 3)} ({between(area)}) over all hospitals.",
        ("hospital", "AUROC", "95 % interval"),
        [(n, fixed(g["auroc"]["value"], 3), between(g["auroc"])) for n, g in lines],
    )


def calibration(results: Results) -> Figure | None:
    """Observed against predicted risk in tenths, with the predictions beneath."""
    group = results.get("evaluation", {}).get("all", {})
    bins = [b for b in (group.get("calibration") or {}).get("bins", []) if b["n"] >= 5]
    if not bins:
        return None
    fig, (ax, below) = canvas(6.0, 6.2, rows=2, height_ratios=[4, 1], sharex=True)
    percent_axes(ax, "", "observed, %")
    ax.plot([0, 100], [0, 100], color=QUIET, linewidth=1, linestyle=":", label="exactly right")
    x, y = ([100 * b[k] for b in bins] for k in ("predicted", "observed"))
    error = [
        [100 * (b["observed"] - b["lower"]) for b in bins],
        [100 * (b["upper"] - b["observed"]) for b in bins],
    ]
    ax.errorbar(x, y, yerr=error, fmt="o", color=COLOURS[0], capsize=3, label="tenths of patients")
    ax.legend(loc="upper left", fontsize=9)
    bars = [b for b in group["histogram"] if b["n"] >= 5]
    below.bar(
        [50 * (b["lower"] + b["upper"]) for b in bars],
        [b["n"] for b in bars],
        width=4.4,
        color=COLOURS[4],
        edgecolor=QUIET,
        linewidth=0.5,
    )
    below.set(xlabel="predicted risk, %", ylabel="patients")
    slope = group["calibration"]["slope"]
    return finish(
        fig,
        "calibration",
        "Predicted against observed risk",
        f"Calibration slope {fixed(slope['value'], 2)} ({between(slope, 2)}); 1 is exactly right.",
        ("patients", "predicted, %", "observed, %", "95 % interval"),
        [
            (
                f"{b['n']:,}",
                fixed(100 * b["predicted"], 1),
                fixed(100 * b["observed"], 1),
                f"{fixed(100 * b['lower'], 0)} to {fixed(100 * b['upper'], 0)}",
            )
            for b in bins
        ],
    )


def decision(results: Results) -> Figure | None:
    """Net benefit against the risk at which one would act."""
    curve = results.get("evaluation", {}).get("all", {}).get("decision")
    if not curve:
        return None
    fig, ax = canvas(6.0, 4.2)
    x = [100 * p["threshold"] for p in curve]
    ax.plot(
        x,
        [100 * p["net_benefit"] for p in curve],
        color=COLOURS[0],
        linewidth=2,
        label="by the model",
    )
    ax.plot(x, [100 * p["all"] for p in curve], color=COLOURS[1], linestyle="--", label="treat all")
    ax.axhline(0, color=INK, linewidth=0.8, linestyle=":", label="treat none")
    top = max(100 * max(p["net_benefit"] for p in curve), 1.0)
    ax.set(
        xlim=(0, 100),
        ylim=(-0.15 * top, 1.15 * top),
        xlabel="risk above which one would act, %",
        ylabel="more patients rightly\ntreated per 100",
    )
    ax.grid(color="#e3e3e3", linewidth=0.6)
    ax.legend(loc="upper right", fontsize=9)
    first, last = _longest([p["net_benefit"] > max(p["all"], 0.0) + 1e-9 for p in curve])
    sentence = "The model is never better than treating all or none."
    if last > first:
        sentence = (
            f"The model does better than treating all or none for thresholds from "
            f"{curve[first]['threshold']:.0%} to {curve[last - 1]['threshold']:.0%}."
        )
    return finish(
        fig,
        "decision",
        "Where the model would help",
        sentence,
        ("threshold, %", "by the model", "treat all"),
        [
            (
                f"{100 * p['threshold']:.0f}",
                fixed(100 * p["net_benefit"], 1),
                fixed(100 * p["all"], 1),
            )
            for p in curve[4::5]
        ],
    )


def _longest(flags: Sequence[bool]) -> tuple[int, int]:
    """Start and end of the longest run of True."""
    best, start = (0, 0), 0
    for i, flag in enumerate([*flags, False]):
        if not flag:
            best, start = max(best, (start, i), key=lambda run: run[1] - run[0]), i + 1
    return best


def sites(results: Results) -> Figure | None:
    """AUROC per hospital and subgroup, with interval, beside each hospital's own model."""
    evaluation = results.get("evaluation", {})
    groups = {**_groups(results)}
    for label, levels in evaluation.get("subgroups", {}).items():
        groups |= {f"{label}: {level}": g for level, g in levels.items()}
    lines = [(n, g["auroc"]) for n, g in groups.items() if g.get("auroc", {}).get("value")]
    if not lines:
        return None
    fig, ax = canvas(6.6, 0.42 * len(lines) + 1.3)
    own = evaluation.get("alone", {})
    for row, (name, area) in enumerate(reversed(lines)):
        if area["lower"] is not None:
            ax.plot([area["lower"], area["upper"]], [row, row], color=COLOURS[0], linewidth=2)
        ax.plot(area["value"], row, "o", color=COLOURS[0], label="this model" if not row else None)
        if own.get(name) is not None:
            ax.plot(
                own[name],
                row,
                "D",
                markerfacecolor="white",
                color=COLOURS[1],
                label="the hospital's own model" if name == next(iter(own)) else None,
            )
    ax.set_yticks(range(len(lines)), [_fold(n) for n, _ in reversed(lines)])
    ax.axvline(0.5, color=QUIET, linestyle=":", linewidth=1)
    ax.set_xlim(0.3, 1.0)
    ax.set_xlabel("AUROC, 95 % interval (0.5 is chance)")
    ax.legend(loc="upper left", fontsize=9, bbox_to_anchor=(0.0, 1.0))
    worst = min(lines, key=lambda line: line[1]["value"])
    return finish(
        fig,
        "sites",
        "Where the model works and where it fails",
        f"Lowest in {worst[0]}: AUROC {fixed(worst[1]['value'], 3)} ({between(worst[1])}).",
        ("group", "AUROC", "95 % interval", "own model"),
        [(n, fixed(a["value"], 3), between(a), fixed(own.get(n), 3)) for n, a in lines],
    )


def convergence(results: Results) -> Figure | None:
    """Gain per round on a log axis."""
    rounds = [r for r in results["convergence"] if r.get("gain") and r["gain"] > 0]
    if len(rounds) < 2:
        return None
    fig, ax = canvas(6.0, 3.2)
    ax.semilogy(
        [r["round"] for r in rounds], [r["gain"] for r in rounds], marker="o", color=COLOURS[0]
    )
    ax.set(xlabel="round", ylabel="gain still to be had")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(color="#e3e3e3", linewidth=0.6)
    return finish(
        fig,
        "convergence",
        "Convergence",
        f"After {rounds[-1]['round']} rounds a further step would gain {rounds[-1]['gain']:.0e}.",
        ("round", "step", "gain"),
        [(str(r["round"]), r["step"], f"{r['gain']:.1e}") for r in rounds],
    )


def _groups(results: Results) -> dict[str, Any]:
    evaluation = results.get("evaluation", {})
    return {**evaluation.get("sites", {}), "all": evaluation.get("all", {})} if evaluation else {}


def _style(i: int, name: str) -> dict[str, Any]:
    if name == "all":
        return {"color": INK, "linewidth": 2.4, "linestyle": "-"}
    return {
        "color": COLOURS[i % 6],
        "linestyle": DASHES[i % len(DASHES)],
        "linewidth": 1.4,
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 4,
        "markevery": 4,
    }


FIGURES: dict[str, Callable[[Results], Figure | None]] = {
    "forest": forest,
    "roc": roc,
    "calibration": calibration,
    "decision": decision,
    "sites": sites,
    "convergence": convergence,
}
