"""Images changed by chance while a network is trained: the study says how, a row's draw is its own.

A draw is hash(seed, round, patient), so it is the same however rows are split and after a resume,
and an image and its mask are turned alike. Nothing of it leaves the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.sampling import uniform

Floats = NDArray[np.float32]
AXES = {"width": -1, "height": -2, "depth": -3}
_DRAWS = 16  # of a round
_FIRST = 1_000  # place of these draws beside all others of a seed


def _number(low: float, high: float) -> Callable[[Any], bool]:
    def good(v: Any) -> bool:
        return isinstance(v, (int, float)) and not isinstance(v, bool) and low < v <= high

    return good


def _axes(v: Any) -> bool:
    return isinstance(v, (list, tuple)) and bool(v) and all(one in AXES for one in v)


def _pixels(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool) and 0 < v <= 4096


KNOWN: dict[str, dict[str, tuple[Any, Callable[[Any], bool]]]] = {
    "flip": {"axes": (["width"], _axes), "share": (0.5, _number(0, 1))},
    "crop": {"pixels": (4, _pixels)},
    "rotation": {"degrees": (10.0, _number(0, 180))},
    "noise": {"sd": (0.05, _number(0, 10))},
}
RULE = (
    "augment names flip (axes, share), crop (pixels), rotation (degrees), noise (sd), each with "
    "its options"
)


def augment_of(given: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Every transform with all its options. Raises UNKNOWN_OPTION, WRONG_VALUE."""
    found: dict[str, dict[str, Any]] = {}
    for name, options in (given or {}).items():
        if name not in KNOWN or not isinstance(options, Mapping) or set(options) - set(KNOWN[name]):
            raise _refused(f"augment: {name}", "UNKNOWN_OPTION")
        for option, value in options.items():
            if not KNOWN[name][option][1](value):
                raise _refused(f"augment: {option} = {value!r} of {name}", "WRONG_VALUE")
        found[name] = {key: options.get(key, default) for key, (default, _) in KNOWN[name].items()}
    return {name: found[name] for name in KNOWN if name in found}


@dataclass(frozen=True)
class Augment:
    """What is done to the images of a round; `transforms` as `augment_of` makes them."""

    transforms: Mapping[str, Mapping[str, Any]]
    seed: int
    round: int

    def __call__(self, images: Floats, keys: NDArray[np.int64], mask: bool = False) -> Floats:
        """Images (n, channels, *spatial) of patients `keys`, changed; a mask keeps its values."""
        found = images
        for name in KNOWN:
            if name in self.transforms and not (mask and name == "noise"):
                draws = self._draws(name, keys)
                found = _APPLY[name](found, self.transforms[name], draws, mask)
        return np.ascontiguousarray(found, dtype=np.float32)

    def _draws(self, name: str, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        """Three numbers in [0, 1) for each image, (3, n)."""
        first = _FIRST + _DRAWS * (self.round + 1) + 3 * list(KNOWN).index(name)
        return np.stack([uniform(keys, self.seed, first + i) for i in range(3)])


def _flip(
    images: Floats, options: Mapping[str, Any], draws: NDArray[np.float64], mask: bool
) -> Floats:
    found = images.copy()
    for axis, draw in zip(options["axes"], draws, strict=False):
        turned = draw < options["share"]
        found[turned] = np.flip(found[turned], AXES[axis])
    return found


def _crop(
    images: Floats, options: Mapping[str, Any], draws: NDArray[np.float64], mask: bool
) -> Floats:
    """Moved by up to `pixels` in height and width; what comes in repeats the edge."""
    by = options["pixels"]
    wide = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(by, by)] * 2, mode="edge")
    starts = np.floor(draws[:2] * (2 * by + 1)).astype(np.int64)
    h, w = images.shape[-2:]
    parts = [
        one[..., y : y + h, x : x + w] for one, y, x in zip(wide, *starts.tolist(), strict=True)
    ]
    return np.stack(parts) if parts else images


def _rotation(
    images: Floats, options: Mapping[str, Any], draws: NDArray[np.float64], mask: bool
) -> Floats:
    """Turned in the plane of height and width by up to `degrees` either way."""
    from scipy.ndimage import rotate

    angles = (2 * draws[0] - 1) * options["degrees"]
    order = 0 if mask else 1
    parts = [
        rotate(one, angle, axes=(-2, -1), reshape=False, order=order, mode="nearest")
        for one, angle in zip(images, angles, strict=True)
    ]
    return np.stack(parts) if parts else images


def _noise(
    images: Floats, options: Mapping[str, Any], draws: NDArray[np.float64], mask: bool
) -> Floats:
    parts = [
        one + options["sd"] * _normal(draw, one.shape)
        for one, draw in zip(images, draws[0], strict=True)
    ]
    return np.stack(parts) if parts else images


def _normal(draw: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.random.Generator(np.random.Philox(int(draw * 2**53))).standard_normal(shape)


_APPLY = {"flip": _flip, "crop": _crop, "rotation": _rotation, "noise": _noise}


def _refused(what: str, code: str) -> InputError:
    return InputError(what, code=code, rule=RULE, next="correct it")
