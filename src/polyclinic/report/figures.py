"""The figures of the report, each with its result in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polyclinic.evaluation.metrics import wilson
from polyclinic.report.rows import forest, sites
from polyclinic.report.suppress import LEAST, suppress
from polyclinic.report.svg import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    QUIET,
    Figure,
    Size,
    canvas,
    figure_of,
    fold,
    percent_axes,
)
from polyclinic.report.words import between, fixed, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Results = Mapping[str, Any]
MOST_NAMED = 6  # hospitals with a line style of their own


def figure(name: str, results: Results) -> Figure | None:
    """The figure called `name`, or None when the results hold nothing for it."""
    return FIGURES[name](results)


def roc(results: Results) -> Figure | None:
    """Found against false alarms, a line per hospital and one for all."""
    evaluation = results.get("evaluation") or {}
    every = evaluation.get("all") or {}
    if not every.get("roc") or every["auroc"]["value"] is None:
        return None
    groups = {"all": every, **evaluation["sites"]}
    lines = [(n, g) for n, g in groups.items() if g.get("roc") and g["auroc"]["value"] is not None]
    rows = [(n, fixed(g["auroc"]["value"], 3), between(g["auroc"])) for n, g in lines]
    sentence = f"AUROC {rows[0][1]} ({rows[0][2]}) over all hospitals; the diagonal is chance, 0.5."
    return figure_of(
        "roc",
        "How well the model tells patients apart",
        sentence,
        ("hospital", "AUROC", "95 % interval"),
        rows,
        lambda size: _draw_roc(size, lines, rows),
    )


def _draw_roc(
    size: Size, lines: Sequence[tuple[str, Any]], rows: Sequence[Sequence[str]]
) -> Canvas:
    named = len(lines) - 1 <= MOST_NAMED
    below = 0.0 if size.wide else 0.4 + 0.2 * (len(lines) + 1 if named else 3)
    side = 3.9 if size.wide else size.width - 0.85  # inches of the square
    height = side + 0.62 + below
    drawn = canvas(size, height)
    ax = drawn.add_axes((0.65 / size.width, (0.52 + below) / height,
                         side / size.width, side / height))  # fmt: skip
    percent_axes(ax, "false alarms, % of those without", "found, % of those with the outcome")
    ax.plot([0, 100], [0, 100], color=QUIET, linewidth=1.2, linestyle=":", label="chance")
    for i, (name, group) in enumerate(lines):
        x = [0.0, *(100 * point["fpr"] for point in group["roc"])]
        y = [0.0, *(100 * point["tpr"] for point in group["roc"])]
        between_ = "\n" if size.wide else "  "
        label = f"{fold(name, 28 if size.wide else 20)}{between_}{rows[i][1]} ({rows[i][2]})"
        if i and not named:
            label = "each hospital" if i == 1 else "_"
        ax.plot(x, y, label=label, **_line_style(i, named))
    corner = ((0.65 + side + 0.25) / size.width, 0.99) if size.wide else (0.0, below / height)
    drawn.legend(
        loc="upper left",
        bbox_to_anchor=corner,
        borderaxespad=0.1,
        fontsize=9,
        title="AUROC (95 % interval)",
        title_fontsize=9,
        alignment="left",
    )
    return drawn


def _line_style(i: int, named: bool) -> dict[str, Any]:
    """The first line is all hospitals together."""
    if i == 0:
        return {"color": INK, "linewidth": 2.6, "zorder": 3}
    if not named:
        return {"color": COLOURS[4], "linewidth": 0.9}
    k = i - 1
    return {
        "color": COLOURS[k % 6],
        "linestyle": DASHES[k % len(DASHES)],
        "linewidth": 1.5,
        "marker": MARKERS[k % len(MARKERS)],
        "markersize": 4.5,
        "markevery": (2 + k, 5),
    }


def calibration(results: Results) -> Figure | None:
    """Observed against predicted risk in tenths, with the predictions beneath."""
    group = (results.get("evaluation") or {}).get("all") or {}
    bins = merged_bins((group.get("calibration") or {}).get("bins") or [])
    if not bins:
        return None
    slope = group["calibration"]["slope"]
    rows = [
        (
            f"{b['n']:,}",
            fixed(100 * b["predicted"], 1),
            fixed(100 * b["observed"], 1),
            f"{fixed(100 * b['lower'], 0)} to {fixed(100 * b['upper'], 0)}",
        )
        for b in bins
    ]
    return figure_of(
        "calibration",
        "Predicted against observed risk",
        f"Calibration slope {fixed(slope['value'], 2)} ({between(slope, 2)}); 1 is exactly right. "
        f"Points are tenths of the patients, joined where too few stand behind one; "
        f"bars of fewer than {LEAST} patients are not drawn.",
        ("patients", "predicted, %", "observed, %", "95 % interval"),
        rows,
        lambda size: _draw_calibration(size, bins, shown_bars(group["histogram"])),
    )


def merged_bins(bins: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring tenths joined until each holds no 1 to 4 patients with or without the event."""
    joined: list[list[float]] = []  # n, events, sum of predicted
    open_ = False
    for one in bins:
        new = [one["n"], round(one["n"] * one["observed"]), one["n"] * one["predicted"]]
        if open_:
            joined[-1] = [a + b for a, b in zip(joined[-1], new, strict=True)]
        else:
            joined.append(new)
        open_ = _has_few(joined[-1])
    while len(joined) > 1 and _has_few(joined[-1]):
        last = joined.pop()
        joined[-1] = [a + b for a, b in zip(joined[-1], last, strict=True)]
    found = []
    for n, events, predicted in joined:
        if _has_few([n, events]):
            return []
        lower, upper = wilson(events, n)
        found.append({"n": int(n), "predicted": predicted / n, "observed": events / n,
                      "lower": lower, "upper": upper})  # fmt: skip
    return found


def _has_few(cell: Sequence[float]) -> bool:
    return any(0 < count < LEAST for count in (cell[0], cell[1], cell[0] - cell[1]))


def shown_bars(histogram: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Bars of the histogram without those that are small or would give a small one away."""
    counts = [[bar["n"]] for bar in histogram]
    hidden = suppress(counts, [sum(bar["n"] for bar in histogram)], summed=False)
    return [bar for bar, gone in zip(histogram, hidden, strict=True) if bar["n"] and not gone[0]]


def _draw_calibration(
    size: Size, bins: Sequence[Mapping[str, Any]], bars: Sequence[Mapping[str, Any]]
) -> Canvas:
    width, height = (5.2, 6.0) if size.wide else (size.width, 4.3)
    drawn = canvas(size, height, width=width, layout="constrained")
    ax, below = drawn.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    percent_axes(ax, "", "observed, %")
    ax.plot([0, 100], [0, 100], color=QUIET, linewidth=1.2, linestyle=":", label="exactly right")
    x, y, low, high = (
        [100 * b[key] for b in bins] for key in ("predicted", "observed", "lower", "upper")
    )
    error = [[v - a for v, a in zip(y, low, strict=True)],
             [b - v for v, b in zip(y, high, strict=True)]]  # fmt: skip
    ax.errorbar(
        x, y, yerr=error, fmt="o", color=COLOURS[0], capsize=3, label="patients, 95 % interval"
    )
    ax.legend(loc="upper left", fontsize=9)
    below.bar(
        [50 * (b["lower"] + b["upper"]) for b in bars],
        [b["n"] for b in bars],
        width=[94 * (b["upper"] - b["lower"]) for b in bars],
        color=COLOURS[4],
        edgecolor=QUIET,
        linewidth=0.5,
    )
    below.set(xlabel="predicted risk, %", ylabel="patients")
    below.locator_params(axis="y", nbins=3)
    return drawn


def decision(results: Results) -> Figure | None:
    """Net benefit against the risk at which one would act."""
    group = (results.get("evaluation") or {}).get("all") or {}
    curve = _with_patients(group.get("decision") or [], group.get("histogram") or [])
    if len(curve) < 2:
        return None
    first, last = _longest([p["net_benefit"] > max(p["all"], 0.0) + 1e-9 for p in curve])
    sentence = "The model's net benefit is nowhere above that of treating all or none."
    if last > first:
        sentence = (
            "The model's net benefit is above that of treating all or none for thresholds from "
            f"{percent(curve[first]['threshold'])} % to {percent(curve[last - 1]['threshold'])} %."
        )
    return figure_of(
        "decision",
        "Where the model would help",
        sentence,
        ("threshold, %", "by the model", "treat all"),
        [
            (
                percent(p["threshold"]),
                fixed(100 * p["net_benefit"], 1),
                fixed(100 * p["all"], 1),
            )
            for p in curve
            if round(100 * p["threshold"]) % 5 == 0
        ],
        lambda size: _draw_decision(size, curve),
    )


def _with_patients(
    curve: Sequence[Mapping[str, float]], histogram: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, float]]:
    """The thresholds above which at least five patients are sure to lie."""

    def above(threshold: float) -> int:
        return sum(bar["n"] for bar in histogram if bar["lower"] >= threshold - 1e-9)

    return [point for point in curve if above(point["threshold"]) >= LEAST]


def _draw_decision(size: Size, curve: Sequence[Mapping[str, float]]) -> Canvas:
    drawn = canvas(size, 3.9 if size.wide else 3.3, width=5.8 if size.wide else None,
                   layout="constrained")  # fmt: skip
    ax = drawn.subplots()
    x = [100 * p["threshold"] for p in curve]
    model, everyone = ([100 * p[key] for p in curve] for key in ("net_benefit", "all"))
    ax.plot(x, model, color=COLOURS[0], linewidth=2.2, label="by the model")
    ax.plot(x, everyone, color=COLOURS[1], linestyle="--", linewidth=1.6, label="treat all")
    ax.axhline(0, color=INK, linewidth=1.2, linestyle=":", label="treat none")
    top = max(*model, 1.0)
    ax.set(
        xlim=(0, 100),
        ylim=(-0.12 * top, 1.12 * top),
        xlabel="risk above which one would act, %",
        ylabel="more patients rightly\ntreated per 100",
    )
    ax.grid(True)
    ax.legend(loc="upper right", fontsize=9)
    return drawn


def _longest(flags: Sequence[bool]) -> tuple[int, int]:
    """Start and end of the longest run of True."""
    best, start = (0, 0), 0
    for i, flag in enumerate([*flags, False]):
        if not flag:
            best, start = max(best, (start, i), key=lambda run: run[1] - run[0]), i + 1
    return best


def convergence(results: Results) -> Figure | None:
    """Gain per round on a log axis."""
    rounds = [r for r in results["convergence"] if r.get("gain") and r["gain"] > 0]
    if len(rounds) < 2:
        return None

    def draw(size: Size) -> Canvas:
        drawn = canvas(size, 2.9, width=5.2 if size.wide else None, layout="constrained")
        ax = drawn.subplots()
        x, y = ([r[key] for r in rounds] for key in ("round", "gain"))
        ax.semilogy(x, y, marker="o", color=COLOURS[0], linewidth=1.8)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        ax.minorticks_off()
        ax.set(xlabel="round", ylabel="gain in log-likelihood\nstill to be had")
        ax.locator_params(axis="x", integer=True)
        ax.grid(True)
        return drawn

    last = rounds[-1]
    return figure_of(
        "convergence",
        "Convergence",
        f"In round {last['round']} a further step would gain {last['gain']:.0e}.",
        ("round", "step", "gain"),
        [(str(r["round"]), str(r["step"]), f"{r['gain']:.1e}") for r in rounds],
        draw,
    )


FIGURES: dict[str, Callable[[Results], Figure | None]] = {
    "forest": forest,
    "roc": roc,
    "calibration": calibration,
    "decision": decision,
    "sites": sites,
    "convergence": convergence,
}
