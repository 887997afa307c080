"""Models of Keras: the same sums, the same network."""

from __future__ import annotations

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.design import Design, Term
from polyclinic.models.neural.keras import keras_architecture
from polyclinic.models.neural.network import Network
from polyclinic.models.neural.spec import NeuralSpec

torch = pytest.importorskip("torch")
# Keras 3.15 makes arrays of its variables in a way that numpy 2 is to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SITES = np.repeat(list("abc"), 30)


@pytest.fixture(scope="module")
def keras():
    from polyclinic.models.neural.keras import keras as load

    pytest.importorskip("torch")
    try:
        return load()
    except pc.PolyclinicError:
        pytest.skip("Keras is not installed, or does not compute with PyTorch")


@pytest.fixture(autouse=True)
def seeded(keras):
    keras.utils.set_random_seed(0)  # it draws the weights that a model begins with


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    return x, x @ [1, 2, 3, 4.0] + 2 + rng.normal(size=90)


def dense(keras, *layers):
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])


def test_gradient_sharing_of_a_linear_model_is_least_squares(keras, data):
    x, y = data
    model = dense(keras)
    full = np.column_stack([x, np.ones(90)])
    theta = np.concatenate([one.ravel() for one in model.get_weights()])
    strategy = pc.FedSGD(rounds=3, lr=0.3)
    net = pc.KerasNetwork(model, loss="squared", scale="none", strategy=strategy)
    net.fit(x, y, sites=SITES)
    for _ in range(3):  # pooled gradient descent
        theta = theta - 0.3 * full.T @ (full @ theta - y) / 90
    found = np.concatenate([one.ravel() for one in net.to_keras().get_weights()])
    np.testing.assert_allclose(found, theta, rtol=1e-4)
    net.set_params(strategy=pc.FedSGD(rounds=100, lr=0.3)).fit(x, y, sites=SITES)
    found = np.concatenate([one.ravel() for one in net.to_keras().get_weights()])
    np.testing.assert_allclose(found, np.linalg.lstsq(full, y)[0], rtol=1e-4)


def test_averaging_trains_a_classifier_with_running_statistics(keras, data):
    x, y = data[0], np.where(data[1] > 2, "high", "low")
    layers = keras.layers
    model = dense(keras, layers.Dense(8, activation="relu"), layers.BatchNormalization())
    before = model.get_weights()
    strategy = pc.FedAvg(rounds=8, local_epochs=8, batch_size=10, lr=0.03, optimizer="adam")
    net = pc.KerasNetwork(model, strategy=strategy).fit(x, y, sites=SITES)
    assert net.score(x, y) > 0.9
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert len(net.result_.beside) == 16 and (net.result_.beside[:8] != 0).any()
    given = (x - x.mean(0)) / x.std(0)
    logits = net.to_keras().predict(given, verbose=0)[:, 0]
    np.testing.assert_allclose(net.predictor_.outputs(net.partition(x))[:, 0], logits, rtol=1e-4)


def test_no_code_travels(keras, data, tmp_path):
    model = dense(keras)
    net = pc.KerasNetwork(model, loss="squared", strategy=pc.FedSGD(rounds=1)).fit(*data)
    sites = pc.datasets.heart_disease()
    for work in (lambda: net.save(tmp_path / "m.pcm"), lambda: net.fit(sites, "disease ~ age")):
        with pytest.raises(pc.InputError) as found:
            work()
        assert found.value.code == "NO_CODE_TRAVELS"
    with pytest.raises(pc.InputError) as found:
        pc.KerasNetwork("a model", loss="squared").fit(*data)
    assert found.value.code == "WRONG_TYPE"


def test_a_package_registers_one(keras, monkeypatch):
    from polyclinic.models.neural import architectures

    made = keras_architecture("lung", lambda spec: dense(keras))
    monkeypatch.setattr(architectures, "_installed", {"lung": made})
    monkeypatch.setattr(architectures, "_loaded", ["lung"])
    terms = tuple(Term(name, ()) for name in "abcd")
    one, same, other = (
        Network(NeuralSpec(Design(terms), "lung", seed=s)).weights() for s in (0, 0, 1)
    )
    assert len(one) == 5 and (one == same).all() and (one != other).any()


def test_without_keras_it_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(pc.PolyclinicError) as found:
        pc.KerasNetwork(None).fit([[0.0], [1.0]], [0, 1])
    assert found.value.code == "NO_KERAS" and "polyclinic[keras]" in found.value.next
