"""One image from one file: PNG and JPEG, DICOM, NIfTI, numpy's npy and npz.

Only pixels are taken from a file; of DICOM's elements those alone that say how pixels are stored
and where a slice lies. What is wrong with a file is said in a word of `BAD`, without its content.
"""

from __future__ import annotations

import importlib
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.parsing import PARSING

Floats = NDArray[np.float32]
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DICOM = (".dcm", ".dicom", "")
NIFTI = (".nii", ".gz")
ARRAYS = (".npy", ".npz")
SUFFIXES = (*PICTURES, ".dcm", ".dicom", ".nii", ".nii.gz", *ARRAYS)
BAD = {
    "missing": "cannot be found",
    "unreadable": "cannot be read as an image",
    "shape": "has another shape",
    "values": "holds NaN or infinity",
}
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601


class Bad(Exception):
    """A file that holds no such image; `kind` is a key of BAD."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def read_pixels(where: str, channels: int, axes: int) -> Floats:
    """The image at `where`, (channels, *spatial) with so many spatial `axes`.

    where  a path; of a folder the slices of one DICOM series; "stack.npz#12", "stack.npz#name/12"
           or "stack.npy#12": one item of an array of items

    Raises
    ------
    Bad : in a word what is wrong. InputError (NOT_INSTALLED) without the library for a format.
    """
    path, place = _parts(where)
    if not Path(path).exists():
        raise Bad("missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote what a file holds
            image = _open(Path(path), place, axes)
    except (Bad, InputError):
        raise
    except Exception:  # whatever a library says of a broken file may quote it
        raise Bad("unreadable") from None
    if image.ndim != axes + 1:
        raise Bad("shape")
    image = _with_channels(image, channels)
    if not np.isfinite(image).all():
        raise Bad("values")
    return image


def _parts(where: str) -> tuple[str, str]:
    """The file, and what is asked of its array."""
    path, _, place = where.rpartition("#")
    return (path, place) if path.lower().endswith(ARRAYS) else (where, "")


def file_of(where: str) -> Path:
    """The file or folder of an image."""
    return Path(_parts(where)[0])


def _open(path: Path, place: str, axes: int) -> Floats:
    suffix = path.suffix.lower()
    if path.is_dir():
        return _slices(path)
    if suffix in ARRAYS:
        return _with_axis(_array(path, place), axes)
    if place:
        raise Bad("unreadable")
    if suffix in PICTURES:
        return _picture(path)
    if suffix in NIFTI:
        return _nifti(path, axes)
    return _dicom(path, axes)


def _with_axis(image: NDArray[Any], axes: int) -> Floats:
    image = np.asarray(image, dtype=np.float32)
    return image[None] if image.ndim == axes else image


def _with_channels(image: Floats, channels: int) -> Floats:
    """Grey from colours, or grey repeated."""
    if len(image) == channels:
        return image
    if channels == 1 and len(image) == 3:
        return np.asarray(np.tensordot(_LUMA, image, 1)[None], dtype=np.float32)
    if len(image) == 1:
        return np.repeat(image, channels, axis=0)
    raise Bad("shape")


def _picture(path: Path) -> Floats:
    images = library("PIL.Image", "pillow")
    with images.open(path) as image:
        if image.mode in ("1", "L", "I", "F", "I;16", "I;16B", "I;16L"):
            grey = image.convert("L") if image.mode == "1" else image
            return np.asarray(grey, dtype=np.float32)[None]
        if image.mode == "LA":
            return np.asarray(image.convert("L"), dtype=np.float32)[None]
        return np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.float32), -1, 0)


def _dicom(path: Path, axes: int) -> Floats:
    """(1, [depth,] height, width), or three channels. A file of several frames is a volume."""
    dataset = library("pydicom", "pydicom").dcmread(path)
    pixels = _values(dataset)
    coloured = int(dataset.get("SamplesPerPixel", 1)) > 1 or _kind(dataset) == "PALETTE COLOR"
    image = np.moveaxis(pixels, -1, 0) if coloured else pixels[None]
    if image.ndim == axes + 2 and image.shape[1] == 1:
        return image[:, 0]
    return image


def _kind(dataset: Any) -> str:
    return str(dataset.get("PhotometricInterpretation", ""))


def _values(dataset: Any) -> Floats:
    """Pixels as the modality means them; MONOCHROME1 turned, so that larger is brighter."""
    found = library("pydicom.pixels", "pydicom")
    stored = found.pixel_array(dataset)  # YBR has become RGB
    if _kind(dataset) == "PALETTE COLOR":
        return np.asarray(found.apply_color_lut(stored, dataset), dtype=np.float32)
    if _kind(dataset) == "MONOCHROME1":
        top = -1 if dataset.get("PixelRepresentation", 0) else 2 ** int(dataset.BitsStored) - 1
        stored = (top - stored.astype(np.int64)).astype(stored.dtype)
    return np.asarray(found.apply_modality_lut(stored, dataset), dtype=np.float32)


def _slices(folder: Path) -> Floats:
    """The slices of a series, from one end of the body to the other: (1, depth, height, width)."""
    dicom = library("pydicom", "pydicom")
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in DICOM)
    read = [dicom.dcmread(p) for p in files]
    if not read or len({str(one.get("SeriesInstanceUID", "")) for one in read}) != 1:
        raise Bad("unreadable")
    places = [_place(one) for one in read]
    if len(set(places)) != len(places):
        raise Bad("unreadable")
    order = np.argsort(np.array(places), kind="stable")
    planes = [_values(read[i]) for i in order]
    if len({plane.shape for plane in planes}) != 1 or planes[0].ndim != 2:
        raise Bad("shape")
    return np.stack(planes)[None]


def _place(dataset: Any) -> float:
    """Where a slice lies along the normal of its plane; without a position its number."""
    position, turned = dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient")
    if position is not None and turned is not None:
        across = np.array(turned, dtype=np.float64)
        return float(np.dot(np.cross(across[:3], across[3:]), np.array(position, dtype=np.float64)))
    number = dataset.get("InstanceNumber")
    if number is None:
        raise Bad("unreadable")
    return float(number)


def _nifti(path: Path, axes: int) -> Floats:
    """(channels, z, y, x): feet to head, back to front read downwards, as RAS+ has them."""
    nifti = library("nibabel", "nibabel")
    image = nifti.as_closest_canonical(nifti.load(path))
    values = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    if values.ndim < 3:
        values = values.reshape(values.shape + (1,) * (3 - values.ndim))
    values = values[..., None] if values.ndim == 3 else values
    found = values.transpose(3, 2, 1, 0)
    return found[:, 0] if axes == 2 and found.shape[1] == 1 else found


def _array(path: Path, place: str) -> NDArray[Any]:
    stat = path.stat()
    name, _, row = place.rpartition("/")
    found = _opened(path, name, stat.st_size, stat.st_mtime_ns)
    if place:
        if not 0 <= int(row) < len(found):
            raise Bad("missing")
        found = found[int(row)]
    if found.dtype.kind not in "biuf":
        raise Bad("unreadable")
    return found


@lru_cache(maxsize=4)
def _opened(path: Path, name: str, size: int, changed: int) -> NDArray[Any]:
    """An npy as a map of the file; of an npz one array, which is held as a whole."""
    with PARSING:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(found, np.ndarray):
        if name:
            raise Bad("unreadable")
        return found
    with found, PARSING:
        names = found.files
        chosen = name or (names[0] if len(names) == 1 else "")
        if chosen not in names:
            raise Bad("missing")
        held: NDArray[Any] = found[chosen]
        return held


def library(name: str, package: str) -> Any:
    """An optional library. Raises NOT_INSTALLED."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"images of this format need {package}",
            code="NOT_INSTALLED",
            rule="formats of images come with an extra of their own",
            next='pip install "polyclinic[imaging]"',
        ) from None
