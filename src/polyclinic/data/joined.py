"""Items of several sources as one column, for made-up hospitals."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.media import Kind, Media


@dataclass(frozen=True)
class Joined:
    """The items of `parts` behind each other; those of part i begin at position ``starts[i]``."""

    parts: Sequence[Media]
    starts: Sequence[int]

    @property
    def kind(self) -> Kind:
        return self.parts[0].kind

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts[0].shape

    @property
    def fingerprint(self) -> str:
        text = repr(
            [(one.fingerprint, at) for one, at in zip(self.parts, self.starts, strict=True)]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def read(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The items at `positions`, (n, *shape)."""
        found = np.empty((len(positions), *self.shape), dtype=np.float32)
        place = np.searchsorted(np.asarray(self.starts), positions, side="right") - 1
        for i, part in enumerate(self.parts):
            rows = np.flatnonzero(place == i)
            if len(rows):
                found[rows] = part.read(positions[rows] - self.starts[i])
        return found
