"""Curves and log-rank tests against lifelines and scikit-survival, and their distance to exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import polyclinic as pc
from polyclinic.core.design import Factor, Term
from polyclinic.core.errors import InputError
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.survival import CurveSpec
from polyclinic.models.survival.curve import Table, bounds, kaplan_meier
from polyclinic.models.survival.steps import base_runs, interval_of, united
from polyclinic.privacy.policy import Policy, open_policy
from tests.models.survival.brca import GOLDEN, design, fitted, rows, sites, untied

pytestmark = pytest.mark.usefixtures("data_dir")


def curves(asked: str = "kaplan-meier", by: str = "", **more: Any) -> CurveSpec:
    """Exact in one domain: every time is an edge."""
    made = design(())
    groups: tuple[str, ...] = ("all",)
    if by:
        groups = more.pop("groups", ("0", "1"))
        factors = [Factor("level", by, (float(k),)) for k in range(1, len(groups))]
        terms = tuple(Term(f"{by}[T.{k + 1}]", (f,), 1.0) for k, f in enumerate(factors))
        made = design(())
        made = type(made)(**{**vars(made), "terms": terms})
    edges = tuple(np.unique(rows().columns["T"]).tolist())
    options = {"edges": edges, "least": 1, **more}
    return CurveSpec(asked, made, by=by, groups=groups, **options)


@pytest.mark.parametrize("by", ["", "race_white"])
def test_kaplan_meier_as_lifelines_and_scikit_survival(by: str) -> None:
    found = fitted(curves(by=by))
    for group, curve in found.curves.items():
        known = GOLDEN["curves"][group] if by else GOLDEN["curve"]
        at = np.searchsorted(curve.times, known["times"], side="right") - 1
        assert_allclose(curve.survival[at], known["survival"], rtol=1e-10)
        assert_allclose(curve.survival[at], known["sksurv"], rtol=1e-10)
        assert_allclose(curve.lower[at], known["lower"], rtol=1e-8)
        assert_allclose(curve.upper[at], known["upper"], rtol=1e-8)
        assert curve.median()[0] == known["median"]
        assert_allclose(curve.mean(3000.0)[0], known["rmst"], rtol=1e-10)
        table = found.table(int(group) if by else 0)
        assert [table.followed(t) for t in known["times"]] == known["at_risk"]


def test_the_error_of_a_restricted_mean_as_leaving_patients_out_one_by_one() -> None:
    rng = np.random.default_rng(0)
    time, event = np.ceil(rng.exponential(20, 300)), rng.random(300) < 0.6
    edges = np.unique(time)

    def table(kept: Any) -> Table:
        late = np.zeros((2, len(edges) + 1), int)
        np.add.at(late, (event[kept] * 1, interval_of(time[kept], edges)), 1)
        return Table(edges, late, late)

    every = np.arange(300)
    means = [kaplan_meier(table(every != i)).mean(25.0)[0] for i in every]
    jackknife = np.sqrt(299 * np.var(means))
    assert_allclose(kaplan_meier(table(every)).mean(25.0)[1], jackknife, rtol=0.01)


def test_cumulative_incidence_as_scikit_survival_and_lifelines() -> None:
    for name, part in (("incidence", rows()), ("incidence untied", untied())):
        known, columns = GOLDEN[name], dict(part.columns)
        columns["E"] = columns["E"] * np.where(columns["age_at_index"] < 60, 1, 2)
        edges = tuple(np.unique(columns["T"]).tolist())
        spec = curves("cumulative-incidence", causes=2, edges=edges)
        found = fitted(spec, Partition(columns)).incidences["all"]
        at = np.searchsorted(edges, known["times"], side="right") - 1
        for cause in (1, 2):
            got = found[cause].incidence[at]
            assert_allclose(got, known[f"cause {cause}"], rtol=1e-10)
        if name == "incidence untied":
            assert_allclose(found[1].incidence[at], known["lifelines"], rtol=1e-10)
            assert_allclose(found[1].se[at] ** 2, known["variance"], rtol=1e-6)


def test_log_rank_as_lifelines() -> None:
    test = fitted(curves("log-rank", "race_white")).test
    assert_allclose(test["chi2"], GOLDEN["logrank"]["chi2"], rtol=1e-10)
    assert_allclose(test["p"], GOLDEN["logrank"]["p"], rtol=1e-9)
    on_grid = fitted(curves("log-rank", "race_white", by_site=False)).test
    assert_allclose(on_grid["chi2"], test["chi2"], rtol=1e-12)
    columns = dict(rows().columns)
    columns["stage"] = columns["ajcc_pathologic_t_T2"] + 2 * columns["ajcc_pathologic_t_T3"]
    three = fitted(curves("log-rank", "stage", groups=("0", "1", "2")), Partition(columns)).test
    assert_allclose(three["chi2"], GOLDEN["logrank by stage"]["chi2"], rtol=1e-10)
    assert three["df"] == 2


def test_a_log_rank_test_over_sites_is_the_stratified_one() -> None:
    asked = curves("log-rank", "race_white", edges=())
    one = curves("log-rank", "race_white", edges=(), levels=(6,))
    strata = type(one.design)(**{**vars(one.design), "strata": ("site",)})
    alone = fitted(type(one)(**{**vars(one), "design": strata}))
    assert alone.test["chi2"] > 1e-5 and alone.events == 151
    for sums in ("clear", "secure"):
        found = fit(asked.algorithm(), sites(open_policy(), sums)).model
        assert_allclose(found.test["chi2"], alone.test["chi2"], rtol=1e-12)


GRID = tuple(np.linspace(100.0, 6000.0, 60).tolist())


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_over_sites_every_step_holds_the_minimum_and_the_exact_curve_is_within(sums: str) -> None:
    found = fit(curves(edges=GRID, least=5).algorithm(), sites(Policy(), sums)).model
    late, early = found.sums["late"], found.sums["early"]
    for counts in (late, early):
        assert set(np.unique(counts)) & {1, 2, 3, 4} == set()
    assert late.sum() == early.sum()
    assert found.left_out == 1 and "too few" in found.warnings()[0]
    columns = rows().columns
    inside = columns["site"] != 5  # three deaths
    kept = Partition({n: v[inside] for n, v in columns.items()})
    exact = fitted(curves(), kept).curves["all"]
    curve = found.curves["all"]
    truth = np.array([exact.at(t) for t in GRID])
    assert np.all(curve.exact_low <= truth + 1e-12) and np.all(truth <= curve.exact_high + 1e-12)
    assert np.abs(curve.survival - truth).max() <= curve.distance
    early_years = curve.times <= 2000.0
    assert np.abs(curve.survival - truth)[early_years].max() < 0.04
    assert (curve.exact_high - curve.exact_low)[early_years].max() < 0.35


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=6, max_size=40),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_the_truth_lies_between_the_bounds(patients: Any, least: int, width: int) -> None:
    time = np.array([t for t, _ in patients], float)
    event = np.array([e for _, e in patients])
    edges = np.arange(width, 13.0, width)
    late, early = np.zeros((2, len(edges) + 1), int), np.zeros((2, len(edges) + 1), int)
    interval = interval_of(time, edges)
    way = np.where(interval == len(edges), 0, event * 1)
    first, last = (
        ends[interval] for ends in base_runs(by_interval(interval, len(edges) + 1, way), least)
    )
    np.add.at(late, (way, last), 1)
    np.add.at(early, (way, first), 1)
    low, high = bounds(Table(edges, late, early))
    true = np.unique(time)
    counts = np.zeros((2, len(true) + 1), int)
    np.add.at(counts, (event * 1, np.searchsorted(true, time)), 1)
    exact = kaplan_meier(Table(true, counts, counts))
    truth = np.array([exact.at(t) for t in edges])
    assert np.all(low <= truth + 1e-9) and np.all(truth <= high + 1e-9)


def by_interval(interval: Any, intervals: int, groups: Any) -> Any:
    """Rows in each interval that are in each group, (intervals, groups)."""
    found = np.zeros((intervals, int(np.max(groups, initial=0)) + 1), dtype=np.int64)
    np.add.at(found, (interval, groups), 1)
    return found


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=60), st.integers(1, 7))
def test_base_runs_hold_enough_of_each_way(patients: list[tuple[int, int]], least: int) -> None:
    at = np.array([k for k, _ in patients], dtype=np.int64)
    way = np.array([w for _, w in patients], dtype=np.int64)
    ends = base_runs(by_interval(at, 10, way), least)
    first, last = (one[at] for one in ends)
    assert np.all(first <= at) and np.all(at <= last)
    for w in (0, 1, 2):
        mine = way == w
        if mine.sum() >= least:
            assert np.bincount(last[mine])[last[mine]].min() >= least
            assert np.bincount(first[mine])[first[mine]].min() >= least
    if least == 1:
        assert np.all(first == at) and np.all(last == at)
    rows, even = np.bincount(at, minlength=10), np.bincount(at[::2], minlength=10)
    joined = united(*ends, rows, even[:, None], least, np.array([least]))[:2]
    begin, end = (one[at] for one in joined)
    assert np.all(begin <= first) and np.all(last <= end)
    assert len(set(zip(begin.tolist(), end.tolist(), strict=True))) == len(np.unique(end))


@pytest.mark.parametrize(
    ("change", "code"),
    [({"T": -1.0}, "OUTCOME_NOT_ALLOWED"), ({"T": np.nan}, "OUTCOME_NOT_ALLOWED"),
     ({"E": 0.5}, "OUTCOME_NOT_ALLOWED"), ({"race_white": 2.0}, "OUTCOME_NOT_ALLOWED")],
)  # fmt: skip
def test_rows_that_it_cannot_have(change: dict[str, float], code: str) -> None:
    columns = {n: v.copy() for n, v in rows().columns.items()}
    for name, value in change.items():
        columns[name][3] = value
    with pytest.raises(InputError) as error:
        fitted(curves(by="race_white"), Partition(columns))
    assert error.value.code == code


def test_all_censored_and_all_at_time_zero() -> None:
    columns = {**rows().columns, "E": np.zeros(1088)}
    curve = fitted(curves(), Partition(columns)).curves["all"]
    assert np.all(curve.survival == 1) and curve.median()[0] == np.inf
    assert curve.mean(1000.0) == (1000.0, 0.0)
    columns = {**rows().columns, "E": np.ones(1088), "T": np.zeros(1088)}
    curve = fitted(curves(edges=(0.0, 10.0)), Partition(columns)).curves["all"]
    assert curve.survival.tolist() == [0.0, 0.0] and curve.median()[0] == 0.0
    test = fitted(curves("log-rank", "race_white"), Partition(columns)).test
    assert test["chi2"] == 0.0 and test["p"] == 1.0


def test_steps_hold_enough_patients_where_each_has_several_rows() -> None:
    half = Partition({n: v[:600] for n, v in rows().columns.items()}, np.arange(600) // 3, "s")
    engine = pc.Embedded().federation({"s": lambda cohort: half}, {"s": Policy()})  # type: ignore[arg-type]
    found = fit(curves(edges=GRID, least=5).algorithm(), engine).model
    assert found.sums["late"].sum() == 600 and not found.left_out
