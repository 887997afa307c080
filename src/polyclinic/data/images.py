"""Images of a site as `Media`: files read when a batch asks for them, or an array in memory.

Nothing of them leaves the site by itself: what a network learnt from them leaves as every other
change of a network does. A file's name, content and DICOM elements are in no error.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.media import Kind
from polyclinic.data.codebook import Column
from polyclinic.data.pixels import BAD, Bad, file_of, read_pixels
from polyclinic.data.resample import fitted

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
HELD = 256 * 2**20  # bytes of read images that one column keeps in memory
HASHED = 2 * 2**30  # bytes of a column's files up to which their contents are its fingerprint


@dataclass(frozen=True)
class Scale:
    """From the values of a file to those that networks read.

    ends      values are cut to them, and become 0 to 1; None: values stay as they are
    mean, sd  what is taken off then, and by what is divided; by channel, or one for all
    """

    ends: tuple[float, float] | None = None
    mean: tuple[float, ...] = (0.0,)
    sd: tuple[float, ...] = (1.0,)

    @staticmethod
    def of(column: Column) -> Scale:
        """As the codebook says."""
        return Scale(column.range, tuple(column.mean or (0.0,)), tuple(column.sd or (1.0,)))

    def __call__(self, image: NDArray[np.generic]) -> Floats:
        """Of images (..., channels, *spatial): the channels are the axis of `mean` and `sd`."""
        found = np.asarray(image, dtype=np.float32)
        if self.ends is not None:
            low, high = self.ends
            found = (np.clip(found, low, high) - np.float32(low)) / np.float32(high - low)
        if self.mean != (0.0,) or self.sd != (1.0,):
            wide = (-1, *(1,) * (found.ndim - 1))
            mean, sd = (
                np.array(one, dtype=np.float32).reshape(wide) for one in (self.mean, self.sd)
            )
            found = (found - mean) / sd
        return np.asarray(found, dtype=np.float32)


@dataclass(frozen=True)
class Images:
    """Images in files, of one column at one site.

    where    path of each, as `read_pixels` takes it
    how      how one comes to the shape, as `fitted` takes it
    held     bytes of images kept in memory once read: the first ones, so that a shuffled pass over
             many more does not drop each just before it is read again
    """

    site: str
    column: str
    where: Sequence[str]
    shape: tuple[int, ...]
    scale: Scale = Scale()
    how: str | None = None
    held: int = HELD
    kind: Kind = "image"
    _kept: dict[int, Floats] = field(default_factory=dict, compare=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """Of the files' contents; above HASHED bytes of their sizes and times of last change."""
        files = list(dict.fromkeys(file_of(one) for one in self.where))
        files = [p for one in files for p in (sorted(one.iterdir()) if one.is_dir() else [one])]
        files = [p for p in files if p.is_file()]
        stats = [p.stat() for p in files]
        whole = sum(one.st_size for one in stats) <= HASHED
        digest = hashlib.sha256(repr((self.shape, self.scale, self.how)).encode())
        marks: dict[Path, bytes] = {}
        for p in files:
            marks[p] = _contents(p) if whole else _changed(p)
        for one in self.where:
            at = file_of(one)
            inside = sorted(at.iterdir()) if at.is_dir() else [at]
            digest.update(
                b"".join(marks.get(p, b"") for p in inside) + _place(one).encode() + b"\0"
            )
        return digest.hexdigest()[:16]

    def read(self, positions: Ints) -> Floats:
        """The images at `positions`, (n, *shape). Raises InputError (BAD_ITEM)."""
        found = np.empty((len(positions), *self.shape), dtype=np.float32)
        bad: Counter[str] = Counter()
        for i, position in enumerate(positions.tolist()):
            try:
                found[i] = self._one(position)
            except Bad as error:
                bad[error.kind] += 1
        if bad:
            raise bad_items(self.site, self.column, self.shape, bad)
        return found

    def bad(self) -> dict[str, int]:
        """Number of bad images by what is wrong; reads them all, and keeps none."""
        found: Counter[str] = Counter()
        for position in range(len(self.where)):
            try:
                self._read(position)
            except Bad as error:
                found[error.kind] += 1
        return dict(found)

    def _one(self, position: int) -> Floats:
        kept = self._kept.get(position)
        if kept is not None:
            return kept
        image = self._read(position)
        with self._lock:
            if (len(self._kept) + 1) * image.nbytes <= self.held:
                self._kept[position] = image
        return image

    def _read(self, position: int) -> Floats:
        channels, *size = self.shape
        image = read_pixels(self.where[position], channels, len(size))
        found = fitted(image, size, self.how)
        if found is None:
            raise Bad("shape")
        return self.scale(found)


@dataclass(frozen=True)
class Stack:
    """Images in memory, (n, *shape) of any type of number."""

    array: NDArray[np.generic]
    scale: Scale = Scale()
    kind: Kind = "image"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.array.shape, self.array.dtype, self.scale)).encode())
        digest.update(np.ascontiguousarray(self.array).data)
        return digest.hexdigest()[:16]

    def read(self, positions: Ints) -> Floats:
        """The images at `positions`, (n, *shape)."""
        chosen = self.array[positions]
        return np.stack([self.scale(one) for one in chosen]) if len(chosen) else _none(self.shape)


def bad_items(site: str, column: str, shape: Sequence[int], bad: Mapping[str, int]) -> InputError:
    """BAD_ITEM: how many images have what is wrong."""
    parts = [
        f"{count} image{'' if count == 1 else 's'} that {_verb(BAD[kind], count)}"
        for kind, count in bad.items()
    ]
    return InputError(
        f"{site}, column {column}: {', '.join(parts)}",
        code="BAD_ITEM",
        site=site,
        rule="every row has an image of the codebook's shape "
        f"[{', '.join(map(str, shape))}], or an empty cell",
        next=f"at {site}: polyclinic check; correct the files, empty their cells, or bring every "
        'image to the shape: fit = "resize" or "crop" in the codebook',
    )


def _verb(text: str, count: int) -> str:
    return text if count == 1 else text.replace("has ", "have ").replace("holds ", "hold ")


def _none(shape: tuple[int, ...]) -> Floats:
    return np.zeros((0, *shape), dtype=np.float32)


def _place(where: str) -> str:
    return where[len(str(file_of(where))) :] if "#" in where else ""


def _contents(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _changed(path: Path) -> bytes:
    stat = path.stat()
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode()
