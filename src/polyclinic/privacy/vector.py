"""A release as one vector of a ring, in the order of the declared leaves.

Where all leaves are integers it is the 64-bit ring: half the bytes, the same totals. Else it is the
128-bit ring, which holds integers as whole numbers. The flags of hidden entries stand behind each
leaf. Nothing of a release is outside the vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Release
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.ring import RANGE_BITS

Words = NDArray[np.uint64]
Arrays = dict[str, NDArray[Any]]


def length(leaves: Sequence[Leaf]) -> int:
    """Entries of the vector."""
    return sum(leaf.size * (2 if leaf.small == "hide" else 1) for leaf in leaves)


def profile(leaves: Sequence[Leaf]) -> str:
    """Name of the ring in which these leaves are summed. It follows from the leaves alone, so
    nobody who asks can choose another one."""
    return "fast64" if all(leaf.ring == "int64" for leaf in leaves) else "exact128"


def join(leaves: Sequence[Leaf], release: Release) -> Words:
    """The vector of a release, (length, 2), or (length,) of integers alone.

    Raises
    ------
    PolyclinicError : RANGE for an integer above 2**56 in magnitude: 64 of them stay below 2**62,
        so no total of honest sites wraps around.
    """
    parts = []
    for leaf in leaves:
        words = release.words[leaf.name]
        parts.append(_checked(words) if leaf.ring == "int64" else words)
        if leaf.small == "hide":
            parts.append(_checked(release.hidden[leaf.name]))
    if profile(leaves) == "fast64":
        return np.concatenate(parts).view(np.uint64)
    return np.concatenate([_whole(one) if one.ndim == 1 else one for one in parts])


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


def _checked(values: NDArray[Any]) -> NDArray[np.int64]:
    integers = values.astype(np.int64, copy=False)
    most = 1 << RANGE_BITS
    if integers.size and (integers.min() < -most or integers.max() > most):
        raise PolyclinicError(
            "a whole number is larger than a secure sum holds",
            code="RANGE",
            rule="of one hospital at most 2**56, so that a total over all stays exact",
        )
    return integers


def _whole(values: NDArray[Any]) -> Words:
    out = np.zeros((values.size, 2), dtype=np.uint64)
    out[:, 1] = values.astype(np.int64).view(np.uint64)
    return out


def _integers(part: Words) -> NDArray[np.int64]:
    if part.ndim == 1:
        return part.view(np.int64)
    if part[:, 0].any():
        raise PolyclinicError(
            "a total of whole numbers is not whole",
            code="GUARD",
            rule="whole numbers add up to whole numbers",
        )
    return np.ascontiguousarray(part[:, 1]).view(np.int64)
