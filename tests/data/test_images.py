"""Images of a hospital: each format against its own library, and read only when asked for."""

from __future__ import annotations

import tracemalloc

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from polyclinic.core.errors import InputError
from polyclinic.data import images, pixels
from polyclinic.data.images import Images, Scale, Stack
from polyclinic.data.pixels import Bad, read_pixels
from polyclinic.data.resample import fitted

ALL = np.arange


@pytest.fixture
def draw():
    return np.random.default_rng(7)


def _slice(path, plane, z, number=None, series="1.2.3", **more):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    one = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    one.Rows, one.Columns = plane.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, int(plane.dtype.kind == "i")
    one.PixelData = plane.tobytes()
    one.SeriesInstanceUID, one.PatientName = series, "Secret^Name"
    if z is not None:
        one.ImagePositionPatient = [0.0, 0.0, float(z)]
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    if number is not None:
        one.InstanceNumber = number
    for name, value in more.items():
        setattr(one, name, value)
    one.save_as(path, enforce_file_format=True)


def test_pictures_are_pillows_pixels(tmp_path, draw):
    grey = draw.integers(0, 256, (9, 7), dtype=np.uint8)
    colours = draw.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    deep = draw.integers(0, 65536, (9, 7), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(colours).save(tmp_path / "lossy.jpg", quality=80)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    assert np.array_equal(read_pixels(str(tmp_path / "grey.png"), 1, 2)[0], grey)
    assert np.array_equal(read_pixels(str(tmp_path / "deep.png"), 1, 2)[0], deep)
    found = read_pixels(str(tmp_path / "rgb.png"), 3, 2)
    assert np.array_equal(found, np.moveaxis(colours, -1, 0))
    with Image.open(tmp_path / "lossy.jpg") as image:
        assert np.array_equal(
            read_pixels(str(tmp_path / "lossy.jpg"), 3, 2), np.moveaxis(np.asarray(image), -1, 0)
        )
    luma = np.asarray(Image.fromarray(colours).convert("L"), dtype=float)
    assert np.abs(read_pixels(str(tmp_path / "rgb.png"), 1, 2)[0] - luma).max() <= 1.0
    assert np.array_equal(read_pixels(str(tmp_path / "palette.png"), 1, 2)[0].round(), grey)
    assert (read_pixels(str(tmp_path / "grey.png"), 3, 2) == grey).all()


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("CT_small", 1),
        ("MR_small", 1),
        ("SC_rgb_rle", 3),
        ("SC_rgb_jpeg_dcmtk", 3),
        ("JPEG2000", 1),
        ("examples_rgb_color", 3),
    ],
)
def test_dicom_is_pydicoms_pixels(data_dir, name, channels):
    path = data_dir / "dicom" / f"{name}.dcm"
    dataset = pydicom.dcmread(path)
    plain = apply_modality_lut(pydicom.pixels.pixel_array(dataset), dataset)
    expected = plain[None] if channels == 1 else np.moveaxis(plain, -1, 0)
    assert np.array_equal(read_pixels(str(path), channels, 2), expected.astype(np.float32))


def test_ct_is_in_hounsfield_units(data_dir):
    dataset = pydicom.dcmread(data_dir / "dicom" / "CT_small.dcm")
    assert float(dataset.RescaleIntercept) == -1024
    found = read_pixels(str(data_dir / "dicom" / "CT_small.dcm"), 1, 2)
    assert np.array_equal(found[0], dataset.pixel_array.astype(np.float32) - 1024)


@pytest.mark.parametrize("name", ["test-SR", "rtplan", "nested_priv_SQ", "UN_sequence", "reportsi"])
def test_dicom_without_an_image_is_bad(data_dir, name):
    with pytest.raises(Bad) as error:
        read_pixels(str(data_dir / "dicom" / f"{name}.dcm"), 1, 2)
    assert error.value.kind == "unreadable"


def test_dicom_cut_short_or_overwritten_is_bad(data_dir, tmp_path):
    whole = (data_dir / "dicom" / "MR_small.dcm").read_bytes()
    (tmp_path / "short.dcm").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.dcm").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "empty.dcm").write_bytes(b"")
    for name in ("short", "noise", "empty"):
        with pytest.raises(Bad, match="unreadable"):
            read_pixels(str(tmp_path / f"{name}.dcm"), 1, 2)


def test_white_is_bright_in_monochrome1(tmp_path):
    plane = np.array([[0, 1], [4094, 4095]], dtype=np.uint16)
    _slice(tmp_path / "a.dcm", plane, 0, PhotometricInterpretation="MONOCHROME1", BitsStored=12)
    assert np.array_equal(read_pixels(str(tmp_path / "a.dcm"), 1, 2)[0], 4095 - plane)


def test_slices_are_a_volume_in_the_order_of_their_places(tmp_path, draw):
    volume = draw.integers(-1000, 1000, (4, 3, 5), dtype=np.int16)
    for name, z in zip("dbca", (30.0, 10.0, -20.0, 20.0), strict=True):
        at = sorted((30.0, 10.0, -20.0, 20.0)).index(z)
        _slice(tmp_path / f"{name}.dcm", volume[at], z, RescaleSlope=2, RescaleIntercept=-10)
    assert np.array_equal(read_pixels(str(tmp_path), 1, 3)[0], volume * 2.0 - 10)


def test_slices_of_two_series_or_at_one_place_are_bad(tmp_path):
    plane = np.zeros((2, 2), dtype=np.int16)
    for folder, second in (("series", ("9.9", 1.0)), ("place", ("1.2.3", 0.0))):
        (tmp_path / folder).mkdir()
        _slice(tmp_path / folder / "a.dcm", plane, 0.0)
        _slice(tmp_path / folder / "b.dcm", plane, second[1], series=second[0])
        with pytest.raises(Bad, match="unreadable"):
            read_pixels(str(tmp_path / folder), 1, 3)


def test_slices_without_place_are_in_the_order_of_their_numbers(tmp_path, draw):
    volume = draw.integers(0, 9, (3, 2, 2), dtype=np.int16)
    for i, number in enumerate((2, 0, 1)):
        _slice(tmp_path / f"{i}.dcm", volume[number], None, number)
    assert np.array_equal(read_pixels(str(tmp_path), 1, 3)[0], volume)


def test_nifti_is_nibabels_data_from_feet_to_head(tmp_path, draw):
    data = draw.normal(size=(4, 5, 6)).astype(np.float32)  # x, y, z
    for name, affine in (("ras", np.diag([1, 1, 2, 1])), ("las", np.diag([-1, 1, 2, 1]))):
        nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / f"{name}.nii.gz")
    expected = data.transpose(2, 1, 0)
    assert np.allclose(read_pixels(str(tmp_path / "ras.nii.gz"), 1, 3)[0], expected)
    found = read_pixels(str(tmp_path / "las.nii.gz"), 1, 3)[0]
    assert np.allclose(found, expected[:, :, ::-1])
    several = draw.normal(size=(4, 5, 6, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(several, np.eye(4)), tmp_path / "two.nii")
    assert np.allclose(read_pixels(str(tmp_path / "two.nii"), 2, 3), several.transpose(3, 2, 1, 0))


def test_arrays_of_numpy_whole_and_by_row(tmp_path, draw):
    stack = draw.integers(0, 255, (6, 3, 4), dtype=np.uint8)
    np.save(tmp_path / "one.npy", stack[0])
    np.save(tmp_path / "all.npy", stack)
    np.savez(tmp_path / "only.npz", stack)
    np.savez_compressed(tmp_path / "named.npz", a=stack, b=stack[::-1])
    assert np.array_equal(read_pixels(str(tmp_path / "one.npy"), 1, 2)[0], stack[0])
    for where in ("all.npy#4", "only.npz#4", "named.npz#a/4", "named.npz#b/1"):
        assert np.array_equal(read_pixels(str(tmp_path / where), 1, 2)[0], stack[4])
    for where, kind in (
        ("all.npy#6", "missing"),
        ("named.npz#c/1", "missing"),
        ("only.npz#x", "unreadable"),
        ("all.npy", "shape"),
    ):
        with pytest.raises(Bad) as error:
            read_pixels(str(tmp_path / where), 2, 2)
        assert error.value.kind == kind


def test_a_pickle_in_an_array_is_never_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(Bad, match="unreadable"):
        read_pixels(str(tmp_path / "a.npy"), 1, 2)


def test_an_image_with_nan_is_bad(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1.0, np.nan]]))
    with pytest.raises(Bad, match="values"):
        read_pixels(str(tmp_path / "a.npy"), 1, 2)


@pytest.mark.parametrize("size", [(8, 8), (31, 17), (5, 40), (64, 64)])
def test_resizing_is_pillows_bilinear(draw, size):
    image = draw.normal(size=(32, 24)).astype(np.float32)
    pillow = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    found = fitted(image[None], size, "resize")
    assert np.abs(found[0] - np.asarray(pillow)).max() < 1e-5


def test_cutting_keeps_the_middle_and_proportions(draw):
    image = draw.normal(size=(1, 20, 40)).astype(np.float32)
    found = fitted(image, (10, 10), "crop")
    assert np.allclose(found, fitted(image, (10, 20), "resize")[:, :, 5:15])


def test_masks_get_no_new_values(draw):
    mask = draw.integers(0, 3, (1, 30, 30)).astype(np.float32)
    assert set(np.unique(fitted(mask, (7, 50), "nearest"))) <= {0, 1, 2}
    pillow = Image.fromarray(mask[0]).resize((50, 7), Image.Resampling.NEAREST)
    assert np.array_equal(fitted(mask, (7, 50), "nearest")[0], np.asarray(pillow))


def test_values_are_cut_to_the_range_then_scaled():
    image = np.array([[[-2000.0, -1000.0, 0.0, 1000.0, 3000.0]]])
    assert Scale((-1000.0, 1000.0))(image).ravel().tolist() == [0, 0, 0.5, 1, 1]
    two = np.ones((2, 1, 1))
    assert Scale(None, (1.0, 0.0), (1.0, 2.0))(two).ravel().tolist() == [0, 0.5]


def _files(folder, n, size=(16, 16)):
    draw = np.random.default_rng(0)
    whole = draw.integers(0, 256, (n, *size), dtype=np.uint8)
    for i, one in enumerate(whole):
        Image.fromarray(one).save(folder / f"{i}.png")
    return tuple(str(folder / f"{i}.png") for i in range(n)), whole


def test_nothing_is_read_until_a_batch_asks(tmp_path, monkeypatch):
    where, whole = _files(tmp_path, 6)
    opened = []
    real = pixels.read_pixels
    monkeypatch.setattr(images, "read_pixels", lambda at, *a: opened.append(at) or real(at, *a))
    media = Images("a", "xray", where, (1, 16, 16), Scale((0, 255)))
    assert not opened
    found = media.read(np.array([4, 1]))
    assert opened == [where[4], where[1]]
    assert np.allclose(found[:, 0], whole[[4, 1]] / 255.0)
    media.read(np.array([1, 4]))
    assert len(opened) == 2  # kept


def test_memory_is_bounded_by_what_may_be_held(tmp_path):
    where, _ = _files(tmp_path, 40, (64, 64))
    one = 64 * 64 * 4
    media = Images("a", "xray", where, (1, 64, 64), held=5 * one)
    media.read(ALL(1))
    tracemalloc.start()
    for start in range(0, 40, 4):
        media.read(ALL(start, start + 4))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(media._kept) == 5
    assert held < 8 * one + 200_000


def test_bad_items_are_counted_without_their_names(tmp_path):
    where, _ = _files(tmp_path, 5)
    (tmp_path / "0.png").write_bytes(b"not a picture of secret")
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").unlink()
    media = Images("north", "xray", where, (1, 16, 16))
    with pytest.raises(InputError) as error:
        media.read(ALL(5))
    assert error.value.code == "BAD_ITEM" and error.value.site == "north"
    text = str(error.value)
    assert "column xray: 2 images that cannot be read" in text and "1 image that cannot be" in text
    assert "secret" not in text and "png" not in text and str(tmp_path) not in text
    assert media.bad() == {"unreadable": 2, "missing": 1}
    assert error.value.__cause__ is None


def test_another_shape_is_bad_unless_it_may_be_resized(tmp_path):
    where, _ = _files(tmp_path, 2)
    with pytest.raises(InputError, match="2 images that have another shape"):
        Images("a", "x", where, (1, 8, 8)).read(ALL(2))
    assert Images("a", "x", where, (1, 8, 8), how="resize").read(ALL(2)).shape == (2, 1, 8, 8)


def test_the_fingerprint_is_of_contents_not_of_times(tmp_path, monkeypatch):
    where, _ = _files(tmp_path, 3)

    def name():
        return Images("a", "x", where, (1, 16, 16)).fingerprint

    first = name()
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content)
    assert name() == first
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert name() != first
    assert Images("a", "x", where[::-1], (1, 16, 16)).fingerprint != name()
    monkeypatch.setattr(images, "HASHED", 0)
    large = name()
    (tmp_path / "1.png").write_bytes(content + b"more")
    assert name() != large


def test_a_stack_is_read_by_row_and_has_its_own_fingerprint(draw):
    array = draw.integers(0, 255, (5, 1, 3, 3), dtype=np.uint8)
    stack = Stack(array, Scale((0, 255)))
    assert np.allclose(stack.read(np.array([3, 0])), array[[3, 0]] / 255.0)
    assert stack.read(np.array([], dtype=int)).shape == (0, 1, 3, 3)
    changed = array.copy()
    changed[2, 0, 1, 1] ^= 1
    assert Stack(changed, Scale((0, 255))).fingerprint != stack.fingerprint
