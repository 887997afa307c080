"""Each site computes where it says: on its card, or on its processor, with the same plans."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.models.neural import device, network
from tests.models.neural.card import CARD, CPU, Card

torch = pytest.importorskip("torch")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No network of another test's device."""
    monkeypatch.delenv(device.VARIABLE, raising=False)
    network._made.cache_clear()
    network._last.made = None
    yield
    network._made.cache_clear()
    network._last.made = None


@pytest.fixture
def card(monkeypatch):
    """A machine with one card."""
    used = []

    def there(asked=""):
        return CPU if asked in ("", "cpu") else CARD

    def taken(asked=""):
        used.append(asked)
        return there(asked)

    monkeypatch.setattr(device, "device_of", there)
    monkeypatch.setattr(network, "device_of", taken)  # where networks are made
    with Card():
        yield used


def cards(monkeypatch, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "wanted"),
    [
        (0, False, "", "cpu"),
        (0, False, "auto", "cpu"),
        (2, False, "auto", "cuda"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, "cpu", "cpu"),
        (0, True, "auto", "mps"),
        (1, True, "auto", "cuda"),
    ],
)
def test_which_device_is_taken(monkeypatch, cuda, mps, asked, wanted):
    cards(monkeypatch, cuda, mps)
    assert str(device.device_of(asked)) == wanted


def test_the_environment_counts_where_a_site_says_nothing(monkeypatch):
    cards(monkeypatch, cuda=1)
    monkeypatch.setenv(device.VARIABLE, "cpu")
    assert str(device.device_of()) == "cpu" and str(device.device_of("cuda")) == "cuda"
    monkeypatch.setenv(device.VARIABLE, "gpu")
    with pytest.raises(InputError, match=device.VARIABLE) as found:
        device.device_of()
    assert found.value.code == "WRONG_VALUE"


@pytest.mark.parametrize("asked", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_named_and_absent_is_an_error(monkeypatch, asked):
    cards(monkeypatch)
    for refuses in (device.device_of, device.check):
        with pytest.raises(InputError) as found:
            refuses(asked)
        assert found.value.code == "NO_DEVICE" and asked in found.value.what
    cards(monkeypatch, cuda=1)
    with pytest.raises(InputError, match="cuda:1"):
        device.device_of("cuda:1")


def patients():
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.uniform(-1, 1, (90, 2)), columns=["a", "b"])
    return frame.assign(y=(frame.a > 0).astype(int), h=np.repeat(list("xyz"), 30))


def sites():
    return pc.split(patients(), by="h")


def fit(where="", **more):
    model = pc.NeuralNetwork("mlp", strategy=pc.FedAvg(rounds=2, lr=0.3), **more)
    return model.fit(sites(), "y ~ a + b", engine=pc.Embedded(device=where))


def test_a_hospital_without_its_device_is_named_before_anything_leaves():
    hospitals = sites()
    model = pc.NeuralNetwork("mlp", strategy=pc.FedAvg(rounds=2))
    where = pc.Embedded(device={"x": "auto", "y": "cuda:7", "z": "cpu"})
    with pytest.raises(pc.Refused) as found:
        model.fit(hospitals, "y ~ a + b", engine=where)
    assert (found.value.code, found.value.site) == ("NO_DEVICE", "y")
    assert "(counts and means)" in found.value.what  # before training
    assert "at the hospital" in found.value.next
    with pytest.raises(InputError) as wrong:
        pc.Embedded(device={"y": "gpu"})
    assert wrong.value.code == "WRONG_VALUE" and "device of y" in wrong.value.what


def test_a_hospital_with_a_card_trains_beside_one_without(card):
    one = fit({"x": "cuda", "y": "cpu", "z": "auto"})
    assert {"cuda", "cpu", "auto"} <= set(card)
    plain = fit("cpu")
    assert one.result_.weights.tobytes() == plain.result_.weights.tobytes()
    # What hospitals agree on says nothing of it.
    assert [r.plan for r in one.rounds_] == [r.plan for r in plain.rounds_]
    found = one.evaluate(sites(), validate="none").table
    pd.testing.assert_frame_equal(found, plain.evaluate(sites(), validate="none").table)


DRAW = np.random.default_rng(0)
TABLE = DRAW.normal(size=(12, 3))
IMAGES = DRAW.normal(size=(12, 1, 8, 8)).astype("f")
SERIES = np.where(DRAW.random((12, 6, 2)) < 0.2, np.nan, DRAW.normal(size=(12, 6, 2))).astype("f")
CLASSES = np.arange(12) % 2
DAYS = np.column_stack([np.arange(1, 13), CLASSES])
STEP = pc.FedAvg(rounds=1, batch_size=6, optimizer="adam", lr=0.01)
CASES = {
    "mlp, dropout": ("mlp", TABLE, CLASSES, {"architecture_options": {"dropout": 0.5}}),
    "cox": ("linear", TABLE, DAYS, {"loss": "cox"}),
    "poisson": ("linear", TABLE, CLASSES, {"loss": "poisson"}),
    "three classes": ("linear", TABLE, np.arange(12) % 3, {"class_weight": "balanced"}),
    "focal": ("linear", TABLE, CLASSES, {"loss": "focal"}),
    "cnn": ("cnn", IMAGES, CLASSES, {"augment": {"flip": {"axes": ["width"]}}}),
    "unet": (
        "unet",
        IMAGES,
        IMAGES > 0,
        {"loss": "dice_cross_entropy", "architecture_options": {"channels": (2, 4)}},
    ),
    "gru": ("gru", SERIES, CLASSES, {"architecture_options": {"hidden": 4}}),
    "tcn": ("tcn", SERIES, CLASSES, {"architecture_options": {"hidden": 4, "layers": 2}}),
    "FedSGD": ("mlp", TABLE, CLASSES, {"strategy": pc.FedSGD(rounds=2)}),
    "FedProx": ("mlp", TABLE, CLASSES, {"strategy": pc.FedProx(rounds=1, local_epochs=2)}),
    "Scaffold": ("mlp", TABLE, CLASSES, {"strategy": pc.Scaffold(rounds=2)}),
    "Ditto": ("mlp", TABLE, CLASSES, {"strategy": pc.Ditto(rounds=1)}),
    "fine_tune": ("mlp", TABLE, CLASSES, {"strategy": pc.FedAvg(rounds=1, fine_tune=2)}),
    "validation": ("mlp", TABLE, CLASSES, {"validation": 0.3}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_all_that_is_computed_is_on_the_card(card, case):
    name, x, y, more = case
    labels = np.repeat(["a", "b"], 6)
    more = {"strategy": STEP, **more}

    def fitted(where):
        return pc.NeuralNetwork(name, **more).fit(
            x, y, sites=labels, engine=pc.Embedded(device=where)
        )

    moved, plain = fitted("cuda"), fitted("cpu")
    assert "cuda" in card
    near = {"rtol": 1e-4, "atol": 1e-6}  # recurrent layers are other kernels there
    np.testing.assert_allclose(moved.result_.weights, plain.result_.weights, **near)
    np.testing.assert_allclose(moved.predict(x), plain.predict(x), **near)


@pytest.mark.parametrize("unit", ["patient", "hospital"])
def test_noisy_steps_are_on_the_card(card, unit):
    noise = {"unit": unit, "clip": 1.0} | ({"rate": 1.0} if unit == "patient" else {})
    hospitals = pc.split(patients(), by="h", policy=pc.Policy(updates_alone=True))
    model = pc.NeuralNetwork("mlp", scale="none", noise=noise, strategy=pc.FedAvg(rounds=1))
    private = pc.DifferentialPrivacy(8.0, 1e-5)
    model.fit(hospitals, "y ~ a + b", privacy=private, engine=pc.Embedded(device="cuda"))
    assert "cuda" in card and np.isfinite(model.result_.weights).all()


def test_settings_of_the_process_are_as_they_were():
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    with device.draws(CPU, 5), device.repeatable(CARD):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32
        torch.rand(1)
    assert torch.equal(torch.rand(2), wanted)
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32)


@pytest.mark.parametrize(
    "words",
    ["CUDA out of memory. Tried to allocate 2.00 GiB", "CUBLAS_STATUS_ALLOC_FAILED when calling"],
)
def test_a_card_that_is_full_says_so(words):
    with pytest.raises(pc.Refused) as found, network.enough_memory():
        raise RuntimeError(words)
    assert found.value.code == "OUT_OF_MEMORY"
    with pytest.raises(RuntimeError, match="illegal"), network.enough_memory():
        raise RuntimeError("CUDA error: an illegal instruction was encountered")
