"""Many sites of one process: what they find together is what they find one by one."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
import torch

import polyclinic as pc
from polyclinic.core.errors import InputError, Refused
from polyclinic.core.federation import Domains, Inline
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.sampling import uniform, uniform_of
from polyclinic.models.neural import stack, virtual
from polyclinic.models.neural.lanes import side_by_side, single_threaded_torch
from polyclinic.models.neural.turns import trains, turn

SITES = 24
MANY = {"rounds": 3, "lr": 0.2, "batch_size": 8}
WAYS = [
    pc.FedAvg(**MANY, local_epochs=2),
    pc.FedAvg(**MANY, local_steps=3, momentum=0.9, weight_decay=0.1),
    pc.FedAvg(**{**MANY, "lr": 0.01}, optimizer="adam", local_epochs=2),
    pc.FedAvg(rounds=3, lr=0.2, batch_size=0, local_epochs=3),
    pc.FedProx(**MANY, mu=2.0),
    pc.Scaffold(**MANY, clients=0.5),
    pc.FedSGD(3, lr=0.5),
    pc.FedAdam(**MANY, server_lr=0.05, clients=0.5),
]


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of sites of 1 to 40 rows, the sites mixed."""
    draw = np.random.default_rng(5)
    labels = draw.permutation(np.repeat(np.arange(SITES), np.linspace(1, 40, SITES).astype(int)))
    x = draw.normal(size=(len(labels), 5)) + labels[:, None] / SITES
    score = np.stack([x @ draw.normal(size=5) for _ in range(3)], axis=1)
    return x, score.argmax(axis=1), labels


def one_by_one(many, spec, seed=3, labels=None):
    """The same study over sites that each hold their own rows and answer alone."""
    x, y, _ = many
    labels = many[2] if labels is None else labels
    w = np.ones(len(y)) if spec.design.weight is None else weights(y)
    parts = {
        name: Partition({"X": x[mine], "y": y[mine].astype(float), "w": w[mine]}, site=name)
        for name, mine in ((str(k), labels == k) for k in np.unique(labels))
    }
    return fit(spec.algorithm(), Domains({n: Inline(p) for n, p in parts.items()}), seed=seed)


def weights(y: np.ndarray) -> np.ndarray:
    return 0.5 + (np.arange(len(y)) % 3)


def network(strategy, architecture="mlp", **more):
    return pc.NeuralNetwork(architecture, strategy=strategy, random_state=3, **more)


def same(found, wanted) -> None:
    """Weights and losses to 1e-6; and they moved."""
    np.testing.assert_allclose(found.result_.weights, wanted.model[-1].weights, atol=1e-6)
    losses = [
        [line[name] for line in one for name in sorted(line)]
        for one in (found.result_.history, wanted.model[-1].history)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.fixture
def stacked(monkeypatch) -> list[int]:
    """How many sites each stack had that was trained."""
    found, train = [], virtual.train_stack

    def counted(one, spec, inputs, rows, *more):
        found.append(len(rows))
        return train(one, spec, inputs, rows, *more)

    monkeypatch.setattr(virtual, "train_stack", counted)
    return found


@pytest.mark.parametrize("strategy", WAYS, ids=repr)
def test_sites_side_by_side_are_sites_one_by_one(many, stacked, strategy):
    x, y, labels = many
    found = network(strategy, architecture_options={"hidden": (6,)}).fit(x, y, sites=labels)
    wanted = one_by_one(many, found.spec_)
    same(found, wanted)
    trained = 3 * round(SITES * strategy.clients)
    assert sum(stacked) == (0 if strategy.gradients else trained)


@pytest.mark.parametrize(
    "more",
    [
        {"validation": 0.3},
        {"class_weight": [1.0, 3.0, 0.5]},
        {"sampling": "balanced"},
        {"scale": "none"},
    ],
    ids=str,
)
def test_options_of_networks_hold_side_by_side(many, stacked, more):
    x, y, labels = many
    found = network(pc.FedAvg(**MANY), "linear", **more)
    found.fit(x, y, sample_weight=weights(y), sites=labels)
    same(found, one_by_one(many, found.spec_))
    assert sum(stacked) > SITES


def test_layers_without_a_stack_are_trained_one_by_one(many, stacked):
    x, y, labels = many
    dropped = network(pc.FedAvg(**MANY), architecture_options={"hidden": (6,), "dropout": 0.5})
    own = network(pc.Ditto(**MANY, fine_tune=2), "linear")
    for model in (dropped, own):
        model.fit(x, y, sites=labels)
        same(model, one_by_one(many, model.spec_))
    assert stacked == []


def test_few_sites_get_the_bytes_of_sites_with_rows_of_their_own(many, stacked):
    x, y, labels = many
    few = np.flatnonzero(labels % 6 == 0)
    rows = x[few], y[few], labels[few]
    model = network(pc.Scaffold(**MANY), "linear", scale="none")
    model.fit(rows[0], rows[1], sites=rows[2])
    wanted = one_by_one(rows, model.spec_)
    assert model.result_.weights.tobytes() == wanted.model[-1].weights.tobytes()
    assert stacked == []


def test_no_more_is_held_at_once_than_is_allowed(many, stacked, monkeypatch):
    x, y, labels = many
    model = network(pc.FedAvg(**MANY), "linear")
    whole = model.fit(x, y, sites=labels).result_.weights
    assert max(stacked) > 10
    stacked.clear()
    monkeypatch.setattr(stack, "HELD", 600)
    parts = model.fit(x, y, sites=labels).result_.weights
    assert max(stacked) * (stack.COPIES * 18 + 2 * 5 * 8) <= 600
    np.testing.assert_allclose(parts, whole, atol=1e-7)


@pytest.fixture
def threads(monkeypatch) -> set[str]:
    """Names of the threads that train, where every site is worth a lane and there are three."""
    found, stacked, alone = set(), virtual.train_stack, virtual.trained
    for module in (stack, virtual):
        monkeypatch.setattr(module, "cores", lambda: 3)
        monkeypatch.setattr(module, "LANE", 1)

    def named(train):
        def run(*given):
            found.add(threading.current_thread().name)
            return train(*given)

        return run

    monkeypatch.setattr(virtual, "train_stack", named(stacked))
    monkeypatch.setattr(virtual, "trained", named(alone))
    return found


@pytest.mark.parametrize(
    "strategy", [pc.Scaffold(**MANY, clients=0.5), pc.Ditto(**MANY, fine_tune=2)], ids=repr
)
def test_lanes_find_what_sites_find_one_by_one(many, threads, strategy):
    x, y, labels = many
    found = network(strategy, "linear").fit(x, y, sites=labels)
    assert threads and all(name.startswith("polyclinic-lane") for name in threads)
    same(found, one_by_one(many, found.spec_))
    again = network(strategy, "linear").fit(x, y, sites=labels)
    assert again.result_.weights.tobytes() == found.result_.weights.tobytes()


def test_lanes_have_one_thread_of_torch_each_and_it_has_its_own_again():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert side_by_side(lambda i: torch.get_num_threads(), range(3)) == [1, 1, 1]
        with single_threaded_torch(), single_threaded_torch():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_network_that_draws_has_one_lane(many, threads):
    x, y, labels = many
    dropped = {"hidden": (6,), "dropout": 0.5}
    found = network(pc.FedAvg(**MANY), architecture_options=dropped).fit(x, y, sites=labels)
    assert threads == {threading.current_thread().name}
    same(found, one_by_one(many, found.spec_))


def test_memory_does_not_grow_with_the_number_of_sites(monkeypatch):
    """Neither their rows nor their weights are held twice: either takes twice the bound."""
    sites, draw = 400, np.random.default_rng(0)
    x = draw.random((sites * 10, 1, 28, 28), dtype=np.float32)
    labels, y = np.repeat(np.arange(sites), 10), np.arange(sites * 10) % 10
    model = network(pc.FedAvg(1, batch_size=5), "linear", scale="none")
    model.fit(x[:100], y[:100], sites=labels[:100])  # what is imported and made once
    monkeypatch.setattr(stack, "HELD", 400_000)
    tracemalloc.start()
    try:
        model.fit(x, y, sites=labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    weights = sites * model.result_.weights.nbytes
    assert peak < 0.5 * min(x.nbytes, weights)


def test_sites_of_very_different_size_are_not_filled_up_to_each_other(many):
    spec = network(pc.FedAvg(rounds=1, batch_size=0), "linear").fit(*many[:2], sites=many[2]).spec_
    sizes = [1, 50, 3, 1000, 2, 40]
    rows = [np.arange(n) for n in sizes]
    for lanes in (1, 3):
        found = list(stack.stacks(spec, 18, rows, lanes))
        assert sorted(np.concatenate(found)) == list(range(6))
        for places in found:
            own = [sizes[place] for place in places]
            assert own == sorted(own, reverse=True) and own[0] <= 2 * own[-1]
            assert len(own) <= 6 // lanes


def test_a_run_of_many_sites_goes_on_where_it_stopped(many, tmp_path):
    x, y, labels = many
    strategy, store = pc.Scaffold(**MANY, clients=0.5), pc.Checkpoint(tmp_path / "run")

    def stop(done):
        if done.number == 3:
            raise KeyboardInterrupt

    whole = network(strategy, "linear").fit(x, y, sites=labels)
    with pytest.raises(pc.PolyclinicError, match="Ctrl-C"):
        network(strategy, "linear").fit(x, y, sites=labels, store=store, callbacks=[stop])
    later = network(strategy, "linear").fit(x, y, sites=labels, store=store)
    assert later.result_.weights.tobytes() == whole.result_.weights.tobytes()


def test_a_run_that_explodes_is_refused(many):
    x, y, labels = many
    wild = pc.FedAvg(3, lr=900.0, weight_decay=900.0, batch_size=4, local_epochs=30)
    with pytest.raises(Refused) as found:
        network(wild, "linear").fit(x, y, sites=labels)
    assert found.value.code == "LOSS_EXPLODED"


def test_noise_needs_hospitals(many):
    x, y, labels = many
    with pytest.raises(InputError) as found:
        network(pc.FedAvg(1)).fit(x, y, sites=labels, privacy=pc.DifferentialPrivacy(1, 1e-5))
    assert found.value.code == "NO_SITES"


def test_draws_of_many_sites_are_those_of_each():
    names = [f"site {i}" for i in range(50)]
    each = [uniform(np.zeros(1, dtype=np.int64), 7, 3, name)[0] for name in names]
    assert uniform_of(names, 7, 3).tolist() == each


def test_whose_turn_it_is_is_the_same_for_all_as_for_each(many):
    x, y, labels = many
    spec = network(pc.FedAvg(**MANY, clients=0.3), "linear").fit(x, y, sites=labels).spec_
    for round in range(3):
        chosen = turn(spec, round)
        assert len(chosen) == 7
        assert {name for name in spec.sites if trains(spec, name, round)} == set(chosen)
    assert turn(spec, 0) != turn(spec, 1)
