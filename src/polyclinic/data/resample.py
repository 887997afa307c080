"""Images brought to an agreed size: linear resampling with antialiasing, nearest, middle cut.

One axis after the other, so planes and volumes are treated alike. Linear resampling has the
triangle filter, widened where an image becomes smaller, as Pillow's BILINEAR.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def fitted(image: Floats, size: Sequence[int], how: str | None) -> Floats | None:
    """An image (channels, *spatial) of the wanted spatial `size`; None where it cannot be.

    how  None: it must have that size; "resize": stretched to it; "nearest": likewise without new
         values, for masks; "crop": scaled until it covers the size, then the middle is cut out
    """
    spatial = image.shape[1:]
    if spatial == tuple(size):
        return image
    if how is None or len(spatial) != len(size) or 0 in spatial:
        return None
    if how == "nearest":
        places = [_nearest(a, b) for a, b in zip(spatial, size, strict=True)]
        return image[np.ix_(np.arange(len(image)), *places)]
    if how == "crop":
        most = max(b / a for a, b in zip(spatial, size, strict=True))
        covering = [max(b, round(a * most)) for a, b in zip(spatial, size, strict=True)]
        image = _resized(image, covering)
        starts = [(a - b) // 2 for a, b in zip(covering, size, strict=True)]
        return image[(slice(None), *(slice(s, s + b) for s, b in zip(starts, size, strict=True)))]
    return _resized(image, size)


def _resized(image: Floats, size: Sequence[int]) -> Floats:
    for axis, length in enumerate(size, 1):
        if image.shape[axis] != length:
            weights = _weights(image.shape[axis], length)
            image = np.moveaxis(np.moveaxis(image, axis, -1) @ weights, -1, axis)
    return np.ascontiguousarray(image, dtype=np.float32)


def _nearest(own: int, wanted: int) -> NDArray[np.int64]:
    return ((np.arange(wanted) + 0.5) * own / wanted).astype(np.int64)


@lru_cache(maxsize=32)
def _weights(own: int, wanted: int) -> Floats:
    """Weight of every old pixel in every new one, (own, wanted)."""
    ratio = own / wanted
    reach = max(ratio, 1.0)
    centres = (np.arange(wanted) + 0.5) * ratio - 0.5
    away = np.abs(np.arange(own)[:, None] - centres[None, :]) / reach
    weights = np.maximum(1.0 - away, 0.0)
    found: Floats = (weights / weights.sum(axis=0)).astype(np.float32)
    return found
