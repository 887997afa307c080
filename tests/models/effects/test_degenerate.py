"""One arm only, no overlap, one outcome, gaps, a site with one arm; and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core.errors import InputError, PolyclinicError, Refused
from polyclinic.core.fit import fit
from polyclinic.core.ring import RingError
from polyclinic.models.effects import Effect
from polyclinic.privacy.policy import Policy
from tests.models.effects.world import by_hand, hospitals, pooled, rows, spec


@pytest.mark.parametrize("arm", [0.0, 1.0])
def test_one_arm_only(arm):
    data = {**rows(200, 1), "a": np.full(200, arm)}
    with pytest.raises(InputError, match="ONE_CLASS"):
        pooled(data, spec())


def test_a_treatment_that_is_no_yes_or_no():
    data = rows(200, 1)
    data["a"][3] = 2.0
    with pytest.raises(InputError, match="OUTCOME_NOT_ALLOWED"):
        pooled(data, spec())


@pytest.mark.parametrize("column", ["a", "x", "y"])
def test_a_gap_stops_the_run(column):
    data = rows(200, 1)
    data[column][3] = np.nan
    with pytest.raises((RingError, InputError)) as found:
        pooled(data, spec())
    assert found.value.code in {"NONFINITE", "OUTCOME_NOT_ALLOWED"}


def test_one_outcome_for_all():
    data = {**rows(200, 1), "y": np.ones(200)}
    with pytest.raises(InputError, match="ONE_CLASS"):
        pooled(data, spec(True))
    one = pooled(data, spec()).contrasts()[0]
    assert abs(one.estimate) < 1e-12 and one.se < 1e-12


def test_no_event_in_an_arm_is_said():
    data = rows(600, 1, binary=True)
    data["y"] *= data["a"]
    found = pooled(data, spec(True))
    assert any("decide the outcome in an arm" in text for text in found.warnings())


def test_no_overlap_is_said_in_one_domain_and_refused_by_a_gate():
    data = rows(600, 1)
    data["a"] = (data["x"] > 0) * 1.0
    found = pooled(data, spec(method="regression"))
    told = " ".join(found.warnings())
    assert "there is no overlap to use" in told and "overlap is poor" in told
    assert "that nobody in the other arm has" in told
    with pytest.raises(Refused, match="NO_OVERLAP"):
        fit(spec().algorithm(), hospitals(data, [300]))


def test_poor_overlap_is_said():
    data = rows(4000, 1)
    draw = np.random.default_rng(2)
    data["a"] = (draw.random(4000) < 1 / (1 + np.exp(-3.0 * data["x"]))) * 1.0
    told = " ".join(pooled(data, spec(method="ipw")).warnings())
    assert "overlap is poor" in told and "leave an effective size of" in told
    assert not pooled(rows(4000, 1), spec(method="ipw")).warnings()


def test_a_level_that_only_one_arm_has_is_said():
    data = rows(900, 1)
    data["c"] *= data["a"]
    told = " ".join(pooled(data, spec(method="regression")).warnings())
    assert "c is 0 in all who are untreated, not in the others" in told
    assert "a:c left out" in told


def test_a_constant_column_is_left_out_and_changes_nothing():
    data = {**rows(600, 1), "c": np.ones(600)}
    found = pooled(data, spec())
    other = {**data, "c": rows(600, 1)["z"]}
    np.testing.assert_allclose(found.mean(), pooled(other, spec()).mean(), rtol=1e-9)
    np.testing.assert_allclose(found.covariance(), pooled(other, spec()).covariance(), rtol=1e-8)
    assert any("left out" in text for text in found.warnings())


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_a_site_with_one_arm_gives_what_it_has(sums):
    data = rows(900, 3)
    order = np.argsort(data["a"], kind="stable")  # the first hospital treats nobody
    data = {name: values[order] for name, values in data.items()}
    engine = hospitals(data, [250, 600], Policy(), sums=sums)
    found: Effect = fit(spec(method="ipw").algorithm(), engine).model
    mean, covariance = by_hand(data, "ipw")
    np.testing.assert_allclose(found.mean(), mean, rtol=1e-9)
    np.testing.assert_allclose(found.covariance(), covariance, rtol=1e-8)


@pytest.mark.parametrize("few", [1, 4])
def test_a_site_with_too_few_treated_does_not_answer_by_itself(few):
    data = rows(900, 3)
    treated = np.flatnonzero(data["a"][:300])
    keep = np.ones(900, dtype=bool)
    keep[treated[few:]] = False
    data = {name: values[keep] for name, values in data.items()}
    cut = int(keep[:300].sum())
    with pytest.raises(Refused, match="LEVEL_TOO_SMALL"):
        fit(
            spec(method="ipw").algorithm(),
            hospitals(data, [cut, cut + 300], Policy(), sums="clear"),
        )
    engine = hospitals(data, [cut, cut + 300], Policy(), sums="auto")
    assert fit(spec(method="ipw").algorithm(), engine).model.converged


def test_a_plan_of_another_form_is_a_bad_message():
    from polyclinic.core.plan import Plan
    from polyclinic.models.effects.means import MeansTask

    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        MeansTask().leaves(Plan("effects.means", {"spec": {}, "rows": {}, "state": {}}))
