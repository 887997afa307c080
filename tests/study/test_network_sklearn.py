"""Networks follow scikit-learn's conventions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import polyclinic as pc

torch = pytest.importorskip("torch")
TINY = {
    "architecture_options": {"hidden": (8,)},
    "strategy": pc.FedAvg(rounds=1, local_epochs=40, batch_size=0, lr=0.1, optimizer="adam"),
}
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "asks for more than single precision has"
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@parametrize_with_checks(
    [pc.NeuralNetwork(**TINY), pc.NeuralNetwork(loss="squared", **TINY)],
    expected_failed_checks=lambda estimator: EXPECTED,
)
def test_scikit_learn_accepts_it(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its data are too few
        check(estimator)


def test_weights_are_repeated_rows_in_full_batches():
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(20, 2)), rng.normal(size=20), rng.integers(0, 4, 20)
    repeated = np.repeat(np.arange(20), weight)
    weighted = pc.NeuralNetwork(loss="squared", **TINY).fit(
        x, y, sample_weight=weight.astype(float)
    )
    plain = pc.NeuralNetwork(loss="squared", **TINY).fit(x[repeated], y[repeated])
    np.testing.assert_allclose(weighted.predict(x), plain.predict(x), atol=1e-4)
