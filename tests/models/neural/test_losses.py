"""Losses against PyTorch's, MONAI's and numpy's, and by finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.models.neural.losses import LOSSES

torch = pytest.importorskip("torch")


def options(name, **given):
    return {**{key: default for key, (default, _) in LOSSES[name].options.items()}, **given}


def rows(name, outputs, target, **given):
    made = [torch.from_numpy(np.asarray(one)) for one in (outputs, target)]
    return LOSSES[name].rows(*made, options(name, **given)).numpy()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_focal_is_the_cross_entropy_at_gamma_0_and_its_formula_beyond(rng):
    f, y = rng.normal(size=(50, 1)) * 3, rng.integers(0, 2, 50).astype(float)
    np.testing.assert_allclose(
        rows("focal", f, y, gamma=0.0), rows("cross_entropy", f, y), rtol=1e-12
    )
    p = 1 / (1 + np.exp(-f[:, 0]))
    own, alpha = np.where(y == 1, p, 1 - p), np.where(y == 1, 0.25, 0.75)
    by_hand = -alpha * (1 - own) ** 2 * np.log(own)
    np.testing.assert_allclose(rows("focal", f, y, gamma=2.0, alpha=0.25), by_hand, rtol=1e-9)
    f, y = rng.normal(size=(50, 3)), rng.integers(0, 3, 50).astype(float)
    p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
    own = p[np.arange(50), y.astype(int)]
    np.testing.assert_allclose(rows("focal", f, y), -((1 - own) ** 2) * np.log(own), rtol=1e-9)


def test_focal_agrees_with_monai(rng):
    losses = pytest.importorskip("monai.losses")
    f, y = rng.normal(size=(20, 1)), rng.integers(0, 2, 20).astype(float)
    theirs = losses.FocalLoss(gamma=2.0, alpha=0.25, reduction="none")
    made = theirs(torch.from_numpy(f), torch.from_numpy(y[:, None])).numpy()[:, 0]
    np.testing.assert_allclose(rows("focal", f, y, alpha=0.25), made, rtol=1e-5)


def test_poisson_agrees_with_torch(rng):
    f, y = rng.normal(size=(30, 1)), rng.poisson(2, 30).astype(float)
    theirs = torch.nn.PoissonNLLLoss(log_input=True, reduction="none")
    made = theirs(torch.from_numpy(f[:, 0]), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(rows("poisson", f, y), made, rtol=1e-12)
    assert np.isfinite(rows("poisson", np.array([[1e4]]), np.array([1.0]))).all()


def test_cox_is_the_partial_likelihood_with_ties_by_breslow(rng):
    time, event = rng.integers(1, 6, 40).astype(float), rng.integers(0, 2, 40).astype(float)
    risk = rng.normal(size=(40, 1))
    at_risk = [np.log(np.exp(risk[time >= t]).sum()) for t in time]
    by_hand = event * (np.array(at_risk) - risk[:, 0])
    target = np.column_stack([time, event])
    np.testing.assert_allclose(rows("cox", risk, target), by_hand, rtol=1e-12)
    turned = rng.permutation(40)
    np.testing.assert_allclose(rows("cox", risk[turned], target[turned]), by_hand[turned])


def test_cox_agrees_with_statsmodels(rng):
    duration = pytest.importorskip("statsmodels.duration.api")
    x, time, event = rng.normal(size=(60, 2)), rng.integers(1, 20, 60), rng.integers(0, 2, 60)
    coef = np.array([0.3, -0.7])
    theirs = duration.PHReg(time, x, event, ties="breslow").loglike(coef)
    ours = rows("cox", (x @ coef)[:, None], np.column_stack([time, event]).astype(float))
    assert ours.sum() == pytest.approx(-theirs, rel=1e-10)


@pytest.mark.parametrize("event", [0.0, 1.0])
def test_cox_of_one_row_is_nothing(event):
    assert rows("cox", np.array([[2.0]]), np.array([[3.0, event]])) == pytest.approx(0.0)


def test_dice_agrees_with_monai(rng):
    losses = pytest.importorskip("monai.losses")
    f, y = rng.normal(size=(4, 2, 6, 5)), rng.integers(0, 2, (4, 2, 6, 5)).astype(float)
    made = [torch.from_numpy(one) for one in (f, y)]
    theirs = losses.DiceLoss(sigmoid=True, reduction="none")(*made).numpy()
    np.testing.assert_allclose(rows("dice", f, y), theirs.reshape(4, 2).mean(1), rtol=1e-9)
    f, y = f[:, :1], y[:, :1]  # of several channels MONAI's cross-entropy tells classes apart
    made = [torch.from_numpy(one) for one in (f, y)]
    both = losses.DiceCELoss(sigmoid=True, reduction="mean")(*made).item()
    assert rows("dice_cross_entropy", f, y).mean() == pytest.approx(both, rel=1e-9)
    empty = np.full((1, 1, 3, 3), -50.0), np.zeros((1, 1, 3, 3))
    assert rows("dice", *empty) == pytest.approx(0.0, abs=1e-9)


CASES = {
    "cross_entropy": ((6, 1), lambda rng: rng.integers(0, 2, 6)),
    "focal": ((6, 3), lambda rng: rng.integers(0, 3, 6)),
    "squared": ((6, 1), lambda rng: rng.normal(size=6)),
    "poisson": ((6, 1), lambda rng: rng.poisson(2, 6)),
    "cox": ((6, 1), lambda rng: np.column_stack([[1, 2, 2, 3, 4, 4], [1, 1, 1, 0, 1, 0]])),
    "dice": ((2, 2, 3, 3), lambda rng: rng.integers(0, 2, (2, 2, 3, 3))),
    "dice_cross_entropy": ((2, 1, 3, 3), lambda rng: rng.integers(0, 2, (2, 1, 3, 3))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences(name, rng):
    shape, target = CASES[name]
    y = torch.from_numpy(target(rng).astype(float))
    outputs = torch.from_numpy(rng.normal(size=shape)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: LOSSES[name].rows(f, y, options(name)).sum(), (outputs,)
    )
