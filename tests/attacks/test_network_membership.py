"""Whether a network tells who it was trained on.

The attacker has the network, and of some patients values and outcome. His score of a patient is the
loss, with its sign turned: what was learnt by heart has a small one (Yeom et al. 2018). Half of
them were trained on, the others are of the same kind. Half of the outcomes are chance, so that they
can be learnt by heart only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.partition import Partition
from polyclinic.models.neural.inputs import Scaling, inputs_of
from polyclinic.models.neural.network import network_of
from polyclinic.models.neural.private import noise_for, patients_round
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.strategy import Strategy
from polyclinic.models.neural.train import Question, train
from polyclinic.privacy.noisy import Noise

torch = pytest.importorskip("torch")
PATIENTS, WIDTH = 90, 100
NAMES = tuple(f"x{i}" for i in range(WIDTH))
EXACT = Strategy(rounds=1, local_epochs=60, lr=1.0)
NOISY = Strategy(rounds=1, local_steps=40, lr=4.0)
PRIVACY = {"unit": "patient", "epsilon": 0.5, "delta": 1e-4, "clip": 4.0, "rate": 0.25}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def patients() -> Partition:
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, (WIDTH, 2 * PATIENTS))
    told, chance = draw.uniform(size=(2, 2 * PATIENTS)) < 0.5
    y = np.where(told, x[0] > 0, chance).astype(float)
    return Partition({**dict(zip(NAMES, x, strict=True)), "y": y})


def attack(strategy, noise=None):
    """Area under the attacker's curve, and his largest TPR - FPR: he has the network of a round."""
    terms = tuple(Term(name, (Factor("value", name),), 1.0) for name in NAMES)
    spec = NeuralSpec(Design(terms, "y", intercept=False), "linear", scale="none")
    spec = replace(spec, strategy=strategy, privacy=PRIVACY if noise else {})
    rows, inside = patients(), np.arange(2 * PATIENTS) % 2 == 0
    inputs = inputs_of(spec, Scaling(np.zeros(WIDTH), np.ones(WIDTH)), rows)
    weights = np.zeros(WIDTH + 1, np.float32)
    extra = {"patients": np.asarray(float(PATIENTS))}
    asked = Question(weights, weights[:0], 0, strategy.lr, np.zeros(0), extra)
    chosen, network = np.flatnonzero(inside), network_of(spec)
    if noise:
        moved = patients_round(spec, inputs, chosen, rows.persons, asked, noise)
    else:
        moved = train(spec, network, inputs, chosen, asked, {}).change
    network.load(moved.astype(np.float32), weights[:0])
    score = -network.losses(inputs, np.arange(2 * PATIENTS))
    false, true, _ = roc_curve(inside, score)
    return roc_auc_score(inside, score), (true - false).max()


def test_a_network_that_was_trained_too_long_tells():
    area, advantage = attack(EXACT)
    assert area > 0.7 and advantage > 0.35


def test_a_network_with_noise_in_every_step_does_not():
    spec = NeuralSpec(Design((), "y"), strategy=NOISY, privacy=PRIVACY)
    asked = noise_for(spec, counts=False)
    noise = Noise("steps", asked["multiplier"], asked["rate"], asked["times"])
    areas, advantages = np.mean([attack(NOISY, noise) for _ in range(3)], axis=0)
    assert areas < 0.6 and advantages < 0.25  # the most that chance gives
    # The same steps of the same patients tell as soon as there is little noise.
    area, advantage = attack(NOISY, replace(noise, multiplier=1e-6))
    assert area > 0.7 and advantage > 0.35
