"""Networks of durations and of masks, judged by sums over hospitals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Shares
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.evaluation.importance import ImportanceTask
from polyclinic.evaluation.masks import MasksTask
from polyclinic.evaluation.pairs import OwnPairsTask, PairsTask, pairs_of
from polyclinic.evaluation.shuffled import Shuffle, order_of
from polyclinic.models.survival.concordance import Pairs, concordance_of, pairs
from polyclinic.privacy.disclosure import isolating

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def patients():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(180, 3))
    frame = pd.DataFrame(x, columns=list("abc"))
    frame["days"] = np.ceil(10 * rng.exponential(np.exp(-x[:, 0])))
    frame["died"] = (rng.random(180) < 0.7).astype(int)
    return frame.assign(hospital=np.repeat(list("xyz"), 60))


NETWORK = {"loss": "cox", "strategy": pc.FedSGD(rounds=4, lr=1.0)}
FORMULA = "Surv(days, died) ~ a + b + c"


def by_hand(model, patients):
    """Pairs within each hospital."""
    found = Pairs.none()
    for _, rows in patients.groupby("hospital"):
        days, died = rows["days"].to_numpy(), rows["died"].to_numpy() == 1
        found += pairs(days, died, model.predict(rows))
    return concordance_of(found)


def test_concordance_over_hospitals_is_that_of_the_pairs_in_each(patients, tmp_path):
    sites = pc.split(patients, by="hospital", policy=pc.Policy(min_patients=1))
    model = pc.NeuralNetwork("linear", **NETWORK).fit(sites, FORMULA)
    found = model.evaluate(validate="none")
    wanted = by_hand(model, patients)
    assert found.measures["all"]["concordance"]["value"] == pytest.approx(wanted["c"], abs=1e-12)
    assert found.measures["all"]["pairs"] == wanted["pairs"]
    assert found.table.loc["all", "events"] == patients["died"].sum()
    one = patients[patients["hospital"] == "x"]
    own = by_hand(model, one)["c"]
    assert found.measures["sites"]["x"]["concordance"]["value"] == round(own, 2)
    # Cross-validated, and as a Cox regression is.
    crossed = model.evaluate(folds=2).measures
    assert crossed["how"] == "cross-validation" and crossed["apparent"]["pairs"] == wanted["pairs"]
    cox = pc.CoxRegression(ties="breslow").fit(sites, FORMULA).evaluate(folds=2).measures
    near = cox["all"]["concordance"]["value"]
    assert crossed["all"]["concordance"]["value"] == pytest.approx(near, abs=0.02)
    assert crossed["all"]["pairs"] == cox["all"]["pairs"]
    assert "concordance" in model.report(tmp_path / "r.html").read_text(encoding="utf-8")


def test_policies_of_hospitals_group_risks(patients):
    sites = pc.split(patients, by="hospital")
    model = pc.NeuralNetwork("linear", **NETWORK).fit(sites, FORMULA)
    found = model.evaluate(validate="none").measures["all"]
    exact = by_hand(model, patients)
    assert found["concordance"]["value"] == pytest.approx(exact["c"], abs=0.02)
    # A study's own question with smaller groups is refused by the gate.
    values = {
        "predictors": [model.predictor_.to_data()],
        "folds": 0,
        "outcome": "survival",
        "where": None,
    }
    federation = model.formula_data.federation
    for least, code in ((1, "LEVEL_TOO_SMALL"), (5, "")):
        plan = Plan("evaluation.pairs", {**values, "least": least})
        try:
            federation.total(plan)
            assert not code
        except PolyclinicError as refused:
            assert refused.code == code


def test_pairs_are_asked_in_their_own_way(patients):
    rows = patients.drop(columns="hospital")
    arrays = {name: rows[name].to_numpy(dtype=float) for name in rows}
    sites = pc.split(patients, by="hospital")
    model = pc.LogisticRegression().fit(sites, "died ~ a")
    values = {"predictors": [model.predictor_.to_data()], "folds": 0, "outcome": "survival"}
    plan = Plan("evaluation.pairs", {**values, "where": None, "least": 5})
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        pairs_of(plan, Partition(arrays))
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        OwnPairsTask().leaves(plan)
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        PairsTask().leaves(Plan(plan.task, plan.values, combine="collect"))
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        MasksTask().leaves(plan)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Three hospitals of images with a square, its mask, and a network that finds it."""
    rng = np.random.default_rng(0)
    folder, tables = tmp_path_factory.mktemp("masks"), {}
    truth = {}
    for name, n in (("x", 12), ("y", 14), ("z", 16)):
        images = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
        masks = np.zeros((n, 1, 8, 8), dtype=np.float32)
        for i in range(n):
            top, left = rng.integers(0, 5, 2)
            masks[i, 0, top : top + 3, left : left + 3] = 1
        np.save(folder / f"{name}_i.npy", images + 3 * masks)
        np.save(folder / f"{name}_m.npy", masks)
        frame = pd.DataFrame({"scan": [f"{name}_i.npy#{i}" for i in range(n)]})
        frame["mask"] = [f"{name}_m.npy#{i}" for i in range(n)]
        frame.to_csv(folder / f"{name}.csv", index=False)
        tables[name], truth[name] = folder / f"{name}.csv", (images + 3 * masks, masks)
    (folder / "schema.toml").write_text(
        'name = "squares"\n[columns.scan]\ntype = "image"\nshape = [1, 8, 8]\nrange = [-10, 10]\n'
        '[columns.mask]\ntype = "image"\nshape = [1, 8, 8]\nrange = [0, 1]\n',
        encoding="utf-8",
    )
    sites = pc.read(tables, schema=folder / "schema.toml")
    strategy = pc.FedAvg(rounds=2, batch_size=0, local_epochs=25, lr=0.03, optimizer="adam")
    network = pc.NeuralNetwork(
        "unet", architecture_options={"channels": (4, 8)}, loss="dice", strategy=strategy
    )
    return network.fit(sites, "mask ~ scan"), truth


def test_dice_and_intersection_over_union_over_hospitals(seen, tmp_path):
    model, truth = seen
    images, masks = (np.concatenate([one[k] for one in truth.values()]) for k in (0, 1))
    rows = Partition(
        {"scan": np.arange(len(images), dtype=float)}, media={"scan": Held((images + 10) / 20)}
    )
    inside, true = model.predictor_.predict(rows) > 0.5, masks > 0.5
    both, either = (inside & true).sum(), (inside | true).sum()
    each = 2 * (inside & true).sum((1, 2, 3)) / (inside.sum((1, 2, 3)) + true.sum((1, 2, 3)))
    found = model.evaluate(validate="none")
    measured = found.measures["all"]
    assert measured["n"] == 42 and both > 50
    assert measured["iou_of_pixels"] == pytest.approx([both / either])
    assert measured["dice_of_pixels"] == pytest.approx([2 * both / (inside.sum() + true.sum())])
    assert measured["dice"] == pytest.approx(each.mean(), abs=1e-9)
    assert found.table.loc["all", "dice"] == pytest.approx(each.mean(), abs=1e-9)
    model.report(tmp_path / "r.html")


def exchanged(rows: int, column: str, repeats: int, part=()):
    """Who gives, by repeat, in a hospital of so many rows."""
    shuffle = Shuffle(column, part, repeats, 4)
    return [order_of(shuffle, repeat, np.arange(rows)) for repeat in range(repeats)]


def test_importance_for_durations_is_the_growth_of_pairs_ranked_wrongly(patients):
    sites = pc.split(patients, by="hospital", policy=pc.Policy(min_patients=1))
    model = pc.NeuralNetwork("linear", **NETWORK).fit(sites, FORMULA)
    before, lines = by_hand(model, patients)["c"], {}
    for column in "abc":
        by_repeat = []
        for repeat in range(2):
            parts = []
            for _, rows in patients.groupby("hospital"):
                order = exchanged(len(rows), column, 2)[repeat]
                parts.append(rows.assign(**{column: rows[column].to_numpy()[order]}))
            by_repeat.append(before - by_hand(model, pd.concat(parts))["c"])
        lines[column] = {"increase": np.mean(by_repeat), "sd": np.std(by_repeat), "repeats": 2}
    wanted = pd.DataFrame(lines).T.sort_values("increase", ascending=False)
    found = model.importance(repeats=2, seed=4)
    pd.testing.assert_frame_equal(
        found, wanted, check_dtype=False, check_names=False, rtol=1e-9, atol=1e-12
    )
    assert found.index[0] == "a" and found.loc["a", "increase"] > 0.1
    # Policies that group risks, and secure sums.
    grouped = model.importance(pc.split(patients, by="hospital"), repeats=2, seed=4)
    assert grouped.loc["a", "increase"] == pytest.approx(wanted.loc["a", "increase"], abs=0.03)


def test_a_cox_regression_sends_no_predictions(patients):
    sites = pc.split(patients, by="hospital")
    model = pc.CoxRegression(ties="breslow").fit(sites, FORMULA)
    with pytest.raises(pc.InputError) as error:
        model.importance()
    assert error.value.code == "NOTHING_TO_PREDICT"
    clusters = pc.KMeans(n_clusters=2).fit(sites, "~ a + b")
    with pytest.raises(pc.InputError) as error:
        clusters.importance()
    assert error.value.code == "NOTHING_TO_PREDICT"


def test_importance_for_masks_is_the_fall_of_dice(seen):
    model, truth = seen
    found = model.importance(repeats=2, seed=4)
    by_repeat, before = np.zeros(2), 0.0
    for images, masks in truth.values():
        inside, true = inside_of(model, images), masks > 0.5
        before += dice_of(inside, true).sum() / 42
        for repeat, order in enumerate(exchanged(len(images), "scan", 2)):
            by_repeat[repeat] += dice_of(inside[order], true).sum() / 42
    assert found.loc["scan", "increase"] == pytest.approx(before - by_repeat.mean(), abs=1e-9)
    assert found.loc["scan", "sd"] == pytest.approx(by_repeat.std(), abs=1e-9)
    assert found.loc["scan", "increase"] > 0.3 and list(found["repeats"]) == [2]
    quarters = model.importance(repeats=1, parts={"scan": 2})
    assert len(quarters) == 4 and (quarters["increase"] > 0.03).all()


def inside_of(model, images):
    rows = Partition(
        {"scan": np.arange(len(images), dtype=float)}, media={"scan": Held((images + 10) / 20)}
    )
    return model.predictor_.predict(rows) > 0.5


def dice_of(inside, true):
    both = (inside & true).sum((1, 2, 3))
    return 2 * both / (inside.sum((1, 2, 3)) + true.sum((1, 2, 3)))


@pytest.mark.parametrize("outcome", ["survival", "mask", "binary", "other"])
def test_an_importance_of_another_outcome_than_the_networks_is_refused(patients, outcome):
    model = pc.LogisticRegression().fit(pc.split(patients, by="hospital"), "died ~ a")
    values = {
        "predictors": [model.predictor_.to_data()],
        **{"folds": 0, "outcome": outcome, "thresholds": [], "where": None, "classes": 2},
        **{"exponent": 0, "least": 5, "shuffle": Shuffle("a").to_data()},
    }
    federation = model.formula_data.federation
    if outcome == "binary":
        assert federation.total(Plan("evaluation.importance", values))["n"] == 180
        return
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        federation.total(Plan("evaluation.importance", values))


class Held:
    kind, fingerprint = "image", "f"

    def __init__(self, values):
        self.values, self.shape = values.astype(np.float32), values.shape[1:]

    def read(self, positions):
        return self.values[positions]


def test_a_network_that_finds_one_patient_only_is_seen():
    """Or all but him: his pixels are then those that are missed."""
    task, n = MasksTask(), 40
    cells = np.tile([20.0, 4, 3, 37], (n, 1, 1))
    assert not isolating(pc.Policy(), shown(task, cells)).any()
    one = np.tile([0.0, 0, 23, 41], (n, 1, 1))
    one[3] = [23, 2, 0, 39]
    assert isolating(pc.Policy(), shown(task, one)).all()
    rest = np.tile([23.0, 4, 0, 37], (n, 1, 1))
    rest[3] = [0, 4, 23, 37]
    assert isolating(pc.Policy(), shown(task, rest)).all()


def test_importance_judges_masks_by_who_is_scored_and_by_who_gives():
    task, shuffle = ImportanceTask(), Shuffle("scan", (), 3, 1)
    values = {"predictors": [{}], "folds": 0, "where": None, "outcome": "mask"}
    key = np.concatenate([np.zeros(12, dtype=np.int64), np.arange(1, 69)])
    rows = Partition({"scan": np.arange(80.0)}, key)

    def left_out(found):
        """Where the masks of these scored rows are found, and no others."""
        cells = np.where(np.asarray(found)[:, None, None], [23.0, 2, 0, 39], [0.0, 0, 23, 41])
        plan = Plan(task.name, {**values, "shuffle": shuffle.to_data()})
        plan.once("predictors", lambda: [Told(cells)])
        exposure = task.exposure(plan, rows, {})
        assert set(exposure.columns) == {"(Dice)", "(1 - Dice)"}
        return isolating(pc.Policy(), exposure).tolist()

    places = np.arange(80)
    assert left_out((places >= 20) & (places < 60)) == [False] * 3
    assert left_out(places < 12) == [True] * 3  # one patient, in all of his rows
    given = key[order_of(shuffle, 0, rows.keys)] == 0  # what he gave, to many others
    assert left_out(given) == [True, False, False]


class Told:
    explains, output = "mask", (1, 8, 8)

    def __init__(self, cells):
        self.cells = cells
        self.design = Design((), "mask", media=("scan",), intercept=False)

    def overlaps(self, partition):
        return self.cells


def shown(task, cells):
    plan = Plan(task.name, {"predictors": [], "folds": 0, "where": None})
    plan.once("predictors", lambda: [Told(cells)])
    found = task.exposure(plan, Partition({"scan": np.arange(40.0)}), {})
    assert all(isinstance(one, Shares) for one in found.columns.values())
    return found
