"""The parts of a report that a learner describes by itself, as plain data.

A block has a "kind" and, but for texts, a "title"; "note" is a sentence beneath.

text    "text"
lines   "lines", texts of which the spaces count
table   "head", names of columns; "rows", lists of texts, numbers or None; the first column names;
        "by", the column of which these are levels
curves  "x_label", "y_label", "curves": [{"name", "x", "y", "lower", "upper"}], "step": true for
        stairs, "at_risk": [{"name", "times", "counts"}] beneath, "percent": true for shares;
        a curve's "levels" are pairs of a column and a level that name it better
forest  "lines": [{"name", "estimate", "lower", "upper"}], "ratio": true where 1 is no effect
bars    "bars": [{"name", "value"}]
svg     "svg", a drawing of the learner's own, with every text in it escaped; "alt" in words

Names of columns and terms are replaced by what people read, see `polyclinic.report.names`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polyclinic.report.names import Names
from polyclinic.report.rows import line_axes
from polyclinic.report.svg import COLOURS, DASHES, INK, Figure, Size, canvas, figure_of, fold
from polyclinic.report.words import cell, p_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Block = Mapping[str, Any]
MOST_BARS = 30
POINTS = 7  # of a curve in the table beneath it
FAR = (0.01, 100.0)  # ends of a ratio's axis
ROUND = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
MOST_TICKS = 7


def drawn(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The blocks of a learner's result, ready for the page; none for a regression."""
    blocks = results["model"].get("blocks") or []
    names = Names(results["labels"])
    return [_drawn(block, f"block-{i}", names) for i, block in enumerate(blocks)]


def figures_of(
    blocks: Sequence[Block], labels: Mapping[str, Mapping[str, Any]]
) -> dict[str, Figure]:
    """The drawings among a learner's blocks, by title; labels as in a run's results."""
    names, found = Names(labels), {}
    for i, block in enumerate(blocks):
        if block["kind"] == "svg":
            title, svg = str(block["title"]), str(block["svg"])
            rows = tuple((line,) for line in str(block.get("alt", "")).split("\n"))
            found[title] = Figure(f"block-{i}", title, title, svg, svg, ("text",), rows)
        elif block["kind"] in MAKERS:
            found[str(block["title"])] = figure_of_block(named(block, names), f"block-{i}")
    return found


def _drawn(block: Block, name: str, names: Names) -> dict[str, Any]:
    block = named(block, names)
    common = {"kind": block["kind"], "title": block.get("title", ""), "note": block.get("note", "")}
    if block["kind"] == "text":
        return {**common, "text": block["text"]}
    if block["kind"] == "table":
        rows = [_cells(block["head"], row) for row in block["rows"]]
        return {**common, "head": block["head"], "rows": rows}
    if block["kind"] == "lines":
        return {**common, "lines": block["lines"]}
    if block["kind"] == "svg":
        return {**common, "svg": block["svg"], "alt": block.get("alt", common["title"])}
    return {**common, "kind": "figure", "figure": figure_of_block(block, name)}


def figure_of_block(block: Block, name: str) -> Figure:
    """The drawing of a block of curves, lines with intervals, or bars; names as they are."""
    return MAKERS[block["kind"]](block, name)


def _cells(head: Sequence[Any], row: Sequence[Any]) -> list[str]:
    """Texts; p-values as everywhere."""
    return [
        p_value(value) if isinstance(value, float) and _is_p(title) else cell(value)
        for title, value in zip(head, row, strict=True)
    ]


def _is_p(title: Any) -> bool:
    return str(title) == "p" or str(title).startswith("p, ")


def named(block: Block, names: Names) -> Block:
    """The block with columns, levels and terms as people read them."""
    kind, by = block["kind"], block.get("by", "")
    if kind == "table":
        head = [names.axis(title) if isinstance(title, str) else title for title in block["head"]]
        first = (lambda text: names.level(by, text)) if by else names.term
        rows = [[first(row[0]) if isinstance(row[0], str) else row[0], *row[1:]]
                for row in block["rows"] if row]  # fmt: skip
        return {**block, "head": head, "rows": rows}
    if kind == "curves":
        lines = {part: [_curve(line, names) for line in block.get(part) or []]
                 for part in ("curves", "at_risk")}  # fmt: skip
        return {**block, **lines, "x_label": names.axis(block["x_label"])}
    if kind == "forest":
        lines_ = [{**line, "name": names.term(str(line["name"]))} for line in block["lines"]]
        return {**block, "lines": lines_}
    if kind == "bars":
        bars = [{**bar, "name": names.column(str(bar["name"]))} for bar in block["bars"]]
        return {**block, "bars": bars}
    if kind in ("lines", "svg"):
        text = block.get("alt", "") if kind == "svg" else "\n".join(block["lines"])
        return {**block, "note": block.get("note") or names.legend(text)}
    return block


def _curve(line: Mapping[str, Any], names: Names) -> dict[str, Any]:
    better = names.together(line["levels"]) if line.get("levels") else str(line["name"])
    return {**line, "name": better}


def _curves(block: Block, name: str) -> Figure:
    curves = block["curves"]
    risk_at = [line["times"] for line in block.get("at_risk") or []][:1]
    rows = [row for curve in curves for row in _points(curve, risk_at[0] if risk_at else None)]
    head: tuple[str, ...] = ("curve", block["x_label"], block["y_label"], "95 % interval")
    if all(row[3] == "" for row in rows):
        head, rows = head[:3], [row[:3] for row in rows]

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
        above.tick_params(labelbottom=True)
        _draw_risk(beneath, risk, size)
        return figure

    sentence = block.get("note") or block["title"]
    return figure_of(name, block["title"], sentence, head, rows, draw)


def _points(curve: Mapping[str, Any], at: Sequence[float] | None) -> list[tuple[str, ...]]:
    """A few points of a curve in numbers: those of `at`, or evenly spread ones."""
    x = list(curve["x"])
    if not x:
        return []
    if at is None:
        places = sorted({round(k * (len(x) - 1) / (POINTS - 1)) for k in range(POINTS)})
    else:
        places = sorted({max(bisect_right(x, time) - 1, 0) for time in at})
    known = curve.get("lower") is not None
    return [
        (
            str(curve["name"]),
            cell(float(x[k])),
            cell(float(curve["y"][k])),
            _interval(curve, k) if known else "",
        )
        for k in places
    ]


def _interval(curve: Mapping[str, Any], k: int) -> str:
    return f"{cell(float(curve['lower'][k]))} to {cell(float(curve['upper'][k]))}"


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
    ax.set_ylim(-0.5, len(risk) + 0.4)
    title = "at risk, in the order of the curves" if len(risk) > 1 else "at risk"
    ax.text(0.0, 1.0, title, transform=ax.transAxes, fontsize=8, va="top", ha="left")
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
            _ratio_axis(ax)
        else:
            ax.locator_params(axis="x", nbins=5)
        ax.set_xlabel(block.get("x_label", "ratio" if ratio else "difference"))
        return figure

    sentence = block.get("note") or block["title"]
    head = ("line", block.get("x_label", "ratio" if ratio else "difference"), "95 % interval")
    return figure_of(name, block["title"], sentence, head, rows, draw)


def _ratio_axis(ax: Axes) -> None:
    """Logarithmic, with a few round numbers; at least from 0.5 to 2."""
    low, high = ax.get_xlim()
    low, high = min(max(low, FAR[0]), 0.5), max(min(high, FAR[1]), 2.0)
    every = [value for value in ROUND if low <= value <= high]
    ticks = every if len(every) <= MOST_TICKS else [v for v in every if v in ROUND[::3]]
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


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
    head = ("name", block.get("x_label") or "value")
    return figure_of(name, block["title"], sentence, head, rows, draw)


MAKERS: Mapping[str, Callable[[Block, str], Figure]] = {
    "curves": _curves,
    "forest": _forest,
    "bars": _bars,
}
