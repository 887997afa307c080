"""A tree as people read it: indented text, and a drawing."""

from __future__ import annotations

from html import escape

import numpy as np

from polyclinic.models.trees.result import Fit
from polyclinic.models.trees.stack import Stack

WIDTH, HEIGHT, STEP = 150, 44, 84


def to_text(fit: Fit, tree: int = 0) -> str:
    """One tree, a line per node; what fulfils a condition stands beneath it."""
    lines: list[str] = []
    one = fit.trees.tree(tree)

    def node(at: int, depth: int) -> None:
        pad = "  " * depth
        if one.left[at] < 0:
            lines.append(f"{pad}{value_of(fit, one, at)}")
            return
        left = int(one.left[at])
        gone = "missing" if one.missing_left[at] else ""
        lines.append(f"{pad}if {condition(fit, one, at)}{f' or {gone}' if gone else ''}:")
        node(left, depth + 1)
        lines.append(f"{pad}else:")
        node(left + 1, depth + 1)

    node(0, 0)
    return "\n".join(lines)


def condition(fit: Fit, tree: Stack, node: int) -> str:
    """What sends a row to the left."""
    feature = fit.spec.features[int(tree.feature[node])]
    if feature.levels:
        names = feature.names or tuple(str(level) for level in range(feature.levels))
        left = [n for level, n in enumerate(names) if not int(tree.set[node]) >> level & 1]
        return f"{feature.name} in {{{', '.join(left)}}}"
    place = int(tree.split[node])
    if not 0 <= place < len(feature.edges):
        return f"{feature.name} is {'known' if place >= 0 else 'missing'}"
    return f"{feature.name} < {feature.edges[place]:.6g}"


def value_of(fit: Fit, tree: Stack, node: int) -> str:
    """What a leaf predicts: with the start in a single tree, else what it adds."""
    alone = fit.trees.trees == 1
    value = tree.value[node] + (fit.base if alone else 0.0)
    spec = fit.spec
    if alone and spec.classes and len(value) > 1:
        return "probabilities " + ", ".join(f"{p:.3g}" for p in value)
    if alone and spec.loss == "squared":
        return f"{'probability' if spec.classes else 'mean'} {value[0]:.4g}"
    return f"{value[0]:+.4g}"


def to_svg(fit: Fit, tree: int = 0) -> str:
    """One tree as a drawing, without script; every text is escaped."""
    one = fit.trees.tree(tree)
    place = _places(one)
    wide = (max(x for x, _ in place.values()) + 1) * WIDTH
    high = (max(y for _, y in place.values()) + 1) * STEP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high:.0f}" '
        f'role="img" aria-label="decision tree" font-family="sans-serif" font-size="11">'
    ]
    for at in range(len(one.left)):
        x, y = _centre(place[at])
        if one.left[at] < 0:
            continue
        for side, word in ((0, "yes"), (1, "no")):
            to_x, to_y = _centre(place[int(one.left[at]) + side])
            parts.append(
                f'<path d="M{x:.0f} {y + HEIGHT / 2:.0f}L{to_x:.0f} {to_y - HEIGHT / 2:.0f}" '
                f'stroke="#888" fill="none"/>'
                f'<text x="{(x + to_x) / 2:.0f}" y="{(y + to_y) / 2:.0f}" '
                f'text-anchor="middle" fill="#555">{word}</text>'
            )
    for at in range(len(one.left)):
        x, y = _centre(place[at])
        text = condition(fit, one, at) if one.left[at] >= 0 else value_of(fit, one, at)
        fill = "#eef3f8" if one.left[at] >= 0 else "#f6f1e4"
        shown = text if len(text) <= 24 else text[:22] + "…"
        parts.append(
            f'<g><title>{escape(text)}</title><rect x="{x - WIDTH / 2 + 4:.0f}" '
            f'y="{y - HEIGHT / 2:.0f}" width="{WIDTH - 8}" height="{HEIGHT}" rx="4" fill="{fill}" '
            f'stroke="#888"/><text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{escape(shown)}'
            f'</text><text x="{x:.0f}" y="{y + 14:.0f}" text-anchor="middle" fill="#555">'
            f"{_behind(fit, tree, at)}</text></g>"
        )
    return "".join([*parts, "</svg>"])


def _behind(fit: Fit, tree: int, node: int) -> str:
    cover = float(fit.cover[int(fit.trees.start[tree]) + node])
    return f"weight {cover:.4g}"


def _centre(place: tuple[float, int]) -> tuple[float, float]:
    return (place[0] + 0.5) * WIDTH, (place[1] + 0.5) * STEP


def _places(tree: Stack) -> dict[int, tuple[float, int]]:
    """Column and level of each node: leaves side by side, a parent over its children."""
    found: dict[int, tuple[float, int]] = {}
    leaves = iter(np.arange(len(tree.left)).tolist())

    def put(at: int, level: int) -> float:
        if tree.left[at] < 0:
            x = float(next(leaves))
        else:
            left = int(tree.left[at])
            x = (put(left, level + 1) + put(left + 1, level + 1)) / 2
        found[at] = (x, level)
        return x

    put(0, 0)
    return found
