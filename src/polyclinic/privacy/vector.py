"""A release as one vector of the 128-bit ring, in the order of the declared leaves.

Integers are held as whole numbers of the ring, so their sum is exact as well; the flags of hidden
entries stand behind each leaf. Nothing of a release is outside the vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Release
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf

Words = NDArray[np.uint64]
Arrays = dict[str, NDArray[Any]]


def length(leaves: Sequence[Leaf]) -> int:
    """Entries of the vector."""
    return sum(leaf.size * (2 if leaf.small == "hide" else 1) for leaf in leaves)


def join(leaves: Sequence[Leaf], release: Release) -> Words:
    """The vector of a release, (length, 2)."""
    parts = []
    for leaf in leaves:
        words = release.words[leaf.name]
        parts.append(_whole(words) if leaf.ring == "int64" else words)
        if leaf.small == "hide":
            parts.append(_whole(release.hidden[leaf.name]))
    return np.concatenate(parts)


def split(leaves: Sequence[Leaf], vector: Words) -> tuple[Arrays, Arrays]:
    """Words and hidden counts by leaf. Raises GUARD when an integer's sum is not whole."""
    words: Arrays = {}
    hidden: Arrays = {}
    at = 0
    for leaf in leaves:
        part = vector[at : at + leaf.size]
        words[leaf.name] = _integers(part) if leaf.ring == "int64" else part
        at += leaf.size
        if leaf.small == "hide":
            hidden[leaf.name] = _integers(vector[at : at + leaf.size])
            at += leaf.size
    return words, hidden


def _whole(values: NDArray[Any]) -> Words:
    out = np.zeros((values.size, 2), dtype=np.uint64)
    out[:, 1] = values.astype(np.int64).view(np.uint64)
    return out


def _integers(part: Words) -> NDArray[np.int64]:
    if part[:, 0].any():
        raise PolyclinicError(
            "a total of whole numbers is not whole",
            code="GUARD",
            rule="whole numbers add up to whole numbers",
        )
    return np.ascontiguousarray(part[:, 1]).view(np.int64)
