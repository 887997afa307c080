"""The evaluation over sites: sums, each hospital's own measures, its own model, resume."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

import polyclinic as pc
from polyclinic.core.codec import decode, encode
from polyclinic.core.fit import fit
from polyclinic.core.groups import behind_bins, behind_thresholds, groups_of, means
from polyclinic.core.plan import Plan
from polyclinic.evaluation import Evaluation
from polyclinic.privacy.policy import open_policy
from polyclinic.report import tables, words
from polyclinic.study.results import plain

CODEBOOK = Path(__file__).resolve().parents[2] / "examples" / "heart.toml"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
FORMULA = "disease ~ age + sex + C(cp) + thalach + exang + oldpeak"


@pytest.fixture(scope="module")
def model(data_dir):
    files = {h: data_dir / "heart-disease" / f"processed.{h}.data" for h in HOSPITALS}
    return pc.LogisticRegression().fit(pc.read(files, schema=CODEBOOK), FORMULA)


def scored(model):
    """Risk, outcome and fold of every row, pooled, by the model fitted without the row's fold."""
    from polyclinic.study.evaluate import cross_validate

    data = model.formula_data
    made, _ = cross_validate(model.judged(), data.federation, 5, 0)
    rows = [data.sites.rows(site, data.cohort) for site in data.federation.sites]
    return made, rows


def test_pooled_measures_equal_scikit_learn_on_the_pooled_rows(model):
    from polyclinic.models.predictor import predictor_from

    data = model.formula_data  # one patient's own risk counts where a policy asks for one only
    alone = pc.Sites(
        {site: data.sites.table(site) for site in data.sites.names},
        data.codebook,
        policy=open_policy(),
    )
    model = pc.LogisticRegression().fit(alone, FORMULA)
    predictors, rows = scored(model)
    p, y = [], []
    for part in rows:
        fold = part.keys % 5
        every = np.stack([predictor_from(q).predict(part) for q in predictors])
        p.append(every[fold, np.arange(len(fold))])
        y.append(part.columns["disease"])
    p, y = np.concatenate(p), np.concatenate(y)
    found = model.evaluate(thresholds=(0.2, 0.5)).measures["all"]
    np.testing.assert_allclose(found["brier"], brier_score_loss(y, p), rtol=1e-12)
    np.testing.assert_allclose(found["log_loss"], log_loss(y, p), rtol=1e-12)
    np.testing.assert_allclose(found["predicted"], p.mean(), rtol=1e-12)
    for line in found["confusion"]:
        tn, fp, fn, tp = confusion_matrix(y, p >= line["threshold"]).ravel()
        assert (line["tn"], line["fp"], line["fn"], line["tp"]) == (tn, fp, fn, tp)


def test_risks_of_five_patients_together_move_the_measures_little(model):
    sites = model.formula_data.sites
    tables = {site: sites.table(site) for site in sites.names}
    free = pc.Sites(tables, sites.codebook, policy=open_policy())
    exact = pc.LogisticRegression().fit(free, FORMULA).evaluate().measures["all"]
    found = model.evaluate().measures["all"]
    assert abs(found["auroc"]["value"] - exact["auroc"]["value"]) < 5e-4
    np.testing.assert_allclose(found["predicted"], exact["predicted"], rtol=1e-12)
    assert (found["brier"], found["n"]) == (exact["brier"], exact["n"])


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=60),
    st.integers(1, 3),
    st.integers(2, 8),
)
def test_no_risk_stands_for_fewer_patients_than_asked(risks, rows, least):
    p, keys = np.array(risks), np.arange(len(risks)) // rows
    found = means(p, groups_of(p, keys, least))
    np.testing.assert_allclose(found.sum(), p.sum())
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(found[order]) >= -1e-15)
    behind = [len(set(keys[found == value])) for value in np.unique(found)]
    assert min(behind) >= min(least, len(set(keys)))
    assert all(len(set(found[p == value])) == 1 for value in set(risks))


def test_each_hospital_alone(model):
    alone = model.evaluate().measures["alone"]
    np.testing.assert_allclose([alone["cleveland"], alone["hungarian"]], [0.860, 0.888], atol=5e-4)
    # Without their kinds of chest pain that fewer than five have.
    assert abs(alone["switzerland"] - 0.694) < 5e-3 and abs(alone["va"] - 0.589) < 2e-3


def test_a_hospital_with_one_class_has_no_auroc_and_no_nan(data_dir):
    files = {h: data_dir / "heart-disease" / f"processed.{h}.data" for h in HOSPITALS}
    free = pc.Policy(min_difference=0, min_subset=0)  # the two cohorts differ by few at one site
    sites = pc.read(files, schema=CODEBOOK, policy=free)
    ill = sites.cohort("disease == 1 or age < 60", columns=["age", "sex", "disease"])
    model = pc.LogisticRegression().fit(ill, "disease ~ age + sex")
    only = sites.cohort("disease == 1", columns=["age", "sex", "disease"])
    found = model.evaluate(only, validate="none").measures
    assert found["all"]["auroc"]["value"] is None
    json.dumps(plain(found), allow_nan=False)


def test_show_sites_off_asks_no_hospital_alone(model):
    found = model.evaluate(show_sites=False)
    assert found.measures["sites"] == {} and found.measures["alone"] == {}
    assert all(leaf["combine"] == "sum" for done in found.rounds for leaf in done.left)


def test_subgroups_add_up(model):
    found = model.evaluate(subgroups=("sex",)).measures
    parts = found["subgroups"]["sex"]
    assert {name: part["hidden_sites"] for name, part in parts.items()} == {"female": 2, "male": 0}
    data = model.formula_data
    hidden = [data.sites.rows(site, data.cohort).columns for site in ("switzerland", "va")]
    women = [columns["disease"][columns["sex"] == 0] for columns in hidden]
    assert [len(outcome) for outcome in women] == [10, 5]
    left = [sum(part[count] for part in parts.values()) for count in ("n", "events")]
    assert left[0] + 15 == found["all"]["n"]
    assert left[1] + sum(outcome.sum() for outcome in women) == found["all"]["events"]


def test_a_subgroup_of_too_few_patients_is_left_out_at_that_hospital(model):
    found = model.evaluate(subgroups=("cp",), alone=False).measures["subgroups"]["chest pain"]
    shown = {words: part["hidden_sites"] for words, part in found.items()}
    # Four and three patients at two hospitals; eleven at a third, of whom three carry a term.
    assert shown == {
        "typical angina": 3, "atypical angina": 2, "non-anginal pain": 2, "no symptoms": 0,
    }  # fmt: skip
    data = model.formula_data
    rows = [data.sites.rows(site, data.cohort) for site in data.federation.sites]
    counts = [int((part.columns["cp"] == 0).sum()) for part in rows]
    assert counts == [23, 11, 4, 3] and found["typical angina"]["n"] == 23


@pytest.mark.parametrize("partitions", [3, 7])
def test_any_cut_of_the_rows_gives_the_same_counts(model, partitions):
    data = model.formula_data
    again = pc.LogisticRegression().fit(data.sites, FORMULA, engine=pc.Embedded(partitions))
    one, other = (m.evaluate().measures for m in (model, again))
    assert one["all"]["confusion"] == other["all"]["confusion"]
    assert one["all"]["auroc"] == other["all"]["auroc"]
    assert {s: g["events"] for s, g in one["sites"].items()} == {
        s: g["events"] for s, g in other["sites"].items()
    }


def test_numbers_and_classes(tmp_path):
    sites = pc.datasets.diabetes()
    model = pc.LinearRegression().fit(sites, "progression ~ age + bmi + bp")
    found = model.evaluate(validate="none").measures["all"]
    frame = [sites.local(s) for s in sites.names]
    y = np.concatenate([f["progression"] for f in frame])
    f = np.concatenate([model.predict(f) for f in frame])
    np.testing.assert_allclose(found["r2"], r2_score(y, f), rtol=1e-10)
    np.testing.assert_allclose(found["mae"], mean_absolute_error(y, f), rtol=1e-10)
    flowers = pc.datasets.iris()
    model = pc.LogisticRegression(l2=1.0).fit(flowers, "species ~ petal_length + petal_width")
    found = model.evaluate(validate="none").measures["all"]
    frames = [flowers.local(s) for s in flowers.names]
    truth = np.concatenate([f["species"] for f in frames]).astype(str)
    said = np.concatenate([model.predict(f) for f in frames]).astype(str)
    # At one hospital a species is predicted for four patients only.
    assert found["n"] == len(truth) and abs(found["accuracy"] - accuracy_score(truth, said)) < 0.03
    free = pc.Sites({s: flowers.table(s) for s in flowers.names}, flowers.codebook,
                    policy=open_policy())  # fmt: skip
    model = pc.LogisticRegression(l2=1.0).fit(free, "species ~ petal_length + petal_width")
    found = model.evaluate(validate="none").measures["all"]
    np.testing.assert_allclose(found["accuracy"], accuracy_score(truth, said))
    assert np.trace(found["confusion_matrix"]) == (truth == said).sum()


class Kept:
    """A store in memory that stops the run after some saves."""

    def __init__(self, stop_at):
        self.value, self.stop_at, self.count = None, stop_at, 0

    def load(self):
        return None if self.value is None else decode(self.value)

    def save(self, value):
        self.value, self.count = encode(value), self.count + 1
        if self.count == self.stop_at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_resume_after_any_round(model, stop_at):
    data, full = model.formula_data, model.predictor_.to_data()
    evaluation = Evaluation((full,), 0, "binary", data.federation.sites,
                            subgroups=(("sex", "sex", ("female", "male")),))  # fmt: skip
    whole = fit(evaluation, data.federation).model
    store = Kept(stop_at)
    with pytest.raises(pc.Stopped):
        fit(evaluation, data.federation, store=store)
    assert fit(evaluation, data.federation, store=store).model == whole


def test_a_policy_may_forbid_answers_of_one_hospital(model):
    data = model.formula_data
    strict = data.sites.with_policy(pc.Policy(collect=()))
    with pytest.raises(pc.Refused, match="COLLECT_NOT_ALLOWED"):
        strict.federation().total(Plan("evaluation.own", {
            "predictors": [model.predictor_.to_data()], "folds": 0, "outcome": "binary",
            "where": None}, "own", combine="collect"))  # fmt: skip


def smaller(sites, **rows):
    """The hospitals with so many of their rows, in memory."""
    tables = {site: sites.table(site) for site in sites.names}
    for site, many in rows.items():
        table = tables[site]
        columns = {name: values[:many] for name, values in table.columns.items()}
        tables[site] = replace(table, columns=columns, patient=table.patient[:many])
    return pc.Sites(tables, sites.codebook)


def test_a_hospital_too_small_to_be_seen_alone_does_not_end_the_study(model):
    small = smaller(model.formula_data.sites, va=24)
    done = pc.LogisticRegression().fit(small, FORMULA).evaluate(folds=2, subgroups=("sex",))
    found = done.measures
    assert found["not_shown"] == ["va"] and found["alone"]["va"] is None
    assert list(found["sites"]) == list(HOSPITALS[:3]) and found["heterogeneity"]["mean"]
    assert found["merged"] == {"switzerland": 2} and found["all"]["n"] > 700
    assert list(done.table.index) == [*HOSPITALS, "all"]
    assert done.table.loc["va"].isna().all() and done.table.loc["switzerland", "n"] == 117
    shown = words.evaluation_table({"evaluation": found})
    assert re.search(r"\nva +not shown\nall ", shown) and "va: not shown, its own" in shown
    assert "(levels merged: switzerland 2)" in shown
    lines = tables.measures({"evaluation": found})
    assert lines["rows"][3] == {"name": "va", "total": False, "cells": ["not shown"] * 6}
    assert lines["notes"][0].startswith("va: not shown") and len(lines["notes"]) == 2


def test_merged_levels_are_scored_as_the_next_one(model):
    """At Switzerland four have typical angina and four atypical; the next effect is non-anginal."""
    found = model.evaluate(validate="none").measures
    data, predictor = model.formula_data, model.predictor_
    rows = data.sites.rows("switzerland", data.cohort)
    cp = rows.columns["cp"]
    assert [int((cp == code).sum()) for code in range(4)] == [4, 4, 17, 92]
    columns = {**rows.columns, "cp": np.where(cp < 2, 2.0, cp)}
    p = predictor.predict(replace(rows, columns=columns))
    y = rows.columns["disease"]
    one = found["sites"]["switzerland"]
    np.testing.assert_allclose(one["auroc"]["value"], roc_auc_score(y, p), rtol=1e-12)
    assert one["brier"] == round(brier_score_loss(y, p), 2)
    assert one["predicted"] == round(p.mean(), 2)


def test_a_small_hospital_where_the_outcome_is_a_number():
    """Its sums are seen in a total only; nor are the others', or theirs would leave its own."""
    sites = pc.datasets.diabetes()
    model = pc.LinearRegression().fit(sites, "progression ~ age + bmi + bp")
    assert model.evaluate(validate="none").measures["not_shown"] == []
    small = smaller(sites, west=24)
    model = pc.LinearRegression().fit(small, "progression ~ age + bmi + bp")
    found = model.evaluate(validate="none")
    assert found.measures["not_shown"] == list(small.names) and found.measures["sites"] == {}
    assert found.table.loc["all", "n"] == sum(small.table(s).n_rows for s in small.names)
    assert "\nwest       not shown\nall " in words.evaluation_table({"evaluation": found.measures})


def test_fewest_patients_beside_a_threshold_or_in_a_group():
    p = np.array([0.1] * 6 + [0.2] * 7 + [0.6] * 3 + [0.9] * 8)
    keys, together = np.arange(24), np.zeros(24, dtype=np.int64)
    edges = (0.05, 0.15, 0.15, 0.5, 0.7, 0.95)
    found = behind_thresholds(p, together, keys, edges)
    assert found.tolist() == [6, 6, 6, 3, 3, 8]
    own = np.unique(p, return_inverse=True)[1]
    assert set(behind_thresholds(p, own, keys, edges)) == {3}
    place = np.array([0] * 13 + [1] * 11)
    assert behind_bins(place, together, keys, 3).tolist() == [13, 11, 0]
    assert behind_bins(place, own, keys, 3).tolist() == [6, 3, 0]


@pytest.mark.parametrize(
    "made", [pc.GaussianNB(), pc.DecisionTreeClassifier(max_depth=2)], ids=repr
)
def test_learners_of_several_classes_are_judged_on_them(made):
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"x": rng.normal(size=600).round(2), "where": list("abc") * 200})
    noisy = frame.x + rng.normal(scale=0.5, size=600)
    frame["kind"] = np.where(noisy < -0.5, "low", np.where(noisy > 0.5, "top", "mid"))
    sites = pc.split(frame, by="where")
    model = made.fit(sites, "kind ~ x")
    found = model.evaluate(validate="none").measures["all"]
    right = np.mean(model.predict(frame) == frame.kind)
    assert found["n"] == 600
    assert found["accuracy"] == pytest.approx(right, abs=0.03)
