"""Which values an option of an architecture may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def whole(least: int, most: int) -> Callable[[Any], bool]:
    """A whole number in a range."""
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most


def widths(most: int) -> Callable[[Any], bool]:
    """A list of at most so many numbers of units or channels."""
    one = whole(1, 65_536)
    return lambda v: isinstance(v, (list, tuple)) and len(v) <= most and all(map(one, v))


def one_of(*names: Any) -> Callable[[Any], bool]:
    """One of some values, of the same type."""
    return lambda v: any(type(v) is type(name) and v == name for name in names)


def share(v: Any) -> bool:
    """From 0 to below 1."""
    return isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v < 1
