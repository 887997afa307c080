"""Networks follow scikit-learn's conventions."""

from __future__ import annotations

import warnings

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import polyclinic as pc

torch = pytest.importorskip("torch")
TINY = {
    "architecture_options": {"hidden": (8,)},
    "strategy": pc.FedAvg(rounds=1, local_epochs=60, batch_size=0, lr=0.1, optimizer="adam"),
}
EXPECTED: dict[str, str] = {}


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
