"""Figures with a line per term or per group: what matters, and where the model fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polyclinic.report.svg import (
    BAND,
    COLOURS,
    INK,
    QUIET,
    Figure,
    Size,
    canvas,
    figure_of,
    fold,
    text_width,
)
from polyclinic.report.terms import RATIOS, effect, effect_places, is_intercept, steps
from polyclinic.report.words import between, fixed, hides_events, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Results = Mapping[str, Any]
MOST = 60
FAR = (1e-6, 1e6)  # ratios beyond are drawn here, outside the axis
APART = 0.11  # of a line: between two marks that would cover each other
FOOT, HEAD = 0.62, 0.08  # inches below and above the lines


def line_axes(
    size: Size,
    labels: Sequence[str],
    notes: Sequence[str] = (),
    panels: int = 1,
    foot: float = FOOT,
) -> tuple[Canvas, list[Axes], list[float]]:
    """A line per label, with `panels` axes side by side and a note at the right of each line.

    Returns the figure, its axes and the height of each line on their y axes. On a phone a label
    stands above its line.
    """
    from matplotlib.patches import Rectangle

    folded = [fold(label, 36 if size.wide else 48) for label in labels]
    row = 0.36 if size.wide else 0.5 + 0.14 * any("\n" in label for label in folded)
    count, edge, gap = len(labels), 0.08, 0.3
    left = edge + (text_width(folded, size.font) + 0.15 if size.wide else 0.06)
    right = edge + (text_width(notes, size.font) + 0.15 if notes else 0.06)
    height = HEAD + row * count + foot
    figure = canvas(size, height)
    each = (size.width - left - right - gap * (panels - 1)) / panels
    axes = [
        figure.add_axes(
            (
                (left + i * (each + gap)) / size.width,
                foot / height,
                each / size.width,
                row * count / height,
            )
        )
        for i in range(panels)
    ]
    lower = 0.0 if size.wide else -0.22
    for i, label in enumerate(folded):
        place = count - 1 - i
        middle = (foot + (place + 0.5) * row) / height
        if i % 2 == 0:
            low = (foot + place * row) / height
            band = Rectangle((0, low), 1, row / height, facecolor=BAND, zorder=-5)
            figure.add_artist(band)
        above = 0.0 if size.wide else 0.23 * row / height
        behind = {"facecolor": "white" if i % 2 else BAND, "edgecolor": "none", "pad": 0.8}
        words = figure.text(edge / size.width, middle + above, label, va="center", ha="left")
        words.set_bbox(behind)
        if notes:
            at = middle + lower * row / height
            figure.text(1 - edge / size.width, at, notes[i], va="center", ha="right")
    for ax in axes:
        ax.set_ylim(-0.5, count - 0.5)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.patch.set_visible(False)
    return figure, axes, [count - 1 - i + lower for i in range(count)]


def forest(results: Results) -> Figure | None:
    """Ratio (or coefficient) per term with its interval."""
    kind = results["model"]["kind"]
    terms = [t for t in results["model"]["terms"] if not is_intercept(t)]
    found = [(t, e) for t in terms if (e := effect(t, kind)) is not None]
    if not found or len(found) > MOST:
        return None
    ratio, word = kind in RATIOS, RATIOS.get(kind, "difference")
    labels = [steps(term)[1] for term, _ in found]
    values = [value for _, value in found]
    texts = [_effect_text(term, value, kind) for term, value in found]
    no_effect = 1.0 if ratio else 0.0

    def draw(size: Size) -> Canvas:
        notes = [f"{value} ({interval})" for value, interval in texts]
        figure, (ax,), heights = line_axes(size, labels, notes)
        drawn = (
            [[min(max(v, FAR[0]), FAR[1]) for v in line] for line in values] if ratio else values
        )
        for at, (value, lower, upper) in zip(heights, drawn, strict=True):
            sure = not lower <= no_effect <= upper
            ax.plot([lower, upper], [at, at], color=COLOURS[0], linewidth=2)
            face = COLOURS[0] if sure else "white"
            ax.plot(value, at, "s", color=COLOURS[0], markerfacecolor=face, markersize=6.5)
        ax.axvline(no_effect, color=INK, linewidth=0.9, zorder=0)
        if ratio:
            _log_axis(ax, values)
        else:
            ax.locator_params(axis="x", nbins=5)
        ax.set_xlabel(f"{word}, 95 % interval" if size.wide else word)
        return figure

    far = max(range(len(values)), key=lambda i: _distance(values[i][0], ratio))
    sentence = (
        f"{len(found)} terms; furthest from {no_effect:g}: {labels[far]}, {word} {texts[far][0]} "
        f"({texts[far][1]}). A hollow square marks an interval that includes {no_effect:g}."
    )
    rows = [(label, *text) for label, text in zip(labels, texts, strict=True)]
    head = ("term", word, "95 % interval")
    return figure_of("forest", "What matters", sentence, head, rows, draw)


def _effect_text(term: Mapping[str, Any], value: Sequence[float], kind: str) -> tuple[str, str]:
    places = effect_places(term, kind)
    shown = [_ratio_text(v) if kind in RATIOS else fixed(v, places) for v in value]
    return shown[0], f"{shown[1]} to {shown[2]}"


def _ratio_text(value: float) -> str:
    """Two decimals; more where a ratio would show as 0.00, fewer digits where it is huge."""
    if value >= 1000 or 0 < value < 0.005:
        return f"{value:.1e}" if value >= 1e5 or value < 1e-4 else f"{value:,.3g}"
    return fixed(value, 2)


def _distance(value: float, ratio: bool) -> float:
    return abs(math.log(value)) if ratio else abs(value)


def _log_axis(ax: Axes, values: Sequence[Sequence[float]]) -> None:
    """From 0.1 to 10, further where an interval needs it, within 0.001 and 1000."""
    low = max(min([0.1, *(v[1] for v in values)]), 1e-3)
    high = min(max([10.0, *(v[2] for v in values)]), 1e3)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    every = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]
    if high / low <= 200:
        every = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
    ticks = [tick for tick in every if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def sites(results: Results) -> Figure | None:
    """Per hospital and subgroup: the AUROC, and predicted beside observed of 100."""
    evaluation = results.get("evaluation")
    if not evaluation:
        return None
    groups = dict(evaluation["sites"])
    for label, levels in evaluation["subgroups"].items():
        groups |= {f"{label}: {level}": group for level, group in levels.items()}
    groups["all"] = evaluation["all"]
    lines = [(n, g) for n, g in groups.items() if (g.get("auroc") or {}).get("value") is not None]
    if not lines or len(lines) > MOST:
        return None
    own = evaluation.get("alone") or {}
    worst, lowest = min(lines, key=lambda line: line[1]["auroc"]["value"])
    sentence = (
        f"Patients are told apart least well in {worst}: AUROC "
        f"{fixed(lowest['auroc']['value'], 3)} ({between(lowest['auroc'])})."
    )
    rows = [
        (
            name,
            fixed(group["auroc"]["value"], 3),
            between(group["auroc"]),
            fixed(own.get(name), 3),
            percent(group["observed"], group["n"]) if not hides_events(group) else "not shown",
            percent(group["predicted"], group["n"]),
        )
        for name, group in lines
    ]
    head = ("group", "AUROC", "95 % interval", "own model", "observed", "predicted")
    title = "Where the model works and where it fails"
    return figure_of("sites", title, sentence, head, rows, lambda size: _panels(size, lines, own))


def _panels(size: Size, lines: Sequence[tuple[str, Any]], own: Mapping[str, Any]) -> Canvas:
    labels = [name for name, _ in lines]
    foot = FOOT + (0.22 if size.wide else 0.4)
    figure, (left, right), heights = line_axes(size, labels, panels=2, foot=foot)
    areas = [group["auroc"] for _, group in lines]
    lowest = min([0.5, *(a["lower"] for a in areas if a["lower"] is not None)])
    lowest = min([lowest, *(v for v in own.values() if v is not None)])
    for at, (name, group) in zip(heights, lines, strict=True):
        _area(left, at, group["auroc"], own.get(name))
        _risks(right, at, group)
    left.axvline(0.5, color=QUIET, linestyle=":", linewidth=1.2)
    left.set_xlim(math.floor(10 * lowest - 0.2) / 10, 1.02)
    left.locator_params(axis="x", nbins=5)
    left.set_xlabel("AUROC (0.5: chance)")
    right.set(xlim=(-3, 103), xlabel="with the outcome, of 100" if size.wide else "risk, of 100")
    right.set_xticks(range(0, 101, 25 if size.wide else 50))
    for ax in (left, right):
        ax.grid(True, axis="x")
    _legend(figure, left, right, size)
    return figure


def _area(ax: Axes, at: float, area: Mapping[str, Any], own: float | None) -> None:
    if area["lower"] is not None:
        ax.plot([area["lower"], area["upper"]], [at, at], color=COLOURS[0], linewidth=2)
    ax.plot(area["value"], at, "o", color=COLOURS[0], label="this model, 95 % interval")
    if own is not None:
        ax.plot(
            own,
            at - 1.5 * APART,
            "D",
            color=COLOURS[1],
            markerfacecolor="white",
            markersize=5,
            label="the hospital's own model",
        )


def _risks(ax: Axes, at: float, group: Mapping[str, Any]) -> None:
    predicted = 100 * group["predicted"]
    if not hides_events(group):
        observed = 100 * group["observed"]
        ax.plot([observed, predicted], [at + APART, at - APART], color=QUIET, linewidth=1.2)
        ax.plot(observed, at + APART, "s", color=INK, markersize=5.5, label="observed")
    style: Any = {"markerfacecolor": "white", "markersize": 6, "markeredgewidth": 1.6}
    ax.plot(predicted, at - APART, "o", color=COLOURS[0], label="predicted", **style)


def _legend(figure: Canvas, left: Axes, right: Axes, size: Size) -> None:
    entries: dict[str, Any] = {}
    for ax in (left, right):
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="lower center" if size.wide else "lower left",
        ncols=4 if size.wide else 2,
        fontsize=9,
        columnspacing=1.2 if size.wide else 0.7,
        handletextpad=0.4,
        handlelength=1.2,
        borderaxespad=0.1,
    )
