"""Networks under differential privacy: what one patient can change, what it costs, who refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import InputError, PolyclinicError, Refused
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.models import tasks as model_tasks
from polyclinic.models.learner import values
from polyclinic.models.neural import private
from polyclinic.models.neural.inputs import Scaling, inputs_of
from polyclinic.models.neural.kinds import check_noise, with_privacy
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.strategy import Strategy
from polyclinic.models.neural.train import Question
from polyclinic.privacy import accounting
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.noisy import Noise, noise_of
from polyclinic.privacy.policy import Policy
from tests.privacy.audit import caught

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
register(model_tasks)

ABOUT = {"unit": "patient", "epsilon": 2.0, "delta": 1e-5, "clip": 0.5, "rate": 0.5}


def spec(**more) -> NeuralSpec:
    design = Design(tuple(Term(n, (Factor("value", n),), 1.0) for n in "ab"), "y", intercept=False)
    strategy = Strategy("fedsgd", rounds=1, lr=1.0)
    return NeuralSpec(design, "linear", **{"scale": "none", "strategy": strategy, **more})


def partition(n=40, per_patient=2, far=None) -> Partition:
    draw = np.random.default_rng(3)
    a, b = draw.uniform(-1, 1, (2, n))
    if far is not None:
        a[far] = 1e6
    y = (a + b > 0).astype(float)
    return Partition({"a": a, "b": b, "y": y}, np.arange(n) // per_patient)


def question(network_size=3, patients=20.0) -> Question:
    weights = np.zeros(network_size, dtype=np.float32)
    extra = {"patients": np.asarray(patients)}
    return Question(weights, weights[:0], 0, 1.0, np.zeros(0), extra)


def clipped_sum(rows: Partition, which=None) -> np.ndarray:
    one, size = spec(), 3
    network = private.network_of(one)
    network.load(np.zeros(size, np.float32), np.zeros(0, np.float32))
    read = inputs_of(one, Scaling(np.zeros(2), np.ones(2)), rows)
    groups = private._by_patient(np.arange(rows.n_rows), rows.persons)
    groups = groups if which is None else [groups[i] for i in which]
    return private._clipped_sum(network, read, groups, read.weight, 0.05, size)


def test_the_sum_is_of_each_patients_mean_gradient_shortened():
    rows = partition()
    x = np.column_stack([rows.columns["a"], rows.columns["b"], np.ones(40)]).astype(np.float32)
    residual = 0.5 - rows.columns["y"]  # of a logistic model at zero
    own = (x * residual[:, None]).reshape(20, 2, 3).mean(axis=1)
    norm = np.linalg.norm(own, axis=1, keepdims=True)
    assert (norm > 0.05).any()
    wanted = (own * np.minimum(1, 0.05 / norm)).sum(axis=0)
    assert np.allclose(clipped_sum(rows), wanted, atol=1e-6)


def test_no_patient_changes_the_sum_by_more_than_the_clip():
    for far in (None, 6):
        rows = partition(far=far)
        whole = clipped_sum(rows)
        for gone in range(20):
            rest = clipped_sum(rows, [i for i in range(20) if i != gone])
            assert np.linalg.norm(whole - rest) <= 0.05


def test_who_has_no_finite_gradient_counts_for_nothing_and_nobody_for_zero():
    rows = partition()
    rows.columns["a"][6] = np.nan
    assert np.array_equal(clipped_sum(rows), clipped_sum(rows, [i for i in range(20) if i != 3]))
    assert clipped_sum(rows, []).tolist() == [0, 0, 0]


@pytest.mark.parametrize("scale", [0.0, 1e-300, 0.3, 1.0, 1e9, 1e300])
def test_a_whole_update_is_shortened(scale):
    vector = np.array([3.0, -4.0, 12.0]) / 13 * scale
    found = private.shortened(vector, 1.0)
    assert np.linalg.norm(found) <= 1.0
    if scale < 1:
        assert np.array_equal(found, vector)
    else:
        assert np.allclose(found, vector / scale, rtol=1e-8)


def test_patients_are_drawn_by_themselves_with_the_declared_chance():
    one, two = private.poisson(200_000, 0.1), private.poisson(200_000, 0.1)
    assert abs(one.mean() - 0.1) < 5 * np.sqrt(0.09 / 200_000)
    assert abs((one & two).mean() - 0.01) < 5 * np.sqrt(0.01 / 200_000)
    assert private.poisson(5, 1.0).all() and len(private.poisson(0, 0.3)) == 0


@pytest.mark.parametrize(("true", "claimed", "expected"), [(2.0, 2.0, False), (1.8, 2.0, True)])
def test_the_noise_of_a_step_is_audited(true, claimed, expected):
    """One patient at the edge of the ball, in 4e5 steps at once."""
    clip, n = 0.25, 400_000
    absent = private.noised(np.zeros(n), clip, true)
    present = private.noised(np.full(n, clip), clip, true)
    assert caught(absent, present, clip, claimed * clip) is expected


def test_a_round_is_noise_around_the_clipped_mean():
    rows, one = partition(), spec(privacy=ABOUT)
    read = inputs_of(one, Scaling(np.zeros(2), np.ones(2)), rows)
    everyone = np.arange(rows.n_rows)

    def moved(noise, at=everyone):
        return private.patients_round(one, read, at, rows.persons, question(), noise)

    still = moved(Noise("steps", 1e-6, 1.0, 1))
    own = np.array([clipped_half(rows)])
    assert np.allclose(still, -own / 20, atol=1e-5)
    loud = np.array([moved(Noise("steps", 4.0, 0.5, 1)) for _ in range(150)])
    sd = 4.0 * 0.5 / (0.5 * 20)
    assert np.allclose(loud.std(axis=0), sd, rtol=0.2)
    nobody = moved(Noise("steps", 4.0, 0.5, 1), everyone[:0])
    assert np.isfinite(nobody).all() and np.any(nobody != 0)


def clipped_half(rows):
    network = private.network_of(spec())
    network.load(np.zeros(3, np.float32), np.zeros(0, np.float32))
    read = inputs_of(spec(), Scaling(np.zeros(2), np.ones(2)), rows)
    groups = private._by_patient(np.arange(rows.n_rows), rows.persons)
    return private._clipped_sum(network, read, groups, read.weight, 0.5, 3)


def test_the_cost_of_a_round_is_that_of_its_steps():
    dp = pytest.importorskip("dp_accounting")
    plan = {"mechanism": "steps", "multiplier": 1.2, "rate": 0.05, "times": 20}
    event = noise_of(Plan("neural.train", {"noise": plan})).event
    assert event == {"mechanism": "gaussian", "multiplier": 1.2, "rate": 0.05, "times": 20}
    twenty = accounting.epsilon([event] * 20, 1e-5)
    oracle = dp.pld.PLDAccountant()
    sampled = dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(1.2))
    oracle.compose(dp.SelfComposedDpEvent(sampled, 400))
    assert twenty == pytest.approx(oracle.get_epsilon(1e-5), rel=2e-3)
    assert twenty == pytest.approx(4.799, rel=2e-3)


@pytest.mark.parametrize(
    "noise",
    [
        {"mechanism": "steps", "multiplier": 1.0},
        {"mechanism": "steps", "multiplier": 1.0, "rate": 0.0, "times": 1},
        {"mechanism": "steps", "multiplier": 1.0, "rate": 1.5, "times": 1},
        {"mechanism": "steps", "multiplier": 1.0, "rate": 0.5, "times": 0},
        {"mechanism": "steps", "multiplier": 1.0, "rate": float("nan"), "times": 2},
        {"mechanism": "gaussian", "multiplier": 1.0, "rate": 0.5, "times": 2},
        {"mechanism": "steps", "multiplier": float("inf"), "rate": 0.5, "times": 2},
    ],
)
def test_noise_of_no_meaning_is_refused(noise):
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        noise_of(Plan("neural.train", {"noise": noise}))


STEPS = {"mechanism": "steps", "multiplier": 1.0, "rate": 0.5, "times": 1}


def train_plan(about, noise):
    one = spec(privacy=about)
    state = {
        "round": 0,
        "weights": np.zeros(3, np.float32),
        "beside": np.zeros(0, np.float32),
        "lr": 1.0,
        "class_weight": np.zeros(0),
        "scaling": {"centre": np.zeros(2), "spread": np.ones(2)},
        "after": "",
        "extra": {"patients": np.asarray(20.0)},
    }
    return Plan("neural.train", {**values(one, **state), **({"noise": noise} if noise else {})})


@pytest.mark.parametrize(
    ("about", "noise", "code"),
    [
        ({}, STEPS, "NOT_BOUNDED"),
        ({}, {"multiplier": 1.0}, "NOT_BOUNDED"),
        (ABOUT, None, "NOISE_REQUIRED"),
        (ABOUT, {"multiplier": 1.0}, "NOT_BOUNDED"),
        ({**ABOUT, "unit": "hospital"}, STEPS, "NOT_BOUNDED"),
        ({**ABOUT, "unit": "hospital"}, None, "NOISE_REQUIRED"),
    ],
)
def test_a_plan_that_claims_noise_which_nobody_adds_gets_nothing(about, noise, code):
    from polyclinic.core import codec
    from polyclinic.engines.books import Books
    from polyclinic.engines.site import Site
    from polyclinic.engines.workers import ThreadWorkers

    rows = partition(far=None)
    site = Site(Gate("a", Policy()), lambda cohort: ThreadWorkers(rows), Books.in_memory())
    answer = codec.decode(site.answer(train_plan(about, noise).to_bytes()))
    assert answer == {"code": code}


def test_a_plan_with_less_noise_than_its_budget_takes_is_no_step_of_the_study(monkeypatch):
    monkeypatch.setattr(private, "_multiplier", lambda *about: 1.5)
    wanted = {**STEPS, "multiplier": 1.5}
    check_noise(spec(privacy=ABOUT), train_plan(ABOUT, wanted), counts=False)
    for other in (STEPS, {**wanted, "rate": 0.4}, {**wanted, "times": 2}, None):
        with pytest.raises(ValueError, match="other noise"):
            check_noise(spec(privacy=ABOUT), train_plan(ABOUT, other), counts=False)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"scale": "pooled"}, "pooled"),
        ({"class_weight": "balanced"}, "balanced"),
        ({"validation": 0.1}, "validation"),
    ],
)
def test_what_has_no_noise_is_refused_with_a_reason(more, what):
    with pytest.raises(InputError, match=what) as error:
        with_privacy(spec(**more), None, 1.0, 1e-5)
    assert error.value.code == "NO_PRIVATE_VERSION"


def test_batch_normalization_is_refused():
    from polyclinic.models.neural.architectures import Architecture, register_architectures

    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1)

        def forward(self, items):
            return self.last(self.norm(items["table"]))

    register_architectures([Architecture("normed-for-tests", lambda spec: Normed())])
    with pytest.raises(InputError, match="batch normalisation"):
        with_privacy(replace(spec(), architecture="normed-for-tests"), None, 1.0, 1e-5)


def sites(policy=None):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 600)).round(3)
    y = (2 * a - 1.5 * b + rng.normal(0, 0.3, 600) > 0).astype(int)
    data = pd.DataFrame({"h": np.repeat(list("abc"), 200), "a": a, "b": b, "y": y})
    return pc.split(data, by="h", policy=policy), data


@pytest.mark.parametrize(("unit", "secure"), [("patient", False), ("hospital", True)])
def test_a_fit_learns_within_its_budget_and_is_charged(unit, secure):
    where, data = sites()
    asked = [pc.DifferentialPrivacy(8.0, 1e-5), *([pc.SecureSum()] if secure else [])]
    model = pc.NeuralNetwork(
        "linear",
        strategy=pc.FedSGD(rounds=3, lr=4.0) if unit == "patient" else pc.FedAvg(2, lr=0.5),
        scale="range",
        noise={"unit": unit, "rate": 1.0},
    ).fit(where, "y ~ a + b", privacy=asked)
    if unit == "patient":  # of three hospitals' whole updates noise leaves little
        assert model.score(data, data.y) > 0.75
    assert abs(model.result_.n - 600) < 120
    for site in model._data.federation.transport.sites.values():
        (name,) = site.books.ledger.datasets()
        spent = accounting.epsilon(site.books.ledger.spent(name), 1e-5)
        assert 6.0 < spent <= 8.0
    names = {leaf["leaf"] for done in model.rounds_ for leaf in done.left}
    assert names == {"patients", "change"}


def test_a_spent_budget_ends_it():
    where, _ = sites(Policy(epsilon=1.0, delta=1e-5))
    network = pc.NeuralNetwork(
        "linear", strategy=pc.FedSGD(rounds=2), scale="range", noise={"rate": 1.0}
    )
    with pytest.raises(Refused) as error:
        network.fit(where, "y ~ a + b", privacy=pc.DifferentialPrivacy(4.0, 1e-5))
    assert error.value.code == "BUDGET_SPENT"


def scans(folder, many=36):
    from PIL import Image

    draw = np.random.default_rng(0)
    for i in range(many):
        at = folder / ("north", "south", "west")[i % 3] / ("normal", "ill")[i // 3 % 2]
        at.mkdir(parents=True, exist_ok=True)
        grey = draw.integers(0, 80, (12, 12)) + 100 * (i // 3 % 2)
        Image.fromarray(grey.astype(np.uint8)).save(at / f"{i}.png")
    return pc.images(folder, shape=(1, 12, 12))


class Grouped(torch.nn.Module):
    """A residual block as those of resnet18, of few channels."""

    def __init__(self, norm):
        super().__init__()
        from polyclinic.models.neural.zoo.images import normed

        self.first = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, 2, 1), normed(norm, 4))
        self.second = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, 1, 1), normed(norm, 4))
        self.last = torch.nn.Linear(4, 1)

    def forward(self, inputs):
        x = self.first(inputs["image"]).relu()
        return self.last((x + self.second(x)).relu().mean((2, 3)))


@pytest.fixture
def blocks(monkeypatch):
    from polyclinic.models.neural import architectures
    from polyclinic.models.neural.zoo.images import _NORM

    architectures.names()
    one = architectures.Architecture(
        "block", lambda spec: Grouped(spec.options["norm"]), options=_NORM, reads=("image",)
    )
    monkeypatch.setitem(architectures._installed, "block", one)


def test_images_with_group_normalisation_are_trained_with_noise(tmp_path, blocks):
    sites, private = scans(tmp_path, 180), pc.DifferentialPrivacy(8.0, 1e-5)
    asked = {
        "noise": {"clip": 1.0, "rate": 0.5},
        "strategy": pc.FedAvg(rounds=6, local_steps=3, lr=0.3),
    }
    model = pc.NeuralNetwork("block", architecture_options={"norm": "group"}, **asked)
    model.fit(sites, "label ~ image", privacy=private)
    scores = model.evaluate(sites).measures["all"]
    assert scores["auroc"]["value"] > 0.7, scores["auroc"]
    for ledger in sites.ledgers().values():
        spent, budget, _ = ledger["budget"]
        assert 8.0 <= spent <= budget and "round of training with noise" in ledger["patients"]
    with pytest.raises(pc.Refused) as found:  # a second fit does not fit into the budget
        model.set_params(random_state=1).fit(sites, "label ~ image", privacy=private)
    assert found.value.code == "BUDGET_SPENT"


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_batch_normalisation_is_refused_with_the_option_to_take(tmp_path, name):
    if name == "densenet121":
        pytest.importorskip("monai")
    sites, private = scans(tmp_path), pc.DifferentialPrivacy(8.0, 1e-5)
    sites = pc.images(tmp_path, shape=(1, 32, 32), fit="resize") if name != "resnet18" else sites
    with pytest.raises(pc.InputError) as found:
        pc.NeuralNetwork(name).fit(sites, "label ~ image", privacy=private)
    assert found.value.code == "NO_PRIVATE_VERSION"
    assert '{"norm": "group"}' in found.value.what
