"""The rows of a partition as a network reads them: scaled tables, and media read batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.media import Media
from polyclinic.core.partition import Partition
from polyclinic.models.neural.architectures import torch
from polyclinic.models.neural.augment import Augment
from polyclinic.models.neural.spec import NeuralSpec

TABLE = "table"
MASKS = "masks"  # outcomes of these
INSIDE = 0.5  # a pixel of a mask that is read is inside above it
BLOCK = 4096  # rows of a table that are scaled at once
ITEMS = "items"  # images or series in memory, of arrays in one trust domain


@dataclass(frozen=True)
class Inputs:
    """What a network reads of some rows.

    table    scaled terms, (n_rows, n_terms) float32; None where there are none
    media    by column, the items and their positions (n_rows,); or, of arrays in one trust domain,
             `arrays`, (n_rows, *shape)
    target   outcome, (n_rows,), or duration and event, (n_rows, 2), or masks of arrays in one trust
             domain, (n_rows, *output), float32; None of new rows and of masks that are read
    masks    outcomes that are images, and their positions (n_rows,)
    weight   (n_rows,) float32
    keys     of the rows' patients, (n_rows,)
    augment  what is done to images while they are trained on
    device   name of that on which a network computes over them; they stay where they are
    """

    table: NDArray[np.float32] | None
    media: Mapping[str, tuple[Media, NDArray[np.int64]]]
    arrays: NDArray[Any] | None
    target: NDArray[np.float32] | None
    weight: NDArray[np.float32]
    keys: NDArray[np.int64]
    masks: tuple[Media, NDArray[np.int64]] | None = None
    augment: Augment | None = None
    device: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    def batch(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Tensors by name, as `Architecture.build` says."""
        make = torch().from_numpy
        found: dict[str, Any] = {}
        if self.table is not None:
            found[TABLE] = make(self.table[rows])
        if self.arrays is not None:
            found[ITEMS] = make(self._changed(self.arrays[rows], rows))
        for name, (items, positions) in self.media.items():
            found[name] = make(self._changed(items.read(positions[rows]), rows))
        return found

    def _changed(self, items: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Images (n, channels, *spatial) as they are trained on; series stay as they are."""
        found = np.ascontiguousarray(items, dtype=np.float32)
        if self.augment is None or found.ndim < 4:
            return found
        return self.augment(found, self.keys[rows])

    def targets(self, rows: NDArray[np.int64]) -> Any:
        """The outcome of rows as a tensor."""
        if self.masks is not None:
            items, positions = self.masks
            found = self._turned(items.read(positions[rows]), rows)
            return torch().from_numpy(found).gt(INSIDE).float()
        if self.target is None:
            raise ValueError("these rows have no outcome")
        return torch().from_numpy(self._turned(self.target[rows], rows))

    def _turned(self, masks: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Masks (n, channels, *spatial) moved as their images are; other outcomes as they are."""
        if self.augment is None or masks.ndim < 4:
            return masks
        return self.augment(np.asarray(masks, np.float32), self.keys[rows], mask=True)


@dataclass(frozen=True)
class Scaling:
    """What is taken off each term, and by what it is divided, (n_terms,)."""

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]

    def of(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Terms (n_rows, n_terms) as they are read; single precision that nothing is done to is not
        copied."""
        if x.dtype == np.float32 and not self.centre.any() and (self.spread == 1).all():
            return x
        found = np.empty(x.shape, dtype=np.float32)
        for start in range(0, len(x), BLOCK):
            rows = slice(start, start + BLOCK)
            found[rows] = (x[rows] - self.centre) / self.spread
        return found

    def to_data(self) -> dict[str, Any]:
        return dict(vars(self))


def inputs_of(
    spec: NeuralSpec, scaling: Scaling, partition: Partition, outcome: bool = True
) -> Inputs:
    """The rows of `partition`; without `outcome` they need none."""
    design, n = spec.design, partition.n_rows
    table: NDArray[np.float32] | None = None
    arrays: NDArray[Any] | None = None
    if ITEMS in spec.shapes:
        arrays = partition.columns[ITEMS]
    elif spec.table:
        table = scaling.of(design.matrix(partition.columns, partition.site))
    media = {
        name: (partition.media[name], partition.columns[name].astype(np.int64))
        for name in design.media
    }
    weight = partition.columns[design.weight] if outcome and design.weight else np.ones(n)
    target, masks = _outcome(spec, partition) if outcome else (None, None)
    rows_weight = weight.astype(np.float32)
    keys, device = partition.keys, partition.device
    return Inputs(table, media, arrays, target, rows_weight, keys, masks, device=device)


def _outcome(
    spec: NeuralSpec, partition: Partition
) -> tuple[NDArray[np.float32] | None, tuple[Media, NDArray[np.int64]] | None]:
    """The outcome, and where it is an image that is read, its items."""
    columns, name = partition.columns, spec.design.response
    if MASKS in columns:
        return columns[MASKS].astype(np.float32), None
    if spec.output:
        return None, (partition.media[name], columns[name].astype(np.int64))
    if spec.design.event:
        happened = columns[spec.design.event] == spec.loss_options["cause"]
        return np.column_stack([columns[name], happened]).astype(np.float32), None
    return columns[name].astype(np.float32), None
