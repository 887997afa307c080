"""One baseline for all sites on a grid: exact where every time is an edge, near it where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from statsmodels.duration.hazard_regression import PHReg

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.survival import CoxSpec
from polyclinic.models.survival.grid import plan_of
from polyclinic.models.survival.steps import interval_of, joint_runs
from polyclinic.privacy.policy import Policy, open_policy
from tests.models.survival.brca import TERMS, design, fitted, rows, sites, untied

pytestmark = pytest.mark.usefixtures("data_dir")
FEW = TERMS[:2]
GRID = tuple(np.linspace(150.0, 9000.0, 60).tolist())


def on_grid(terms: tuple[str, ...] = TERMS, **more: object) -> CoxSpec:
    return CoxSpec(design(terms), by_site=False, **{"edges": GRID, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_with_every_time_an_edge_it_is_exact(ties: str) -> None:
    data = untied() if ties == "efron" else rows()
    edges = tuple(np.unique(data.columns["T"]).tolist())
    found = fitted(on_grid(edges=edges, least=1, ties=ties), data)
    exact = fitted(CoxSpec(design(), ties=ties), data)
    assert_allclose(found.coef, exact.coef, rtol=1e-8)
    assert_allclose(found.covariance, exact.covariance, rtol=1e-7)
    assert_allclose(found.loglik, exact.loglik, rtol=1e-10)
    assert_allclose(found.beside["stratified"], exact.coef, rtol=1e-7)


def test_the_baseline_hazard_as_statsmodels() -> None:
    data = rows().columns
    edges = tuple(np.unique(data["T"]).tolist())
    found = fitted(CoxSpec(design(), ties="breslow", edges=edges, least=1))
    x = np.column_stack([data[n] for n in TERMS])
    known = PHReg(data["T"], x, status=data["E"].astype(int), ties="breslow").fit(disp=0, tol=1e-14)
    times, hazard, _ = known.baseline_cumulative_hazard[0]
    at = np.searchsorted(edges, np.unique(times))
    own = found.baseline[1][at]
    first = np.searchsorted(times, np.unique(times), side="left")  # theirs is just before
    assert_allclose(own[:-1], hazard[first][1:], rtol=1e-6)
    one = Partition({n: v[:3] for n, v in data.items()})
    risk = np.exp(x[:3] @ found.coef)
    assert_allclose(found.predictor().survival(one)[:, at[5]], np.exp(-risk * own[5]), rtol=1e-10)


def test_over_six_small_sites_it_says_how_near_it_is() -> None:
    found = fit(on_grid(FEW).algorithm(), sites(Policy(), "secure")).model[-1]
    assert found.converged and found.left_out == 1  # three deaths
    inside = rows().columns["site"] < 5
    kept = Partition({n: v[inside] for n, v in rows().columns.items()})
    exact = fitted(CoxSpec(design(FEW)), kept)
    se = np.sqrt(np.diag(exact.covariance))
    assert np.all(np.abs(found.coef - exact.coef) < 1.5 * se)
    by_site = fitted(CoxSpec(design(FEW, strata=("site",)), levels=(6,)), kept)
    assert np.all(np.abs(found.beside["stratified"] - by_site.coef) < 0.2 * se)
    assert found.shift > 0.5 and "coarse" in found.warnings()[-1]


def test_over_large_sites_it_is_near_the_exact_fit() -> None:
    rng = np.random.default_rng(1)
    n = 2000
    x = rng.normal(size=(n, 2))
    time = rng.exponential(500.0, n) * np.exp(-0.5 * x[:, 0] + 0.2 * x[:, 1])
    end = rng.uniform(100.0, 2000.0, n)
    columns = {TERMS[0]: x[:, 0], TERMS[1]: x[:, 1], "T": np.minimum(time, end)}
    columns["E"] = (time <= end) * 1.0
    data = Partition(columns)
    edges = tuple(np.linspace(50.0, 2000.0, 40).tolist())
    exact = fitted(CoxSpec(design(FEW)), data)
    se = np.sqrt(np.diag(exact.covariance))
    for ties, far in (("efron", 0.4), ("breslow", 1.5)):
        made: dict[str, object] = {}
        for k in range(4):
            part = Partition({m: v[k::4] for m, v in columns.items()}, site=f"s{k}")
            made[f"s{k}"] = lambda cohort, part=part: part
        engine = pc.Embedded().federation(made, dict.fromkeys(made, Policy()))  # type: ignore[arg-type]
        found = fit(on_grid(FEW, edges=edges, ties=ties).algorithm(), engine).model[-1]
        assert np.all(np.abs(found.coef - exact.coef) < far * se), ties
        assert (found.shift > 0.5) == (ties == "breslow") == bool(found.warnings())
        assert_allclose(found.summary()["se"], se, rtol=0.02)


def test_every_run_holds_enough_and_no_column_is_rare_in_it() -> None:
    rng = np.random.default_rng(0)
    interval = rng.integers(0, 30, 500)
    marks = rng.random((500, 3)) < [0.5, 0.1, 0.02]

    def runs(some: slice) -> tuple[Any, Any, bool]:
        counts = np.zeros((31, 3), dtype=np.int64)
        np.add.at(counts, interval[some], marks[some])
        rows = np.bincount(interval[some], minlength=31)
        first, last, whole = joint_runs(rows, counts, 20, np.array([5, 5, 5]))
        return first[interval[some]], last[interval[some]], whole

    first, last, whole = runs(slice(None))
    assert whole and np.all(first <= interval) and np.all(interval <= last)
    for step in np.unique(last):
        inside = last == step
        assert inside.sum() >= 20 and len(np.unique(first[inside])) == 1
        assert not np.isin(marks[inside].sum(axis=0), [1, 2, 3, 4]).any()
    few = runs(slice(10))
    assert not few[2] and len(np.unique(few[1])) == 1


def test_derivatives_on_the_grid_by_finite_differences() -> None:
    from polyclinic.core.federation import Domain, Inline
    from polyclinic.models.survival.grid_sums import Sums

    spec, at, h = on_grid(FEW), np.array([0.8, -0.3]), 1e-5
    steps = [at, *(at + s * h * np.eye(2)[j] for j in range(2) for s in (1, -1))]
    total = Domain(Inline(rows())).total(plan_of(spec, np.array(steps), 2, "x"))
    for efron in (False, True):
        found = [Sums.of(total, k).derivatives(theta, efron) for k, theta in enumerate(steps)]
        for j in range(2):
            up, down = found[1 + 2 * j], found[2 + 2 * j]
            assert_allclose(found[0][1][j], (up[0] - down[0]) / (2 * h), rtol=1e-6, atol=1e-7)
            assert_allclose(found[0][2][j], (up[1] - down[1]) / (2 * h), rtol=1e-6, atol=1e-7)


def test_what_it_needs() -> None:
    with pytest.raises(InputError) as error:
        CoxSpec(design(), by_site=False)
    assert error.value.code == "GRID_NEEDED"
    with pytest.raises(InputError) as error:
        on_grid(edges=(3.0, 2.0))
    assert error.value.code == "WRONG_VALUE"
    with pytest.raises(InputError) as error:
        on_grid(robust="row")
    assert error.value.code == "WRONG_VALUE"
    few = Partition({n: v[:15] for n, v in rows().columns.items()})
    with pytest.raises(InputError) as error:
        fitted(on_grid(), few)
    assert error.value.code in {"NO_START", "NO_EVENTS"}
    assert interval_of(np.array([0.0, 150.0, 151.0, 1e9]), np.array(GRID)).tolist() == [0, 0, 1, 60]


def test_sites_split_otherwise_give_the_same_sums() -> None:
    one = fit(on_grid(FEW).algorithm(), sites(open_policy())).model[-1]
    two = fit(on_grid(FEW).algorithm(), sites(open_policy(), parts=3)).model[-1]
    assert_allclose(one.coef, two.coef, rtol=1e-12)
