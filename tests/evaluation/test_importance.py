"""Importances by sums: the loss when a column is that of other rows of the same hospital."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

import polyclinic as pc
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.evaluation.importance import ImportanceTask
from polyclinic.evaluation.shuffled import Shuffle, order_of, shuffled
from polyclinic.privacy.disclosure import isolating

OPEN = pc.Policy(min_patients=1)


@pytest.fixture(scope="module")
def patients():
    rng = np.random.default_rng(0)
    n = 150
    frame = pd.DataFrame({"a": rng.normal(size=n), "b": rng.normal(size=n)})
    frame["drug"] = np.array(["none", "some", "much"])[rng.integers(0, 3, n)]
    odds = 2 * frame["a"] + (frame["drug"] == "much") - 0.5
    frame["ill"] = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(int)
    frame["cost"] = 3 * frame["a"] + rng.normal(size=n)
    return frame.assign(hospital=np.repeat(list("xyz"), [40, 50, 60]))


def by_hand(model, rows: pd.DataFrame, column: str, repeats: int, loss) -> np.ndarray:
    """Sums of losses, as they are and then by repeat, of one hospital's rows."""
    shuffle, keys = Shuffle(column, (), repeats, 4), np.arange(len(rows))
    found = [loss(rows)]
    for repeat in range(repeats):
        order = order_of(shuffle, repeat, keys)
        assert sorted(order) == list(keys)
        found.append(loss(rows.assign(**{column: rows[column].to_numpy()[order]})))
    return np.array(found)


def table_by_hand(model, hospitals, columns, repeats, loss) -> pd.DataFrame:
    lines = {}
    for column in columns:
        sums = sum(by_hand(model, rows, column, repeats, loss) for rows in hospitals)
        more = (sums[1:] - sums[0]) / sum(len(rows) for rows in hospitals)
        lines[column] = {"increase": more.mean(), "sd": more.std(), "repeats": repeats}
    return pd.DataFrame(lines).T.sort_values("increase", ascending=False)


@pytest.mark.parametrize("many", [1, 3])
def test_importances_are_those_of_the_same_exchanges_by_hand(patients, many):
    rows = patients if many > 1 else patients.assign(hospital="x")
    sites = pc.split(rows, by="hospital", policy=OPEN)
    hospitals = [part.reset_index(drop=True) for _, part in rows.groupby("hospital")]
    columns = ["a", "b", "drug"]
    model = pc.LogisticRegression().fit(sites, "ill ~ a + b + C(drug)")

    def entropy(frame):
        return len(frame) * log_loss(frame["ill"], model.predict_proba(frame))

    found = model.importance(repeats=3, seed=4)
    wanted = table_by_hand(model, hospitals, columns, 3, entropy)
    pd.testing.assert_frame_equal(
        found, wanted, check_dtype=False, check_names=False, rtol=1e-9, atol=1e-12
    )
    assert found.index[0] == "a" and abs(found.loc["b", "increase"]) < 0.1
    assert list(model.importance(columns=["b"], repeats=1).index) == ["b"]

    number = pc.LinearRegression().fit(sites, "cost ~ a + b")

    def squared(frame):
        return ((frame["cost"] - number.predict(frame)) ** 2).sum()

    found = number.importance(repeats=2, seed=4)
    wanted = table_by_hand(number, hospitals, ["a", "b"], 2, squared)
    pd.testing.assert_frame_equal(
        found, wanted, check_dtype=False, check_names=False, rtol=1e-9, atol=1e-12
    )


def test_secure_sums_and_other_hospitals_give_the_same(patients):
    secure = pc.split(patients, by="hospital")
    clear = pc.split(patients, by="hospital", policy=pc.Policy(release_alone=True))
    model = pc.LogisticRegression().fit(secure, "ill ~ a + b")
    found, again = model.importance(repeats=2), model.importance(clear, repeats=2)
    pd.testing.assert_frame_equal(found, again)
    two = pc.split(patients[patients["hospital"] != "x"], by="hospital")
    assert not found.equals(model.importance(two, repeats=2))


def test_wrong_questions(patients):
    model = pc.LogisticRegression().fit(pc.split(patients, by="hospital"), "ill ~ a + b")
    wrong = ({"columns": ["ill"]}, {"repeats": 0}, {"repeats": 101}, {"parts": {"a": 2}})
    for one in wrong:
        with pytest.raises(pc.InputError) as found:
            model.importance(**one)
        assert found.value.code == "WRONG_VALUE"


class Items:
    kind, shape, fingerprint = "series", (4, 2), "f"
    values = np.arange(6 * 8, dtype=np.float32).reshape(6, 4, 2)

    def read(self, positions):
        return self.values[positions]


def test_parts_of_items_come_from_other_rows():
    rows = Partition({"course": np.array([5.0, 0, 2]), "y": np.zeros(3)}, media={"course": Items()})
    order = np.array([2, 0, 1])
    whole = shuffled(Shuffle("course"), order, rows)
    assert whole.columns["course"].tolist() == [2.0, 5, 0]
    part = shuffled(Shuffle("course", ((0, 4), (1, 2))), order, rows)
    at = part.columns["course"].astype(int)
    found = part.media["course"].read(at[1:])
    own, other = Items.values[[0, 2]], Items.values[[5, 0]]
    np.testing.assert_array_equal(found, np.stack([own[..., 0], other[..., 1]], axis=-1))
    for wrong in (Shuffle("y", ((0, 1),)), Shuffle("other"), Shuffle("course", ((0, 1),))):
        with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
            shuffled(wrong, order, rows)


def question(coef, **shuffle):
    terms = [
        {"name": n, "bound": 64.0, "factors": [{"kind": "value", "column": n, "args": []}]}
        for n in ("x", "z")
    ]
    design = {"terms": terms, "response": "y", "intercept": True, "offset": None, "weight": None}
    more = {"fills": {}, "response_bound": 1.0, "weight_bound": 1.0}
    predictor = {"kind": "glm", "design": design | more, "family": "binomial"}
    values = {
        "predictors": [{**predictor, "coef": np.array([coef])}],
        "folds": 0,
        "outcome": "binary",
        "thresholds": [],
        "where": None,
        "classes": 2,
        "exponent": 0,
        "least": 5,
        "shuffle": {"column": "x", "part": [], "repeats": 4, "seed": 1, **shuffle},
    }
    return Plan("evaluation.importance", values)


def test_one_who_gives_most_of_a_sum_is_seen():
    """Values of one patient of many rows, given to many others, are still his."""
    rng = np.random.default_rng(0)
    key = np.concatenate([np.zeros(12), np.arange(1, 61)]).astype(np.int64)
    x = np.where(key == 0, 40.0, 0.001 * rng.normal(size=72))
    rows = Partition({"x": x, "z": rng.normal(size=72), "y": (key % 2).astype(float)}, key)
    task, plan = ImportanceTask(), question([-0.1, 0.5, 0.0])
    found = task.exposure(plan, rows, {})
    assert isolating(pc.Policy(), found).tolist() == [True] * 4
    harmless = replace_x(rows, rng.normal(size=72))
    assert not isolating(pc.Policy(), task.exposure(question([-0.1, 0.5, 0.0]), harmless, {})).any()


def replace_x(rows: Partition, x: np.ndarray) -> Partition:
    return Partition({**rows.columns, "x": x}, rows.key)


@pytest.mark.parametrize(
    "wrong",
    [{"column": "y"}, {"repeats": 0}, {"repeats": 1000}, {"seed": -1}, {"column": ""}, {"more": 1}],
)
def test_hostile_questions_are_refused(wrong):
    with pytest.raises(PolyclinicError) as found:
        ImportanceTask().leaves(question([0.0, 1.0, 1.0], **wrong))
    assert found.value.code == "BAD_MESSAGE"
