"""Images and time series of rows: read when they are needed, never held as columns.

A partition's column holds the position of a row's item among the site's items; `Media` reads items
by position. So cohorts select, drop and cut images as they do numbers, and memory stays bounded.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["image", "series"]


class Media(Protocol):
    """The items of one column at one site; they stay there.

    kind   "image": (channels, height, width), or (channels, depth, height, width) for volumes;
           "series": (time steps, variables) on an agreed grid, NaN where nothing was measured
    shape  of one item
    """

    @property
    def kind(self) -> Kind: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def fingerprint(self) -> str:
        """Name of the content: changed items are other items."""
        ...

    def read(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The items at `positions`, (n, *shape). Raises InputError (BAD_ITEM) naming site, column
        and number of bad items, never a patient's value."""
        ...
