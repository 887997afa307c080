"""Chunks of a hospital, asked step by step, give what all rows in one place do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.exposure import unpacked
from polyclinic.core.exposure_data import exposure_to_data
from polyclinic.core.federation import Domain
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.models.learner import values
from polyclinic.models.survival import CoxSpec, risk_sums
from tests.models.survival.brca import GOLDEN, TERMS, design, untied
from tests.models.survival.brca import rows as brca

TASKS = ("derivatives", "scores", "concordance", "schoenfeld", "held_out", "held_out_own")


def rows(n: int = 400, several: bool = True) -> Partition:
    """Ties, weights of which some are 0, three strata of which one has no event, rows that are not
    allowed; nobody in the last quarter has the event."""
    rng = np.random.default_rng(5)
    key = np.sort(rng.integers(0, 150 if several else 10**6, n))
    time = np.ceil(20 * rng.exponential(size=n))
    time[::41] = np.nan
    died = (rng.random(n) < 0.6) * 1.0
    died[3 * n // 4 :] = 0
    place = rng.integers(0, 3, n) * 1.0
    died[place == 2] = 0
    columns = {
        "a": rng.normal(7.0, 1.0, n),
        "b": rng.integers(0, 2, n) * 1.0,
        "same": np.full(n, 0.1),
        "time": time,
        "died": died,
        "place": place,
        "weight": np.where(rng.random(n) < 0.1, 0.0, rng.uniform(0.2, 3.0, n)),
        "shift": rng.normal(size=n),
    }
    return Partition(columns, np.unique(key, return_inverse=True)[1], "s", person=key)


def spec(ties: str = "efron", **more) -> CoxSpec:
    terms = tuple(Term(n, (Factor("value", n),), 8.0) for n in ("a", "b", "same"))
    given = {"event": "died", "strata": ("place",), "weight": "weight", "offset": "shift"}
    made = Design(terms, "time", False, response_bound=500.0, **{**given, **more})
    return CoxSpec(made, levels=(3,), ties=ties, least=5)


def plan_of(name: str, asked: CoxSpec, **more) -> Plan:
    theta = np.array([[0.4, -0.3, 0.2], [0.0, 0.0, 0.0], [-1.5, 2.0, 0.0]])
    state = {"theta": theta if name == "derivatives" or more.get("folds") else theta[:1], **more}
    if name.startswith("held_out"):
        state.setdefault("folds", 0)
    combine = "collect" if name == "held_out_own" else "sum"
    return Plan(f"survival.{name}", values(asked, **state), combine=combine)


def whole(plan: Plan, partition: Partition):
    task = lookup(plan.task, plan.version)
    found = task.local(plan, partition)
    own = {name: np.asarray(value) for name, value in found.leaves.items()}
    return found, task.exposure(plan, partition, own)


def in_parts(partition: Partition, parts: int) -> ThreadWorkers:
    """As of a scan."""
    return ThreadWorkers(partition, parts, scanned=True)


def same(plan: Plan, partition: Partition, parts: int) -> None:
    """Sums and how patients share in them."""
    workers, (found, shown) = in_parts(partition, parts), whole(plan, partition)
    summed = workers.sum(plan)
    opened = summed.opened(lookup(plan.task, plan.version).leaves(plan))
    for name, value in found.leaves.items():
        scale = np.abs(value).max(initial=1.0)
        assert_allclose(opened[name], value, rtol=1e-10, atol=1e-11 * scale, err_msg=name)
    assert summed.evidence == found.evidence
    one, two = exposure_to_data(shown), exposure_to_data(workers.exposure(plan, summed))
    at_once, in_chunks = (who(data.pop("members")) for data in (one, two))
    assert at_once == in_chunks
    for name in [name for name in one["columns"] if name.startswith("(loss)")]:
        no_laxer(one["columns"].pop(name), two["columns"].pop(name))
    alike(one, two, "")


def no_laxer(one, two) -> None:
    """Shares in the loss: tied events are given it in the order of the rows, or as if in any."""
    for part in ("first", "second", "squares"):
        assert np.all(two[part] >= one[part] * (1 - 1e-9)), part
    assert np.all(two["total"] <= one["total"] * (1 + 1e-9))
    assert_allclose(two["total"], one["total"], rtol=0.2)


def who(members) -> dict:
    """The patients behind some columns, whatever the chunk."""
    found: dict = {}
    for one in members:
        behind = found.setdefault((*one["columns"],), set())
        behind.update(np.concatenate([unpacked(piece) for piece in one["patients"]]).tolist())
    return found


def alike(one, two, name: str, rtol: float = 1e-8) -> None:
    assert type(one) is type(two), name
    if isinstance(one, dict):
        assert one.keys() == two.keys(), name
        for key in one:
            alike(one[key], two[key], f"{name}/{key}", rtol)
    elif isinstance(one, np.ndarray | float):
        assert np.shape(one) == np.shape(two)
        assert_allclose(two, one, rtol=rtol, atol=1e-13, err_msg=name)
    else:
        assert one == two, name


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("name", TASKS)
def test_chunks_give_what_all_rows_do(name: str, ties: str) -> None:
    more = {"derivatives": {"order": 2}, "scores": {"by": "row"}}.get(name, {})
    same(plan_of(name, spec(ties), **more), rows(), 5)


@pytest.mark.parametrize("least", [1, 5])
@pytest.mark.parametrize("name", ["held_out", "held_out_own"])
def test_folds_of_chunks(name: str, least: int) -> None:
    same(plan_of(name, replace(spec(), least=least), folds=3), rows(), 5)


def test_counts_of_chunks() -> None:
    same(Plan("survival.counts", values(spec())), rows(), 5)


def test_no_order_of_tied_events_shows_more_of_the_loss() -> None:
    plan, every = plan_of("derivatives", spec(), order=0), rows(several=False)
    workers = in_parts(every, 5)
    shown = vars(workers.exposure(plan, workers.sum(plan)).columns["(loss)"])
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(every.n_rows)
        other = Partition({name: values[order] for name, values in every.columns.items()})
        no_laxer(vars(whole(plan, other)[1].columns["(loss)"]), shown)


def fitted_in_chunks(asked: CoxSpec, partition: Partition):
    return fit(asked.algorithm(), Domain(in_parts(partition, 4))).model[-1]


@pytest.mark.usefixtures("data_dir")
def test_four_chunks_as_lifelines() -> None:
    asked = CoxSpec(design(strata=("site",), weight="w"), levels=(6,), robust="row")
    table, known = fitted_in_chunks(asked, untied()).summary(), GOLDEN["untied weighted"]
    assert_allclose(table["coef"], known["coef"], rtol=1e-8)
    assert_allclose(table["se"], known["se"], rtol=1e-7)
    asked = CoxSpec(design(strata=("site",), weight="w"), levels=(6,))
    assert_allclose(fitted_in_chunks(asked, brca()).coef, GOLDEN["weighted"]["coef"], rtol=1e-8)
    found, known = fitted_in_chunks(CoxSpec(design()), untied()).proportional, GOLDEN["untied"]
    for scale in ("identity", "log", "rank"):
        chi2 = [line[f"chi2 {scale}"] for line in found]
        assert_allclose(chi2, [known["proportional"][scale][t] for t in TERMS], rtol=1e-6)
    found = fitted_in_chunks(CoxSpec(design(), least=1), brca())
    assert_allclose(found.coef, GOLDEN["pooled"]["coef"], rtol=1e-8)
    assert_allclose(found.concordance["c"], GOLDEN["concordance"], rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_few_times_at_once(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(risk_sums, "MOST", 1000)
    same(plan_of("derivatives", spec(), order=order), rows(several=False), 3)
    if order == 2:
        same(plan_of("scores", spec(), by="site"), rows(), 3)
        same(plan_of("schoenfeld", spec()), rows(), 3)


def test_coefficients_whose_sums_are_lost_leave_nothing() -> None:
    """exp(eta) of a risk set is 0 beside that of the largest: the ring holds no such sum."""
    plan = plan_of("derivatives", spec(), order=2)
    plan.values["state"]["theta"][2] = [1e308, 0.0, 0.0]
    workers = in_parts(rows(), 5)
    summed = workers.sum(plan)
    opened = summed.opened(lookup(plan.task, plan.version).leaves(plan))
    assert opened["too_large"].tolist() == [0, 0, 1]
    assert not opened["hessian"][2].any() and opened["hessian"][0].any()
    shown = workers.exposure(plan, summed)
    assert np.isinf(shown.weights.total[2]) and shown.crowd[2] == 0.0
    assert np.isfinite(shown.weights.total[:2]).all()


def test_chunks_without_an_event_or_a_row_that_counts() -> None:
    few = rows(several=False)
    columns = {**few.columns, "died": np.where(np.arange(400) < 40, few.columns["died"], 0.0)}
    columns["weight"] = np.where(np.arange(400) > 340, 0.0, columns["weight"])
    same(plan_of("derivatives", spec(), order=2), Partition(columns), 7)
    columns["died"] = np.zeros(400)  # no event at all
    opened = in_parts(Partition(columns), 7)
    plan = plan_of("derivatives", spec(), order=1)
    sums = opened.sum(plan).opened(lookup(plan.task, plan.version).leaves(plan))
    assert not sums["loss"].any() and not sums["gradient"].any()


@pytest.mark.parametrize("more", [{}, {"strata": (), "offset": None}])
def test_the_crowd_is_that_of_all_rows(more) -> None:
    """Who carry a risk set, and who leave with nearly all of the risk."""
    plan = plan_of("derivatives", spec(**more), order=2)
    plan.values["state"]["theta"][:] = [[12.0, 0.0, 0.0], [20.0, 0.0, 0.0], [-60.0, 5.0, 0.0]]
    found = whole(plan, rows())[1].crowd
    assert np.all(found < 20)
    workers = in_parts(rows(), 5)
    assert_allclose(workers.exposure(plan, workers.sum(plan)).crowd, found, rtol=1e-9)
