"""Survival models in the report: curves with numbers at risk, hazard ratios, tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from polyclinic.models.survival.curves import Curved, Ranked
    from polyclinic.models.survival.fit import CoxFit

TICKS = 6


def cox_blocks(fit: CoxFit) -> list[dict[str, Any]]:
    """Hazard ratios as a table and a drawing, tests, concordance, the hazards' proportionality."""
    table = fit.summary()
    names = ("coef", "lower", "upper")
    ratios = [[float(np.exp(table[name][j])) for name in names] for j in range(len(fit.terms))]
    by_site = fit.spec.by_site
    baseline = "one baseline per site" if by_site else "one baseline for all sites, on a grid"
    found: list[dict[str, Any]] = [
        {"kind": "text", "text": _sentence(fit, baseline)},
        {
            "kind": "table",
            "title": "Hazard ratios",
            "head": ["term", "hazard ratio", "lower", "upper", "p"],
            "rows": [[term, *ratios[j], float(table["p"][j])] for j, term in enumerate(fit.terms)],
            "note": f"95 % intervals; {baseline}; ties: {fit.spec.ties}.",
        },
        {
            "kind": "forest",
            "title": "Hazard ratios",
            "ratio": True,
            "x_label": "hazard ratio, 95 % interval",
            "lines": [
                {"name": term, "estimate": ratio[0], "lower": ratio[1], "upper": ratio[2]}
                for term, ratio in zip(fit.terms, ratios, strict=True)
                if np.all(np.isfinite(ratio))
            ],
        },
    ]
    if not found[-1]["lines"]:
        found.pop()
    found.append(_tests(fit))
    if fit.proportional:
        found.append(_proportional(fit))
    if fit.baseline is not None:
        times, hazard = fit.baseline
        curve = {"name": "baseline", "x": [0.0, *times.tolist()]}
        curve["y"] = [1.0, *np.exp(-hazard).tolist()]
        block = _curves("Survival at the reference", fit.spec.design.response, [curve], [])
        found.append({**block, "note": "All terms at 0, all sites together."})
    if fit.beside:
        found.append(_beside(fit))
    return found


def _sentence(fit: CoxFit, baseline: str) -> str:
    text = f"{fit.events:,} events among {fit.patients:,} patients; {baseline}."
    if fit.concordance:
        c, se = fit.concordance["c"], fit.concordance["se"]
        text += (
            " Of two patients of one site the one with the higher risk had the event first in "
            f"{100 * c:.1f} % (standard error {100 * se:.1f})."
        )
    return text


def _tests(fit: CoxFit) -> dict[str, Any]:
    rows = [[name, t["chi2"], t["df"], t["p"]] for name, t in fit.tests.items()]
    head = ["test of no effect at all", "chi-square", "df", "p"]
    return {"kind": "table", "title": "Tests of the model", "head": head, "rows": rows}


def _proportional(fit: CoxFit) -> dict[str, Any]:
    scales = ("identity", "log", "rank")
    rows = [
        [line["term"], *(line[f"p {scale}"] for scale in scales)] for line in fit.proportional or ()
    ]
    return {
        "kind": "table",
        "title": "Are the hazards proportional?",
        "head": ["term", "p, by time", "p, by log time", "p, by rank of time"],
        "rows": rows,
        "note": "A small p says that the effect changes with time (Grambsch and Therneau).",
    }


def _beside(fit: CoxFit) -> dict[str, Any]:
    beside = fit.beside or {}
    rows = [
        [term, float(fit.coef[j]), float(beside["halved"][j]), float(beside["stratified"][j])]
        for j, term in enumerate(fit.terms)
    ]
    return {
        "kind": "table",
        "title": "How far from exact",
        "head": ["term", "log hazard ratio", "every second edge", "one baseline per site"],
        "rows": rows,
        "note": "By one Newton step. The fit with one baseline per site needs no grid.",
    }


def curve_blocks(found: Curved) -> list[dict[str, Any]]:
    """Curves with intervals and numbers at risk, and their medians and means."""
    if found.spec.asked == "cumulative-incidence":
        return _incidence_blocks(found)
    curves = []
    for group, curve in found.curves.items():
        first = {"x": [0.0], "y": [1.0], "lower": [1.0], "upper": [1.0]}
        more = {"x": curve.times, "y": curve.survival, "lower": curve.lower, "upper": curve.upper}
        line = {n: first[n] + v.tolist() for n, v in more.items()}
        curves.append({"name": group, "levels": _levels(found, group), **line})
    blocks = [
        _curves("Survival", found.spec.design.response, curves, _at_risk(found)),
        _figures(found),
    ]
    if found.distance > 0:
        blocks.append(_distance(found))
    return blocks


def _levels(found: Curved, group: str) -> list[tuple[str, str]]:
    """What a group is: a column and its level."""
    return [(found.spec.by, group)] if found.spec.by else []


def _curves(title: str, time: str, curves: list[Any], at_risk: list[Any]) -> dict[str, Any]:
    return {
        "kind": "curves",
        "title": title,
        "x_label": time,
        "y_label": "survival",
        "curves": curves,
        "step": True,
        "percent": True,
        "at_risk": at_risk,
    }


def _at_risk(found: Curved) -> list[dict[str, Any]]:
    times = [0.0, *_ticks(found)]
    return [
        {
            "name": group,
            "levels": _levels(found, group),
            "times": times,
            "counts": [round(found.table(k).followed(time)) for time in times],
        }
        for k, group in enumerate(found.spec.groups)
        if found.table(k).patients
    ]


def _ticks(found: Curved) -> list[float]:
    edges = np.asarray(found.spec.edges)
    places = np.linspace(-1, len(edges) - 1, min(TICKS, len(edges)) + 1).astype(int)[1:]
    return [float(edge) for edge in edges[np.unique(places)]]


def _figures(found: Curved) -> dict[str, Any]:
    def time(value: float) -> float | str:
        return value if np.isfinite(value) else "not reached"

    rows = [
        [
            line["group"],
            line["patients"],
            round(line["events"]),
            *(time(line[name]) for name in ("median", "median_lower", "median_upper")),
            line["mean"],
            line["mean_lower"],
            line["mean_upper"],
        ]
        for line in found.figures()
    ]
    head = ["group", "patients", "events", "median", "from", "to", "mean", "from", "to"]
    note = (
        f"The mean is of the time without the event until {found.horizon:,g}; "
        "95 % intervals, of medians on the scale of log(-log S)."
    )
    title = "Median and mean time to the event"
    return {
        "kind": "table",
        "title": title,
        "by": found.spec.by,
        "head": head,
        "rows": rows,
        "note": note,
    }


def _distance(found: Curved) -> dict[str, Any]:
    steps = sorted(set(_ticks(found)))
    rows = []
    for group, curve in found.curves.items():
        for time in steps:
            k = int(np.searchsorted(curve.times, time))
            between = float(curve.exact_low[k]), float(curve.exact_high[k])
            rows.append([group, time, float(curve.survival[k]), *between])
    return {
        "kind": "table",
        "title": "How far from the exact curve",
        "by": found.spec.by,
        "head": ["group", found.spec.design.response, "survival", "exact: at least", "at most"],
        "rows": rows,
        "note": "Times were taken together into steps of enough patients; between the two numbers "
        "lies the curve of the times as they are, whatever they are.",
    }


def _incidence_blocks(found: Curved) -> list[dict[str, Any]]:
    curves = [
        {
            "name": f"cause {cause}" if len(found.incidences) == 1 else f"{group}, cause {cause}",
            "levels": [*_levels(found, group), (str(found.spec.design.event), str(cause))],
            "x": [0.0, *one.times.tolist()],
            "y": [0.0, *one.incidence.tolist()],
            "lower": [0.0, *one.lower.tolist()],
            "upper": [0.0, *one.upper.tolist()],
        }
        for group, by in found.incidences.items()
        for cause, one in by.items()
    ]
    time = found.spec.design.response
    block = _curves("Cumulative incidence", time, curves, _at_risk(found))
    return [{**block, "y_label": "cumulative incidence"}]


def rank_blocks(found: Ranked) -> list[dict[str, Any]]:
    """The test, and what it is made of."""
    test = found.test
    difference, variance = found.score
    stratified = "stratified by site" if found.spec.by_site else "on the agreed grid"
    return [
        {
            "kind": "table",
            "title": "Log-rank test",
            "head": ["test", "chi-square", "df", "p"],
            "rows": [[f"log-rank, {stratified}", test["chi2"], test["df"], test["p"]]],
        },
        {
            "kind": "table",
            "title": "Events by group",
            "by": found.spec.by,
            "head": ["group", "observed less expected", "variance"],
            "rows": [
                [group, float(difference[k]), float(variance[k, k])]
                for k, group in enumerate(found.spec.groups[1:])
            ],
            "note": f"The first group ({found.spec.by} {found.spec.groups[0]}) has the rest.",
        },
    ]
