"""Architectures: published numbers of weights, what they read, and those of other packages."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core.contribution import Evidence
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import InputError, Refused
from polyclinic.core.federation import Domain, Domains, Inline
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.learner import Asked, Column, kind_of
from polyclinic.models.neural import architectures
from polyclinic.models.neural.algorithm import Training
from polyclinic.models.neural.architectures import Architecture, architecture_of, options_of
from polyclinic.models.neural.batches import batches, repeats
from polyclinic.models.neural.inputs import Scaling, inputs_of
from polyclinic.models.neural.network import Network, enough_memory, sizes
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.strategy import Strategy
from polyclinic.models.neural.tasks import TrainTask
from polyclinic.models.neural.zoo.series import fill
from polyclinic.privacy.disclosure import judge
from polyclinic.privacy.policy import Policy

torch = pytest.importorskip("torch")


def spec(name, shape, classes=2, options=None, output=(), loss="cross_entropy", table=0, **more):
    one = architecture_of(name)
    terms = tuple(Term(f"t{i}", (Factor("value", f"t{i}"),)) for i in range(table))
    media = ("scan",) if shape else ()
    found = NeuralSpec(
        Design(terms, media=media, intercept=False),
        name,
        1,
        options_of(one, options or {}),
        loss,
        {"cause": 1} if loss == "cox" else {},
        classes,
        {"scan": shape} if shape else {},
        output,
        **more,
    )
    one.fits(found)
    return found


PUBLISHED = [
    ("cnn", (1, 28, 28), 10, {}, 1_199_882),
    ("resnet18", (3, 224, 224), 1000, {}, 11_689_512),
    ("resnet18", (3, 32, 32), 10, {"stem": "small", "norm": "group"}, 11_173_962),
    ("densenet121", (3, 224, 224), 1000, {}, 7_978_856),
]


@pytest.mark.parametrize(("name", "shape", "classes", "options", "weights"), PUBLISHED)
def test_as_many_weights_as_published(name, shape, classes, options, weights):
    if name == "densenet121":
        pytest.importorskip("monai")
    made = Network(spec(name, shape, classes, options))
    assert len(made.weights()) == weights


def test_weights_of_series_networks_are_those_of_their_papers():
    v, h = 5, 8
    for name, gates in (("gru", 3), ("lstm", 4)):
        made = spec(name, (12, v), options={"hidden": h, "layers": 2}, table=3)
        layers = gates * h * (2 * v + h + 2) + gates * h * (2 * h + 2)
        assert sizes(made) == (layers + h + 3 + 1, 0)
    first = (2 * v + h) * h * 3 + 2 * h + (2 * v * h + h)
    rest = (2 * h) * h * 3 + 2 * h
    made = spec("tcn", (12, v), options={"hidden": h, "layers": 3})
    assert sizes(made) == (first + 2 * rest + h + 1, 0)


CASES = [
    ("cnn", (2, 9, 8), {}, 3),
    ("resnet18", (1, 16, 16), {"norm": "group", "stem": "small"}, 0),
    ("gru", (6, 3), {"hidden": 4}, 2),
    ("lstm", (6, 3), {"hidden": 4}, 0),
    ("tcn", (6, 3), {"hidden": 4, "layers": 2}, 2),
    ("mlp", (6, 3), {"hidden": (4,)}, 2),
]


@pytest.mark.parametrize(("name", "shape", "options", "table"), CASES)
def test_the_table_and_every_part_of_the_item_are_read(name, shape, options, table):
    made = Network(spec(name, shape, 3, options, table=table)).module.eval()
    rng = np.random.default_rng(0)
    scan = torch.from_numpy(rng.normal(size=(3, *shape)).astype("f")).requires_grad_()
    inputs = {"scan": scan}
    if table:
        inputs["table"] = torch.zeros((3, table)).requires_grad_()
    found = made(inputs)
    assert found.shape == (3, 3)
    found[1].sum().backward()
    assert (scan.grad[[0, 2]] == 0).all() and scan.grad[1].abs().sum() > 0
    if table:
        assert (inputs["table"].grad[1] != 0).all()


def test_the_small_image_network_is_that_of_the_first_examples():
    made = Network(spec("cnn", (1, 12, 10), 3)).module
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3), torch.nn.ReLU(),
        torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(64 * 4 * 3, 128),
        torch.nn.ReLU(), torch.nn.Linear(128, 3),
    )  # fmt: skip
    pairs = list(zip(plain.parameters(), made.parameters(), strict=True))
    with torch.no_grad():
        for one, other in pairs:
            one.copy_(other)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 1, 12, 10)).astype("f"))
    found, expected = made({"scan": x}), plain(x)
    torch.testing.assert_close(found, expected)
    for outputs in (found, expected):
        (outputs**2).sum().backward()
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(("shape", "norm"), [((1, 32, 32), "batch"), ((2, 32, 32, 32), "group")])
def test_densenet_is_monais(shape, norm):
    nets = pytest.importorskip("monai").networks.nets
    made = Network(spec("densenet121", shape, 3, {"norm": norm})).module
    plain = nets.DenseNet121(len(shape) - 1, shape[0], 3, norm=norm if norm == "batch" else (
        "group", {"num_groups": 32}))  # fmt: skip
    with torch.no_grad():
        for one, other in zip(plain.parameters(), made.parameters(), strict=True):
            one.copy_(other)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *shape)).astype("f"))
    with torch.no_grad():
        torch.testing.assert_close(made({"scan": x}), plain(x))


def test_gaps_are_carried_forward():
    nan = float("nan")
    values, seen = fill(torch.tensor([[[nan, 1.0], [2.0, nan], [nan, nan], [3.0, 4.0]]]))
    assert values.tolist() == [[[0, 1], [2, 1], [2, 1], [3, 4]]]
    assert seen.tolist() == [[[0, 1], [1, 0], [0, 0], [1, 1]]]


def test_causal_convolutions_see_no_later_step():
    made = Network(spec("tcn", (8, 1), options={"hidden": 4, "layers": 2})).module.eval()
    body = made.body.blocks
    x = torch.randn(1, 2, 8)
    later = x.clone()
    later[:, :, 5:] += 1
    assert torch.equal(body(x)[:, :, :5], body(later)[:, :, :5])
    assert not torch.equal(body(x)[:, :, 5:], body(later)[:, :, 5:])


def test_unet_answers_with_the_images_size_in_two_and_three_dimensions():
    for shape in ((2, 8, 12), (1, 4, 8, 8)):
        found = spec("unet", shape, 0, {"channels": (4, 8)}, (3, *shape[1:]), "dice")
        made = Network(found).module.eval()
        assert made({"scan": torch.zeros((2, *shape))}).shape == (2, 3, *shape[1:])
    assert sizes(spec("unet", (1, 8, 8), 0, {}, (1, 8, 8), "dice"))[0] == 117_393


WRONG = [
    ("cnn", (1, 5, 5), {}, "6 or more"),
    ("cnn", (1, 8, 8, 8), {}, "height, width"),
    ("cnn", (), {}, "one item a row"),
    ("gru", (1, 8, 8), {}, "steps, variables"),
    ("unet", (1, 10, 8), {"loss": "dice", "classes": 0, "output": (1, 10, 8)}, "multiples of 4"),
    ("unet", (1, 8, 8), {"loss": "dice", "classes": 0, "output": (1, 4, 4)}, "image's size"),
    (
        "unet",
        (1, 8, 8),
        {"loss": "dice", "classes": 0, "output": (1, 8, 8), "table": 1},
        "one image only",
    ),
    ("resnet18", (1, 8, 8), {"strategy": Strategy(batch_size=1)}, "two or more"),
]


@pytest.mark.parametrize(("name", "shape", "more", "words"), WRONG)
def test_what_does_not_fit_is_said(name, shape, more, words):
    with pytest.raises(InputError) as found:
        spec(name, shape, **more)
    assert found.value.code == "WRONG_VALUE" and words in found.value.rule


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"norm": "layer"}),
        ("gru", {"hidden": 0}),
        ("gru", {"hidden": True}),
        ("tcn", {"kernel": 4}),
        ("unet", {"channels": (4,)}),
        ("cnn", {"dropout": 1.0}),
        ("mlp", {"hidden": 8}),
    ],
)
def test_options_are_checked(name, options):
    with pytest.raises(InputError) as found:
        options_of(architecture_of(name), options)
    assert found.value.code == "WRONG_VALUE"


class Entry:
    def __init__(self, name, made):
        self.name, self.made = name, made

    def load(self):
        return self.made()


@pytest.fixture
def packages(monkeypatch):
    """Installs packages with these entry points."""

    def install(*entries):
        monkeypatch.setattr(architectures, "_installed", {})
        monkeypatch.setattr(architectures, "_loaded", [])
        monkeypatch.setattr(architectures, "_broken", [])
        monkeypatch.setattr(architectures, "entry_points", lambda group: entries)

    return install


def _own(spec):
    return torch.nn.Linear(1, 1)


def test_a_package_brings_its_own_and_a_broken_one_breaks_nothing(packages):
    def broken():
        raise ImportError("no such module")

    packages(Entry("bad", broken), Entry("own", lambda: [Architecture("lung", _own, version=2)]))
    assert architecture_of("lung").version == 2
    assert architecture_of("mlp").name == "mlp"
    with pytest.raises(InputError) as found:
        architecture_of("liver")
    assert found.value.code == "UNKNOWN_ARCHITECTURE"
    assert "lung" in found.value.rule and "not read: bad" in found.value.rule


def test_another_version_is_another_network(packages):
    packages(Entry("own", lambda: [Architecture("lung", _own, version=2)]))
    with pytest.raises(InputError) as found:
        Network(NeuralSpec(Design((Term("a", ()),)), "lung", 1))
    assert found.value.code == "UNKNOWN_ARCHITECTURE" and "version 2 here, not 1" in str(
        found.value
    )


class Held:
    """Images in memory as a site holds them."""

    fingerprint = "held"

    def __init__(self, items):
        self.items, self.kind, self.shape = items, "image", items.shape[1:]

    def read(self, positions):
        return self.items[positions].astype(np.float32)


def asked(loss="cross_entropy", classes=2, output=(), event=None, table=True, **options):
    terms = (Term("age", (Factor("value", "age"),), 100.0),) if table else ()
    design = Design(terms, "y", True, media=("scan",), event=event)
    columns = (Column("scan", "image", shape=(1, 8, 8)), *((Column("age", "number"),) * table))
    return Asked(design, {"loss": loss, **options}, classes, columns, output=output)


def site(name, rows, seed, **more):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(rows, 1, 8, 8))
    y = np.arange(rows) % 2.0
    columns = {"y": y, "age": rng.normal(60, 9, rows), "scan": np.arange(rows)[::-1].astype(float)}
    media = {"scan": Held(images), "y": Held((images > 0).astype(float))}
    return Partition({**columns, **more}, site=name, media=media)


def trained(question, parts):
    one = kind_of("neural").spec(question)
    engine = Domains({part.site: Inline(part) for part in parts})
    return fit(one.algorithm(), engine).model[-1]


def masks(**more):
    return asked(
        "dice",
        0,
        (1, 8, 8),
        table=False,
        architecture="unet",
        architecture_options={"channels": (4, 8)},
        **more,
    )


def test_running_statistics_are_averaged_by_rows():
    question = masks(strategy=Strategy(rounds=1, batch_size=4, lr=1e-6))
    parts = [site("a", 5, 1), site("b", 12, 2)]
    both, one, other = (
        trained(question, chosen).beside for chosen in (parts, parts[:1], parts[1:])
    )
    np.testing.assert_allclose(both, (5 * one + 12 * other) / 17, atol=1e-5)
    assert np.abs(one - other).max() > 0.01


def test_a_batch_of_one_row_is_normalised_by_the_running_statistics():
    network = Network(spec("resnet18", (1, 8, 8)))  # one pixel is left at its end
    network.module.train()
    with pytest.raises(ValueError, match="more than 1 value"):
        network.module({"scan": torch.zeros(1, 1, 8, 8)})
    before = network.beside()
    rows = inputs_of(network.spec, Scaling(np.zeros(0), np.ones(0)), site("a", 5, 1))
    _, loss = network.rows(rows, np.array([4]))
    loss.sum().backward()
    assert (network.beside() == before).all()
    assert all(one.training for one in network.module.modules())


def test_an_image_beside_a_table_trains_and_a_mask_is_read_as_an_outcome():
    strategy = Strategy(rounds=2, batch_size=0, lr=0.01)
    found = trained(asked(architecture="cnn", strategy=strategy), [site("a", 10, 1)])
    assert found.n == 10 and found.scaling.centre == pytest.approx(60, abs=9)
    question = masks(
        strategy=Strategy(rounds=8, batch_size=0, lr=0.1, optimizer="adam"),
    )
    found = trained(question, [site("a", 10, 1), site("b", 6, 2)])
    assert found.history[-1]["loss"] < 0.7 * found.history[0]["loss"]
    assert found.predictor().explains == "mask"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (asked("squared"), "cross_entropy, focal"),
        (asked("dice"), "cross_entropy, focal"),
        (asked("cox", 0), "squared, poisson"),
        (asked("dice", 0, (1, 8, 8), table=False), "mlp finds"),
        (asked("squared", 0, event="died"), "losses for it: cox"),
        (asked("focal", 3, loss_options={"alpha": 0.2}), "alpha is for two"),
        (asked("squared", 0, sampling="balanced"), "the outcome has classes"),
        (asked(sampling="balanced", class_weight="balanced"), "weighs the rows"),
        (asked(sampling="balanced", strategy=Strategy("fedsgd")), "weighs the rows"),
    ],
)
def test_losses_and_samplings_fit_the_outcome(question, words):
    with pytest.raises(InputError) as found:
        kind_of("neural").spec(question)
    assert found.value.code == "WRONG_VALUE" and words in found.value.rule


def test_balanced_batches_hold_the_classes_alike():
    classes = np.array([0] * 17 + [1] * 3)
    strategy = Strategy(batch_size=4)
    found = list(batches(strategy, np.arange(20), 0, 7, classes=classes))
    assert [len(one) for one in found] == [4] * 5
    assert all(classes[one].sum() == 2 for one in found)
    assert set(np.concatenate(found)[classes[np.concatenate(found)] == 1]) == {17, 18, 19}
    again = list(batches(strategy, np.arange(20), 0, 7, classes=classes))
    assert all((a == b).all() for a, b in zip(found, again, strict=True))
    later = np.concatenate(list(batches(strategy, np.arange(20), 1, 7, classes=classes)))
    assert (later != np.concatenate(found)).any()
    met = np.bincount(np.concatenate(found), minlength=20)
    assert repeats(classes)[17:].sum() == pytest.approx(met[17:].sum())


@pytest.mark.parametrize(("events", "refused"), [(1, True), (10, False)])
def test_one_patient_does_not_fill_half_of_the_balanced_batches(events, refused):
    rows = site("a", 30, 1, y=(np.arange(30) < events).astype(float))
    question = asked(sampling="balanced", strategy=Strategy(rounds=1, batch_size=0))
    one = kind_of("neural").spec(question)
    moments = fit(one.algorithm(), Domain(Inline(rows))).model[0]
    training = Training(one, moments)
    plan, task = training.plan(training.init(0)), TrainTask()
    exposure = task.exposure(plan, rows, {})
    assert task.candidates(plan) == ((), 1) and exposure.updates == len(Network(one).weights())
    found = [one.code for one in judge(Policy(), exposure, Evidence(30))]
    assert ("EFFECTIVE_SIZE" in found) == refused


def test_no_memory_is_a_clear_refusal():
    with pytest.raises(Refused) as found, enough_memory():
        torch.empty(2**60)
    assert found.value.code == "OUT_OF_MEMORY"
    with pytest.raises(RuntimeError, match="shapes"), enough_memory():
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_one_domain_without_sites_trains_too():
    found = fit(
        kind_of("neural").spec(asked(strategy=Strategy(rounds=1))).algorithm(),
        Domain(Inline(site("a", 10, 1))),
    )
    assert found.model[-1].rounds == 1
