"""Models of hospitals alone, asked for so that they, or sums over their predictions, show one
patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polyclinic.core import codec
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.ensembles.spec import OWN, Spec
from polyclinic.models.learner import values
from polyclinic.privacy.policy import Policy
from tests.attacks.world import (
    EACH,
    FRAME,
    SECRET,
    SITES,
    VICTIM,
    ask,
    close,
    design,
    exposed,
    hospitals,
    level,
    refusal,
    unguarded,
    value,
)

MODES = ("clear", "secure", "auto")
RARE, GROUP, DRUG = (level(name, "yes") for name in ("rare", "group", "drug"))
LINEAR = {"name": "linear", "settings": {"l2": 0.0, "l1": 0.0}}
LOGISTIC = {"name": "logistic", "settings": {"l2": 0.0, "l1": 0.0, "class_weight": None}}
PLAIN = design(value("age"), value("chol"))


def asked(what, base=LOGISTIC, how="voting", **more):
    settings = {name: default for name, (default, *_) in OWN[how].items()}
    classes = 0 if base is LINEAR else 2
    return Spec(what, how, base, classes, settings, **more)


def own_model(spec, **state):
    return Plan("ensemble.base", values(spec, **state), "own model", combine="collect")


def hidden(total, site="a"):
    """Whether all of a site's answer by name is hidden."""
    flags = total.by_site[site].hidden
    return all(np.all(one) for one in flags.values())


def shown(total, site="a"):
    return {name: found for name, found in total.by_site[site].values.items() if np.any(found)}


def test_an_ordinary_model_leaves():
    found = ask(hospitals(), own_model(asked(PLAIN)))
    assert not any(hidden(found, site) for site in SITES)
    assert found.by_site["a"]["fitted"] == 1 and found.by_site["a"]["n"] == EACH


def test_a_coefficient_that_is_one_patient():
    """A rare column's coefficient makes up for the rest: with the intercept it is the value."""
    spec = asked(design(RARE, response="chol"), LINEAR)
    one = unguarded(own_model(spec)).by_site[""]
    assert close(one["model.coef"].sum(), SECRET["chol"])
    assert hidden(ask(hospitals(), own_model(spec)))
    assert not shown(ask(hospitals(), own_model(spec)))


def test_a_product_of_two_columns_that_is_one_patient():
    spec = asked(design(GROUP, DRUG, (GROUP, DRUG), response="lab"), LINEAR)
    assert close(unguarded(own_model(spec)).by_site[""]["model.coef"].sum(), SECRET["lab"])
    assert hidden(ask(hospitals(), own_model(spec)))


def test_more_coefficients_than_a_site_may_release():
    powers = [replace(value("chol"), kind="power", args=(float(k),)) for k in range(1, 25)]
    ages = [replace(value("age"), kind="power", args=(float(k),)) for k in range(1, 4)]
    many, few = asked(design(*powers)), asked(design(*ages[:2], value("chol")))
    strict = Policy(patients_per_coefficient=EACH / 3.5)
    assert hidden(ask(hospitals(), own_model(many)))
    assert not hidden(ask(hospitals(), own_model(few)))
    assert hidden(ask(hospitals(strict), own_model(few)))


def test_leaving_one_patient_out():
    """Two fits of nearly the same patients differ by what one of them adds."""
    spec, sites = asked(PLAIN), hospitals()
    key = int(np.flatnonzero(FRAME.index[FRAME["site"] == "a"] == VICTIM)[0])
    without = replace(spec, rows={"folds": EACH, "without": key})
    free = exposed()
    first, second = (
        ask(free, own_model(one)).by_site["a"]["model.coef"] for one in (spec, without)
    )
    assert not np.array_equal(first, second)
    assert not hidden(ask(sites, own_model(spec)))
    assert hidden(ask(sites, own_model(without)))


def test_models_are_never_added_up():
    sites = hospitals().federation().transport.sites
    for task in ("ensemble.base", "ensemble.scores"):
        model = {"model": {"coef": np.zeros(3)}} if task == "ensemble.scores" else {}
        about = values(asked(PLAIN, LOGISTIC, "select-best"), **model)
        answer = codec.decode(sites["a"].answer(Plan(task, about).to_bytes()))
        assert answer == {"code": "BAD_MESSAGE"}


@pytest.mark.parametrize("name", ["knn", "kernel-svm"])
@pytest.mark.parametrize("task", ["ensemble.base", "ensemble.sizes"])
def test_models_of_rows_stay(name, task):
    base = {"name": name, "settings": {"n_neighbors": 5, "weights": "uniform"}}
    base = base if name == "knn" else {"name": name, "settings": {"C": 1.0, "gamma": "scale"}}
    plan = replace(own_model(asked(PLAIN, base), room=EACH), task=task)
    for sites in (hospitals(), exposed()):
        assert refusal(lambda sites=sites: ask(sites, plan)) == "HOLDS_ROWS"
    with pytest.raises(InputError, match="HOLDS_ROWS"):  # before a row is read
        unguarded(plan)


@pytest.mark.parametrize(
    "policy",
    [
        {"collect": ()},
        {"collect": ("evaluation.*", "descriptive.*")},
        {"release_alone": False},
        {"algorithms": ("glm.*",)},
    ],
)
def test_a_policy_that_does_not_allow_it_by_name(policy):
    code = refusal(lambda: ask(hospitals(Policy(**policy)), own_model(asked(PLAIN))))
    wanted = {"collect": "COLLECT_NOT_ALLOWED", "release_alone": "ALONE_NOT_ALLOWED"}
    assert code == wanted.get(next(iter(policy)), "ALGORITHM_NOT_ALLOWED")
    allowed = Policy(collect=("ensemble.base",))
    assert not hidden(ask(hospitals(allowed), own_model(asked(PLAIN))))


def test_a_site_below_the_minimum_and_one_of_one_class():
    small = FRAME[(FRAME["site"] != "a") | (FRAME.index < 4)]
    found = ask(hospitals(data=small), own_model(asked(PLAIN)))
    assert hidden(found, "a") and not hidden(found, "b")
    same = FRAME.copy()
    same.loc[same["site"] == "a", "sick"] = "yes"
    found = ask(hospitals(data=same), own_model(asked(PLAIN)))
    assert int(found.by_site["a"]["fitted"]) == 0 and not found.by_site["a"]["model.coef"].any()
    few = same.copy()
    few.loc[few.index[few["site"] == "a"][:3], "sick"] = "no"
    assert hidden(ask(hospitals(data=few), own_model(asked(PLAIN))))


def single_out(response):
    """A linear model that predicts 1 for the victim and 0 for everybody else."""
    what = design((GROUP, DRUG), response=response)
    return what, {"coef": np.array([0.0, 1.0])}


@pytest.mark.parametrize("mode", MODES)
def test_stacking_over_a_model_that_singles_one_out(mode):
    what, model = single_out("lab")
    spec = asked(what, LINEAR, "stacking")
    inner = spec.stacked(1)
    state = {"models": {"z": model}, "theta": np.zeros((1, 2)), "order": 2, "shift": np.zeros(1)}
    plan = Plan("ensemble.derivatives", values(spec, **state), "stacking")
    scale = int(inner.design.exponents[0]) + inner.response_exponent
    assert close(-np.ldexp(unguarded(plan)["gradient"][0, 1], scale), SECRET["lab"])
    assert refusal(lambda: ask(hospitals(), plan, mode)) != ""
    moments = Plan("ensemble.moments", values(spec, models={"z": model}), "stacking")
    assert refusal(lambda: ask(hospitals(), moments, mode)) != ""


@pytest.mark.parametrize("mode", ["clear", "secure"])
@pytest.mark.parametrize("slope", [1e9, 1e12])
def test_stacking_over_two_planes_around_one_patient(slope, mode):
    """Risks of 0 and 1 on either side of a plane through the victim, and a little beside it."""
    names = ["age", "chol", "lab"]
    columns = FRAME[names].to_numpy(dtype=np.float64)
    victim = np.array([SECRET[name] for name in names])
    toward = np.array([0.1, -0.013, 0.0177])
    along = columns @ toward
    toward[2] += (np.median(along) - along[VICTIM]) / (victim[2] - np.median(columns[:, 2]))
    spec = asked(design(*map(value, names)), LOGISTIC, "stacking")

    def plan(beside):
        coef = slope * np.r_[-(toward @ victim), toward] + np.r_[beside, 0.0, 0.0, 0.0]
        state = {"models": {"z": {"coef": coef}}, "order": 1, "shift": np.zeros(1)}
        about = values(spec, theta=np.array([[0.1, 0.2]]), **state)
        return Plan("ensemble.derivatives", about, "stacking")

    pair = [plan(beside) for beside in (2000.0, -2000.0)]
    sites = hospitals()
    codes = [refusal(lambda one=one: ask(sites, one, mode)) for one in pair]
    found = [
        ask(sites, one, mode)["gradient"][0, 1]
        for one, no in zip(pair, codes, strict=True)
        if not no
    ]
    alone = 1 / (1 + np.exp(-0.3)) - 1
    assert len(found) < 2 or abs(found[0] - found[1]) < 0.6 * abs(alone)


def test_scores_of_a_model_that_singles_one_out():
    what, model = single_out("lab")
    plan = Plan(
        "ensemble.scores",
        values(asked(what, LINEAR, "select-best"), model=model),
        "scores",
        combine="collect",
    )
    assert float(unguarded(plan).by_site[""]["n"]) == EACH
    assert hidden(ask(hospitals(), plan))
    gentle = replace(asked(PLAIN, LOGISTIC, "select-best"), least=1)
    fair = {"model": {"coef": np.array([-2.4, 0.01, 0.002])}}
    plan = replace(plan, values=values(gentle, **fair), _derived={})
    assert not hidden(ask(hospitals(), plan))


def test_sums_over_all_but_one_patient():
    """Stacking over folds of one patient each, beside all patients."""
    spec, sites = asked(PLAIN, LOGISTIC, "stacking"), hospitals()
    models = {"z": {"coef": np.array([-2.4, 0.01, 0.002])}}
    plain = Plan("ensemble.moments", values(spec, models=models), "stacking")
    fold = replace(spec, rows={"folds": EACH, "without": 3})
    other = Plan("ensemble.moments", values(fold, models=models), "stacking")
    assert refusal(lambda: ask(sites, plain)) == ""
    assert refusal(lambda: ask(sites, other)) == "COHORT_TOO_CLOSE"
