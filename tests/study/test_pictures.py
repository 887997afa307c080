"""Hospitals of images and series: folders, made-up hospitals, networks behind the gate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import polyclinic as pc
from polyclinic.core.errors import InputError


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folders(tmp_path):
    """Two hospitals: one with a folder per class, one with labels.csv."""
    draw = np.random.default_rng(0)
    for name in ("north", "south", "west"):
        for i in range(24):
            label = ("normal", "ill")[i % 2]
            at = tmp_path / name / (label if name != "south" else "scans")
            at.mkdir(parents=True, exist_ok=True)
            grey = draw.integers(0, 80, (10, 12)) + 100 * (i % 2)
            Image.fromarray(grey.astype(np.uint8)).save(at / f"{i}.png")
    rows = [(f"scans/{i}.png", ("normal", "ill")[i % 2]) for i in range(24)]
    frame = pd.DataFrame(rows, columns=["image", "label"])
    frame.to_csv(tmp_path / "south" / "labels.csv", index=False)
    return tmp_path


def test_folders_of_images_are_hospitals(folders):
    sites = pc.images(folders, shape=(1, 5, 6))
    assert sites.names == ("north", "south", "west")
    assert sites.codebook.level_names("label") == ("ill", "normal")
    for name in sites.names:
        table = sites.table(name)
        grey = table.media["image"].read(table.columns["image"].astype(int)).mean(axis=(1, 2, 3))
        assert ((grey > 0.35) == (table.columns["label"] == 0)).all()
    strategy = pc.FedAvg(rounds=3, lr=1.0, local_epochs=3)
    model = pc.NeuralNetwork("linear", strategy=strategy).fit(sites, "label ~ image")
    assert model.history_["loss"].iloc[-1] < 0.7 * model.history_["loss"].iloc[0]
    new = pd.DataFrame(
        {"image": [str(folders / "west/ill/1.png"), str(folders / "south/scans/0.png")]}
    )
    assert model.predict(new).tolist() == ["ill", "normal"]


def test_no_images_is_said(tmp_path):
    with pytest.raises(InputError, match="there is no hospital"):
        pc.images(tmp_path, shape=(1, 2, 2))
    (tmp_path / "north").mkdir()
    with pytest.raises(InputError, match="north: there is no image"):
        pc.images(tmp_path, shape=(1, 2, 2))


def test_pneumonia_mnist_is_the_published_set(data_dir):
    sites = pc.datasets.pneumonia_mnist(hospitals=4, alpha=1.0)
    tables = [sites.table(name) for name in sites.names]
    part = np.concatenate([t.columns["part"] for t in tables])
    ill = np.concatenate([t.columns["pneumonia"] for t in tables])
    counts = [(int((part == i).sum()), int(ill[part == i].sum())) for i in range(3)]
    assert counts == [(4708, 3494), (524, 389), (624, 390)]  # MedMNIST's own
    train = np.concatenate(
        [t.media["xray"].read(np.flatnonzero(t.columns["part"] == 0)) for t in tables]
    )
    assert train.mean() == pytest.approx(0.5719, abs=1e-4)
    assert train.std() == pytest.approx(0.1684, abs=1e-4)
    again = pc.datasets.pneumonia_mnist(hospitals=4, alpha=1.0)
    assert [again.table(n).fingerprint for n in again.names] == [t.fingerprint for t in tables]


def test_pneumonia_is_learnt_across_hospitals(data_dir):
    sites = pc.datasets.pneumonia_mnist(hospitals=3, alpha=5.0)
    options = {"hidden": [16]}
    strategy = pc.FedAvg(rounds=4, lr=0.1, local_epochs=5)
    model = pc.NeuralNetwork(
        "mlp", architecture_options=options, strategy=strategy, augment={"crop": {"pixels": 1}}
    ).fit(sites.cohort("part == 'val'"), "pneumonia ~ xray")
    found = model.evaluate(sites.cohort("part == 'test'"), validate="none").measures["all"]
    assert found["n"] == 624 and found["auroc"]["value"] > 0.85


def test_digits_as_images_are_learnt_like_their_pixels():
    sites = pc.datasets.digits(images=True)
    strategy = pc.FedAvg(rounds=3, lr=0.5)
    model = pc.NeuralNetwork("linear", strategy=strategy).fit(sites, "digit ~ image")
    table = pc.datasets.digits()
    for name in sites.names:
        own = sites.table(name)
        pixels = own.media["image"].read(own.columns["image"].astype(int)) * 16
        flat = np.stack([table.table(name).columns[f"pixel_{i // 8}_{i % 8}"] for i in range(64)])
        assert np.allclose(pixels.reshape(len(pixels), 64), flat.T)
    assert sum(sites.n_rows(name) for name in sites.names) == len(load_digits().data)
    assert model.history_["loss"].iloc[-1] < 0.8


@pytest.mark.slow
def test_the_course_of_48_hours(data_dir):
    sites = pc.datasets.physionet_2012(series=True)
    counts = {n: (sites.table(n).n_rows, int(sites.table(n).columns["died"].sum()))
              for n in sites.names}  # fmt: skip
    assert counts == {
        "cardiac_surgery": (874, 43),
        "coronary_care": (577, 81),
        "medical": (1481, 275),
        "surgical": (1068, 155),
    }
    table, grid = sites.table("medical"), sites.codebook.columns["measured"].series
    assert table.media["measured"].shape == (48, 37)
    assert {"Age", "Male", "Height", "Weight"} <= set(table.columns)
    raw = pd.read_csv(data_dir / "physionet-2012" / "set-a.measurements.csv.gz")
    static = pd.read_csv(data_dir / "physionet-2012" / "set-a.static.csv")
    low, high = grid.variables["HR"].range
    hr = raw[(raw["Parameter"] == "HR") & raw["Value"].between(low, high)]
    hr = hr.assign(hour=hr["Time"].str[:2].astype(int)).query("hour < 48")
    wide = hr.groupby(["RecordID", "hour"])["Value"].mean().unstack("hour")
    wide = wide.reindex(index=static["RecordID"], columns=range(48))
    found = table.media["measured"].values[:, :, list(grid.variables).index("HR")]
    assert np.allclose(found, wide.to_numpy(), rtol=1e-5, equal_nan=True)


def test_rows_are_dealt_to_made_up_hospitals():
    y = np.repeat([0, 1], 60)
    names = pc.partition(np.zeros((120, 2)), 3, "dirichlet", by=y, alpha=0.5)
    assert sorted(set(names)) == ["hospital_1", "hospital_2", "hospital_3"]
    frame = pd.DataFrame({"x": np.arange(120), "ward": np.repeat(["a", "b"], 60)})
    assert pc.partition(frame, how="column", by="ward").tolist() == frame["ward"].tolist()
    dealt = pc.split(frame.assign(hospital=pc.partition(frame, 4)), by="hospital")
    assert sum(dealt.n_rows(name) for name in dealt.names) == 120


def test_sites_are_dealt_anew_with_their_images():
    sites = pc.datasets.digits(images=True)
    dealt = pc.partition(sites, 3, "dirichlet", by="digit", alpha=0.5)

    def items(given):
        found = [(given.table(n), given.table(n).columns["image"]) for n in given.names]
        read = [(t.media["image"].read(p.astype(int)), t.columns["digit"]) for t, p in found]
        images = np.concatenate([one.reshape(len(one), -1) for one, _ in read])
        together = np.column_stack([images, np.concatenate([digit for _, digit in read])])
        return together[np.lexsort(together.T)]

    assert dealt.names == ("hospital_1", "hospital_2", "hospital_3")
    assert np.array_equal(items(sites), items(dealt))
