"""Media columns in a table: cohorts, dropping, cutting, conditions, checks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from polyclinic.core.errors import InputError
from polyclinic.data.check import check_table
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import Cohort, rows_of
from polyclinic.data.joined import Joined
from polyclinic.data.read import read_table, table_from_frame

N = 12


def book(**changes):
    image = {"type": "image", "shape": [1, 4, 4], "range": [0, 255], **changes}
    columns = {"xray": image, "age": {"type": "number", "range": [0, 120]}}
    return Codebook.from_dict({"name": "x", "columns": columns})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scans").mkdir()
    for i in range(N):
        Image.fromarray(np.full((4, 4), i * 10, dtype=np.uint8)).save(tmp_path / f"scans/{i}.png")
    cells = [f"scans/{i}.png" if i % 4 else "" for i in range(N)]
    frame = pd.DataFrame({"xray": cells, "age": np.arange(N) + 20})
    frame.to_csv(tmp_path / "a.csv", index=False)
    return tmp_path


def seen(partition):
    """The grey of each row's image, as it was written."""
    read = partition.media["xray"].read(partition.columns["xray"].astype(int))
    return (read[:, 0, 0, 0] * 25.5).round().astype(int).tolist()


def test_rows_keep_their_images_through_cohorts_and_cuts(folder):
    table = read_table(folder / "a.csv", book(), "a")
    assert np.isnan(table.columns["xray"]).sum() == 3
    chosen = rows_of(table, Cohort("age >= 22", ("xray",)))
    expected = [i for i in range(2, N) if i % 4]
    assert (chosen.columns["age"] - 20).tolist() == expected == seen(chosen)
    for parts in (2, 3):
        assert [grey for part in chosen.split(parts) for grey in seen(part)] == expected


def test_conditions_see_only_whether_there_is_an_image(folder):
    table = read_table(folder / "a.csv", book(), "a")
    for where, many in (("xray is missing", 3), ("xray >= 0", 9), ("xray == 5", 0)):
        assert len(Cohort(where).rows(table)) == many


def test_an_expression_does_not_read_positions(folder):
    plain = book().to_dict()
    plain["derived"] = [["there", {"type": "number", "from": "xray + 0", "range": [0, 20]}]]
    table = read_table(folder / "a.csv", Codebook.from_dict(plain), "a")
    assert set(table.columns["there"][~np.isnan(table.columns["there"])]) == {1.0}


def test_a_folder_elsewhere_and_arrays(folder):
    frame = pd.read_csv(folder / "a.csv")
    table = table_from_frame(frame, book(), "a", media=folder)
    by_column = frame.assign(xray=frame["xray"].str.removeprefix("scans/"))
    other = table_from_frame(by_column, book(), "a", media={"xray": folder / "scans"})
    stack = np.repeat(np.arange(N, dtype=np.uint8) * 10, 16).reshape(N, 1, 4, 4)
    rows = frame.assign(xray=np.where(frame["xray"].isna(), np.nan, np.arange(N)))
    held = table_from_frame(rows, book(), "a", media={"xray": stack})
    complete = Cohort(columns=("xray",))
    assert seen(rows_of(table, complete)) == seen(rows_of(other, complete))
    assert seen(rows_of(table, complete)) == seen(rows_of(held, complete))
    with pytest.raises(InputError, match="9 images that cannot be found"):
        table_from_frame(frame, book(), "a", media={"xray": folder / "nowhere"})
    with pytest.raises(InputError, match="8 images that cannot be found"):
        table_from_frame(rows.assign(xray=rows["xray"] + 100 * (rows.index != 1)), book(), "a",
                         media={"xray": stack})  # fmt: skip
    with pytest.raises(InputError, match="another shape"):
        table_from_frame(rows, book(), "a", media={"xray": stack[:, :, :3]})


def test_the_fingerprint_changes_with_an_image(folder):
    first = read_table(folder / "a.csv", book(), "a").fingerprint
    assert read_table(folder / "a.csv", book(), "a").fingerprint == first
    Image.fromarray(np.full((4, 4), 1, dtype=np.uint8)).save(folder / "scans/1.png")
    assert read_table(folder / "a.csv", book(), "a").fingerprint != first
    assert read_table(folder / "a.csv", book(range=[0, 100]), "a").fingerprint != first


def test_a_check_counts_bad_images(folder):
    (folder / "scans/1.png").write_bytes(b"nothing")
    (folder / "scans/2.png").unlink()
    for i in (3, 5):
        Image.fromarray(np.zeros((9, 4), dtype=np.uint8)).save(folder / f"scans/{i}.png")
    found = check_table(folder / "a.csv", book(), "a")
    (column,) = [one for one in found.columns if one.name == "xray"]
    assert {one.kind: one.count for one in column.findings} == {
        "image_unreadable": 1,
        "image_missing": 1,
        "image_shape": 2,
    }
    assert column.missing == 3 and found.errors == 3 and "scans" not in str(found)
    resized = check_table(folder / "a.csv", book(fit="resize"), "a")
    assert resized.errors == 2


def test_a_site_that_records_no_images(folder):
    plain = book().to_dict()
    plain["site"] = {"a": {"not_recorded": ["xray"]}}
    codebook = Codebook.from_dict(plain)
    frame = pd.DataFrame({"age": [30.0, 40.0]})
    table = table_from_frame(frame, codebook, "a")
    assert np.isnan(table.columns["xray"]).all() and not table.media
    kinds = [f.kind for c in check_table(frame, codebook, "a").columns for f in c.findings]
    assert "not_recorded" in kinds and "absent" not in kinds


def test_items_of_several_sources_behind_each_other(folder):
    table = read_table(folder / "a.csv", book(), "a")
    media = table.media["xray"]
    both = Joined((media, media), (0, 9))
    positions = np.array([10, 0, 8, 9])
    assert np.array_equal(both.read(positions), media.read(np.array([1, 0, 8, 0])))
    assert both.shape == (1, 4, 4) and both.fingerprint != media.fingerprint


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": [4, 4]},
        {"shape": None},
        {"mean": [1.0, 2.0]},
        {"sd": [0.0]},
        {"fit": "squeeze"},
        {"series": {"step": "1 h", "length": 2, "variables": {"a": {}}}},
    ],
)
def test_a_column_of_images_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError):
        book(**wrong)
