"""Rows in which one column, or a part of an image or series, is that of other rows.

Rows change places in the order of hash(seed, repeat, key): the same patients change alike however
often they are asked about, and whoever chooses the seed chooses no pair of patients. The rows of a
patient stay beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError
from polyclinic.core.media import Kind, Media
from polyclinic.core.partition import Partition
from polyclinic.core.sampling import uniform

Ints = NDArray[np.int64]
MOST = 100  # repeats of one question


@dataclass(frozen=True)
class Shuffle:
    """What is taken from other rows.

    column   of the table; "": nothing is
    part     of each item of a column of images or series, as (first, end) along each dimension; ():
             the whole item, or the number
    repeats  how many times, each time otherwise
    """

    column: str
    part: tuple[tuple[int, int], ...] = ()
    repeats: int = 1
    seed: int = 0

    def to_data(self) -> dict[str, Any]:
        part = [list(ends) for ends in self.part]
        return {"column": self.column, "part": part, "repeats": self.repeats, "seed": self.seed}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Shuffle:
        """Raises BAD_MESSAGE."""
        try:
            part = tuple((int(first), int(end)) for first, end in data["part"])
            found = Shuffle(str(data["column"]), part, int(data["repeats"]), int(data["seed"]))
            good = found.to_data() == dict(data) and 1 <= found.repeats <= MOST
            if not good or not 0 <= found.seed < 2**63 or (not found.column and found.repeats > 1):
                raise ValueError("another form")
            if any(not 0 <= first < end for first, end in part):
                raise ValueError("an empty part")
        except (KeyError, TypeError, ValueError) as error:
            raise PolyclinicError(
                "a shuffle of another form",
                code="BAD_MESSAGE",
                rule=f"a column, the ends of a part, a seed, and 1 to {MOST} repeats",
            ) from error
        return found


def order_of(shuffle: Shuffle, repeat: int, keys: Ints) -> Ints:
    """The row from which each row takes, (n_rows,): each gives once."""
    draw = uniform(keys, shuffle.seed, repeat)
    return np.argsort(draw, kind="stable")


def shuffled(shuffle: Shuffle, order: Ints, partition: Partition) -> Partition:
    """The rows with the column, or its part, of the rows `order`. Raises BAD_MESSAGE."""
    name = shuffle.column
    if not name:
        return partition
    if name not in partition.columns or (shuffle.part and name not in partition.media):
        raise PolyclinicError(
            "a column that is not read", code="BAD_MESSAGE", rule="the model's columns change rows"
        )
    values = partition.columns[name]
    if not shuffle.part:
        columns = {**partition.columns, name: values[order]}
        return replace(partition, columns=columns, cache={})
    items = partition.media[name]
    mixed = Mixed(items, values.astype(np.int64), values[order].astype(np.int64), shuffle.part)
    columns = {**partition.columns, name: np.arange(len(values), dtype=np.float64)}
    return replace(partition, columns=columns, media={**partition.media, name: mixed}, cache={})


@dataclass(frozen=True)
class Mixed:
    """Items of which a part is that of other items.

    own, other  positions in `items` of each row's item, and of the one whose part it takes
    """

    items: Media
    own: Ints
    other: Ints
    part: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if len(self.part) != len(self.shape):
            raise PolyclinicError(
                "a part of another shape",
                code="BAD_MESSAGE",
                rule="the ends of a part, along each dimension of an item",
            )

    @property
    def kind(self) -> Kind:
        return self.items.kind

    @property
    def shape(self) -> tuple[int, ...]:
        return self.items.shape

    @property
    def fingerprint(self) -> str:
        return self.items.fingerprint

    def read(self, positions: Ints) -> NDArray[np.float32]:
        """The mixed items at `positions`, (n, *shape)."""
        found = np.array(self.items.read(self.own[positions]))
        at = (slice(None), *(slice(first, end) for first, end in self.part))
        found[at] = self.items.read(self.other[positions])[at]
        return found
