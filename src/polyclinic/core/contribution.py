"""What partitions compute, a trust domain adds up, a gate lets out, and all sites sum to.

The four types are the four places of an array's life, and each has one maker: a `Task` makes a
`Contribution`, `Workers` make a `Sum`, the gate makes a `Release`, the federation makes a `Total`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec, ring
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.packing import pack

Array = NDArray[Any]


@dataclass(frozen=True)
class Evidence:
    """What the gate needs to know about the rows behind a contribution. It never leaves the site.

    patients  number of patients behind the contribution
    cells     per leaf, the number of patients behind each entry (int64, the leaf's shape)

    Evidence is a commutative monoid under `+`: ``Evidence() + e == e``.
    """

    patients: int = 0
    cells: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __add__(self, other: Evidence) -> Evidence:
        cells = dict(self.cells)
        for name, counts in other.cells.items():
            cells[name] = cells[name] + counts if name in cells else counts
        return Evidence(self.patients + other.patients, cells)


@dataclass(frozen=True)
class Contribution:
    """The arrays of one partition, by leaf name, and the evidence behind them."""

    leaves: Mapping[str, Array | float | int]
    evidence: Evidence


@dataclass(frozen=True)
class Sum:
    """Contributions added inside one trust domain, in ring form. Made by Workers only."""

    words: Mapping[str, Array]
    evidence: Evidence

    @staticmethod
    def of(leaves: Sequence[Leaf], contribution: Contribution) -> Sum:
        """Ring form of one contribution. Raises SCHEMA_MISMATCH when arrays are not as declared."""
        if set(contribution.leaves) != {leaf.name for leaf in leaves}:
            raise _mismatch("the arrays are not those that the task declares")
        return Sum(_to_words(leaves, contribution.leaves), contribution.evidence)

    def to_data(self) -> dict[str, Any]:
        """As it travels inside a trust domain: evidence and all."""
        found = self.evidence
        cells = dict(found.cells)
        return {"words": dict(self.words), "patients": int(found.patients), "cells": cells}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Sum:
        """What another process of the domain has added up."""
        return Sum(data["words"], Evidence(data["patients"], data["cells"]))

    def opened(self, leaves: Sequence[Leaf]) -> dict[str, Array]:
        """The site's own numbers, for its own eyes."""
        return _from_words(leaves, self.words)

    def __add__(self, other: Sum) -> Sum:
        words = {name: add_words(mine, other.words[name]) for name, mine in self.words.items()}
        return Sum(words, self.evidence + other.evidence)


@dataclass(frozen=True)
class Release:
    """What one site lets out in one round. Made by the gate only.

    hidden  per leaf, 1 where the gate zeroed an entry because too few patients stood behind it
    """

    site: str
    plan: str
    words: Mapping[str, Array]
    hidden: Mapping[str, NDArray[np.int64]]

    def to_bytes(self, packed: bool = False) -> bytes:
        """As it travels; `packed` as the answer to a plan with `compress`."""
        words = {name: pack(each) for name, each in self.words.items()} if packed else self.words
        return codec.encode(
            {"site": self.site, "plan": self.plan, "words": words, "hidden": self.hidden}
        )


@dataclass(frozen=True)
class Total:
    """The opened sum over sites. Made by `open_total` for a federation or a trust domain only.

    values     by leaf name: float64 or int64 arrays (0-d for scalars)
    hidden     by leaf name: how many sites hid each entry (only leaves with small cells)
    by_site    the sites' own arrays, for plans that collect
    seen       who could see a site's part: "this site" alone, or only a "total of" so many
    opened_by  sites that could open the secure sum; 0: each site's part was seen
    shared     numbers in the secure sum of what is safe at each site, which was opened before
    ages       of rounds that overlap: rows from, up to, and how many rounds were added between the
               question about them and this one
    lost       why the one site that was asked does not answer now: there are no values; ""
    """

    values: Mapping[str, Array]
    sites: tuple[str, ...] = ()
    hidden: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    by_site: Mapping[str, Total] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    seen: str = "this site"
    opened_by: int = 0
    shared: int = 0
    ages: tuple[tuple[int, int, int], ...] = ()
    lost: str = ""

    def __getitem__(self, name: str) -> Array:
        return self.values[name]

    def number(self, name: str) -> float:
        return float(self.values[name])


def open_total(leaves: Sequence[Leaf], words: Mapping[str, Array], **more: Any) -> Total:
    """Decode ring words into a Total."""
    return Total(_from_words(leaves, words), **more)


def add_words(a: Array, b: Array) -> Array:
    """The sum of two ring forms of one leaf."""
    return ring.add(a, b) if a.dtype == np.uint64 else a + b


def words_shape(leaf: Leaf) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of a leaf's ring form, which is what a message must hold."""
    if leaf.ring == "int64":
        return (leaf.size,), np.dtype(np.int64)
    return (leaf.size, 2), np.dtype(np.uint64)


def words_bytes(leaves: Sequence[Leaf]) -> int:
    """Bytes of all leaves' ring forms."""
    found = map(words_shape, leaves)
    return sum(prod(shape) * kind.itemsize for shape, kind in found)


def _to_words(leaves: Sequence[Leaf], values: Mapping[str, Any]) -> dict[str, Array]:
    """Ring form of each; real numbers of one scale are encoded together."""
    arrays = {leaf.name: _declared(leaf, np.asarray(values[leaf.name])) for leaf in leaves}
    found = {leaf.name: arrays[leaf.name] for leaf in leaves if _whole(leaf)}
    for scale, alike in _by_scale(leaves):
        words = ring.encode(_joined([arrays[leaf.name] for leaf in alike]), scale)
        found |= {leaf.name: own for leaf, own in zip(alike, _cut(words, alike), strict=True)}
    return {leaf.name: found[leaf.name] for leaf in leaves}


def _declared(leaf: Leaf, array: Array) -> Array:
    """The array, flat and of the type of its ring. Raises SCHEMA_MISMATCH."""
    if array.shape != leaf.shape:
        raise _mismatch(f"{leaf.name} has shape {array.shape}, declared {leaf.shape}")
    if not _whole(leaf):
        return array.astype(np.float64).ravel()
    if array.dtype.kind not in "iub":
        raise _mismatch(f"{leaf.name} is declared as integers")
    return array.astype(np.int64, copy=False).ravel()


def _from_words(leaves: Sequence[Leaf], words: Mapping[str, Array]) -> dict[str, Array]:
    """The numbers of each; real ones of one scale are decoded together."""
    found = {leaf.name: words[leaf.name].reshape(leaf.shape) for leaf in leaves if _whole(leaf)}
    for scale, alike in _by_scale(leaves):
        flat = ring.decode(_joined([words[leaf.name] for leaf in alike]), scale)
        for leaf, own in zip(alike, _cut(flat, alike), strict=True):
            found[leaf.name] = own.reshape(leaf.shape)
    return {leaf.name: found[leaf.name] for leaf in leaves}


def _whole(leaf: Leaf) -> bool:
    return leaf.ring == "int64"


def _by_scale(leaves: Sequence[Leaf]) -> list[tuple[int, list[Leaf]]]:
    """Those of real numbers."""
    found: dict[int, list[Leaf]] = {}
    for leaf in leaves:
        if not _whole(leaf):
            found.setdefault(leaf.scale, []).append(leaf)
    return list(found.items())


def _joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _cut(joined: Array, leaves: Sequence[Leaf]) -> list[Array]:
    """What is each leaf's, one after the other."""
    return np.split(joined, np.cumsum([leaf.size for leaf in leaves])[:-1])


def _mismatch(what: str) -> PolyclinicError:
    return PolyclinicError(
        what,
        code="SCHEMA_MISMATCH",
        rule="a contribution holds exactly the arrays that its task declares",
    )
