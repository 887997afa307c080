"""Updates in few bytes: what is sent, what is kept, and what it costs in accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.design import Design
from polyclinic.core.errors import Refused
from polyclinic.engines.embedded import InProcess
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.strategy import Strategy
from polyclinic.models.neural.tasks import _rounded
from polyclinic.privacy.policy import Policy

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
ALLOWED = Policy(updates_alone=True)


@pytest.mark.parametrize(("kind", "error"), [("float16", 2.0**-11), ("int8", 2.0**-7)])
def test_what_rounding_leaves_over_is_sent_later(kind, error):
    spec = NeuralSpec(Design((), "y"), strategy=Strategy(compress=kind))
    draw, memory, sent, due = np.random.default_rng(0), {}, np.zeros(50), np.zeros(50)
    for _ in range(40):
        change = draw.normal(size=50)
        due += change
        part, memory = _rounded(spec, change, memory)
        sent += part
        assert np.abs(due - sent).max() <= 8 * error  # it does not add up
    assert np.allclose(sent + memory["left_over"], due, atol=1e-6)


def fit(kind, policy=ALLOWED, **more):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 4)).round(3)
    y = ((x[:, 0] ** 2 + x[:, 1] > 0.3) ^ (rng.uniform(size=600) < 0.03)).astype(int)
    data = pd.DataFrame(x, columns=list("pqrs")).assign(y=y, h=np.repeat(list("abc"), 200))
    sites = pc.split(data, by="h", policy=policy)
    strategy = pc.FedAvg(rounds=8, lr=0.3, momentum=0.9, local_epochs=1, compress=kind)
    options = {"architecture_options": {"hidden": (16,)}, "strategy": strategy}
    model = pc.NeuralNetwork("mlp", **options).fit(sites, "y ~ p + q + r + s", **more)
    site = model._data.federation.transport.sites["a"]
    assert policy is not ALLOWED or site.books.ledger.rows()[-1]["seen_as"] == "this site"
    (line,) = [one for one in model.rounds_[-1].left if one["leaf"] == "change"]
    return model.score(data, data.y), line["bytes"] / line["numbers"], model


def test_bytes_and_accuracy(monkeypatch):
    answers, ask = [], InProcess.ask

    def counted(self, messages):
        found = ask(self, messages)
        answers.extend(len(one) for one in found.values())
        return found

    monkeypatch.setattr(InProcess, "ask", counted)
    score, each, travelled = {}, {}, {}
    for kind in ("", "float16", "int8"):
        score[kind], each[kind], model = fit(kind)
        travelled[kind] = answers[-1]
    size = len(model.result_.weights)
    assert each == {"": 8, "float16": 2, "int8": 1}
    assert travelled[""] - travelled["int8"] > 6.5 * size
    assert travelled[""] - travelled["float16"] > 5.5 * size
    assert score[""] > 0.85
    assert score["float16"] > score[""] - 0.01 and score["int8"] > score[""] - 0.02


@pytest.mark.parametrize(
    ("policy", "more"), [(Policy(), {}), (ALLOWED, {"privacy": pc.SecureSum()})]
)
def test_what_is_masked_is_not_made_smaller(policy, more):
    with pytest.raises(Refused) as error:
        fit("int8", policy, **more)
    assert error.value.code == "UPDATE_ALONE"
