"""Gradients that leave hospitals rounded: the same optimum, the same bytes after a stop."""

from __future__ import annotations

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.governance.study_file import Study
from polyclinic.models.glm import firstorder
from polyclinic.privacy.policy import open_policy
from polyclinic.study.demo import HEART
from tests.study.test_resume import OUTPUT, Stop

FORMULA = "disease ~ exang + oldpeak"  # gd needs about 50 rounds for it
GD = {"solver": "gd", "tolerance": 1e-8, "max_rounds": 400}


def fitted(sites, kind, **more):
    options = {"compress": kind} if kind else None
    return pc.LogisticRegression(solver_options=options, **{**GD, **more}).fit(sites, FORMULA)


@pytest.fixture(scope="module")
def hearts(data_dir):
    return pc.datasets.heart_disease()


@pytest.fixture(scope="module")
def newton(hearts):
    return pc.LogisticRegression().fit(hearts, FORMULA)


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_the_optimum_and_its_errors_are_those_of_exact_sums(hearts, newton, kind):
    found = fitted(hearts, kind)
    assert found.result_.end == "converged"
    np.testing.assert_allclose(found.summary()["coef"], newton.summary()["coef"], rtol=1e-6)
    np.testing.assert_allclose(found.covariance(), newton.covariance(), rtol=1e-6)
    assert found.n_iter_ <= 1.2 * fitted(hearts, "").n_iter_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_without_what_rounding_took_off_there_is_no_such_optimum(hearts, newton, monkeypatch):
    monkeypatch.setattr(firstorder, "_used", lambda plan, row: {})
    found = fitted(hearts, "int8")
    table = newton.summary()
    far = np.abs(found.summary()["coef"] - table["coef"]) / table["se"]
    assert far.max() > 0.01  # with it: 1e-8


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_averaged_batches_are_as_good_as_with_exact_gradients(hearts, newton):
    hearts, options = hearts.with_policy(open_policy()), {"batch": 0.2}
    exact, rough = (
        pc.LogisticRegression(solver="sgd", max_rounds=150, solver_options=more).fit(
            hearts, FORMULA
        )
        for more in (options, {**options, "compress": "int8"})
    )
    table = newton.summary()
    far = [np.abs(one.summary()["coef"] - table["coef"]) / table["se"] for one in (exact, rough)]
    assert far[1].max() < far[0].max() + 0.05


def study(**more):
    return Study.model_validate(
        {
            **HEART,
            "model": {**HEART["model"], "formula": FORMULA},
            "solver": {"name": "gd", "max_rounds": 25, "tolerance": 1e-8, "compress": "int8"},
            "evaluation": {"validate": "none"},
            "privacy": {"show_sites": False},
            **more,
        }
    )


@pytest.fixture(scope="module")
def undisturbed(hearts, tmp_path_factory):
    return pc.run(study(), tmp_path_factory.mktemp("whole"), sites=hearts)


@pytest.mark.parametrize("at", [2, 3, 9, 26])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    hearts, undisturbed, tmp_path, monkeypatch, at
):
    """The hospitals' books are opened anew from their folders, as after kill -9."""
    with monkeypatch.context() as patch:
        Stop(patch, at)
        with pytest.raises(pc.Stopped, match="INTERRUPTED"):
            pc.run(study(), tmp_path / "run", sites=hearts)
    again = pc.run(study(), tmp_path / "run", sites=pc.datasets.heart_disease(), resume=True)
    for name in OUTPUT:
        assert (again.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes(), name


def test_a_fit_goes_on_from_its_store_and_never_without_what_was_sent(hearts, tmp_path):
    def stop(done):
        if done.number == 7:
            raise KeyboardInterrupt

    options = {"solver": "gd", "max_rounds": 12, "solver_options": {"compress": "int8"}}
    whole = pc.LogisticRegression(**options)
    store = pc.Checkpoint(tmp_path / "fit.pcm")
    with pytest.warns(UserWarning, match="max_rounds"):
        whole.fit(hearts, FORMULA)
    with pytest.raises(pc.Stopped):
        pc.LogisticRegression(**options).fit(hearts, FORMULA, callbacks=[stop], store=store)
    kept = store.path.read_bytes()
    with pytest.warns(UserWarning, match="max_rounds"):
        again = pc.LogisticRegression(**options).fit(hearts, FORMULA, store=store)
    assert again.coef_.tobytes() == whole.coef_.tobytes()
    store.path.write_bytes(kept)
    forgetful = pc.datasets.heart_disease()  # hospitals without folders begin with empty books
    with pytest.raises(pc.Refused, match="LEFTOVER_LOST"):
        pc.LogisticRegression(**options).fit(forgetful, FORMULA, store=store)


def test_what_left_is_counted_in_bytes_of_the_wire(hearts):
    found = fitted(hearts, "int8")
    gradients = [
        leaf
        for done in found.rounds_
        for leaf in done.left
        if leaf["leaf"] == "gradient" and done.step == "gradient round"
    ]
    assert gradients and all(leaf["bytes"] == leaf["numbers"] for leaf in gradients)


@pytest.mark.parametrize(
    ("solver", "options", "privacy", "words"),
    [
        ("newton", {"compress": "int8"}, None, "exact sums"),
        ("lbfgs", {"compress": "float16"}, None, "exact sums"),
        ("gd", {"compress": "int4"}, None, "float16, int8"),
        ("gd", {"compress": "int8"}, pc.SecureSum(), "masked numbers do not shrink"),
        ("gd", {"compress": "int8"}, pc.DifferentialPrivacy(1.0, 1e-5), "noise is measured"),
    ],
)
def test_what_cannot_be_rounded_is_said_before_anything_is_asked(
    hearts, solver, options, privacy, words
):
    model = pc.LogisticRegression(solver=solver, solver_options=options)
    before = hearts.ledgers()
    with pytest.raises(pc.InputError, match=f"(?s)WRONG_VALUE.*{words}"):
        model.fit(hearts, FORMULA, privacy=privacy)
    assert hearts.ledgers() == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"solver": {"name": "newton", "compress": "int8"}}, "go on with rounded gradients"),
        ({"solver": {"compress": "int8"}}, "go on with rounded gradients"),
        ({"solver": {"name": "gd", "compress": "int4"}}, "float16"),
        ({"privacy": {"secure_sums": True}}, "masked numbers do not shrink"),
        ({"privacy": {"epsilon": 1.0, "delta": 1e-5}}, "noise is measured"),
    ],
)
def test_a_study_file_says_so_too(more, words):
    with pytest.raises(ValueError, match=words):
        study(**more)


def test_in_one_trust_domain_nothing_is_sent_and_nothing_rounded():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 2))
    y = (x @ [1.0, -0.5] + rng.normal(size=300) > 0).astype(int)
    exact, same = (
        pc.LogisticRegression(**GD, solver_options=options).fit(x, y)
        for options in (None, {"compress": "int8"})
    )
    np.testing.assert_allclose(same.coef_, exact.coef_, rtol=1e-7)
