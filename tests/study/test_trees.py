"""Trees as estimators: scikit-learn's conventions, hospitals, files, a study with its report."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import polyclinic as pc
from polyclinic.core.errors import DataWarning, InputError
from polyclinic.engines.site import Site
from polyclinic.governance.asked import asked
from polyclinic.governance.study_file import Study
from polyclinic.study.formula import from_formula
from polyclinic.study.run import _Steps as Steps
from tests.governance.test_scope import changed, covered, recorded, scope_of

FORMULA = "disease ~ age + sex + cp + trestbps + thalach + exang + oldpeak"
DRAWN = "patients are drawn by hash of their place: rows that are left out move the others"
WEIGHTED = "a leaf of one row of a class of weight 0.0001 still is of that class"
ROUNDED = "derivatives are whole numbers: weighted and repeated rows agree to 1e-7"
ALL = [
    pc.DecisionTreeClassifier(min_samples_leaf=1),
    pc.DecisionTreeRegressor(min_samples_leaf=1),
    pc.RandomForestClassifier(n_estimators=10),
    pc.RandomForestRegressor(n_estimators=5),
    pc.GradientBoostingClassifier(n_estimators=4),
    pc.GradientBoostingRegressor(n_estimators=8),
]
SURVIVAL = "Surv(T, E) ~ age_at_index + race_white"
DEPTHS = (-1, 17, 2.5, True, None, "3")


def not_kept(estimator):
    if "Forest" in type(estimator).__name__:
        return {"check_sample_weight_equivalence_on_dense_data": DRAWN}
    if isinstance(estimator, pc.GradientBoostingSurvival):
        return {"check_sample_weight_equivalence_on_dense_data": ROUNDED}
    if isinstance(estimator, pc.DecisionTreeClassifier):
        return {"check_class_weight_classifiers": WEIGHTED}
    return {}


@parametrize_with_checks(
    [*ALL, pc.GradientBoostingSurvival(n_estimators=4)], expected_failed_checks=not_kept
)
def test_scikit_learn_accepts_it(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its data are few and have no split
        check(estimator)


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(2000, 4)), columns=list("abcd"))
    eta = x.a + x.b * (x.c > 0)
    x.loc[rng.uniform(size=2000) < 0.1, "a"] = np.nan
    return x, np.where(rng.uniform(size=2000) < 1 / (1 + np.exp(-eta)), "yes", "no")


def test_boosting_predicts_as_well_as_scikit_learn(frame):
    x, y = frame
    ours = cross_val_score(
        pc.GradientBoostingClassifier(n_estimators=30, max_depth=3), x, y, cv=3, scoring="roc_auc"
    )
    theirs = cross_val_score(
        GradientBoostingClassifier(n_estimators=30), x.fillna(0), y, cv=3, scoring="roc_auc"
    )
    assert ours.mean() > theirs.mean() - 0.01 and ours.mean() > 0.7


def test_a_frame_of_several_kinds_is_that_of_its_numbers(frame):
    x, y = frame[0].assign(flag=frame[0].b > 1, whole=np.arange(2000) % 7), frame[1]
    for mixed in (x, x.astype({"whole": "Int64"})):
        model, numbers = (
            pc.GradientBoostingClassifier(n_estimators=2).fit(one, y)
            for one in (mixed, x.astype(float))
        )
        assert model._of_arrays == numbers._of_arrays
        assert np.array_equal(model.predict_proba(mixed), numbers.predict_proba(x.astype(float)))


def test_a_forest_predicts_as_well_as_scikit_learn(frame):
    x, y = frame
    model = pc.RandomForestClassifier(n_estimators=20)
    ours = cross_val_score(model, x, y, cv=3, scoring="roc_auc")
    other = RandomForestClassifier(20, max_depth=8, min_samples_leaf=5, random_state=0)
    theirs = cross_val_score(other, x.fillna(0), y, cv=3, scoring="roc_auc")
    assert abs(ours.mean() - theirs.mean()) < 0.02 and ours.mean() > 0.7


def test_a_model_comes_back_and_goes_to_xgboost(frame, tmp_path):
    x, y = frame
    model = pc.GradientBoostingClassifier(
        n_estimators=30, max_depth=3, early_stopping_rounds=4, monotone_constraints={"a": 1}
    ).fit(x, y)
    model.save(tmp_path / "model.pcm")
    again = pc.load(tmp_path / "model.pcm")
    assert again.predict_proba(x).tobytes() == model.predict_proba(x).tobytes()
    assert again.to_text() == model.to_text() and "a < " in model.to_text()
    assert model.result_.trees.trees < 30 and len(model.result_.losses) > 4
    model.save_xgboost(tmp_path / "model.json")
    booster = xgboost.Booster(model_file=tmp_path / "model.json")
    theirs = booster.predict(xgboost.DMatrix(x.to_numpy(), feature_names=list("abcd")))
    np.testing.assert_allclose(model.predict_proba(x)[:, 1], theirs, atol=1e-6)
    parts = model.explain(x)
    assert parts.shape == (2000, 5)
    np.testing.assert_allclose(1 / (1 + np.exp(-parts.sum(axis=1))), theirs, atol=1e-5)
    assert model.feature_importances_.sum() == pytest.approx(1.0)
    assert model.tables()["importances"]["column"][0] in "abc"
    with pytest.raises(InputError, match="no tree 99"):
        model.to_svg(99)


def test_a_study_of_boosting_is_run_approved_and_reported(tmp_path, heart, monkeypatch):
    study = Study.model_validate({
        "format": 1,
        "seed": 3,
        "study": {"name": "heart", "purpose": "research"},
        "data": {"dataset": "heart-disease"},
        "model": {
            "kind": "boosting",
            "formula": "disease ~ age + cp + thalach + exang",
            "options": {"n_estimators": 2, "max_depth": 2, "early_stopping_rounds": 3},
        },
        "evaluation": {"folds": 2, "alone": False},
    })  # fmt: skip
    sites = pc.datasets.heart_disease()
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    assert {"trees.start", "trees.cells", "trees.loss"} <= {plan.task for plan in plans}
    scope = scope_of(study, sites.codebook, sites.names)
    covered(scope, plans)
    for plan in (plan for plan in plans if plan.task.startswith("trees.")):
        values = copy.deepcopy(dict(plan.values))
        edges = values["spec"]["features"][0]["edges"]
        edges[3] = np.nextafter(np.float32(edges[3]), np.float32(99.0))
        assert "model" in scope.refuses(replace(plan, values=values, _derived={}))
    measures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert measures["evaluation"]["all"]["auroc"]["value"] > 0.65
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Importance" in page and "Loss of held-out patients" in page
    assert (tmp_path / "run" / "importances.csv").read_text().startswith("column,gain")
    everyone = measures["evaluation"]["all"]["n"]
    assert 0.7 * everyone < pc.load(tmp_path / "run").result_.n < 0.9 * everyone  # a fifth held out


@pytest.mark.parametrize("made", [*ALL])
def test_a_study_that_says_nothing_asks_for_the_same(made, heart):
    """The defaults of the estimators are those of the kinds, which hospitals use."""
    formula = "disease ~ age" if "Classifier" in type(made).__name__ else "age ~ disease"
    plain = type(made)()
    data = from_formula(heart, formula, pc.Embedded(), gaps=True)
    both = [
        plain.kind_.spec(asked(plain.kind_, data.design, data.codebook, options))
        for options in (plain._options(), {})
    ]
    assert both[0] == both[1]


def test_a_tree_over_hospitals_is_read_by_people(heart, tmp_path):
    model = pc.DecisionTreeClassifier(max_depth=3).fit(heart, FORMULA)
    assert "if cp in {" in model.to_text() and "probability" in str(model)
    model.evaluate(validate="none", show_sites=False, alone=False)
    model.report(tmp_path / "tree.html", show_sites=False)
    page = (tmp_path / "tree.html").read_text(encoding="utf-8")
    assert "decision tree" in page and "cp in {" in page


def test_missing_values_are_kept_where_the_study_says_so(heart):
    sites = heart.cohort(missing={"default": "keep", "disease": "drop"})
    model = pc.GradientBoostingClassifier(n_estimators=10, max_depth=3, random_state=1)
    model.fit(sites, "disease ~ age + oldpeak + chol + thalach + cp")
    assert model.result_.n == 920 and np.any(model.result_.trees.missing_left == 0)
    gone = pd.DataFrame(
        {"age": [50.0], "oldpeak": [np.nan], "chol": [np.nan], "thalach": [np.nan], "cp": [4]}
    )
    assert 0 < model.predict_proba(gone)[0, 1] < 1


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"max_depth": -1}, "WRONG_VALUE"),
        ({"max_bins": 1}, "WRONG_VALUE"),
        ({"edges": {"nobody": [1.0]}}, "WRONG_VALUE"),
        ({"monotone_constraints": {"nobody": 1}}, "WRONG_VALUE"),
        ({"monotone_constraints": {"cp": 1}}, "WRONG_VALUE"),
        ({"min_cell": 4}, "CELL_TOO_SMALL"),
        ({"class_weight": [1.0, 2.0, 3.0]}, "WRONG_VALUE"),
    ],
)
def test_wrong_options_are_named(options, code, heart):
    with pytest.raises(pc.PolyclinicError) as found:
        pc.GradientBoostingClassifier(n_estimators=5, **options).fit(heart, FORMULA)
    assert found.value.code == code


def test_cells_are_as_large_as_the_policies_ask():
    def strict():
        return pc.datasets.heart_disease().with_policy(pc.Policy(min_patients=15))

    model = pc.DecisionTreeClassifier(max_depth=2).fit(strict(), FORMULA)
    asked = pc.DecisionTreeClassifier(max_depth=2, min_cell=20).fit(strict(), FORMULA)
    assert model.to_text() == asked.to_text()
    assert model.result_.spec.cell == 20
    with pytest.raises(pc.PolyclinicError) as found:
        pc.DecisionTreeClassifier(max_depth=2, min_cell=10).fit(strict(), FORMULA)
    assert found.value.code == "CELL_TOO_SMALL"


def test_everybody_alike_is_said():
    with pytest.warns(DataWarning, match="no tree has a split"):
        model = pc.DecisionTreeRegressor().fit(np.zeros((30, 1)), np.arange(30.0))
    assert np.allclose(model.predict([[0.0]]), 14.5)


def test_weights_of_classes_move_the_risk(frame):
    x, y = frame
    plain = pc.GradientBoostingClassifier(n_estimators=5).fit(x, y)
    heavy = pc.GradientBoostingClassifier(n_estimators=5, class_weight={"yes": 5.0}).fit(x, y)
    assert heavy.predict_proba(x)[:, 1].mean() > plain.predict_proba(x)[:, 1].mean() + 0.2
    assert roc_auc_score(y == "yes", heavy.predict_proba(x)[:, 1]) > 0.7


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("made", [*ALL[::2], pc.GradientBoostingSurvival()])
def test_wrong_depths_say_the_rule_and_what_to_do(made, depth):
    with pytest.raises(InputError) as found:
        type(made)(max_depth=depth).fit(np.arange(20.0)[:, None], np.arange(20) % 2 + 1)
    error = found.value
    assert error.code == "WRONG_VALUE" and f"max_depth = {depth!r} of a" in str(error)
    assert "from 0 (no split) to 16" in error.rule and "max_depth = 6" in error.next


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"learning_rate": 0}, "a number above 0"),
        ({"subsample": 1.5}, "a number above 0, 1 at most"),
        ({"loss": "hinge"}, "'focal'"),
        ({"focal_gamma": -1.0}, "a number of 0 or more, 10 at most"),
        ({"class_weight": "heavy"}, '"balanced"'),
        ({"early_stopping_rounds": 0}, "or None: no early stop"),
    ],
)
def test_a_wrong_option_says_what_it_may_be(options, rule, frame):
    with pytest.raises(InputError) as found:
        pc.GradientBoostingClassifier(**options).fit(*frame)
    assert rule in found.value.rule and found.value.next


def test_focal_loss_is_a_choice(frame):
    x, y = frame
    plain, none, focal = (
        pc.GradientBoostingClassifier(n_estimators=5, **more).fit(x, y).predict_proba(x)[:, 1]
        for more in ({}, {"loss": "focal", "focal_gamma": 0.0}, {"loss": "focal"})
    )
    np.testing.assert_allclose(none, plain, atol=1e-7)
    assert np.abs(focal - plain).max() > 0.01
    with pytest.raises(InputError, match="of 3 classes"):
        pc.GradientBoostingClassifier(loss="focal").fit(x, np.arange(len(x)) % 3)


def test_boosted_survival_over_hospitals_comes_back(tmp_path):
    regions = pc.datasets.load("tcga_brca")
    model = pc.GradientBoostingSurvival(n_estimators=2, max_depth=2, learning_rate=0.5)
    model.fit(regions, SURVIVAL)
    assert model.result_.events == 151 and 0.55 < model.concordance_["c"] < 0.75
    assert model.tables()["importances"]["column"][0] == "age_at_index"
    model.save(tmp_path / "model.pcm")
    again = pc.load(tmp_path / "model.pcm")
    new = pd.DataFrame({"age_at_index": [40.0, 85.0], "race_white": [1.0, 1.0]})
    assert again.predict(new).tobytes() == model.predict(new).tobytes()
    assert np.diff(again.predict(new)) > 0.1 and again.concordance_ == model.concordance_
    with pytest.raises(InputError, match="explains no survival"):
        pc.GradientBoostingRegressor().fit(regions, SURVIVAL)
    with pytest.raises(InputError, match="needs a duration"):
        pc.GradientBoostingSurvival().fit(regions, "E ~ age_at_index")
    with pytest.raises(InputError, match="no offset"):
        pc.GradientBoostingSurvival().fit(regions, "Surv(T, E) ~ race_white + offset(age_at_index)")


def test_boosted_survival_of_arrays_is_stratified_by_site():
    rng = np.random.default_rng(0)
    x, place = rng.normal(size=(400, 2)), rng.integers(0, 2, 400)
    time = rng.exponential(np.exp(-x[:, 0])) * np.where(place, 30.0, 1.0)
    model = pc.GradientBoostingSurvival(n_estimators=10, max_depth=2)
    apart = model.fit(x, time, sites=place).predict(x)
    for k in (0, 1):  # a baseline per site: its unit of time changes nothing
        part = place == k
        assert model.score(x[part], time[part]) > 0.7
    again = model.fit(x, np.where(place, time / 30.0, time), sites=place).predict(x)
    assert again.tobytes() == apart.tobytes()
    together = model.fit(x, time).predict(x)
    assert np.abs(together - apart).max() > 0.1
    structured = np.array(
        list(zip(time < 5, time, strict=True)), dtype=[("event", bool), ("time", float)]
    )
    one = model.fit(x, structured).predict(x)
    assert one.tobytes() == model.fit(x, time, event=time < 5).predict(x).tobytes()
    with pytest.raises(InputError, match="no patient has the event"):
        model.fit(x, time, event=np.zeros(400))


def test_a_study_of_boosted_survival_is_run_approved_and_reported(tmp_path, monkeypatch):
    study = Study.model_validate({
        "format": 1,
        "seed": 3,
        "study": {"name": "cancer", "purpose": "research"},
        "data": {"dataset": "tcga_brca"},
        "model": {
            "kind": "survival-boosting",
            "formula": SURVIVAL,
            "options": {"n_estimators": 1, "max_depth": 1, "early_stopping_rounds": 3},
        },
    })  # fmt: skip
    sites = pc.datasets.load("tcga_brca")
    plans = recorded(study, sites, tmp_path / "run", monkeypatch)
    steps = {"trees.events", "trees.cells", "trees.held", "trees.concordance"}
    assert steps <= {plan.task for plan in plans}
    scope = scope_of(study, sites.codebook, sites.names)
    covered(scope, plans)
    for plan in (plan for plan in plans if plan.task in steps):
        values = copy.deepcopy(dict(plan.values))
        values["spec"]["cell"] = 1
        assert "model" in scope.refuses(replace(plan, values=values, _derived={}))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "151 events" not in page and "held out, the one with the higher risk" in page
    assert "Importance" in page and "Loss of held-out patients" in page
    assert pc.load(tmp_path / "run").concordance_["pairs"] > 100


def test_a_study_with_quantile_bins_has_one_set_of_edges(tmp_path, data_dir, monkeypatch):
    model = {
        "kind": "tree",
        "formula": "disease ~ age + sex",
        "options": {"max_depth": 1, "bins": "quantiles", "max_bins": 4},
    }
    about = {"format": 1, "study": {"name": "bins"}, "data": {"dataset": "heart_disease"}}
    about |= {"model": model, "evaluation": {"folds": 2, "alone": False}}
    study, sites = Study.model_validate(about), pc.datasets.heart_disease()
    plans, admit = [], Site._admit

    def record(self, plan, audience):
        plans.append(plan)
        return admit(self, plan, audience)

    monkeypatch.setattr(Site, "_admit", record)
    fitted = Steps(study, sites, tmp_path, lambda *about: None)._fit()
    scope = scope_of(study, sites.codebook, sites.names)
    assert {scope.refuses(plan) for plan in plans} == {""}
    scope.model.check_predictor(fitted.predictor_.to_data())
    grown = [plan for plan in plans if plan.task in ("trees.start", "trees.cells")]
    edges = {tuple(plan.values["spec"]["features"][0]["edges"]) for plan in grown}
    assert len(edges) == 1 and len(*edges) == 3
    (asking, *_) = [plan for plan in plans if plan.task == "descriptive.histogram"]
    where = ("spec", "features", 0)
    for other in (
        changed(grown[0], *where, "edges", to=np.array([45.678])),
        changed(grown[0], *where, "edges", to=np.array([64.0] * 2)),
        changed(grown[0], *where, "quantiles", to=400),
        changed(grown[0], *where, "high", to=60.0),
        changed(asking, "by", to={"name": "disease", "levels": 2}),
        changed(asking, "edges", to=lambda found: {**found, "chol": found["age"]}),
    ):
        assert scope.refuses(other)
    ranges = Study.model_validate({**about, "model": {**model, "options": {}}})
    assert "no step" in scope_of(ranges, sites.codebook, sites.names).refuses(asking)
    fitted.save(tmp_path / "tree.pcm")
    assert pc.load(tmp_path / "tree.pcm").result_.spec.features[0].edges == pytest.approx(*edges)


NOISY = {
    "format": 1,
    "study": {"name": "trees"},
    "data": {"dataset": "heart_disease"},
    "model": {
        "kind": "boosting",
        "formula": "disease ~ age + sex + cp + oldpeak",
        "options": {"n_estimators": 2, "max_depth": 1, "learning_rate": 0.5},
    },
    "privacy": {"epsilon": 6.0, "delta": 1e-5, "show_sites": False},
    "evaluation": {"validate": "none", "alone": False},
}


def test_a_study_of_trees_with_noise(tmp_path, data_dir, monkeypatch):
    hearts, study = pc.datasets.heart_disease(), Study.model_validate(NOISY)
    plans = recorded(study, hearts, tmp_path / "run", monkeypatch)
    scope = scope_of(study, hearts.codebook, hearts.names)
    assert {scope.refuses(plan) for plan in plans} == {""}
    tasks = {plan.task for plan in plans if plan.task.startswith("trees")}
    assert tasks == {"trees.private_level", "trees.private_leaves"} <= set(scope.tasks)
    assert "epsilon 6" in scope.summary()["cost"]
    (level, *_) = [plan for plan in plans if plan.task == "trees.private_level"]
    assert not scope.refuses(changed(level, "noise", "multiplier", to=lambda z: 2 * z))
    for other in (
        changed(level, "noise", "multiplier", to=lambda z: 0.9 * z),
        changed(level, "noise", to={"multiplier": 9.0, "mechanism": "laplace"}),
        changed(level, "spec", "private", "epsilon", to=60.0),
        changed(level, "spec", "private", to=None),
        changed(level, "noise", to=None),
        replace(level, task="trees.cells", _derived={}),
        replace(level, task="trees.start", _derived={}),
    ):
        assert scope.refuses(other)
    model = pc.load(tmp_path / "run")
    assert "noise of epsilon 6" in repr(model) and "about" in repr(model)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "noise in the sums behind the trees" in report and "epsilon 6" in report
    results = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "This holds for the model" in results["study"]["guarantee"]
    assert results["evaluation"]["all"]["auroc"]["value"] > 0.5


def test_trees_with_noise_over_hospitals(data_dir):
    sites = pc.datasets.heart_disease()
    noise = pc.DifferentialPrivacy(5.0, 1e-5)
    tree = pc.DecisionTreeClassifier(max_depth=1)
    tree.fit(sites, "disease ~ sex + cp", privacy=[noise, pc.SecureSum()])
    assert "privacy Noise was added" in str(tree)
    with pytest.raises(InputError) as caught:
        tree.evaluate(validate="cross-validation")
    assert caught.value.code == "NO_PRIVATE_VERSION"
    for model in (pc.LinearSVC(), pc.RandomForestClassifier()):
        with pytest.raises(InputError) as caught:
            model.fit(sites, "disease ~ sex + cp", privacy=noise)
        assert caught.value.code == "NO_PRIVATE_VERSION"
