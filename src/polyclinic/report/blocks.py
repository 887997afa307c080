"""The parts of a report that a learner describes by itself, as plain data.

A block has a "kind" and, but for texts, a "title"; "note" is a sentence beneath.

text    "text"
table   "head", names of columns; "rows", lists of texts, numbers or None; the first column names
curves  "x_label", "y_label", "curves": [{"name", "x", "y", "lower", "upper"}], "step": true for
        stairs, "at_risk": [{"name", "times", "counts"}] beneath, "percent": true for shares
forest  "lines": [{"name", "estimate", "lower", "upper"}], "ratio": true where 1 is no effect
bars    "bars": [{"name", "value"}]
svg     "svg", a drawing of the learner's own, with every text in it escaped; "alt" in words
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polyclinic.report.rows import line_axes
from polyclinic.report.svg import COLOURS, DASHES, INK, Figure, Size, canvas, figure_of, fold
from polyclinic.report.words import cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Block = Mapping[str, Any]
MOST_BARS = 30
FAR = (0.01, 100.0)  # ends of a ratio's axis


def drawn(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The blocks of a learner's result, ready for the page; none for a regression."""
    blocks = results["model"].get("blocks") or []
    return [_drawn(block, f"block-{i}") for i, block in enumerate(blocks)]


def _drawn(block: Block, name: str) -> dict[str, Any]:
    common = {"kind": block["kind"], "title": block.get("title", ""), "note": block.get("note", "")}
    if block["kind"] == "text":
        return {**common, "text": block["text"]}
    if block["kind"] == "table":
        rows = [[cell(value) for value in row] for row in block["rows"]]
        return {**common, "head": block["head"], "rows": rows}
    if block["kind"] == "svg":
        return {**common, "svg": block["svg"], "alt": block.get("alt", common["title"])}
    makers = {"curves": _curves, "forest": _forest, "bars": _bars}
    return {**common, "kind": "figure", "figure": makers[block["kind"]](block, name)}


def _curves(block: Block, name: str) -> Figure:
    curves = block["curves"]
    rows = [(c["name"], cell(_last(c["x"])), cell(_last(c["y"]))) for c in curves]
    head = ("curve", f"last {block['x_label']}", block["y_label"])

    def draw(size: Size) -> Canvas:
        risk = block.get("at_risk") or []
        table = 0.35 + 0.2 * len(risk) if risk else 0.0
        height = (3.4 if size.wide else 2.7) + table + 0.22 * (len(curves) if not size.wide else 0)
        figure = canvas(size, height, layout="constrained")
        if not risk:
            _draw_curves(figure.add_subplot(), block, size)
            return figure
        above, beneath = figure.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [height - table, table]}
        )
        _draw_curves(above, block, size)
        _draw_risk(beneath, risk, size)
        return figure

    sentence = block.get("note") or block["title"]
    return figure_of(name, block["title"], sentence, head, rows, draw)


def _last(values: Sequence[float]) -> float | None:
    return float(values[-1]) if len(values) else None


def _draw_curves(ax: Axes, block: Block, size: Size) -> None:
    stairs = bool(block.get("step"))
    for i, curve in enumerate(block["curves"]):
        colour, dash = COLOURS[i % 6], DASHES[i % len(DASHES)]
        style: Any = {"drawstyle": "steps-post"} if stairs else {}
        label = fold(str(curve["name"]), 28 if size.wide else 20)
        ax.plot(curve["x"], curve["y"], color=colour, linestyle=dash, label=label, **style)
        if curve.get("lower") is not None:
            band: Any = {"step": "post"} if stairs else {}
            ax.fill_between(
                curve["x"], curve["lower"], curve["upper"], color=colour, alpha=0.15, lw=0, **band
            )
    if block.get("percent"):
        ax.set_ylim(0, 1)
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    ax.set_xlabel(block["x_label"])
    ax.set_ylabel(block["y_label"])
    ax.grid(True)
    if len(block["curves"]) > 1:
        ax.legend(fontsize=9)


def _draw_risk(ax: Axes, risk: Sequence[Mapping[str, Any]], size: Size) -> None:
    """Numbers at risk under the curves, a line for each."""
    ax.set_axis_off()
    ax.set_ylim(-0.5, len(risk))
    ax.text(0.0, 1.0, "at risk", transform=ax.transAxes, fontsize=8, va="top", ha="left")
    for i, line in enumerate(risk):
        at = len(risk) - 1 - i
        every = 1 if size.wide else 2
        pairs = list(zip(line["times"], line["counts"], strict=True))
        for time, count in pairs[::every]:
            text = "-" if count is None else f"{count:,}"
            ax.text(time, at, text, color=COLOURS[i % 6], fontsize=8, ha="center", va="center")


def _forest(block: Block, name: str) -> Figure:
    lines, ratio = block["lines"], bool(block.get("ratio"))
    texts = [(cell(li["estimate"]), f"{cell(li['lower'])} to {cell(li['upper'])}") for li in lines]
    rows = [(li["name"], *text) for li, text in zip(lines, texts, strict=True)]
    none = 1.0 if ratio else 0.0

    def draw(size: Size) -> Canvas:
        notes = [f"{value} ({interval})" for value, interval in texts]
        figure, (ax,), heights = line_axes(size, [str(li["name"]) for li in lines], notes)
        for at, line in zip(heights, lines, strict=True):
            ends = [line[key] for key in ("lower", "estimate", "upper")]
            if any(value is None for value in ends):
                continue
            if ratio:
                ends = [min(max(value, FAR[0]), FAR[1]) for value in ends]
            sure = not ends[0] <= none <= ends[2]
            ax.plot([ends[0], ends[2]], [at, at], color=COLOURS[0], linewidth=2)
            face = COLOURS[0] if sure else "white"
            ax.plot(ends[1], at, "s", color=COLOURS[0], markerfacecolor=face, markersize=6.5)
        ax.axvline(none, color=INK, linewidth=0.9, zorder=0)
        if ratio:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.xaxis.set_minor_formatter(lambda value, _: "")
        else:
            ax.locator_params(axis="x", nbins=5)
        ax.set_xlabel(block.get("x_label", "ratio" if ratio else "difference"))
        return figure

    sentence = block.get("note") or block["title"]
    head = ("", "estimate", "95 % interval")
    return figure_of(name, block["title"], sentence, head, rows, draw)


def _bars(block: Block, name: str) -> Figure:
    bars = block["bars"][:MOST_BARS]
    rows = [(str(bar["name"]), cell(bar["value"])) for bar in bars]

    def draw(size: Size) -> Canvas:
        labels = [str(bar["name"]) for bar in bars]
        figure, (ax,), heights = line_axes(size, labels, [row[1] for row in rows])
        ax.barh(heights, [bar["value"] for bar in bars], height=0.5, color=COLOURS[0])
        ax.axvline(0.0, color=INK, linewidth=0.9)
        ax.locator_params(axis="x", nbins=5)
        ax.set_xlabel(block.get("x_label", ""))
        return figure

    sentence = block.get("note") or block["title"]
    return figure_of(name, block["title"], sentence, ("", block.get("x_label", "")), rows, draw)
