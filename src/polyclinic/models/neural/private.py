"""Networks under differential privacy: noise in every step, or in every hospital's whole update.

unit "patient"   DP-SGD (Abadi et al. 2016) at the hospital. In each local step every patient is
                 drawn with probability `rate`; the mean gradient of a patient's own rows is
                 shortened to norm `clip`; to the sum of the drawn patients comes Gaussian noise of
                 `multiplier` times that. The sum is divided by a number that stands in the plan.
unit "hospital"  the hospital's whole change of the network is shortened to norm `clip`, and the
                 gate adds the noise. One patient may turn it from any point of that ball to any
                 other, so twice `clip` is what he can change.

Neighbouring data differ by one patient with all rows. Not even the number of patients is shown: one
noisy count is a part of the budget, and nothing else follows from how many there are. No loss,
buffer, mean or standard deviation leaves.

Patients are drawn, and noise is, by the operating system's randomness. A patient's gradient is
computed from his own rows alone, so that its last bit tells nothing of the others, and is added up
in whole quanta.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import ring
from polyclinic.core.errors import InputError, Refused
from polyclinic.models.neural.architectures import torch
from polyclinic.models.neural.inputs import Inputs
from polyclinic.models.neural.network import Network, array, enough_memory, network_of, seeded
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.train import Question, optimizer_of, row_weights, train
from polyclinic.privacy import accounting
from polyclinic.privacy.bounded import BoundedSum
from polyclinic.privacy.noise import add_noise, grid_of, rounded_sensitivity
from polyclinic.privacy.noisy import Noise

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

UNITS = ("patient", "hospital")
COUNT_SHARE = 0.05  # of epsilon and delta, for the noisy count of patients
AT_ONCE = 1 << 22  # numbers of patients' gradients that are held at once
PRIVATE = ("fedavg", "fedsgd", "fedbuff")
BATCH_NORM = (
    "batch normalisation mixes the rows of a batch; architectures with the option norm take "
    '{"norm": "group"}'
)


def steps_of(spec: NeuralSpec) -> int:
    """Noisy steps of a patient's hospital in one round."""
    strategy = spec.strategy
    if spec.privacy["unit"] == "hospital" or strategy.gradients:
        return 1
    a_pass = math.ceil(1 / spec.privacy["rate"])
    return strategy.local_steps or strategy.local_epochs * a_pass


def noise_for(spec: NeuralSpec, counts: bool) -> dict[str, Any]:
    """What a plan asks of the hospitals: of the count of patients, or of a round of training."""
    about = spec.privacy
    if counts:
        return {"multiplier": _multiplier(about["epsilon"], about["delta"], COUNT_SHARE, 1, 1.0)}
    steps, rest = steps_of(spec), 1 - COUNT_SHARE
    hospital = about["unit"] == "hospital"
    rate = 1.0 if hospital else float(about["rate"])
    many = spec.strategy.rounds * steps
    found = {"multiplier": _multiplier(about["epsilon"], about["delta"], rest, many, rate)}
    return found if hospital else {**found, "mechanism": "steps", "rate": rate, "times": steps}


@lru_cache(maxsize=64)
def _multiplier(epsilon: float, delta: float, share: float, times: int, rate: float) -> float:
    return accounting.calibrate(share * epsilon, share * delta, times, rate=rate)


def check_private(spec: NeuralSpec) -> None:
    """Raises NO_PRIVATE_VERSION for what no noise of this kind covers."""
    reasons = {
        'scale = "pooled": means and standard deviations are exact sums; take "range" or "none"': (
            spec.scale == "pooled" and spec.table > 0
        ),
        "class_weight = balanced: the counts of classes are exact sums": (
            spec.class_weight == "balanced"
        ),
        "validation: the watched loss is an exact sum": spec.validation > 0,
        'sampling = "balanced": how often a patient is met hangs on the others': (
            spec.sampling == "balanced"
        ),
        "augment: rows are trained on as they are": bool(spec.augment),
        "site_steps and local_seconds: the steps that are paid for are those of all": bool(
            spec.strategy.site_steps or spec.strategy.local_seconds
        ),
        "compress: what is left over of an update has no noise": bool(spec.strategy.compress),
        f"the strategy {spec.strategy!r}": (
            spec.strategy.name not in PRIVATE
            or spec.strategy.by_turns
            or spec.strategy.fine_tune > 0
        ),
        BATCH_NORM: _mixes(network_of(spec)),
    }
    for what, found in reasons.items():
        if found:
            raise InputError(
                f"{what}: no version under differential privacy",
                code="NO_PRIVATE_VERSION",
                rule="all that leaves is bounded per patient, and has noise",
                next="change it, or fit without DifferentialPrivacy",
            )


def _mixes(network: Network) -> bool:
    batch_norm = torch().nn.modules.batchnorm._BatchNorm
    return any(isinstance(part, batch_norm) for part in network.module.modules())


def patients_round(
    spec: NeuralSpec,
    inputs: Inputs,
    rows: Ints,
    persons: Ints,
    asked: Question,
    noise: Noise,
) -> Floats:
    """By how much noisy steps moved the weights, (n_weights,). `persons`: of all rows."""
    network = network_of(spec, inputs.device)
    network.load(asked.weights, asked.beside)
    weight = row_weights(spec, inputs, asked.class_weight)
    groups = _by_patient(rows, persons)
    clip = float(spec.privacy["clip"])
    expected = noise.rate * max(float(asked.extra["patients"]), 1.0)
    gradients = spec.strategy.gradients
    optimizer = None if gradients else optimizer_of(spec, network.parameters, asked.lr)
    moved = np.zeros(len(asked.weights))
    unknown = secrets.randbelow(2**62)  # of dropout
    with seeded(unknown, network.device), enough_memory():
        network.module.train()
        for _ in range(noise.times):
            drawn = [groups[i] for i in np.flatnonzero(poisson(len(groups), noise.rate))]
            total = _clipped_sum(network, inputs, drawn, weight, clip, len(moved))
            step = noised(total, clip, noise.multiplier) / expected
            if optimizer is None:
                moved -= step
                continue
            _set_gradients(network, step)
            optimizer.step()
            if not np.isfinite(network.weights()).all():  # follows from noisy numbers alone
                raise _ran_away()
    network.module.zero_grad(set_to_none=True)
    return moved if gradients else network.weights().astype(np.float64) - asked.weights


def hospital_round(spec: NeuralSpec, inputs: Inputs, rows: Ints, asked: Question) -> Floats:
    """By how much ordinary training moved the weights, shortened to `clip`, (n_weights,)."""
    nothing = np.zeros(len(asked.weights))
    if not len(rows):
        return nothing
    try:
        change = train(spec, network_of(spec, inputs.device), inputs, rows, asked, {}).change
    except Refused:  # whether training runs away can be one patient's doing
        return nothing
    return shortened(change, float(spec.privacy["clip"]))


def shortened(vector: Floats, clip: float) -> Floats:
    """`vector` with an L2 norm of `clip` at most."""
    largest = float(np.abs(vector).max(initial=0.0))
    if largest == 0.0:
        return vector
    unit = vector / largest
    norm = float(np.sqrt(unit @ unit))
    if largest * norm <= clip * (1 - 2.0**-40):
        return vector
    return np.asarray(unit * (clip * (1 - 2.0**-30) / norm))


def poisson(size: int, rate: float) -> NDArray[np.bool_]:
    """Which of `size` patients take part, each by itself with probability `rate` at most."""
    if rate >= 1:
        return np.ones(size, dtype=bool)
    drawn = np.frombuffer(os.urandom(8 * size), dtype=np.uint64)
    return np.asarray(drawn < np.uint64(math.floor(rate * 2.0**64)))


def noised(total: Floats, clip: float, multiplier: float) -> Floats:
    """A sum in which no patient counts for more than `clip`, with noise, on a grid."""
    grid = grid_of(multiplier * clip)
    sigma = multiplier * rounded_sensitivity(clip, total.size, grid)
    return ring.decode(add_noise(ring.encode(total), sigma, grid))


def _by_patient(rows: Ints, persons: Ints) -> list[Ints]:
    """The rows of each patient."""
    order = rows[np.argsort(persons[rows], kind="stable")]
    cuts = np.flatnonzero(np.diff(persons[order])) + 1
    return [part for part in np.split(order, cuts) if len(part)]


def _clipped_sum(
    network: Network,
    inputs: Inputs,
    drawn: list[Ints],
    weight: NDArray[np.float32],
    clip: float,
    size: int,
) -> Floats:
    """Sum of the drawn patients' gradients, each of norm `clip` at most, in whole quanta."""
    bounded, total = BoundedSum(clip), np.zeros(size)
    at_once = max(1, AT_ONCE // max(size, 1))
    for start in range(0, len(drawn), at_once):
        part = drawn[start : start + at_once]
        gradients = np.stack([_gradient(network, inputs, own, weight) for own in part])
        total += bounded.of(gradients).total
    return total


def _gradient(network: Network, inputs: Inputs, own: Ints, weight: NDArray[np.float32]) -> Floats:
    """The mean gradient of one patient's rows; nothing where it is not finite."""
    _, losses = network.rows(inputs, own)
    loss = (losses * network.tensor(weight[own])).sum() / len(own)
    parts = torch().autograd.grad(loss, network.parameters, allow_unused=True)
    found = [
        np.zeros(p.numel()) if g is None else array(g).ravel()
        for p, g in zip(network.parameters, parts, strict=True)
    ]
    whole = np.concatenate(found)
    return whole if np.isfinite(whole).all() else np.zeros_like(whole)


def _set_gradients(network: Network, values: Floats) -> None:
    at = 0
    for parameter in network.parameters:
        part = values[at : at + parameter.numel()].astype(np.float32)
        parameter.grad = network.tensor(part).reshape(parameter.shape)
        at += parameter.numel()


def _ran_away() -> Refused:
    return Refused(
        "training ran away here: a weight is not a finite number",
        code="LOSS_EXPLODED",
        rule="only finite numbers leave a site",
        next="lower the learning rate",
    )


def good_privacy(value: Any) -> bool:
    """Whether `value` is what `NeuralSpec.privacy` may hold."""
    if not isinstance(value, Mapping) or not value:
        return value == {}
    if set(value) != {"unit", "epsilon", "delta", "clip", "rate"} or value["unit"] not in UNITS:
        return False
    numbers = [value[name] for name in ("epsilon", "delta", "clip", "rate")]
    return (
        all(type(one) is float and math.isfinite(one) and one > 0 for one in numbers)
        and value["delta"] < 1
        and value["rate"] <= 1
        and 2.0**-30 <= value["clip"] <= 2.0**20
    )
