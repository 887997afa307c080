"""Mappings whose order has a meaning, as they travel."""

from __future__ import annotations

from typing import Any


def from_pairs(value: Any) -> Any:
    """A mapping that was written as a list of pairs, which keeps its order wherever it travels."""
    if not isinstance(value, list):
        return value
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
        raise ValueError("a list holds pairs of name and value")
    return {str(name): inner for name, inner in value}
