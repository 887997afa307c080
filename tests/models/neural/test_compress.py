"""Updates in few bytes: what is sent, what is kept, and what it costs in accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.errors import Refused
from polyclinic.engines.embedded import InProcess
from polyclinic.models.neural.smaller import asks_whole, check_places, places_after, received, sent
from polyclinic.models.neural.strategy import Strategy
from polyclinic.privacy.policy import Policy

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
ALLOWED = Policy(updates_alone=True)


@pytest.mark.parametrize(
    ("kind", "held"),
    [("float16", 8 * 2.0**-11), ("int8", 8 * 2.0**-7), ("topk", 60), ("topk_shared", 30)],
)
def test_what_is_not_sent_is_sent_later(kind, held):
    draw, memory, got, due = np.random.default_rng(0), {}, np.zeros(50), np.zeros(50)
    strategy = Strategy(compress=kind, keep=0.1, rounds=100)
    places = None
    for round in range(61):
        change = draw.normal(size=50) * (round < 40)
        due += change
        part = None if asks_whole(strategy, round) else places
        leaves, memory = sent(strategy, part, change, memory)
        moved = received(leaves, 50, part)
        places = places_after(strategy, moved) if part is None else places
        got += moved
        assert np.abs(due - got).max() <= held  # it does not add up
        assert np.allclose(got + memory["left_over"], due, atol=1e-6)
    assert np.abs(due - got).max() < 1e-3  # nothing more was due: all of it has left


def test_the_largest_entries_leave():
    strategy, change = Strategy(compress="topk", keep=0.5), np.array([1.0, -4.0, 2.0, 3.0])
    leaves, memory = sent(strategy, None, change, {})
    assert leaves.tolist() == [0, -4, 0, 3] and memory["left_over"].tolist() == [1, 0, 2, 0]
    strategy = replace(strategy, compress="topk_shared")
    places = places_after(strategy, change)
    leaves, memory = sent(strategy, places, np.array([5.0, 1.0, 7.0, 1.0]), {})
    assert received(leaves, 4, places).tolist() == [0, 1, 0, 1]
    assert memory["left_over"].tolist() == [5, 0, 7, 0]


@pytest.mark.parametrize(
    "places", [[0, 1, 2], [0], [1, 0], [0, 0], [-1, 0], [0, 4], [0.0, 1.0], [[0, 1]]]
)
def test_other_entries_are_refused(places):
    strategy = Strategy(compress="topk_shared", keep=0.5)
    check_places(strategy, 4, np.array([0, 3]))
    with pytest.raises(ValueError, match="entries"):
        check_places(strategy, 4, np.array(places))


def fit(kind, policy=ALLOWED, rounds=8, seen="this site", **more):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 4)).round(3)
    y = ((x[:, 0] ** 2 + x[:, 1] > 0.3) ^ (rng.uniform(size=600) < 0.03)).astype(int)
    data = pd.DataFrame(x, columns=list("pqrs")).assign(y=y, h=np.repeat(list("abc"), 200))
    sites = pc.split(data, by="h", policy=policy)
    strategy = pc.FedAvg(
        rounds=rounds, lr=0.3, momentum=0.9, local_epochs=1, compress=kind, keep=0.25
    )
    options = {"architecture_options": {"hidden": (16,)}, "strategy": strategy}
    model = pc.NeuralNetwork("mlp", **options).fit(sites, "y ~ p + q + r + s", **more)
    site = model._data.federation.transport.sites["a"]
    assert site.books.ledger.rows()[-1]["seen_as"] == seen
    (line,) = [one for one in model.rounds_[-1].left if one["leaf"] == "change"]
    return model.score(data, data.y), line["bytes"] / len(model.result_.weights), model


def test_bytes_and_accuracy(monkeypatch):
    answers, ask = [], InProcess.ask

    def counted(self, messages):
        found = ask(self, messages)
        answers.extend(len(one) for one in found.values())
        return found

    monkeypatch.setattr(InProcess, "ask", counted)
    score, each, travelled = {}, {}, {}
    for kind in ("", "float16", "int8", "topk"):
        score[kind], each[kind], model = fit(kind)
        travelled[kind] = answers[-1]
    size = len(model.result_.weights)
    assert each == {"": 8, "float16": 2, "int8": 1, "topk": pytest.approx(0.62, abs=0.05)}
    assert travelled[""] - travelled["int8"] > 6.5 * size
    assert travelled[""] - travelled["float16"] > 5.5 * size
    assert travelled[""] - travelled["topk"] > 6.3 * size
    assert score[""] > 0.85
    assert score["float16"] > score[""] - 0.01 and score["int8"] > score[""] - 0.02
    assert score["topk"] > score[""] - 0.03


def test_fewer_numbers_in_a_secure_sum():
    """The same weights whether the sum is masked or not, and no hospital must allow it."""
    score, each, masked = fit("topk_shared", Policy(), seen="total of 3")
    _, _, plain = fit("topk_shared")
    assert each == pytest.approx(8 / 4, abs=0.1)
    assert masked.result_.weights.tobytes() == plain.result_.weights.tobytes()
    assert score > 0.85


def test_entries_that_wait_are_not_divided_by_how_much_they_move():
    with pytest.raises(pc.InputError) as error:
        pc.FedAdam(compress="topk_shared")
    with pytest.raises(pc.InputError, match="compress"):
        pc.FedBuff(compress="topk_shared")
    assert error.value.code == "WRONG_VALUE"


@pytest.mark.parametrize(
    ("policy", "more"), [(Policy(), {}), (ALLOWED, {"privacy": pc.SecureSum()})]
)
@pytest.mark.parametrize("kind", ["int8", "topk"])
def test_what_is_masked_is_not_made_smaller(kind, policy, more):
    with pytest.raises(Refused) as error:
        fit(kind, policy, **more)
    assert error.value.code == "UPDATE_ALONE"
