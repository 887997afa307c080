"""Small cells in tables that are shared: which to hide so that none can be worked out.

A table's cells (levels and missing) add up to a known number of patients. Cells of 1 to 4 are
hidden. What is left out of the total would still give a single hidden cell back, or two fours of
eight, so the smallest larger cells are hidden with them until every hidden small cell could be any
of 1 to 4. All hidden cells look alike.
"""

from __future__ import annotations

from collections.abc import Sequence

LEAST = 5


def hidden_cells(cells: Sequence[int | None], total: int | None, least: int = LEAST) -> list[bool]:
    """True for every cell that must not be shown.

    Parameters
    ----------
    cells : counts that add up to `total`; None for one that a hospital's gate already hid.
    total : the published number of patients; None when it is not published.

    Returns
    -------
    list of bool; all True when nothing less protects the small cells.
    """
    hidden = [c is None or 0 < c < least for c in cells]
    if not any(hidden) or total is None:
        return hidden
    small = sum(hidden)
    larger = sorted((c, i) for i, c in enumerate(cells) if c is not None and c >= least)
    rest = total - sum(c for c, h in zip(cells, hidden, strict=True) if c is not None and not h)
    extra = 0
    for count, place in larger:
        if extra and rest >= (least - 1) + (small - 1) + least * extra:
            return hidden
        hidden[place], rest, extra = True, rest + count, extra + 1
    if extra and rest >= (least - 1) + (small - 1) + least * extra:
        return hidden
    return [True] * len(cells)
