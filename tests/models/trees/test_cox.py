"""The Cox loss of trees: derivatives, XGBoost's trees, what leaves a hospital, odd data."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import xgboost

from polyclinic.core.errors import InputError, PolyclinicError, Refused
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.learner import values
from polyclinic.models.predictor import predictor_from
from polyclinic.models.trees import Feature, Spec
from polyclinic.models.trees.cox import RiskSets
from polyclinic.models.trees.export import booster_of
from polyclinic.models.trees.level import roots
from polyclinic.models.trees.rows import Rows, State
from polyclinic.models.trees.stack import Stack
from polyclinic.privacy.policy import Policy
from tests.models.trees import world
from tests.models.trees.test_cells import one_split, site

BOOSTED = {"trees": 6, "depth": 3, "rate": 0.3, "hessian": 1.0, "l2": 1.0, "loss": "cox"}
WHOLE = 2.0 ** (8 - 34)  # of a first derivative: bound 64, weights up to 4


@cache
def survival():
    """Rows of four hospitals, with durations that all differ."""
    columns = world.rows(1200)
    rng = np.random.default_rng(4)
    eta = 0.8 * columns["a"] - 0.5 * (columns["b"] > 0)
    time, end = rng.exponential(np.exp(-eta)), rng.exponential(1.5, 1200)
    place = np.searchsorted(world.CUTS, np.arange(1200), side="right") - 1.0
    return columns | {"days": np.minimum(time, end), "died": (time < end) * 1.0, "place": place}


def spec(columns, strata=(), **more) -> Spec:
    plain = world.spec(columns, "days", **{"weight": more.pop("weight", None)})
    design = replace(plain.design, event="died", strata=strata)
    return Spec(design, plain.features, **{**BOOSTED, "levels": (4,) * len(strata), **more})


def written_out(time, event, weight, margin, stratum, parts=1):
    """Risk set by risk set: sums of each row's derivatives."""
    g, h = np.zeros((2, len(time)))
    for i in np.flatnonzero(event):
        at = np.flatnonzero((stratum == stratum[i]) & (time >= time[i]))
        if len(at) < parts:
            continue
        risk = weight[at] * np.exp(margin[at])
        low, high = 0.0, risk.sum()
        for _ in range(200 if parts > 1 else 0):
            middle = (low + high) / 2
            fits = np.minimum(risk, middle).sum() >= parts * middle
            low, high = (middle, high) if fits else (low, middle)
        large = risk > (low * (1 + 1e-9) if parts > 1 else np.inf)
        share = np.where(large, low, risk)
        share = share / share.sum()
        g[at] += weight[i] * share
        g[i] -= weight[i]
        own = np.where(large, share, share * np.minimum(weight[at], 1) / weight[at])
        h[at] += weight[i] * share * (1 - own)
    return g, h


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_derivatives_are_those_written_out(parts):
    rng = np.random.default_rng(parts)
    for trial in range(25):
        n = int(rng.integers(1, 50))
        time = rng.integers(0, rng.choice([2, 20, 1000]), n) * 1.0
        event, stratum = rng.random(n) < 0.6, rng.integers(0, 3, n)
        weight = rng.choice([0.3, 1.0, 2.0], n) if trial % 2 else np.ones(n)
        margin = rng.normal(size=n) * rng.choice([0.5, 3.0, 7.0])
        found = RiskSets(time, event, weight, np.arange(n), stratum, parts).derivatives(margin)
        wanted = written_out(time, event, weight, margin, stratum, parts)
        np.testing.assert_allclose(found[0] * weight, wanted[0], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found[1] * weight, wanted[1], rtol=1e-6, atol=1e-7)
        assert np.all(found[1] >= 0)


def test_gradient_and_curvature_are_the_slopes_of_the_loss():
    rng = np.random.default_rng(0)
    time, event = rng.integers(0, 9, 40) * 1.0, rng.random(40) < 0.7
    weight, margin = rng.uniform(0.2, 1.0, 40), rng.normal(size=40)
    sets = RiskSets(time, event, weight, np.arange(40), rng.integers(0, 2, 40))
    first, second = sets.derivatives(margin)
    for j in range(40):
        step = 1e-4 * (np.arange(40) == j)
        below, here, above = (sets.losses(margin + k * step).sum() for k in (-1, 0, 1))
        assert first[j] * weight[j] == pytest.approx((above - below) / 2e-4, abs=1e-6)
        assert second[j] * weight[j] == pytest.approx((above - 2 * here + below) / 1e-8, abs=1e-4)


def test_a_weight_of_two_is_two_rows():
    rng = np.random.default_rng(1)
    time, event, margin = rng.integers(0, 8, 30) * 1.0, rng.random(30) < 0.7, rng.normal(size=30)
    weight = rng.integers(1, 4, 30)
    twice = np.repeat(np.arange(30), weight)
    once = RiskSets(time, event, weight * 1.0, np.arange(30)).derivatives(margin)
    every = RiskSets(time[twice], event[twice], np.ones(len(twice)), np.arange(len(twice)))
    for mine, other in zip(once, every.derivatives(margin[twice]), strict=True):
        np.testing.assert_allclose(mine[twice], other, rtol=1e-10, atol=1e-12)


def boosted(asked, columns, objective, label):
    x = world.as_numbers(asked, columns)
    options = {
        "tree_method": "hist", "max_bin": 512, "nthread": 1, "max_depth": asked.depth, "eta": 0.3,
        "lambda": 1.0, "min_child_weight": 1.0, "base_score": 1.0, "objective": "survival:cox",
    }  # fmt: skip
    data = xgboost.DMatrix(x, label, base_margin=np.zeros(len(x)))
    booster = xgboost.train(options, data, asked.trees, obj=objective)
    return booster.predict(data, output_margin=True)


def test_one_stratum_is_xgboost_on_the_same_bins():
    columns = {**survival(), "a": world.rows(1200, gaps=0.15)["a"]}
    asked = spec(columns)
    label = np.where(columns["died"] > 0, columns["days"], -columns["days"])
    reference = boosted(asked, columns, None, label)
    found = world.alone(asked, columns).predictor().margin(columns)[:, 0]
    np.testing.assert_allclose(found, reference, rtol=2e-5, atol=5e-6)
    assert np.ptp(reference) > 1.0


def test_several_hospitals_are_xgboost_with_derivatives_written_out():
    columns = survival() | {"days": np.ceil(8 * survival()["days"])}  # with ties
    asked = spec(columns, cell=1, trees=3)

    def slopes(margin, data):
        rest = np.ones(len(margin)), margin, columns["place"]
        return written_out(columns["days"], columns["died"] > 0, *rest)

    reference = boosted(asked, columns, slopes, columns["days"])
    found = fit(asked.algorithm(), world.hospitals(columns)).model
    np.testing.assert_allclose(
        found.predictor().margin(columns)[:, 0], reference, rtol=2e-5, atol=5e-6
    )
    domain = spec(columns, strata=("place",), trees=3)
    for partitions in (1, 3):
        assert world.same(found, world.alone(domain, columns, partitions))
    secure = fit(asked.algorithm(), world.hospitals(columns, sums="secure")).model
    assert world.same(found, secure) and secure.concordance == found.concordance
    assert not world.same(found, world.alone(replace(asked, cell=0), columns))


def test_weights_and_the_order_of_rows():
    columns = survival() | {"days": np.ceil(8 * survival()["days"])}
    asked = spec(columns, weight="weight")
    found = world.alone(asked, columns)
    back = {name: column[::-1] for name, column in columns.items()}
    assert world.same(found, world.alone(asked, back))
    twice = np.repeat(np.arange(1200), columns["weight"].astype(int))
    rows = {name: column[twice] for name, column in columns.items()}
    repeated = world.alone(replace(spec(rows), features=asked.features), rows)
    np.testing.assert_allclose(
        found.predictor().margin(columns), repeated.predictor().margin(columns), atol=1e-6
    )


def test_concordance_counts_pairs_within_sites():
    columns = survival()
    found = world.alone(spec(columns, strata=("place",)), columns)
    margin, time = found.predictor().margin(columns)[:, 0], columns["days"]
    good = pairs = 0.0
    for i in np.flatnonzero(columns["died"]):
        later = (time > time[i]) & (columns["place"] == columns["place"][i])
        pairs += later.sum()
        good += (margin[i] > margin[later]).sum() + 0.5 * (margin[i] == margin[later]).sum()
    assert found.concordance["pairs"] == pairs
    assert found.concordance["c"] == pytest.approx(good / pairs, rel=1e-12)
    assert found.concordance["c"] > 0.65 and found.events == columns["died"].sum()


def test_stopping_keeps_the_best_partial_likelihood_of_held_out_rows():
    columns = survival()
    asked = spec(columns, trees=40, validation=0.3, patience=2)
    found = world.alone(asked, columns)
    best = int(np.argmin(found.losses))
    assert found.trees.trees == best < 38 and len(found.losses) == best + 3
    rows = Rows(asked, Partition(columns), np.zeros(0))
    held, margin = rows.held, found.predictor().margin(columns)[:, 0]
    assert 0.25 < len(held) / 1200 < 0.35 and found.n + len(held) == 1200
    time, died = columns["days"][held], columns["died"][held] > 0
    loss = [np.log(np.exp(margin[held][time >= time[i]]).sum()) - margin[held][i]
            for i in np.flatnonzero(died)]  # fmt: skip
    assert found.losses[best] == pytest.approx(np.mean(loss), abs=1e-5)
    over = fit(replace(asked, cell=5, trees=2).algorithm(), world.hospitals(columns)).model
    assert over.losses[-1] < over.losses[0]


def test_the_export_predicts_relative_hazards():
    columns = survival()
    asked = spec(columns)
    found = world.alone(asked, columns)
    x = np.column_stack([columns[name] for name in ("a", "b", "d")])
    data = xgboost.DMatrix(x, feature_names=["a", "b", "d"])
    booster = booster_of(found)
    assert booster.attr("x") is None and "survival:cox" in booster.save_config()
    predictor = found.predictor()
    margin = booster.predict(data, output_margin=True)
    np.testing.assert_allclose(margin, predictor.margin(columns)[:, 0], atol=1e-6)
    np.testing.assert_allclose(booster.predict(data), predictor.expected(columns), rtol=2e-6)


def asked_for(asked, task="trees.cells", tree=None):
    """A plan after a tree that someone has chosen."""
    trees = tree or Stack.none(1)
    state = State(np.zeros(1), np.zeros(0), trees, roots(asked, 1)[1], np.array([[0, 0]]))
    return Plan(task, values(asked, **state.to_data()))


def heavy(columns, patients, **more):
    """All risk is with so many patients of the first column."""
    asked = spec(columns, cell=5, **more)
    edge = float(np.float32(np.sort(columns["a"])[patients - 1 : patients + 1].mean()))
    asked = replace(asked, features=(Feature("a", (edge,)), *asked.features[1:]))
    tree = one_split(asked, 0, 0)
    tree = replace(tree, value=np.array([[0.0], [40.0], [0.0]]))
    return asked, tree, columns["a"] < edge


def test_a_few_patients_with_all_the_risk_show_a_mean_and_not_the_last_of_them():
    columns = {name: column[:300] for name, column in survival().items()}
    asked, tree, few = heavy(columns, 5)
    assert few.sum() == 5
    with pytest.raises(Refused) as refused:
        site(columns).total(asked_for(asked, tree=tree))
    assert refused.value.code == "EFFECTIVE_SIZE"
    lenient = Policy(min_effective=1.0)
    total = site(columns, lenient).total(asked_for(asked, tree=tree))
    assert total["n"][0, 0, 0] == 5
    time, died = columns["days"], columns["died"] > 0
    until = [(died & (time <= t)).sum() for t in time[few]]
    shown = total["g"][0, 0, 0, 0] * WHOLE + died[few].sum()
    assert shown == pytest.approx(np.mean(until), abs=1e-3)  # 5 of them: a fifth each
    assert abs(shown - max(until)) > 5
    with pytest.raises(Refused) as refused:  # a smaller cell is no way around it
        wide = replace(asked, cell=1, features=(Feature("a", (0.0,)),))
        site(columns).total(asked_for(wide, tree=tree))
    assert refused.value.code in ("LEVEL_TOO_SMALL", "CELL_TOO_SMALL")


def test_the_loss_does_not_follow_the_last_of_a_few():
    columns = {name: column[:300] for name, column in survival().items()}
    few, losses = columns["a"] < np.sort(columns["a"])[10], {1: [], 5: []}
    last = np.flatnonzero(few)[np.argmax(columns["days"][few])]
    for to in (0.5, 2.0):  # the last of those with all the risk leaves earlier, or later
        time = columns["days"].copy()
        time[last] *= to
        for parts, found in losses.items():
            sets = RiskSets(time, columns["died"] > 0, np.ones(300), np.arange(300), None, parts)
            found.append(sets.losses(np.where(few, 40.0, 0.0)).sum())
    one, five = (abs(np.diff(found)[0]) for found in losses.values())
    assert five < one / 5


def test_risk_of_a_few_held_out_patients_is_refused():
    columns = {name: column[:300] for name, column in survival().items()}
    asked, tree, _ = heavy(columns, 12, validation=0.5)
    with pytest.raises(Refused) as refused:
        site(columns).total(asked_for(asked, "trees.held", tree))
    assert refused.value.code == "EFFECTIVE_SIZE"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"died": np.r_[np.ones(3), np.zeros(297)]}, "LEVEL_TOO_SMALL"),
        ({"days": np.r_[-np.ones(3), np.ones(297)]}, "LEVEL_TOO_SMALL"),
    ],
)
def test_few_events_and_few_wrong_durations_are_not_told(change, code):
    columns = {name: column[:300] for name, column in survival().items()} | change
    asked = spec(columns, cell=5)
    for task in ("trees.events", "trees.cells")[: 1 if "days" in change else 2]:
        plan = Plan(task, values(asked)) if task == "trees.events" else asked_for(asked)
        with pytest.raises(Refused) as refused:
            site(columns).total(plan)
        assert refused.value.code == code


def test_steps_of_another_kind_are_refused():
    columns = {name: column[:300] for name, column in survival().items()}
    asked = spec(columns, cell=5)
    plain = world.spec(columns, "event", loss="logistic", classes=2, cell=5)
    for plan, code in (
        (asked_for(asked, "trees.risk_sums"), "NOT_JUDGED"),
        (asked_for(asked, "trees.loss"), "BAD_MESSAGE"),
        (asked_for(plain, "trees.held"), "BAD_MESSAGE"),
        (asked_for(plain, "trees.concordance"), "BAD_MESSAGE"),
    ):
        with pytest.raises(PolyclinicError) as refused:
            site(columns).total(plan)
        assert refused.value.code == code
    with pytest.raises(PolyclinicError, match="not evaluated"):
        predictor_from(world.alone(replace(asked, cell=0), columns).predictor().to_data())
    for change in (
        {"features": (Feature("days", (1.0,)),)},
        {"features": (Feature("died", (0.5,)),)},
        {"forest": True},
        {"classes": 2},
        {"loss": "squared"},
        {"levels": (3,)},
    ):
        with pytest.raises(InputError):
            replace(asked, **change)


def test_a_hospital_without_events_and_an_empty_one_change_nothing():
    columns = survival()
    asked = spec(columns, cell=1, trees=1)
    four = fit(asked.algorithm(), world.hospitals(columns)).model
    more = fit(asked.algorithm(), world.hospitals(columns, cuts=(*world.CUTS, 1200))).model
    assert world.same(four, more)
    added = {name: np.r_[column, column[:50]] for name, column in columns.items()}
    added["died"][1200:] = 0.0
    for part in (slice(None, 1200), slice(1200, None)):
        sets = RiskSets(
            added["days"][part], added["died"][part] > 0, np.ones(len(added["days"][part])),
            np.arange(len(added["days"][part])),
        )  # fmt: skip
        first, second = sets.derivatives(np.zeros(len(added["days"][part])))
        assert first.any() == second.any() == (part.start is None)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"died": np.zeros(60)}, "NO_EVENTS"),
        ({"days": np.r_[-1.0, np.ones(59)]}, "OUTCOME_NOT_ALLOWED"),
        ({"days": np.r_[np.nan, np.ones(59)]}, "OUTCOME_NOT_ALLOWED"),
        ({"died": np.r_[0.5, np.ones(59)]}, "OUTCOME_NOT_ALLOWED"),
        ({"weight": np.zeros(60)}, "NO_WEIGHT"),
    ],
)
def test_outcomes_that_cannot_be_are_named(change, code):
    columns = {name: column[:60] for name, column in survival().items()} | change
    with pytest.raises(InputError) as found:
        world.alone(spec(columns, weight="weight"), columns)
    assert found.value.code == code and found.value.rule and found.value.next


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"days": np.ones(60)}, {}),
        ({"days": np.zeros(60), "died": np.ones(60)}, {}),
        ({"died": np.r_[1.0, np.zeros(59)]}, {"hessian": 0.0}),
        ({"a": np.zeros(60), "b": np.zeros(60), "d": np.zeros(60)}, {}),
        ({}, {"depth": 0}),
        ({}, {"trees": 0}),
        ({}, {"rate": 50.0, "l2": 0.0, "hessian": 0.0}),
    ],
)
def test_degenerate_rows(change, more):
    columns = {name: column[:60] for name, column in survival().items()} | change
    found = world.alone(spec(columns, **more), columns)
    margin = found.predictor().margin(columns)
    assert np.all(np.isfinite(margin))
    if "a" in change or "depth" in more or "trees" in more:
        assert np.abs(margin).max() < 1e-7 and found.concordance["c"] == 0.5
    if "days" in change and "died" not in change:  # all at once: still a loss with a slope
        assert margin.any()
