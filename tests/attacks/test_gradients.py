"""Images out of the updates of a network (Zhu, Liu and Han 2019; Geiping et al. 2020).

For a linear layer the attack is exact: of one patient the gradient of the weights is the image
times a number, and the gradient of the intercept is that number.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from polyclinic.core.design import Design
from polyclinic.core.errors import Refused
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.engines.embedded import Embedded
from polyclinic.models import tasks as model_tasks
from polyclinic.models.learner import values
from polyclinic.models.neural.architectures import Architecture, register_architectures
from polyclinic.models.neural.fixed import number
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.strategy import Strategy
from polyclinic.privacy.policy import Policy, open_policy

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
register(model_tasks)

FILE = Path(os.environ.get("POLYCLINIC_DATA", ".")) / "pneumonia-mnist/pneumoniamnist_rebuilt.npz"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the images are not here")
PIXELS, SITES = 28 * 28, "abcd"


class Flat(torch.nn.Module):
    """Softmax over all pixels, from zero."""

    def __init__(self, spec):
        super().__init__()
        self.layer = torch.nn.Linear(PIXELS, spec.outputs)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)

    def forward(self, items):
        return self.layer(items["items"].flatten(1))


register_architectures([Architecture("flat-for-attacks", Flat, reads=("image",))])


@pytest.fixture(scope="module")
def data():
    with np.load(FILE) as found:
        images = found["train_images"][:400].astype(np.float64)[:, None] / 255
        return images, found["train_labels"][:400, 0].astype(float)


def spec(privacy=None):
    strategy = Strategy("fedsgd", rounds=1, lr=1.0)
    return NeuralSpec(
        Design((), "y", intercept=False),
        "flat-for-attacks",
        shapes={"items": (1, 28, 28)},
        scale="none",
        strategy=strategy,
        privacy=privacy or {},
    )


def plan(privacy=None, noise=None):
    weights = np.zeros(PIXELS + 1, np.float32)
    state = {
        "round": 0,
        "weights": weights,
        "beside": weights[:0],
        "lr": 1.0,
        "class_weight": np.zeros(0),
        "scaling": {"centre": np.zeros(0), "spread": np.zeros(0)},
        "after": "",
    }
    if privacy:
        state["extra"] = {"patients": np.asarray(10.0)}
    found = values(spec(privacy), **state)
    return Plan("neural.train", {**found, **({"noise": noise} if noise else {})})


def federation(data, each, policy, sums, sites=SITES):
    """Hospital i has `each[i]` patients, of one image each; the victim is the first of all."""
    images, labels = data
    ends = np.cumsum([0, *each])

    def held(name, start, end):
        columns = {"items": images[start:end], "y": labels[start:end]}
        return lambda cohort: Partition(columns, np.arange(end - start), name)

    rows = {n: held(n, *ends[i : i + 2]) for i, n in enumerate(sites[: len(each)])}
    return Embedded().federation(rows, dict.fromkeys(rows, policy), sums=sums)


def recovered(change):
    """The image that a gradient of one patient is made of."""
    gradient = number(change) if change.dtype.kind == "i" else change
    return gradient[:-1] / gradient[-1]


def likeness(image, data):
    """Correlation with the victim's image, of what is not in every such image."""
    images = data[0].reshape(len(data[0]), -1)
    mean = images.mean(axis=0)
    return float(abs(np.corrcoef(image - mean, images[0] - mean)[0, 1]))


def test_a_lone_update_is_the_image(data):
    bare = federation(data, [1], open_policy(), "clear").total(plan())
    image = recovered(bare["change"])
    assert np.abs(image - data[0][0].ravel()).max() < 1e-6
    few = federation(data, [3], open_policy(), "clear").total(plan())
    assert likeness(recovered(few["change"]), data) > 0.4


@pytest.mark.parametrize(
    ("each", "sums", "code"),
    [
        ([20, 20, 20], "clear", "UPDATE_ALONE"),
        ([20, 20], "auto", "UPDATE_ALONE"),
        ([20, 0, 0], "auto", "TOO_FEW_SITES"),
        ([20, 20, 0], "secure", "TOO_FEW_SITES"),
        ([20, 20, 3], "secure", "TOO_FEW_SITES"),
    ],
)
def test_the_gate_lets_no_update_out_alone(data, each, sums, code):
    asked = federation(data, each, Policy(), sums)
    with pytest.raises(Refused) as error:
        asked.total(plan())
    assert error.value.code == code
    ledgers = [site.books.ledger for site in asked.transport.sites.values()]
    assert not [row for one in ledgers for row in one.rows() if row["step"] == "neural.train"]


def test_a_policy_may_let_it_out(data):
    allowed = federation(data, [20], Policy(updates_alone=True), "auto").total(plan())
    assert allowed.seen == "this site"


def test_a_secure_sum_of_three_hospitals_shows_the_total_only(data):
    each = [20, 20, 20]
    summed = federation(data, each, Policy(), "auto").total(plan())
    assert summed.seen == "total of 3"
    parts = [federation(data, [20], open_policy(), "clear").total(plan())["change"]]
    assert likeness(recovered(summed["change"]), data) < 0.3
    assert not np.array_equal(parts[0], summed["change"])
    whole = federation(data, [60], open_policy(), "clear").total(plan())["change"]
    assert np.abs(number(whole) - number(summed["change"])).max() < 1e-4


def test_noise_hides_the_image_of_a_lone_hospital(data):
    about = {"unit": "patient", "epsilon": 4.0, "delta": 1e-5, "clip": 1.0, "rate": 1.0}
    noise = {"mechanism": "steps", "multiplier": 1.5, "rate": 1.0, "times": 1}
    asked = plan(about, noise)
    found = federation(data, [1], Policy(), "clear").total(asked)
    assert likeness(recovered(found["change"]), data) < 0.3
