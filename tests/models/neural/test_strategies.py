"""Every strategy against the same written out in numpy, and against what it must equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.core.fit import fit
from polyclinic.models.neural.batches import batches
from polyclinic.models.neural.network import Network
from polyclinic.models.neural.strategy import NAMES, OPTIONS, WORDS, Strategy
from polyclinic.models.neural.turns import trains
from tests.models.neural import reference

SMALL = {"rounds": 4, "local_epochs": 2, "batch_size": 8, "lr": 0.2}
FALLING = {"lr_schedule": "cosine", "server_schedule": "step", "server_decay": 0.5}
STRATEGIES = [
    pc.FedAvg(**SMALL),
    pc.FedAvg(**SMALL, **FALLING, server_every=2, server_lr=0.7),
    pc.FedAvg(**SMALL, local_steps=3),
    pc.FedSGD(6, lr=0.5),
    pc.FedSGD(6, lr=0.5, lr_schedule="step", lr_decay=0.1, lr_every=3),
    pc.FedProx(**SMALL, mu=2.0),
    pc.Scaffold(**SMALL),
    pc.Scaffold(**SMALL, server_lr=0.5),
    pc.FedAdam(**SMALL, server_lr=0.05),
    pc.FedAdam(**SMALL, server_lr=0.05, bias_correction=True),
    pc.FedYogi(**SMALL, server_lr=0.05, server_schedule="decay", server_decay=0.9),
    pc.FedAdagrad(**SMALL),
    pc.Ditto(**SMALL, pull=0.5),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_it_is_what_the_paper_writes(rows, strategy):
    model = rows.fit(strategy)
    first = Network(model.spec_).weights().astype(float)
    wanted = reference.trained(strategy, rows.sites, first, 3)
    assert np.abs(wanted - first).max() > 0.02
    np.testing.assert_allclose(model.result_.weights, wanted, atol=1e-6)


def test_the_references_differ(rows):
    """Else one that ignores its options would fit, too."""
    found = [reference.trained(s, rows.sites, np.full(4, 0.1), 3) for s in STRATEGIES]
    distinct = {tuple(np.round(w, 5)) for w in found}
    assert len(distinct) == len(STRATEGIES) - 1  # what Ditto shares is FedAvg's


@pytest.mark.parametrize("clients", [1.0, 0.67])  # 0.67: two of three sites in each round
def test_the_controls_of_scaffold_sum_to_the_common_one(rows, clients):
    spec = rows.fit(pc.Scaffold(**SMALL, clients=clients)).spec_
    domain = rows.domain()
    state = fit(spec.algorithm(), domain, seed=3).state["done"][-1]
    kept = dict(domain.memory()["kept"])[state["after"]]
    controls = np.array([kept[name]["control"] for name in "abc"], dtype=float)
    common = state["memory"]["control"]
    assert np.abs(common).max() > 0.01
    np.testing.assert_allclose(np.array([14, 25, 41]) / 80 @ controls, common, atol=1e-7)


def test_one_site_trains_as_torch_does(rows):
    import torch

    x, y = rows.at("c")
    strategy = pc.FedAvg(rounds=3, local_epochs=2, batch_size=8, lr=0.1, momentum=0.5)
    model = pc.NeuralNetwork("mlp", strategy=replace(strategy, momentum=0.0), scale="none")
    model.fit(x, y.astype(int))
    network = Network(model.spec_).module
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    table, target = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    for t in range(3):
        for chosen in batches(strategy, np.arange(len(y)), t, 0):
            optimizer.zero_grad()
            logits = network({"table": table[chosen]})[:, 0]
            torch.nn.functional.binary_cross_entropy_with_logits(logits, target[chosen]).backward()
            optimizer.step()
    flat = torch.cat([p.detach().ravel() for p in network.parameters()]).numpy()
    np.testing.assert_allclose(model.result_.weights, flat, atol=1e-6)


def test_shared_gradients_with_corrected_means_are_adam_of_torch(rows):
    import torch

    given = {"batch_size": 0, "local_steps": 1, "lr": 1.0}
    adam = {"server_lr": 0.02, "beta2": 0.999, "tau": 1e-8, "bias_correction": True}
    model = rows.fit(pc.FedAdam(40, **given, **adam))
    network = Network(model.spec_).module
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    table, target = (torch.tensor(one, dtype=torch.float32) for one in (rows.x, rows.y))
    for _ in range(40):
        optimizer.zero_grad()
        logits = network({"table": table})[:, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
        optimizer.step()
    flat = torch.cat([p.detach().ravel() for p in network.parameters()]).numpy()
    np.testing.assert_allclose(model.result_.weights, flat, atol=2e-5)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_sites_with_the_same_rows_are_as_one(rows, strategy):
    x, y = rows.at("b")
    one = pc.NeuralNetwork("linear", strategy=strategy, scale="none").fit(x, y.astype(int))
    same = pc.NeuralNetwork("linear", strategy=strategy, scale="none")
    same.fit(np.tile(x, (3, 1)), np.tile(y.astype(int), 3), sites=np.repeat(list("abc"), len(y)))
    np.testing.assert_allclose(same.result_.weights, one.result_.weights, atol=1e-6)


def test_gradients_of_all_rows_are_those_of_pooled_rows(rows):
    model = rows.fit(pc.FedSGD(8, lr=0.7))
    w = Network(model.spec_).weights().astype(float)
    for _ in range(8):
        w = w - 0.7 * reference.gradient(w, rows.x, rows.y)
    np.testing.assert_allclose(model.result_.weights, w, atol=1e-6)


def test_cyclic_passes_the_weights_on(rows):
    strategy = pc.Cyclic(7, lr=0.2, batch_size=8)
    model = rows.fit(strategy)
    w, order = Network(model.spec_).weights().astype(float), []
    for t in range(7):
        (name,) = (n for n in "abc" if trains(model.spec_, n, t))
        order.append(name)
        w, _ = reference.descend(w, rows.at(name), strategy, t, 3, np.zeros_like)
    np.testing.assert_allclose(model.result_.weights, w, atol=1e-6)
    assert sorted(order[:3]) == sorted(order[3:6]) == list("abc")
    named = rows.fit(replace(strategy, order="named")).spec_
    assert [n for t in range(4) for n in "abc" if trains(named, n, t)] == list("abca")


def test_sites_are_drawn_by_the_round(rows):
    strategy = pc.FedAvg(**SMALL, clients=0.5)
    model = rows.fit(strategy)
    names = tuple(f"h{i}" for i in range(8))
    spec = replace(model.spec_, sites=names, strategy=replace(strategy, rounds=100))
    taken = np.array([[trains(spec, name, t) for name in names] for t in range(100)])
    assert (taken.sum(axis=1) == 4).all()
    assert taken.mean(axis=0).min() > 0.3
    few = replace(spec, strategy=replace(spec.strategy, clients=0.01))
    assert all(sum(trains(few, name, t) for name in names) == 1 for t in range(20))
    w = Network(model.spec_).weights().astype(float)
    for t in range(4):
        some = [rows.at(n) for n in "abc" if trains(model.spec_, n, t)]
        ends = [reference.descend(w, one, strategy, t, 3, np.zeros_like)[0] for one in some]
        w = np.average(ends, axis=0, weights=[len(y) for _, y in some])
    np.testing.assert_allclose(model.result_.weights, w, atol=1e-6)


def test_it_stops_when_the_watched_loss_rises(rows):
    strategy = pc.FedAvg(60, lr=0.8, batch_size=4, local_epochs=3, stop_after=3)
    model = rows.fit(strategy, validation=0.3)
    watched = model.history_.validation_loss.to_numpy()
    best = int(watched.argmin())
    assert model.result_.end == "stopped_early"
    assert len(watched) == best + 4 < 60
    again = rows.fit(replace(strategy, rounds=best, stop_after=0), validation=0.3)
    assert np.array_equal(model.result_.weights, again.result_.weights)


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_takes_its_own_options_only(name):
    made = getattr(pc, WORDS[name])
    assert repr(made()) == f"{WORDS[name]}()"
    assert Strategy.from_data(made(rounds=7).to_data()) == made(rounds=7)
    assert repr(made(rounds=7)) == f"{WORDS[name]}(rounds=7)"
    with pytest.raises(InputError) as found:
        made(rounds=0)
    assert found.value.code == "WRONG_VALUE"
    foreign = next(o for o in ("mu", "layers") if o not in OPTIONS[name])
    with pytest.raises(InputError, match=foreign) as found:
        made(**{foreign: 1})
    assert found.value.code == "UNKNOWN_OPTION"
    assert set(made().to_data()) == set(OPTIONS[name])


def test_wrong_combinations_are_named(rows):
    with pytest.raises(InputError, match="stop_after"):
        pc.FedAvg(clients=0.5, stop_after=2)
    with pytest.raises(InputError, match="stop_after"):
        rows.fit(pc.FedAvg(stop_after=2))
    with pytest.raises(InputError, match="FedBN"):
        rows.fit(pc.FedBN(2))
    with pytest.raises(InputError, match="FedPer"):
        rows.fit(pc.FedPer(2, layers=1))
    with pytest.raises(InputError, match="strategy 'sgd'"):
        rows.fit({"name": "sgd"})


def test_a_saved_model_keeps_its_strategy(rows, tmp_path):
    model = rows.fit(pc.FedProx(2, mu=0.5))
    model.save(tmp_path / "m.pcm")
    again = pc.load(tmp_path / "m.pcm")
    assert again.strategy == model.strategy == pc.FedProx(2, mu=0.5)
    assert np.array_equal(again.predict_proba(rows.x), model.predict_proba(rows.x))
