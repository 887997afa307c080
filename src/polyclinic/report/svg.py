"""Figures as accessible, self-contained SVG, drawn twice: for a page and for a phone.

matplotlib is loaded on first use, and never through pyplot: no global state is left behind.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's colours, which people who are colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, QUIET, GRID, BAND = "#1a1a1a", "#595959", "#e3e6ea", "#f4f6f8"
WIDE, NARROW = 7.2, 3.4  # inches: the column of a page, and a phone's screen
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "polyclinic",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,  # a hospital may have a dollar in its name
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Size:
    """Where a figure is shown. `width` is in inches, `font` in points."""

    wide: bool

    @property
    def width(self) -> float:
        return WIDE if self.wide else NARROW

    @property
    def font(self) -> float:
        return 10.0 if self.wide else 9.0


@dataclass(frozen=True)
class Figure:
    """A drawing with its result in one sentence and the table of its numbers.

    `svg` is for a page, `narrow` the same for a phone.
    """

    name: str
    title: str
    sentence: str
    svg: str
    narrow: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def save(self, path: str | Path) -> None:
        """Write the SVG."""
        Path(path).write_text(self.svg, encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Figure({self.name}: {self.sentence})"


def figure_of(
    name: str,
    title: str,
    sentence: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    draw: Callable[[Size], Canvas],
) -> Figure:
    """The figure that `draw` makes, for both sizes, with words for those who cannot see it."""
    wide, narrow = (_render(name, title, sentence, draw, Size(wide)) for wide in (True, False))
    return Figure(name, title, sentence, wide, narrow, tuple(head), tuple(map(tuple, rows)))


def canvas(size: Size, height: float, *, width: float | None = None, layout: Any = None) -> Canvas:
    """An empty matplotlib figure of `height` inches."""
    from matplotlib.figure import Figure as MplFigure

    return MplFigure(figsize=(width or size.width, height), layout=layout)


def _render(
    name: str, title: str, sentence: str, draw: Callable[[Size], Canvas], size: Size
) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "font.size": size.font}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's font has it
        figure = draw(size)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    prefix = name if size.wide else f"{name}-narrow"
    return _accessible(buffer.getvalue(), prefix, title, sentence, figure.get_figwidth())


def _accessible(text: str, prefix: str, title: str, sentence: str, width: float) -> str:
    """The SVG alone, with ids of its own, a title and a description, as wide as its place."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\s(xmlns:\w+|xlink:\w+-role)="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'(\bid="|url\(#|href="#)([^")]+)', rf"\g<1>{prefix}-\2", text)
    start, rest = text[: text.index(">")], text[text.index(">") + 1 :]
    start = re.sub(r'\s(width|height)="[^"]*"', "", start)
    start += (
        f' role="img" aria-labelledby="{prefix}-title {prefix}-desc"'
        f' style="width:100%;max-width:{width:g}in;height:auto">'
    )
    words = (
        f'<title id="{prefix}-title">{html.escape(title)}</title>'
        f'<desc id="{prefix}-desc">{html.escape(sentence)}</desc>'
    )
    return start + words + rest


def fold(text: str, width: int) -> str:
    """`text` on at most two lines of about `width` characters."""
    if len(text) <= width:
        return text
    cut = text.rfind(" ", 0, width + 1)
    first, second = (text[:cut], text[cut + 1 :]) if cut > 0 else (text[:width], text[width:])
    return first + "\n" + (second if len(second) <= width else second[: width - 3].rstrip() + "...")


def text_width(texts: Sequence[str], font: float) -> float:
    """Inches that the longest line of `texts` takes."""
    from matplotlib.textpath import TextPath

    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    widths = [TextPath((0, 0), line, size=font).get_extents().width for line in lines]
    return float(max(widths, default=0.0)) / 72


def percent_axes(axes: Axes, x: str, y: str) -> None:
    """Both axes from 0 to 100 %, with a light grid."""
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel=x, ylabel=y)
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(range(0, 101, 20))
    axes.grid(True)
