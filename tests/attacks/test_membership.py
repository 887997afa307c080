"""What noise leaves to guess of whether a patient was in the data.

The attacker knows everybody else and the patient's values. Every threshold of every score must
keep TPR <= e^epsilon FPR + delta.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

import polyclinic as pc
from polyclinic.core import ring
from polyclinic.core.leaf import Leaf
from polyclinic.data.read import split_frame
from polyclinic.privacy import accounting, noisy
from polyclinic.privacy.bounded import BoundedSum
from tests.attacks.world import BOOK, FRAME, VICTIM

DELTA = 1e-3
Scores = dict[bool, NDArray[np.float64]]


def thresholds(scores: Scores) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.quantile(scores[True], np.linspace(0.02, 0.98, 25))
    return found


def broken(scores: Scores, epsilon: float) -> bool:
    """Whether the guarantee is broken beyond what chance explains (1e-5 at each threshold)."""
    for threshold in thresholds(scores):
        hits, false = (int((scores[present] > threshold).sum()) for present in (True, False))
        runs = len(scores[True])
        lower = beta.ppf(1e-5, hits, runs - hits + 1) if hits else 0.0
        upper = beta.ppf(1 - 1e-5, false + 1, runs - false) if false < runs else 1.0
        if lower > np.exp(epsilon) * upper + DELTA:
            return True
    return False


def test_membership_is_guessed_no_better_than_the_guarantee_says() -> None:
    """Of a mean with noise, by the likelihood: TPR <= e^epsilon FPR + delta at every threshold."""
    runs, multiplier = 4000, 1.0
    leaf = Leaf("sum", (3,), bound=1.0)
    bounded = BoundedSum(1.0)
    draw = np.random.default_rng(3)
    others = draw.normal(0.0, 0.3, (50, 3))
    person = np.array([[0.6, 0.6, 0.6]])
    scores = {}
    for present in (False, True):
        data = np.vstack([others, person]) if present else others
        words = {"sum": ring.encode(bounded.of(data).total)}
        opened = [
            ring.decode(noisy.Noise("gaussian", multiplier).added([leaf], words, 1)["sum"])
            for _ in range(runs)
        ]
        scores[present] = (np.array(opened) - bounded.of(others).total) @ person[0]
    epsilon = accounting.epsilon([noisy.Noise("gaussian", multiplier).event], DELTA)
    assert not broken(scores, epsilon)
    strongest = max(
        (scores[True] > t).mean() - (scores[False] > t).mean() for t in thresholds(scores)
    )
    assert strongest > 0.2  # the attack is a real one: without noise it is always right


SMALL = FRAME.groupby("site").head(24).reset_index(drop=True)
_draw = np.random.default_rng(1)
SMALL["chol"] = _draw.uniform(0, 300, len(SMALL)).round(1)
SMALL["lab"] = _draw.uniform(20, 40, len(SMALL)).round(1)
SMALL.loc[VICTIM, ["chol", "lab"]] = [512.0, 64.0]  # as far from the others as can be
WORLDS = {
    True: split_frame(SMALL, "site", BOOK),
    False: split_frame(SMALL.drop(index=VICTIM), "site", BOOK),
}
POLICY = pc.Policy(patients_per_coefficient=5, min_residual=5)


def prediction(present: bool, privacy: pc.DifferentialPrivacy | None = None) -> float:
    """What a new model says of a patient like the victim; its score."""
    sites = pc.Sites(WORLDS[present], BOOK, policy=POLICY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # standard errors drown in so much noise
        model = pc.LinearRegression().fit(sites, "lab ~ chol", privacy=privacy)
    return float(model.predict(pd.DataFrame({"chol": [512.0]}))[0])


def guesses(epsilon: float, runs: int = 120) -> Scores:
    privacy = pc.DifferentialPrivacy(epsilon, DELTA)
    return {
        present: np.array([prediction(present, privacy) for _ in range(runs)])
        for present in (True, False)
    }


def test_an_exact_model_tells_who_was_in_it() -> None:
    assert prediction(True) > prediction(False) + 1.0


def test_a_model_with_noise_keeps_its_guarantee() -> None:
    assert not broken(guesses(2.0), 2.0)


def test_a_model_with_too_little_noise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above is not blind: a hundredth of the noise breaks the guarantee."""
    add = noisy.add_noise
    monkeypatch.setattr(
        noisy, "add_noise", lambda words, sigma, *more: add(words, sigma / 100, *more)
    )
    assert broken(guesses(2.0), 2.0)
