"""Scans as hospitals hold them, over the command line: DICOM series here, NIfTI files there."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.cli import main
from tests.data.test_images import _slice

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("torch")

SITES = {"north": "dicom", "south": "nifti", "west": "dicom"}
DEPTH, HEIGHT, WIDTH = 3, 4, 5
PATIENTS = 24
CODEBOOK = """format = 1
name = "chest"
[columns]
scan = { type = "image", shape = [1, 3, 4, 5], range = [-1000, 1000] }
age = { type = "integer", unit = "a", range = [18, 110] }
part = { type = "category", levels = { train = "train", test = "test" } }
ill = { type = "binary", levels = { 0 = "no", 1 = "yes" } }
"""
STUDY = """format = 1
seed = 4
[study]
name = "chest"
[data]
schema = "chest.toml"
sites = { north = "north/rows.csv", south = "south/rows.csv", west = "west/rows.csv" }
[model]
kind = "neural"
formula = "ill ~ scan + age"
architecture = "linear"
[strategy]
rounds = 3
lr = 0.05
[privacy]
secure_sums = true
show_sites = false
[evaluation]
validate = "split"
[output]
folder = "runs"
report = ["json"]
"""


def volume(site, i):
    """Hounsfield units (depth, height, width), brighter where the patient is ill."""
    draw = np.random.default_rng(100 * list(SITES).index(site) + i)
    return draw.integers(-900, 0, (DEPTH, HEIGHT, WIDTH), dtype=np.int16) + 600 * (i % 2)


def write(folder, site, kind):
    """The rows of a hospital, and its scans."""
    folder.mkdir(parents=True)
    cells = []
    for i in range(PATIENTS):
        held = volume(site, i).astype(np.int16)
        if kind == "dicom":
            at = folder / f"scan{i}"
            at.mkdir()
            for z in range(DEPTH):
                _slice(at / f"{z}.dcm", held[z], float(z), RescaleIntercept=0, RescaleSlope=1)
        elif kind == "nifti":
            at = folder / f"scan{i}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(held.transpose(2, 1, 0), np.eye(4)), at)
        else:
            at = folder / f"scan{i}.npy"
            np.save(at, held[None])
        cells.append(at.name)
    n = np.arange(PATIENTS)
    parts = np.where(n < PATIENTS // 2, "train", "test")
    table = {"scan": cells, "age": 40 + n, "part": parts, "ill": n % 2}
    pd.DataFrame(table).to_csv(folder / "rows.csv", index=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chest")
    for site, kind in SITES.items():
        write(folder / site, site, kind)
    (folder / "chest.toml").write_text(CODEBOOK)
    (folder / "study.toml").write_text(STUDY)
    return folder


@pytest.fixture
def hospitals(written, tmp_path):
    """Files that a test may spoil."""
    return shutil.copytree(written, tmp_path / "chest")


@pytest.fixture
def polyclinic(hospitals, monkeypatch, capsys):
    """The command line in the hospitals' folder: its exit code, what it printed, its errors."""
    monkeypatch.chdir(hospitals)
    monkeypatch.delenv("POLYCLINIC_DEVICE", raising=False)

    def command(*words):
        monkeypatch.setattr("sys.argv", ["polyclinic", *words])
        try:
            main.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        found = capsys.readouterr()
        return code, found.out, found.err

    return command


def test_a_study_over_dicom_and_nifti(hospitals, polyclinic):
    text = STUDY.replace('["json"]', '["html"]')
    (hospitals / "study.toml").write_text(text)
    code, _, errors = polyclinic("run", "study.toml")
    assert code == 0, errors
    found = json.loads((hospitals / "runs/chest/metrics.json").read_text())
    assert found["evaluation"]["all"]["n"] == 3 * PATIENTS / 2
    assert found["evaluation"]["all"]["auroc"]["value"] > 0.9
    assert (hospitals / "runs/chest/report.html").is_file()
    # The same voxels as plain arrays give the same network.
    for site in SITES:
        write(hospitals / "plain" / site, site, "npy")
    paths = {site: hospitals / "plain" / site / "rows.csv" for site in SITES}
    sites = pc.read(paths, schema=hospitals / "chest.toml")
    chosen = sites.cohort("not (part == 'test')", columns=["ill", "scan", "age"])
    model = pc.NeuralNetwork("linear", strategy=pc.FedAvg(rounds=3, lr=0.05), random_state=4)
    model.fit(chosen, "ill ~ scan + age", privacy=pc.SecureSum())
    ran = pc.load(hospitals / "runs/chest")
    assert ran.result_.weights.tobytes() == model.result_.weights.tobytes()


def cut_short(folder):
    path = folder / "south" / "scan3.nii.gz"
    path.write_bytes(path.read_bytes()[:40])


def another_shape(folder):
    held = np.zeros((7, 4, 3), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(held, np.eye(4)), folder / "south" / "scan3.nii.gz")


def not_a_number(folder):
    held = np.full((WIDTH, HEIGHT, DEPTH), np.nan, dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(held, np.eye(4)), folder / "south" / "scan3.nii.gz")


def steps_too_long(folder):
    text = (folder / "study.toml").read_text()
    text = text.replace("lr = 0.05", "lr = 1000").replace("ill ~ scan + age", "age ~ scan")
    text = text.replace('"linear"', '"linear"\nloss = "squared"')
    (folder / "study.toml").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (cut_short, "BAD_ITEM", "polyclinic check"),
        (another_shape, "BAD_ITEM", "polyclinic check"),
        (not_a_number, "BAD_ITEM", "polyclinic check"),
        (steps_too_long, "LOSS_EXPLODED", "learning rate"),
    ],
)
def test_what_goes_wrong_is_said_where_it_is(hospitals, polyclinic, spoil, code, words):
    spoil(hospitals)
    number, printed, errors = polyclinic("run", "study.toml")
    assert number == 3 and code in errors and words in errors, errors
    assert ("south refused" if code == "BAD_ITEM" else "north (and 2 more) refused") in errors
    assert "round of training" in errors and "scan3" not in printed + errors
    assert max(map(len, errors.splitlines())) <= 80
    if code == "BAD_ITEM":
        about = ("--schema", "chest.toml", "--site", "south")
        _, printed, _ = polyclinic("check", "south/rows.csv", *about)
        assert "1 image" in printed and "scan3" not in printed
    if spoil is cut_short:  # mended, it goes on
        held = volume("south", 3).transpose(2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(held, np.eye(4)), hospitals / "south" / "scan3.nii.gz")
        number, _, errors = polyclinic("run", "study.toml", "--resume")
        assert number == 0, errors
