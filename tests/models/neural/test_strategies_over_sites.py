"""Strategies over hospitals with gates: the same bytes, what stays, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.checkpoint import Checkpoint
from polyclinic.core.errors import Refused
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.models.neural.algorithm import Training
from polyclinic.models.neural.kinds import check_predictor, check_train
from polyclinic.models.neural.network import network_of
from polyclinic.models.neural.personal import personal
from polyclinic.models.neural.turns import trains

FORMULA = "ill ~ u + v + w"
SCAFFOLD = pc.Scaffold(2, lr=0.3, batch_size=16)
DITTO = pc.Ditto(2, lr=0.3, batch_size=16, pull=0.1)
TUNED = pc.FedAvg(2, lr=0.3, batch_size=16, fine_tune=30)
SAMPLED = pc.FedAvg(2, lr=0.3, batch_size=16, clients=0.75)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    draw = np.random.default_rng(5)
    found = pd.DataFrame(draw.normal(size=(150, 3)).round(3), columns=["u", "v", "w"])
    found["ill"] = (found.u - found.v + draw.logistic(size=150) > 0).astype(int)
    found["hospital"] = np.repeat(["a", "b", "c", "d"], [20, 30, 45, 55])
    return found


def model(strategy: Any, **more: Any) -> Any:
    return pc.NeuralNetwork("linear", strategy=strategy, scale="none", random_state=2, **more)


def fitted(frame: pd.DataFrame, strategy: Any, **more: Any) -> Any:
    return model(strategy).fit(pc.split(frame, by="hospital"), FORMULA, **more)


@pytest.fixture(scope="module")
def whole(frame):
    """Fits that nothing disturbed, each made once."""
    return lru_cache(lambda strategy: fitted(frame, strategy))


class Killed(Exception):
    """Something stopped the run."""


def stopped_after(rounds: int):
    def callback(done):
        if done.number == rounds:
            raise Killed

    return callback


@pytest.mark.parametrize("strategy", [SCAFFOLD, DITTO, SAMPLED], ids=repr)
def test_the_same_bytes_secure_and_in_any_order(rows, frame, strategy):
    turned = frame.iloc[np.argsort(-frame.hospital.map(ord), kind="stable")]
    found = fitted(turned, strategy, privacy=pc.SecureSum())
    arrays = frame[["u", "v", "w"]].to_numpy()
    domain = model(strategy).fit(arrays, frame.ill.to_numpy(), sites=frame.hospital.to_numpy())
    assert found._data.federation.sites == tuple("dcba")
    assert domain.result_.weights.tobytes() == found.result_.weights.tobytes()


def test_the_same_bytes_where_updates_are_seen(rows, frame, whole):
    policy = pc.Policy(updates_alone=True, patients_per_coefficient=1)
    clear = model(SCAFFOLD).fit(pc.split(frame, by="hospital", policy=policy), FORMULA)
    assert not clear._data.federation.summing.secure
    found = whole(SCAFFOLD)
    assert found._data.federation.summing.secure
    assert clear.result_.weights.tobytes() == found.result_.weights.tobytes()


@pytest.mark.parametrize("strategy", [SCAFFOLD, replace(DITTO, fine_tune=4)], ids=repr)
def test_the_same_bytes_after_a_resume(rows, frame, strategy, tmp_path, whole):
    sites, store = pc.split(frame, by="hospital"), Checkpoint(tmp_path / "run")
    with pytest.raises(Killed):
        model(strategy).fit(sites, FORMULA, store=store, callbacks=[stopped_after(2)])
    assert store.load() is not None
    resumed = model(strategy).fit(sites, FORMULA, store=store)
    assert resumed.result_.weights.tobytes() == whole(strategy).result_.weights.tobytes()
    assert resumed.result_.after == whole(strategy).result_.after


def test_random_numbers_go_on_where_they_were(rows, frame, tmp_path):
    """Dropout, balanced batches and whose turn it is follow from the seed and the round alone."""
    strategy = pc.FedAdam(4, lr=0.1, batch_size=8, clients=0.75)

    def network(dropout=0.5):
        options = {"hidden": (6,), "dropout": dropout}
        more = {"architecture_options": options, "sampling": "balanced", "random_state": 3}
        return pc.NeuralNetwork("mlp", strategy=strategy, **more)

    sites, store = pc.split(frame, by="hospital"), Checkpoint(tmp_path / "run")
    with pytest.raises(Killed):
        network().fit(sites, FORMULA, store=store, callbacks=[stopped_after(3)])
    pytest.importorskip("torch").manual_seed(99)  # what the process has drawn meanwhile
    resumed = network().fit(sites, FORMULA, store=store).result_.weights
    whole = [network(d).fit(pc.split(frame, by="hospital"), FORMULA).result_ for d in (0.5, 0.0)]
    assert resumed.tobytes() == whole[0].weights.tobytes()
    assert resumed.tobytes() != whole[1].weights.tobytes()


@pytest.mark.parametrize("strategy", [SCAFFOLD, DITTO], ids=repr)
def test_one_domain_goes_on_with_its_memory(rows, strategy, tmp_path):
    spec = rows.fit(strategy).spec_
    whole, store = rows.domain(), Checkpoint(tmp_path / "run")
    wanted = fit(spec.algorithm(), whole, seed=3)
    with pytest.raises(Killed):
        fit(spec.algorithm(), rows.domain(), seed=3, store=store, callbacks=[stopped_after(2)])
    later = rows.domain()
    again = fit(spec.algorithm(), later, seed=3, store=store)
    assert again.model[-1].weights.tobytes() == wanted.model[-1].weights.tobytes()
    after = wanted.state["done"][-1]["after"]
    one, two = (dict(domain.memory()["kept"])[after] for domain in (whole, later))
    for name in "abc":
        assert repr(one[name]) == repr(two[name])


def test_a_run_that_explodes_is_refused_and_nothing_is_lost(rows, frame, tmp_path):
    sites, store = pc.split(frame, by="hospital"), Checkpoint(tmp_path / "run")
    wild = pc.FedAvg(3, lr=900.0, weight_decay=900.0, batch_size=4, local_epochs=9)
    with pytest.raises(Refused) as found:
        model(wild).fit(sites, FORMULA, store=store)
    assert found.value.code == "LOSS_EXPLODED"
    assert len(store.load()["rounds"]) == 1  # the moments, as they were
    model(pc.FedAvg(2)).fit(sites, FORMULA)


def test_one_site_in_turn_needs_a_policy_that_allows_it(rows, frame):
    with pytest.raises(Refused) as found:
        fitted(frame, pc.Cyclic(2))
    assert found.value.code == "TOO_FEW_SITES"


def test_whoever_has_not_the_turn_adds_zeros_of_nobody(rows):
    spec = rows.fit(pc.Scaffold(1, clients=0.4)).spec_
    plan = Training(spec, _moments(spec, rows)).plan(Training(spec, _moments(spec, rows)).init(0))
    task, memory = lookup("neural.train", 1), {"control": np.ones(4, np.float32)}
    turns = 0
    for name, (x, y) in zip("abc", rows.sites, strict=True):
        part = Partition({"X": x, "y": y}, site=name)
        contribution, after = task.remember(plan, part, memory)
        exposure = task.exposure(plan, part, {})
        assert contribution.leaves["everyone"] == len(y) << 28
        if trains(spec, name, 0):
            turns += 1
            assert contribution.evidence.patients == len(y) and exposure.updates == 4
        else:
            assert contribution.evidence.patients == 0 and exposure.updates == 0
            assert after is memory
            others = set(contribution.leaves) - {"everyone"}
            assert not any(np.any(contribution.leaves[leaf]) for leaf in others)
    assert turns == 1


def _moments(spec, rows):
    return fit(spec.algorithm(), rows.domain()).model[0]


def loss(numbers: np.ndarray, mine: pd.DataFrame) -> float:
    """Sum of the log losses of a linear network."""
    logit = mine[["u", "v", "w"]].to_numpy() @ numbers[:3] + numbers[3]
    return float(np.sum(np.logaddexp(0, logit) - mine.ill.to_numpy() * logit))


@pytest.mark.parametrize("strategy", [replace(DITTO, fine_tune=4), TUNED], ids=repr)
def test_own_networks_score_their_own_patients(rows, frame, strategy, whole, monkeypatch):
    # As they are, without groups of patients.
    monkeypatch.setattr("polyclinic.evaluation.rows.together", lambda p, keys, least: p)
    found = whole(strategy)
    measures = found.evaluate(validate="none").measures
    federation, own = found._data.federation, 0.0
    for name, mine in frame.groupby("hospital"):
        memory = federation.transport.sites[name]._lent(found.result_.after, federation.cohort)
        own += loss(memory["own"]["weights"], mine)
    assert measures["all"]["log_loss"] == pytest.approx(own / len(frame), abs=1e-5)
    assert abs(own - loss(found.result_.weights, frame)) / len(frame) > 2e-3
    assert set(measures["not_shown"]) == set("abcd")  # its measures could tell its network


def test_the_last_layer_never_leaves(rows):
    spec = rows.fit(pc.FedAvg(1)).spec_
    strategy = pc.FedPer(3, lr=0.3)
    spec = replace(spec, architecture="mlp", strategy=strategy)
    domain = rows.domain()
    run = fit(spec.algorithm(), domain, seed=3)
    masks = personal(strategy, network_of(spec))
    assert masks.weights.sum() == 33
    first = Training(spec, run.model[0]).init(3)["weights"]
    assert np.array_equal(run.model[-1].weights[masks.weights], first[masks.weights])
    assert not np.array_equal(run.model[-1].weights[~masks.weights], first[~masks.weights])
    kept = dict(domain.memory()["kept"])[run.model[-1].after]
    layers = {name: kept[name]["kept"]["weights"] for name in "abc"}
    assert not np.allclose(layers["a"], layers["b"]) and len(layers["c"]) == 33


HOSTILE = {
    "another round": {"round": 7},
    "the round after the last": {"round": 2},
    "another step size": {"lr": 5.0},
    "a state without the control": {"extra": None},
    "a control of another size": {"extra": {"control": np.zeros(2)}},
    "a control that is not finite": {"extra": {"control": np.full(4, np.nan)}},
    "more beside it": {"extra": {"control": np.zeros(4), "more": np.zeros(4)}},
    "huge weights": {"weights": np.full(4, 1e30)},
    "no earlier round": {"round": 1, "after": ""},
    "an earlier round of the first": {"after": "f" * 64},
    "text": {"after": 3},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_plans_are_refused(rows, name):
    found = rows.fit(SCAFFOLD)
    algorithm = Training(found.spec_, _moments(found.spec_, rows))
    plan = algorithm.plan(algorithm.init(2))
    check_train(found.spec_, plan)
    state = {**plan.values["state"], **HOSTILE[name]}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises((ValueError, TypeError)):
        check_train(found.spec_, Plan(plan.task, {**plan.values, "state": state}))


def test_a_predictor_reads_no_memory_that_it_has_not(rows):
    found = rows.fit(pc.FedAvg(1))
    data = found.predictor_.to_data()
    check_predictor(found.spec_, data)
    with pytest.raises(ValueError, match="another model"):
        check_predictor(found.spec_, {**data, "after": "f" * 64})
