"""Rows near the margin: sums with the others' lines, and the optimum that is found over them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.glm.kernel import Rows
from polyclinic.models.svm import band, newton
from polyclinic.models.svm.band import parted
from polyclinic.models.svm.kernel import Question, sums
from polyclinic.privacy.policy import open_policy
from tests.models.svm.test_machines import fitted, made, objective, spec

X, Y, _, _ = made(6000, 4)
WARM = {"warm_rows": 600, "curve": False}


def asked(theta, intercept, weight):
    """About a rounded hinge that has been at much the same place before."""
    sharp, past = np.full(1, 50.0), 50.0 * theta[None]
    given = (theta[None], np.ones(1, int), False, sharp, past, sharp)
    return Question(*given, weight, 2, 0.0, intercept)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("more", [False, True])
def test_far_rows_count_by_their_lines(quick, intercept, more, monkeypatch):
    if quick:
        pytest.importorskip("numba")
        monkeypatch.setattr(band.compiled, "LEAST_ROWS", 0)
    draw = np.random.default_rng(2)
    theta = draw.normal(size=4 + intercept)
    weight = draw.integers(0, 3, len(Y)).astype(float) if more else None
    by_class = np.array([[0.5, 2.0]]) if more else np.ones((1, 2))
    shift = draw.normal(size=4) if more else None
    rows, question = Rows(X, Y, weight, None), asked(theta, intercept, by_class)
    found = parted(rows, question, 0.5, shift)
    z = X if shift is None else X - shift
    f = z @ theta[int(intercept) :] + (theta[0] if intercept else 0.0)
    near = np.abs(1 - (2 * Y - 1) * f) <= 0.5
    assert 0 < near.sum() == len(found.near.y) < len(Y)
    assert np.array_equal(found.near.x, X[near])
    # nearby no row crosses: all but the rounding of far rows' corners is the same
    close = asked(theta + 1e-3 * draw.normal(size=len(theta)), intercept, by_class)
    ours = found.with_far(sums(found.near, close, 2, shift, len(Y)), close)
    true = sums(rows, close, 2, shift)
    np.testing.assert_allclose(ours.sharp, true.sharp, rtol=1e-12)
    for name in ("loss", "dual", "gradient"):
        np.testing.assert_allclose(getattr(ours, name), getattr(true, name), rtol=1e-6, atol=1e-5)
    away = asked(theta + draw.normal(size=len(theta)), intercept, by_class)
    below = found.with_far(sums(found.near, away, 0, shift, len(Y)), away).sharp
    assert below < sums(rows, away, 0, shift).sharp


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("out", [None, newton.OUT, 20.0])
def test_the_optimum_is_that_of_all_rows(intercept, out, monkeypatch):
    if out:  # rows leave the bands, which shows at once, or at last
        monkeypatch.setattr(newton, "SAFE", 0.3)
        monkeypatch.setattr(newton, "NARROWEST", 1e-4)
        monkeypatch.setattr(newton, "OUT", out)
    weight = np.random.default_rng(3).uniform(0.2, 4.0, len(Y))
    wanted = spec("hinge", 2, intercept, class_weight=(0.5, 2.0), weighted=True)
    cold = fitted(replace(wanted, warm_rows=0, curve=False), X, Y, w=weight)
    runs = [fit(replace(wanted, **WARM).algorithm(), pc.Embedded(parts).domain(
        Partition({"X": X, "y": Y, "w": weight}))) for parts in (1, 3)]  # fmt: skip
    for run in runs:
        found = run.model[-1]
        steps = [done.step for done in run.rounds]
        assert out or "all rows" in steps
        assert found.converged and found.gap <= 1e-9
        signed, each = 2 * Y - 1, weight * np.where(Y == 1, 2.0, 0.5)
        coef = found.coef[0] if intercept else np.append(0.0, found.coef[0])
        at = objective("hinge", X, signed, coef[1:], coef[0], each)
        assert at == pytest.approx(found.objective, rel=1e-12)
        assert found.objective <= cold.objective * (1 + 1e-9)
        assert cold.objective <= found.objective * (1 + 1e-9)


def test_where_rows_left_a_band_the_next_is_wider():
    machine = {"theta": np.ones(2), "try": np.ones(2), "checking": "converged", "left": 0}
    machine["point"] = {"value": None, "primal": 10.0, "gap": 1e-10, "rest": 0.0}
    machine["band"] = {"theta": np.zeros(2), "width": 0.2, "checked": False}
    solver = newton.Newton(SimpleNamespace(spec=spec("hinge"), least=1e-6))
    done = solver._checked(machine, 10.0, False)
    assert done["end"] == "converged" and done["band"] is None and not done["checking"]
    again = solver._checked(machine, 10.5, False)
    assert not again.get("end") and again["point"]["gap"] == pytest.approx(0.5)
    assert again["band"]["width"] == 0.4 and again["band"]["checked"]
    for more in ({"band": again["band"]}, {"checking": "no_descent"}):
        out = solver._checked({**machine, **more}, 10.5, False)
        assert out["band"] is None and out["left"] == 1 and out["past_sharpness"] == 0.0


@pytest.mark.parametrize("most", [11, 12, 13, 20])
def test_a_fit_that_is_cut_short_says_how_far_it_is(most):
    best = fitted(spec("hinge", warm_rows=0, curve=False), X, Y).objective
    wanted = spec("hinge", max_rounds=most, **{**WARM, "warm_rows": 1000})
    run = fit(wanted.algorithm(), pc.Embedded().domain(Partition({"X": X, "y": Y})))
    found = run.model[-1]
    assert run.rounds[-1].step == "all rows"
    at = objective("hinge", X, 2 * Y - 1, found.coef[0, 1:], found.coef[0, 0])
    assert at == pytest.approx(found.objective, rel=1e-12)
    assert not found.converged and most <= found.rounds <= most + 2
    assert found.objective * (1 - found.gap) <= best * (1 + 1e-9)
    assert best <= found.objective * (1 + 1e-9)


def test_no_plan_with_a_band_crosses_a_border():
    parts = {f"s{i}": Partition({"X": X[i::2], "y": Y[i::2]}, site=f"s{i}") for i in range(2)}
    makers = {name: (lambda cohort, part=part: part) for name, part in parts.items()}
    policies = dict.fromkeys(parts, open_policy())
    engine = pc.Embedded().federation(makers, policies, sums="clear")
    with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
        fit(spec("hinge", **WARM).algorithm(), engine)
