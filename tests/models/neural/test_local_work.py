"""Sites that take unlike numbers of local steps: by name, by time, and what is made of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.models.neural import train
from polyclinic.models.neural.batches import batches
from polyclinic.models.neural.buffered import Buffered
from polyclinic.models.neural.kinds import with_privacy
from polyclinic.models.neural.strategy import Strategy
from tests.models.neural.reference import gradient

STEPS = {"a": 9, "b": 4, "c": 1}


def reference(strategy: Strategy, sites: dict, w: np.ndarray, nova: bool) -> np.ndarray:
    """FedNova (Wang et al. 2020) with vanilla local steps, or FedAvg, in numpy."""
    n = np.array([len(y) for _, y in sites.values()], dtype=float)
    p = n / n.sum()
    taken = np.array([STEPS[name] for name in sites], dtype=float)
    for t in range(strategy.rounds):
        changes = []
        for name, (x, y) in sites.items():
            at = w
            for rows in batches(strategy, np.arange(len(y)), t, 3, STEPS[name]):
                at = at - strategy.lr * gradient(at, x[rows], y[rows])
            changes.append(at - w)
        each = np.array(changes)
        w = w + (p @ taken) * (p @ (each / taken[:, None])) if nova else w + p @ each
    return w


@pytest.mark.parametrize("made", [pc.FedAvg, pc.FedNova])
def test_steps_by_site_are_the_paper_in_numpy(rows, made):
    strategy = made(4, lr=0.3, batch_size=8, local_steps=5, site_steps=STEPS)
    found = rows.fit(strategy)
    begin = Buffered(found.spec_, None).init(3)["weights"].astype(float)
    sites = dict(zip("abc", rows.sites, strict=True))
    wanted = reference(strategy, sites, begin, made is pc.FedNova)
    other = reference(strategy, sites, begin, made is not pc.FedNova)
    assert np.allclose(found.result_.weights, wanted, atol=1e-6, rtol=0)
    assert np.abs(wanted - other).max() > 1e-2


def test_fednova_of_like_sites_is_fedavg(rows):
    options = {"lr": 0.3, "batch_size": 8, "local_steps": 3}
    found, wanted = rows.fit(pc.FedNova(3, **options)), rows.fit(pc.FedAvg(3, **options))
    assert np.allclose(found.result_.weights, wanted.result_.weights, atol=1e-6, rtol=0)


def test_after_its_seconds_a_site_begins_no_further_step(rows, monkeypatch):
    now = iter(range(10**6))  # a second passes with every look
    monkeypatch.setattr(train.time, "monotonic", lambda: float(next(now)))
    options = {"rounds": 1, "lr": 0.3, "batch_size": 8}
    timed = rows.fit(pc.FedProx(local_epochs=50, local_seconds=3.0, **options))
    counted = rows.fit(pc.FedProx(local_steps=3, **options))
    assert timed.result_.weights.tobytes() == counted.result_.weights.tobytes()


def test_one_step_is_always_taken(rows):
    options = {"rounds": 1, "lr": 0.3, "batch_size": 8}
    timed = rows.fit(pc.FedNova(local_epochs=50, local_seconds=1e-9, **options))
    counted = rows.fit(pc.FedNova(local_steps=1, **options))
    assert timed.result_.weights.tobytes() == counted.result_.weights.tobytes()


def test_fewer_steps_take_less_time(rows):
    clock = pc.Embedded(arrivals={"a": 10.0, "b": 1.0, "c": 1.0})
    for strategy, time in ((pc.FedAvg(2, local_steps=10), 100.0), (pc.FedBuff(2, 3), 20.0)):
        bounded = replace(strategy, local_steps=10, site_steps=(("a", 2),))
        found = rows.fit(bounded, engine=clock)
        assert found.history_.time.tolist() == [20.0, 40.0], time


@pytest.mark.parametrize(
    "wrong",
    [{"site_steps": {"a": 0}}, {"site_steps": ("a",)}, {"local_seconds": 0}, {"momentum": 0.5}],
    ids=str,
)
def test_wrong_options(wrong):
    with pytest.raises(InputError) as found:
        pc.FedNova(**wrong)
    assert found.value.code in ("WRONG_VALUE", "UNKNOWN_OPTION")


def test_steps_of_a_site_that_is_not_there(rows):
    with pytest.raises(InputError, match="site_steps of x"):
        rows.fit(pc.FedAvg(1, site_steps={"x": 3}))


@pytest.mark.parametrize("more", [{"site_steps": {"a": 3}}, {"local_seconds": 2.0}], ids=str)
def test_noise_is_for_the_steps_of_all(rows, more):
    spec = rows.fit(pc.FedAvg(1, **more)).spec_
    with pytest.raises(InputError) as found:
        with_privacy(spec, None, 1.0, 1e-5)
    assert found.value.code == "NO_PRIVATE_VERSION" and "site_steps" in found.value.what


def test_it_travels_as_data():
    strategy = pc.FedNova(site_steps={"b": 2, "a": 1}, local_seconds=4)
    assert Strategy.from_data(strategy.to_data()) == strategy
    assert repr(strategy) == "FedNova(site_steps={'a': 1, 'b': 2}, local_seconds=4)"
    assert repr(pc.FedNova()) == "FedNova()"
