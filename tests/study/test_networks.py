"""Networks that users fit: outcomes of every kind, maps, files, and wrong input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.errors import DataWarning

torch = pytest.importorskip("torch")
SITES = np.repeat(list("abc"), 30)
ONE_STEP = pc.FedAvg(rounds=1, batch_size=0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def patients():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 3))
    frame = pd.DataFrame(x, columns=list("abc"))
    frame["days"] = np.ceil(10 * rng.exponential(np.exp(-x[:, 0])))
    frame["died"] = (rng.random(90) < 0.7).astype(int)
    return frame.assign(hospital=SITES)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 1, 8, 8)).astype("f")
    x[::2, :, 2:5, 2:5] += 3
    return x, np.arange(12) % 2 == 0


def test_a_linear_network_with_cox_is_a_cox_regression_stratified_by_site(patients):
    x, y = patients[list("abc")].to_numpy(), patients[["days", "died"]].to_numpy()
    strategy = pc.FedSGD(rounds=80, lr=1.0)
    model = pc.NeuralNetwork("linear", loss="cox", scale="none", strategy=strategy)
    model.fit(x, y, sites=SITES)
    wanted = pc.CoxRegression(ties="breslow", diagnostics=False)
    wanted.fit(x, y[:, 0], event=y[:, 1], sites=SITES)
    np.testing.assert_allclose(model.result_.weights[:3], wanted.coef_, atol=1e-4)
    assert model.score(x, y) == pytest.approx(wanted.score(x, y[:, 0], event=y[:, 1]))
    structured = np.array([*zip(y[:, 1] == 1, y[:, 0], strict=True)], "?,f8")
    assert model.score(x, structured) == pytest.approx(model.score(x, y))
    assert not hasattr(model, "predict_proba")


def test_survival_by_a_formula_over_hospitals(patients, tmp_path):
    sites = pc.split(patients, by="hospital")
    more = {"loss": "cox", "strategy": pc.FedSGD(rounds=3, lr=1.0)}
    model = pc.NeuralNetwork("linear", **more).fit(sites, "Surv(days, died) ~ a + b + c")
    x, y = patients[list("abc")].to_numpy(), patients[["days", "died"]].to_numpy()
    arrays = pc.NeuralNetwork("linear", **more).fit(x, y, sites=SITES)
    np.testing.assert_allclose(model.predict(patients), arrays.predict(x), atol=1e-5)
    model.save(tmp_path / "m.pcm")
    again = pc.load(tmp_path / "m.pcm")
    assert again.predict(patients).tobytes() == model.predict(patients).tobytes()
    with pytest.raises(pc.InputError) as found:
        pc.NeuralNetwork("linear").fit(sites, "Surv(days, died) ~ a")
    assert found.value.code == "WRONG_VALUE" and "cox" in found.value.rule
    with pytest.raises(pc.InputError) as found:
        pc.GradientBoostingClassifier().fit(sites, "Surv(days, died) ~ a")
    assert found.value.code == "BAD_FORMULA"


def test_a_linear_network_with_poisson_is_a_poisson_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    y = rng.poisson(np.exp(0.5 * x[:, 0] + 0.2)).astype(float)
    strategy = pc.FedSGD(rounds=150, lr=0.4)
    model = pc.NeuralNetwork("linear", loss="poisson", scale="none", strategy=strategy).fit(x, y)
    wanted = pc.PoissonRegression().fit(x, y)
    np.testing.assert_allclose(model.predict(x), wanted.predict(x), rtol=1e-4)
    assert 0 < model.score(x, y) < 1
    with pytest.raises(pc.InputError) as found:
        model.fit(x, -y)
    assert found.value.code == "OUTCOME_NOT_ALLOWED"


def test_masks_are_found(images, tmp_path):
    x, _ = images
    y = (x > 1.5)[:, 0]
    strategy = pc.FedAvg(rounds=3, batch_size=0, local_epochs=25, lr=0.03, optimizer="adam")
    model = pc.NeuralNetwork(
        "unet", architecture_options={"channels": (4, 8)}, loss="dice", strategy=strategy
    )
    model.fit(x, y, sites=np.repeat(list("abc"), 4))
    assert model.predict(x).shape == x.shape and model.predict(x).dtype == bool
    assert model.score(x, y) > 0.8
    assert ((model.predict_proba(x) > 0.5) == model.predict(x)).all()
    model.save(tmp_path / "m.pcm")
    assert (pc.load(tmp_path / "m.pcm").predict_proba(x) == model.predict_proba(x)).all()
    with pytest.raises(pc.InputError) as found:
        model.fit(x, y.astype(int) * 2)
    assert found.value.code == "WRONG_VALUE"
    for wrong in (y[:, :4], y[:, 0, 0]):
        with pytest.raises(pc.InputError) as found:
            model.fit(x, wrong)
        assert found.value.code == "WRONG_SHAPE"


@pytest.fixture(scope="module")
def seeing(images):
    strategy = pc.FedAvg(rounds=1, batch_size=0, local_epochs=10, lr=0.003, optimizer="adam")
    return pc.NeuralNetwork("cnn", strategy=strategy).fit(*images)


def test_a_network_comes_home_as_a_plain_torch_module(seeing, images):
    x, _ = images
    module = seeing.to_torch()
    assert all(weights.is_contiguous() for weights in module.state_dict().values())
    logit = module({"items": torch.from_numpy(x)}).detach().numpy()[:, 0]
    assert np.allclose(1 / (1 + np.exp(-logit)), seeing.predict_proba(x)[:, 1], atol=1e-6)


def test_integrated_gradients_add_up_and_point_at_the_spot(seeing, images):
    pytest.importorskip("captum")
    x, y = images
    maps = seeing.explain(x, steps=100)
    assert maps.shape == x.shape
    logit = seeing.predictor_.outputs(seeing.partition(x))[:, 0]
    none = seeing.predictor_.outputs(seeing.partition(np.zeros_like(x[:1])))[0, 0]
    np.testing.assert_allclose(maps.sum((1, 2, 3)), logit - none, atol=0.05)
    spot = np.abs(maps[y][:, :, 2:5, 2:5]).mean() / np.abs(maps[y]).mean()
    assert spot > 2
    # A network that bends cannot be followed in one step.
    with pytest.warns(DataWarning, match="do not add up"):
        seeing.explain(x * 30, steps=1, baseline=x[0] * -30)


def test_integrated_gradients_of_a_linear_network_are_its_terms():
    pytest.importorskip("captum")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    model = pc.NeuralNetwork("linear", loss="squared", strategy=ONE_STEP).fit(x, x @ [1, 2, 3.0])
    scaled = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(
        model.explain(x), scaled * model.result_.weights[:3], rtol=1e-4, atol=1e-6
    )
    occluded = model.explain(x, "occlusion")
    np.testing.assert_allclose(occluded, model.explain(x), rtol=1e-3, atol=1e-5)


def test_series_with_gaps_are_explained(images):
    pytest.importorskip("captum")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 6, 2))
    x[rng.random(x.shape) < 0.3] = np.nan
    model = pc.NeuralNetwork("gru", architecture_options={"hidden": 4}, strategy=ONE_STEP)
    model.fit(x, np.arange(20) % 2)
    for method in ("integrated_gradients", "occlusion"):
        maps = model.explain(x, method, window=2)
        assert maps.shape == x.shape and np.isfinite(maps).all() and np.abs(maps).sum() > 0
    assert (model.explain(x)[np.isnan(x)] == 0).all()


def test_occlusion_points_at_the_spot(seeing, images):
    pytest.importorskip("captum")
    x, y = images
    maps = seeing.explain(x[y], "occlusion", window=3)
    assert np.abs(maps[:, :, 2:5, 2:5]).mean() > 2 * np.abs(maps).mean()


def test_what_is_not_explained(seeing, images, patients):
    pytest.importorskip("captum")
    cases = [
        ({"method": "magic"}, "WRONG_VALUE"),
        ({"target": 3}, "WRONG_VALUE"),
        ({"method": "occlusion", "window": 9}, "WRONG_VALUE"),
        ({"column": "xray"}, "WRONG_VALUE"),
    ]
    for options, code in cases:
        with pytest.raises(pc.InputError) as found:
            seeing.explain(images[0], **options)
        assert found.value.code == code
    with pytest.raises(pc.InputError) as found:
        seeing.explain(pc.split(patients, by="hospital"))
    assert found.value.code == "NOT_HELD"


def test_wrong_items_are_named(seeing, images):
    x, y = images
    holes = x.copy()
    holes[0, 0, 0, 0] = np.nan
    for wrong, code in (
        (holes, "NOT_FINITE"),
        (x[:, :, :4], "WRONG_SHAPE"),
        (x.astype(str), "WRONG_TYPE"),
        (x.reshape(12, -1), "WRONG_SHAPE"),
    ):
        with pytest.raises(pc.InputError) as found:
            seeing.predict(wrong)
        assert found.value.code == code
    model = pc.NeuralNetwork("cnn", strategy=ONE_STEP)
    for given, outcome, code in (
        (holes, y, "NOT_FINITE"),
        (x, y[:5], "WRONG_LENGTH"),
        (x, np.ones(12), "ONE_CLASS"),
    ):
        with pytest.raises(pc.InputError) as found:
            model.fit(given, outcome)
        assert found.value.code == code
    series = np.zeros((4, 3, 2))
    series[0, 0, 0] = np.inf
    with pytest.raises(pc.InputError) as found:
        pc.NeuralNetwork("gru").fit(series, [0, 1, 0, 1])
    assert found.value.code == "NOT_FINITE"
    with pytest.raises(pc.InputError) as found:
        pc.NeuralNetwork("gru").fit(x, y)
    assert found.value.code == "WRONG_VALUE"


def test_a_batch_larger_than_the_rows_is_all_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), np.arange(12) % 2
    one, other = (
        pc.NeuralNetwork(strategy=pc.FedAvg(rounds=2, batch_size=size)).fit(x, y)
        for size in (0, 5000)
    )
    assert one.result_.weights.tobytes() == other.result_.weights.tobytes()


def test_as_many_classes_as_rows():
    x = np.eye(4)
    strategy = pc.FedAvg(rounds=1, batch_size=0, local_epochs=80, lr=0.1, optimizer="adam")
    model = pc.NeuralNetwork(strategy=strategy).fit(x, list("abcd"))
    assert list(model.predict(x)) == list("abcd")
    with pytest.raises(pc.InputError) as found:
        pc.NeuralNetwork(class_weight=[1.0, 2.0]).fit(x, list("abcd"))
    assert found.value.code == "WRONG_VALUE"
