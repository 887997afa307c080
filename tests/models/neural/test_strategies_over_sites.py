"""Strategies over hospitals with gates: the same bytes, what stays, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.checkpoint import Checkpoint
from polyclinic.core.errors import Refused
from polyclinic.core.fit import fit
from polyclinic.core.plan import Plan
from polyclinic.models.neural.algorithm import Training
from polyclinic.models.neural.kinds import check_predictor, check_train
from polyclinic.models.neural.network import network_of
from polyclinic.models.neural.personal import own, personal

FORMULA = "ill ~ u + v + w"
SCAFFOLD = pc.Scaffold(3, lr=0.3, batch_size=16)
DITTO = pc.Ditto(3, lr=0.3, batch_size=16, pull=0.1)
SAMPLED = pc.FedAvg(3, lr=0.3, batch_size=16, clients=0.75)


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


class Killed(Exception):
    """Something stopped the run."""


def stopped_after(rounds: int):
    def callback(done):
        if done.number == rounds:
            raise Killed

    return callback


@pytest.mark.parametrize("strategy", [SCAFFOLD, DITTO, SAMPLED], ids=repr)
def test_the_same_bytes_secure_or_not_and_in_any_order(rows, frame, strategy):
    found = fitted(frame, strategy)
    open_policy = pc.Policy(updates_alone=True)
    clear = model(strategy).fit(pc.split(frame, by="hospital", policy=open_policy), FORMULA)
    turned = frame.iloc[np.argsort(-frame.hospital.map(ord), kind="stable")]
    other = fitted(turned, strategy, privacy=pc.SecureSum())
    arrays = frame[["u", "v", "w"]].to_numpy()
    domain = model(strategy).fit(arrays, frame.ill.to_numpy(), sites=frame.hospital.to_numpy())
    assert found._data.federation.summing.secure
    assert not clear._data.federation.summing.secure
    for one in (clear, other, domain):
        assert one.result_.weights.tobytes() == found.result_.weights.tobytes()


@pytest.mark.parametrize("strategy", [SCAFFOLD, replace(DITTO, fine_tune=4)], ids=repr)
def test_the_same_bytes_after_a_resume(rows, frame, strategy, tmp_path):
    sites, store = pc.split(frame, by="hospital"), Checkpoint(tmp_path / "run")
    with pytest.raises(Killed):
        model(strategy).fit(sites, FORMULA, store=store, callbacks=[stopped_after(3)])
    assert store.load() is not None
    resumed = model(strategy).fit(sites, FORMULA, store=store)
    whole = fitted(frame, strategy)
    assert resumed.result_.weights.tobytes() == whole.result_.weights.tobytes()
    assert resumed.result_.after == whole.result_.after


@pytest.mark.parametrize("strategy", [SCAFFOLD, DITTO], ids=repr)
def test_one_domain_goes_on_with_its_memory(rows, strategy, tmp_path):
    spec = rows.fit(strategy).spec_
    whole, store = rows.domain(), Checkpoint(tmp_path / "run")
    wanted = fit(spec.algorithm(), whole, seed=3)
    with pytest.raises(Killed):
        fit(spec.algorithm(), rows.domain(), seed=3, store=store, callbacks=[stopped_after(3)])
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
    with pytest.raises(Refused) as found:
        fitted(frame, pc.FedAvg(2, clients=0.5))
    assert found.value.code == "TOO_FEW_SITES"
    sites = pc.split(frame, by="hospital", policy=pc.Policy(updates_alone=True))
    assert model(pc.Cyclic(2)).fit(sites, FORMULA).n_iter_ == 2


def own_loss(fit: Any, site: str, frame: pd.DataFrame) -> float:
    """Mean log loss of the hospital's own network over its own patients, from its memory."""
    federation = fit._data.federation
    door = federation.transport.sites[site]
    memory = door._kept(fit.result_.after, federation.cohort)
    network = network_of(fit.spec_)
    numbers = own(
        personal(fit.spec_.strategy, network), fit.result_.weights, fit.result_.beside, memory
    )
    mine = frame[frame.hospital == site]
    logit = mine[["u", "v", "w"]].to_numpy() @ numbers[0][:3] + numbers[0][3]
    return float(np.sum(np.logaddexp(0, logit) - mine.ill.to_numpy() * logit))


@pytest.mark.parametrize("strategy", [DITTO, replace(SCAFFOLD, fine_tune=30)], ids=repr)
def test_own_networks_score_their_own_patients(rows, frame, strategy):
    found = fitted(frame, strategy)
    with pytest.MonkeyPatch.context() as patch:  # as it is, without groups of patients
        patch.setattr("polyclinic.evaluation.rows.together", lambda p, keys, least: p)
        measures = found.evaluate(validate="none").measures
        common = (
            fitted(
                frame,
                replace(strategy, fine_tune=0)
                if strategy.fine_tune
                else pc.FedAvg(3, lr=0.3, batch_size=16),
            )
            .evaluate(validate="none")
            .measures
        )
    wanted = sum(own_loss(found, site, frame) for site in "abcd") / len(frame)
    assert measures["all"]["log_loss"] == pytest.approx(wanted, abs=1e-3)
    assert abs(measures["all"]["log_loss"] - common["all"]["log_loss"]) > 5e-3
    assert set(measures["not_shown"]) == set("abcd")


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
    "the round after the last": {"round": 3},
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
    algorithm = Training(
        found.spec_, found.state_ and fit(found.spec_.algorithm(), rows.domain()).model[0]
    )
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
