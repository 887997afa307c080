"""Rounded sums whose rounding errors come later (Richtarik, Sokolov & Fatkhullin 2021, "EF21").

A site sends ``c = rounded(g - h)``, where ``g`` is its sum and ``h`` what it has sent of it so far;
both sides go on with ``h + c``. So the next difference is ``rounded(change of g + e)`` with what
rounding left over, ``e = g - (h + c)``, and where ``g`` settles, ``h`` comes as close to it as the
ring allows. (To add ``e`` to a whole sum, as Seide et al. 2014 do, would keep an error of one step
of the largest entry for ever: the sums of single sites do not vanish at the optimum, their total
does.)

What leaves a site is ``c`` alone. ``h`` is the sum of what has left; ``e`` is kept nowhere, it
follows from the rows and ``h``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import ring
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
Known = Mapping[str, Words]  # by leaf: what was sent of it so far, in ring form
KINDS = {"float16": 2, "int8": 1}  # bytes of a number
HELD = 4  # answers from which a coming one may be a difference


def rounded(values: Floats, kind: str) -> Floats:
    """`values` as they are after a trip through `kind`, with one power of two for all of them.

    int8: whole steps, at most 127 of them; float16: IEEE half, its largest entry near 2**15. Ties
    go to even.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0.0:
        return np.zeros(values.shape)
    _, exponent = np.frexp(largest)
    if kind == "float16":
        shift = 15 - int(exponent)
        half = np.ldexp(values, shift).astype(np.float16)
        return np.ldexp(half.astype(np.float64), -shift)
    step = int(exponent) - 7
    step += int(np.rint(np.ldexp(largest, -step)) > 127)
    return np.ldexp(np.rint(np.ldexp(values, -step)), step)


def sent(leaf: Leaf, words: Words, kind: str, known: Known | None, row: int) -> Words:
    """The rounded difference of a leaf to what is known of it. Raises what `reference` raises.

    `words` are what the gate lets out: what it keeps back has no part in the size of a step.
    """
    if not leaf.lossy:
        return words
    difference = ring.subtract(words, reference(leaf, known, row))
    return ring.encode(rounded(ring.decode(difference, leaf.scale), kind), leaf.scale)


def known_after(
    leaves: Sequence[Leaf], words: Mapping[str, Any], known: Known | None, row: int
) -> dict[str, Words]:
    """What is known of the lossy leaves once `words` are sent, of one site or of a total."""
    return {
        leaf.name: ring.add(reference(leaf, known, row), words[leaf.name])
        for leaf in leaves
        if leaf.lossy
    }


def reference(leaf: Leaf, known: Known | None, row: int) -> Words:
    """From what the difference of a leaf is taken, (size, 2): one row of an answer, in each row.

    Raises
    ------
    PolyclinicError : BAD_MESSAGE when that answer has no such row.
    """
    if known is None:
        return ring.zeros(leaf.size)
    rows = leaf.shape[0] if leaf.shape else 1
    width = leaf.size // max(rows, 1)
    before = known.get(leaf.name, ring.zeros(0))
    found = before[row * width : (row + 1) * width]
    if len(found) != width or (width and len(before) % width):
        raise PolyclinicError(
            f"{leaf.name} has no such row in the answer that it is compared with",
            code="BAD_MESSAGE",
            rule="a rounded difference is taken from an answer of the same shape",
        )
    return np.tile(found, (rows, 1))


class Answers:
    """What those who ask know of rounded sums, by the plan's content; the last few that were used.

    Beside it stands the content's hash as the sites know it, with the cohort.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, Known]] = {}

    def find(self, base: str) -> tuple[str, Known | None]:
        """Hash at the sites, and what is known. Raises LEFTOVER_LOST."""
        if not base:
            return "", None
        if base not in self._held:
            raise PolyclinicError(
                "the answer from which a rounded difference is taken is not known here",
                code="LEFTOVER_LOST",
                rule="a rounded sum goes on from one that was released before",
                next="start the run again from its beginning",
            )
        self._held[base] = self._held.pop(base)
        return self._held[base]

    def keep(self, content: str, at_sites: str, known: Known) -> None:
        """Hold one more, and forget the one that was not used for longest."""
        self._held.pop(content, None)
        self._held[content] = (at_sites, known)
        while len(self._held) > HELD:
            self._held.pop(next(iter(self._held)))

    def to_data(self) -> list[dict[str, Any]]:
        """Plain data, the one that was not used for longest first."""
        return [
            {"content": content, "at_sites": at_sites, "known": dict(known)}
            for content, (at_sites, known) in self._held.items()
        ]

    @staticmethod
    def from_data(data: Sequence[Mapping[str, Any]]) -> Answers:
        found = Answers()
        for one in data:
            found.keep(one["content"], one["at_sites"], one["known"])
        return found
