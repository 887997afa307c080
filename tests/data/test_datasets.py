from __future__ import annotations

import functools
import http.server
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris

from polyclinic.core.errors import InputError
from polyclinic.data import datasets
from polyclinic.data.datasets import NAMES, dataset, describe, packaged_codebook
from polyclinic.data.fetch import Archive

ROOT = Path(__file__).parents[2]


def test_heart_disease_is_the_four_files(data_dir):
    found = dataset("heart_disease")
    assert {s: t.n_rows for s, t in found.tables.items()} == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va": 200,
    }
    with_disease = {s: int(t.columns["disease"].sum()) for s, t in found.tables.items()}
    assert with_disease == {"cleveland": 139, "hungarian": 106, "switzerland": 115, "va": 149}
    assert found.licence == "CC BY 4.0"


def test_the_packaged_heart_codebook_is_the_example():
    packaged = ROOT / "src/polyclinic/data/codebooks/heart.toml"
    assert packaged.read_bytes() == (ROOT / "examples/heart.toml").read_bytes()


def test_tcga_brca_has_flambys_regions_and_deaths(data_dir):
    # patients and deaths per region: the READMEs of FLamby's Fed-TCGA-BRCA, train and test together
    found = dataset("tcga-brca")
    assert {s: (t.n_patients, int(t.columns["E"].sum())) for s, t in found.tables.items()} == {
        "northeast": (311, 59),
        "south": (196, 39),
        "west": (206, 22),
        "midwest": (162, 19),
        "europe": (162, 9),
        "canada": (51, 3),
    }
    header = (data_dir / "tcga-brca" / "brca.csv").read_text().splitlines()[0]
    assert len(found.codebook.columns) == 42 and header.startswith("pid,age_at_index,")
    assert found.codebook.usable[0] == "age_at_index" and "pid" not in found.codebook.usable


def test_tcga_rows_are_those_of_their_region(data_dir):
    frame = pd.read_csv(data_dir / "tcga-brca" / "brca.csv", index_col="pid")
    folds = pd.read_csv(data_dir / "tcga-brca" / "train_test_split.csv", index_col="pid")["fold2"]
    europe = frame.loc[[p for p in frame.index if str(folds.get(p, "")).endswith("_4")]]
    table = dataset("tcga_brca").tables["europe"]
    for name in ("T", "E", "age_at_index", "race_asian", "ajcc_pathologic_n_N0 (i-)"):
        np.testing.assert_array_equal(table.columns[name], europe[name].to_numpy(dtype=float))


@pytest.mark.parametrize(
    ("name", "load", "column", "place"),
    [
        ("breast_cancer", load_breast_cancer, "worst_area", 23),
        ("diabetes", functools.partial(load_diabetes, scaled=False), "bmi", 2),
        ("digits", load_digits, "pixel_3_4", 28),
        ("iris", load_iris, "petal_length", 2),
    ],
)
def test_the_dealt_sets_hold_every_row_once(name, load, column, place):
    matrix, _ = load(return_X_y=True)
    tables = dataset(name).tables
    together = np.concatenate([t.columns[column] for t in tables.values()])
    np.testing.assert_array_equal(np.sort(together), np.sort(matrix[:, place]))
    sizes = [t.n_rows for t in tables.values()]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_malignant_is_scikit_learns_class_0():
    frame = load_breast_cancer(as_frame=True)
    tables = dataset("breast_cancer").tables.values()
    radius = np.concatenate([t.columns["mean_radius"][t.columns["malignant"] == 1] for t in tables])
    expected = frame.data["mean radius"][frame.target == 0]
    np.testing.assert_array_equal(np.sort(radius), np.sort(expected))


def test_the_dealt_sets_differ_in_case_mix_and_are_dealt_alike():
    first, again = dataset("breast_cancer").tables, dataset("breast_cancer").tables
    means = [t.columns["mean_radius"].mean() for t in first.values()]
    assert means == sorted(means) and means[-1] - means[0] > 2
    for site, table in first.items():
        np.testing.assert_array_equal(table.columns["malignant"], again[site].columns["malignant"])


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "iris"])
def test_every_class_is_at_every_hospital(name):
    found = dataset(name)
    target = found.codebook.target.column
    for table in found.tables.values():
        assert len(np.unique(table.columns[target])) == len(found.codebook.level_names(target))


def test_the_listing_is_true(data_dir):
    for entry in describe():
        found = dataset(entry.name)
        assert entry.here
        assert (entry.sites, entry.rows) == (
            len(found.tables),
            sum(t.n_rows for t in found.tables.values()),
        )
        assert (entry.source, entry.licence) == (found.source, found.licence)
    assert [entry.name for entry in describe()] == list(NAMES)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError) as caught:
        dataset("hart_disease")
    assert caught.value.code == "UNKNOWN_DATASET" and '"heart_disease"' in caught.value.next


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """Without data here: an empty cache, and no folder of one's own."""
    monkeypatch.delenv("POLYCLINIC_DATA", raising=False)
    monkeypatch.setenv("POLYCLINIC_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def server(tmp_path):
    """A real HTTP server on this machine for the files in tmp_path/www."""
    (tmp_path / "www").mkdir()
    handler = functools.partial(_Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def _zip(target: Path, data_dir: Path, change: bytes = b"") -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for file in datasets.HEART.sha256:
            archive.writestr(file, (data_dir / "heart-disease" / file).read_bytes() + change)


def _at(url: str) -> Archive:
    heart = datasets.HEART
    return Archive(heart.name, heart.folder, heart.sha256, dict.fromkeys(heart.sha256, url))


def test_a_download_is_checked_and_kept(elsewhere, server, data_dir, monkeypatch):
    _zip(elsewhere / "www" / "heart.zip", data_dir)
    archive = _at(f"{server}/heart.zip")
    monkeypatch.setattr(datasets, "HEART", archive)
    assert not describe()[0].here
    assert dataset("heart_disease").tables["va"].n_rows == 200
    assert describe()[0].here
    assert sorted(p.name for p in (elsewhere / "cache/heart-disease").iterdir()) == sorted(
        archive.sha256
    )
    (elsewhere / "www" / "heart.zip").unlink()
    assert dataset("heart_disease").tables["va"].n_rows == 200  # from the cache


def test_other_bytes_are_refused_and_not_kept(elsewhere, server, data_dir):
    _zip(elsewhere / "www" / "heart.zip", data_dir, change=b"\n")
    with pytest.raises(InputError) as caught:
        _at(f"{server}/heart.zip").paths()
    assert caught.value.code == "DATA_CHANGED"
    assert not list((elsewhere / "cache").rglob("*.data"))


def test_an_edited_copy_in_the_own_folder_is_refused(elsewhere, data_dir, monkeypatch):
    folder = elsewhere / "own" / "heart-disease"
    folder.mkdir(parents=True)
    for file in datasets.HEART.sha256:
        content = (data_dir / "heart-disease" / file).read_bytes()
        (folder / file).write_bytes(content.replace(b"?", b"0") if "va" in file else content)
    monkeypatch.setenv("POLYCLINIC_DATA", str(elsewhere / "own"))
    with pytest.raises(InputError) as caught:
        dataset("heart_disease")
    assert caught.value.code == "DATA_CHANGED" and "processed.va.data" in caught.value.what


@pytest.mark.parametrize("page", ["", "/absent.zip"])
def test_without_files_and_network_the_next_step_is_named(elsewhere, server, page):
    url = f"{server}{page}" if page else "http://127.0.0.1:1/heart.zip"
    with pytest.raises(InputError) as caught:
        _at(url).paths()
    error = caught.value
    assert error.code == "DATA_NOT_AVAILABLE"
    assert str(elsewhere / "cache" / "heart-disease") in error.rule
    assert "POLYCLINIC_DATA" in error.next and "processed.va.data" in error.next


def test_a_page_that_is_no_archive_is_refused(elsewhere, server):
    (elsewhere / "www" / "heart.zip").write_text("<html>log in</html>")
    with pytest.raises(InputError) as caught:
        _at(f"{server}/heart.zip").paths()
    assert caught.value.code == "DATA_CHANGED"


def test_packaged_codebooks_load():
    assert packaged_codebook("heart").target.column == "disease"
    assert packaged_codebook("tcga_brca").columns["T"].unit == "d"


def test_intensive_care_is_the_published_tables(data_dir):
    # patients by region: counted in patient.csv and apacheapsvar.csv; units: the README
    regions = dataset("eicu_demo").tables
    patient = pd.read_csv(data_dir / "eicu-demo" / "patient.csv")
    scored = pd.read_csv(data_dir / "eicu-demo" / "apacheapsvar.csv")["patientunitstayid"]
    stays = patient[patient["patientunitstayid"].isin(scored)]
    stays = stays[stays["hospitaldischargestatus"].notna()]
    where = pd.read_csv(data_dir / "eicu-demo" / "hospital.csv").set_index("hospitalid")["region"]
    region = stays["hospitalid"].map(where).fillna("unknown").str.lower()
    persons = stays.groupby(region)["uniquepid"].nunique().to_dict()
    assert {site: t.n_rows for site, t in regions.items()} == persons
    assert all(t.n_patients == t.n_rows for t in regions.values())
    alone = stays[~stays.duplicated("uniquepid", keep=False)]  # whose only stay it is
    died = (alone["hospitaldischargestatus"] == "Expired").sum()
    assert died <= sum(int(t.columns["died"].sum()) for t in regions.values()) == 167
    hospitals = dataset("eicu_hospitals").tables
    pairs = stays[["hospitalid", "uniquepid"]].drop_duplicates()
    assert sum(t.n_patients for t in hospitals.values()) == len(pairs) == 1783
    assert np.isnan(regions["south"].columns["bilirubin"]).mean() > 0.5
    units = dataset("physionet_2012").tables
    assert {s: (t.n_rows, int(t.columns["died"].sum())) for s, t in units.items()} == {
        "coronary_care": (577, 81),
        "cardiac_surgery": (874, 43),
        "medical": (1481, 275),
        "surgical": (1068, 155),
    }
    assert np.nanmax(units["medical"].columns["pH_mean"]) < 14


def test_what_cannot_be_downloaded_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("POLYCLINIC_DATA", str(tmp_path))
    monkeypatch.setenv("POLYCLINIC_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"unpack https://physionet.org") as caught:
        dataset("eicu_demo")
    assert caught.value.code == "DATA_NOT_AVAILABLE"
