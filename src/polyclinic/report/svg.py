"""Figures as accessible, self-contained SVG. matplotlib is loaded on first use."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, QUIET = "#1a1a1a", "#595959"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "polyclinic",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Figure:
    """A drawing with its result in one sentence and the table of its numbers."""

    name: str
    title: str
    sentence: str
    svg: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def save(self, path: str | Path) -> None:
        """Write the SVG."""
        Path(path).write_text(self.svg, encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Figure({self.name}: {self.sentence})"


def canvas(width: float, height: float, rows: int = 1, **options: Any) -> tuple[Canvas, Any]:
    """A matplotlib figure outside pyplot's global state, and its axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as MplFigure

    with mpl.rc_context(STYLE):
        figure = MplFigure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, 1, **options)
    return figure, axes


def finish(
    figure: Canvas,
    name: str,
    title: str,
    sentence: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Figure:
    """Draw `figure` as SVG with title and description for readers who cannot see it."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\s(xmlns:\w+|xlink:\w+-role)="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    for old in set(re.findall(r'id="([^"]+)"', text)):
        text = re.sub(rf'(id="|url\(#|href="#){re.escape(old)}(?=["\)])', rf"\1{name}-{old}", text)
    start = f'<svg role="img" aria-labelledby="{name}-title {name}-desc"'
    opened = re.sub(r"^<svg", start, text, count=1)
    opened = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r"\1", opened, count=1)
    opened = re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", opened, count=1)
    words = (
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(sentence)}</desc>'
    )
    end = opened.index(">") + 1
    return Figure(
        name,
        title,
        sentence,
        opened[:end] + words + opened[end:],
        tuple(head),
        tuple(tuple(row) for row in rows),
    )


def percent_axes(axes: Axes, x: str, y: str) -> None:
    """Both axes from 0 to 100 %, with a light grid."""
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel=x, ylabel=y)
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(range(0, 101, 20))
    axes.grid(color="#e3e3e3", linewidth=0.6)
    axes.set_axisbelow(True)
