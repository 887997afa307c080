"""A coordinator with any plan against survival models: no sum is one patient's value.

Each attack works where there are no rules, and is refused or left out where there are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.contribution import Total
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import register
from polyclinic.models import tasks
from polyclinic.models.glm.scale import unpack
from polyclinic.models.learner import values
from polyclinic.models.survival import CoxSpec, CurveSpec
from polyclinic.privacy.policy import Policy, open_policy

register(tasks)
VICTIM = 17
EDGES = tuple(float(t) for t in range(50, 1001, 50))


def rows(site: int) -> dict[str, Any]:
    rng = np.random.default_rng(site)
    n = 200
    age, lab = np.rint(rng.normal(60, 10, n)), np.round(rng.gamma(3, 3, n), 3)
    days = np.round(rng.exponential(300, n)) + 1.0
    died = (rng.random(n) < 0.5) * 1.0
    arm = rng.integers(0, 2, n) * 1.0
    few = np.zeros(n)
    few[[3, 50, 90]] = 1.0
    weight = np.ones(n)
    if site == 0:
        age[VICTIM], lab[VICTIM], days[VICTIM], died[VICTIM] = 91.0, 41.377, 10.0, 1.0
        weight[VICTIM] = 1e9
    once = np.zeros(n)
    once[VICTIM] = died[VICTIM]
    columns = {"age": age, "lab": lab, "days": days, "died": died, "arm": arm}
    columns["rank"] = np.where(few == 1, 2.0, arm)
    return {**columns, "few": few, "weight": weight, "once": once, "like_days": days}


ROWS = [rows(site) for site in range(3)]
AGE, LAB = ROWS[0]["age"], ROWS[0]["lab"]


def ask(plan: Plan, policy: Policy | None = None, sums: str = "clear") -> Total:
    return hospitals(policy, sums).total(plan)


def hospitals(policy: Policy | None = None, sums: str = "clear") -> Any:
    made: dict[str, Any] = {}
    for k, columns in enumerate(ROWS):
        part = Partition(columns, site=f"s{k}")
        made[f"s{k}"] = lambda cohort, part=part: part
    policies = dict.fromkeys(made, policy or Policy())
    return pc.Embedded().federation(made, policies, sums=sums)  # type: ignore[arg-type]


def code(plan: Plan, sums: str = "clear", engine: Any = None) -> str:
    try:
        (engine or hospitals(None, sums)).total(plan)
    except PolyclinicError as error:
        return error.code
    return ""


def design(*names: str, **more: Any) -> Design:
    bounds = {"age": 128.0, "lab": 64.0, "like_days": 4096.0}
    terms = tuple(Term(n, (Factor("value", n),), bounds.get(n, 1.0)) for n in names)
    return Design(terms, "days", False, **{"event": "died", "response_bound": 4096.0, **more})


def cox(what: Design, theta: Any, order: int = 1, task: str = "derivatives", **more: Any) -> Plan:
    """`theta` of raw columns."""
    spec = CoxSpec(what, **more)
    at = np.ldexp(np.atleast_2d(np.asarray(theta, float)), what.exponents)
    state = {"theta": at, **({"order": order} if task == "derivatives" else {})}
    if task == "scores":
        state["by"] = "row"
    return Plan(f"survival.{task}", values(spec, **state), task)


def gradient(total: Total, what: Design) -> Any:
    return np.ldexp(total["gradient"][0], what.exponents)


def left_out(plan: Plan, sums: str) -> bool:
    try:
        return bool(ask(plan, sums=sums)["too_large"].all())
    except PolyclinicError as error:
        assert error.code in {"EFFECTIVE_SIZE", "LEVEL_TOO_SMALL", "LEVERAGE"}
        return True


@pytest.mark.parametrize("sums", ["clear", "secure", "auto"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_coefficients_under_which_risk_sets_are_single_patients(order: int, sums: str) -> None:
    what = design("age", "lab")
    plan = replace(cox(what, [0.0, 400.0], order), to=())
    if order and sums == "clear":
        alone = replace(plan, to=("s0",), _derived={})
        near = cox(what, [1e-7, 400.0], order)
        one, two = (ask(p, open_policy()) for p in (plan, near))
        assert np.allclose(gradient(one, what), gradient(two, what), rtol=1e-6)
        assert ask(alone)["too_large"].all()
    assert left_out(plan, sums)
    assert not left_out(cox(what, [0.0, 0.0], order), sums)


def test_one_event_at_a_site_is_its_patient() -> None:
    what = design("age", "lab", event="once")
    plan = cox(what, [0.0, 0.0])
    found = gradient(ask(replace(plan, to=("s0",), _derived={}), open_policy()), what)
    later = ROWS[0]["days"] >= ROWS[0]["days"][VICTIM]
    assert np.allclose(AGE[later].mean() - found[0], 91.0)
    assert np.allclose(LAB[later].mean() - found[1], 41.377)
    assert code(replace(plan, to=("s0",), _derived={})) == "LEVEL_TOO_SMALL"
    for task in ("scores", "concordance", "schoenfeld"):
        refused = cox(what, [0.0, 0.0], task=task)
        assert code(refused) == "LEVEL_TOO_SMALL"


@pytest.mark.parametrize("task", ["scores", "concordance", "schoenfeld"])
@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_the_other_steps_at_such_coefficients(task: str, sums: str) -> None:
    what = design("age", "lab")
    for slope in (30.0, 400.0):
        found = code(cox(what, [0.0, slope], task=task), sums)
        assert found in {"EFFECTIVE_SIZE", "LEVERAGE", "NONFINITE"}
    assert code(cox(what, [0.0, 0.0], task=task), sums) == ""


def test_a_weight_that_is_one_patient() -> None:
    what = design("age", "lab", weight="weight", weight_bound=2.0**30)
    plan = cox(what, [0.0, 0.0], 2)
    alone = ask(replace(plan, to=("s0",), _derived={}), open_policy())
    packed = np.ldexp(unpack(alone["hessian"][0], 2), what.exponents[:, None] + what.exponents)
    later = ROWS[0]["days"] >= ROWS[0]["days"][VICTIM]
    assert packed[0, 0] > 0 and later.any()
    assert ask(replace(plan, to=("s0",), _derived={}))["too_large"].all()


def test_time_as_a_term_and_a_term_like_time() -> None:
    assert code(cox(design("days"), [0.0])) == "BAD_MESSAGE"
    assert code(cox(design("age", "died"), [0.0, 0.0])) == "BAD_MESSAGE"
    what = design("age", "like_days")
    for slope in (5.0, -5.0):  # every risk set is its first, or its last patient
        assert left_out(cox(what, [0.0, slope]), "clear")


def test_strata_and_groups_of_a_few() -> None:
    what = design("age", "lab", strata=("few",))
    assert code(cox(what, [0.0, 0.0], levels=(2,))) == "LEVEL_TOO_SMALL"
    group = replace(design("few"))
    spec = CurveSpec("log-rank", group, by="few", groups=("0", "1"))
    plan = Plan("survival.log_rank", values(spec), "log-rank")
    assert code(plan) == "LEVEL_TOO_SMALL"
    assert code(cox(design("age", "few"), [0.0, 0.0], 2)) == "LEVEL_TOO_SMALL"


def steps(edges: tuple[float, ...] = EDGES, least: int = 5, **more: Any) -> Plan:
    return Plan("survival.steps", values(CurveSpec("kaplan-meier", design(), **{
        "edges": edges, "least": least, **more})), "steps")  # fmt: skip


def test_steps_of_single_patients() -> None:
    late = ask(steps(least=1), open_policy())["late"]
    assert (late == 1).any()
    assert code(steps(least=1)) == "CELL_TOO_SMALL"
    shown = ask(steps(), open_policy())
    guarded = ask(steps())
    for name in ("late", "early"):
        assert (guarded[name] == shown[name]).all()
        assert not np.isin(guarded[name], [1, 2, 3, 4]).any()


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_two_grids_that_differ_by_one_edge(sums: str) -> None:
    times = np.sort(ROWS[0]["days"][ROWS[0]["died"] == 1])
    moved = tuple(float(times[60]) if e == EDGES[3] else e for e in EDGES)
    one, two = steps(), steps(tuple(sorted(set(moved))))
    shown = [ask(p, open_policy())["late"] for p in (one, two)]
    assert shown[0].shape != shown[1].shape or (shown[0] != shown[1]).any()
    engine = hospitals(None, sums)
    assert code(one, engine=engine) == ""
    assert code(two, engine=engine) == "COHORT_TOO_CLOSE"
    assert code(steps(least=6), engine=engine) == "COHORT_TOO_CLOSE"
    assert code(one, engine=engine) == ""  # the stored answer


def test_a_group_with_few_deaths_shows_nothing() -> None:
    plan = steps(by="", **{})
    once = Plan("survival.steps", values(CurveSpec(
        "kaplan-meier", design(event="once"), edges=EDGES)), "steps")  # fmt: skip
    found = ask(replace(once, to=("s0",), _derived={}))
    assert found["left_out"] == 1 and not found["late"].any()
    assert ask(plan)["left_out"] == 0


def test_folds_that_leave_out_one_patient() -> None:
    engine = hospitals()
    what = design("age", "lab")
    assert code(cox(what, [0.0, 0.0]), engine=engine) == ""
    one = cox(what, [0.0, 0.0], rows={"folds": 200, "without": VICTIM})
    assert code(one, engine=engine) == "COHORT_TOO_CLOSE"


def test_states_of_another_form() -> None:
    what = design("age", "lab")
    for theta in (np.zeros((1, 3)), np.zeros(2), np.full((1, 2), np.nan), [[0.0, 0.0]]):
        plan = Plan("survival.derivatives", values(CoxSpec(what), theta=theta, order=1), "x")
        assert code(plan) in {"BAD_MESSAGE", "SITE_FAILED"}


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_risk_sets_on_a_grid_of_a_few(sums: str) -> None:
    def plan(theta: list[float], edges: tuple[float, ...] = EDGES, least: int = 5) -> Plan:
        spec = CoxSpec(design("age", "lab"), by_site=False, edges=edges, least=least)
        at = np.ldexp(np.array([theta]), spec.design.exponents)
        return Plan("survival.risk_sets", values(spec, theta=at, order=2), "risk sets")

    counts = ask(plan([0.0, 0.0]), open_policy())["r"][0]
    fine = replace(plan([0.0, 0.0], least=1), to=("s0",), _derived={})
    assert (np.isin(ask(fine, open_policy())["r"][0], [1.0, 2.0])).any()
    engine = hospitals(None, sums)
    assert code(plan([0.0, 0.0]), engine=engine) == ""
    assert np.isclose(counts.sum(), 600)
    assert code(plan([0.0, 0.0], least=1), sums) in {
        "SATURATED",
        "CELL_TOO_SMALL",
        "COHORT_TOO_CLOSE",
    }
    moved = tuple(e + 7.0 if e == EDGES[3] else e for e in EDGES)
    assert code(plan([0.0, 0.0], moved), engine=engine) == "COHORT_TOO_CLOSE"
    assert left_out(plan([0.0, 400.0]), sums) and left_out(plan([0.0, 3.0]), sums)


def test_groups_beside_all_patients_are_never_a_few() -> None:
    """All in a step less one group is the other group: it holds the minimum, too."""
    group = replace(design(), terms=(Term("arm", (Factor("level", "arm", (1.0,)),), 1.0),))
    by = CurveSpec("kaplan-meier", group, by="arm", groups=("0", "1"), edges=EDGES)
    engine = hospitals()
    one, two = (engine.total(p)["late"] for p in (steps(), Plan("survival.steps", values(by), "x")))
    assert one.sum() == two.sum()
    for part in two:
        assert not np.isin(part, [1, 2, 3, 4]).any()
    few = replace(group, terms=(Term("few", (Factor("level", "few", (1.0,)),), 1.0),))
    asked = CurveSpec("kaplan-meier", few, by="few", groups=("0", "1"), edges=EDGES)
    found = engine.total(Plan("survival.steps", values(asked), "x"))
    assert found["left_out"] == 3 and not found["late"].any()


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_groups_that_the_design_does_not_name(sums: str) -> None:
    """Groups of a few, and all groups but one of a few, under a design without terms."""
    for by, groups in (("few", 2), ("few", 7), ("rank", 2), ("rank", 3)):
        spec = CurveSpec("log-rank", design(), by=by, groups=tuple("abcdefg"[:groups]))
        plan = Plan("survival.log_rank", values(spec), "log-rank")
        assert code(plan, sums) == "LEVEL_TOO_SMALL"
        assert ask(plan, open_policy(), sums)["patients"] > 0
    by_arm = CurveSpec("log-rank", design(), by="arm", groups=("0", "1"))
    assert code(Plan("survival.log_rank", values(by_arm), "log-rank"), sums) == ""


@pytest.mark.parametrize("sums", ["clear", "secure"])
@pytest.mark.parametrize("least", [1, 5])
def test_two_grids_of_one_run_whose_ends_differ_by_one_event(least: int, sums: str) -> None:
    """All patients are one run under either; the sums over events differ by one record."""
    what = design("age", "lab")
    days, died = ROWS[0]["days"], ROWS[0]["died"] == 1
    early = np.sort(days[died])[5:7]
    (who,) = np.flatnonzero((days == early[1]) & died)

    def plan(end: float) -> Plan:
        spec = CoxSpec(what, by_site=False, edges=(float(end),), least=least)
        return Plan("survival.risk_sets", values(spec, theta=np.zeros((1, 2)), order=0), "x")

    free = hospitals(open_policy())
    one, two = (free.total(replace(plan(e), to=("s0",), _derived={}))["observed"] for e in early)
    assert np.allclose(np.ldexp(two - one, what.exponents), [AGE[who], LAB[who]])
    engine = hospitals(None, sums)
    codes = [code(plan(end), engine=engine) for end in early]
    assert codes[1] in {"COHORT_TOO_CLOSE", "CELL_TOO_SMALL"}
    assert least == 1 or codes[0] == ""


def test_few_events_after_the_end_of_the_grid() -> None:
    """Other sums are over all events: less those of the grid they are a few patients'."""
    days, died = ROWS[0]["days"], ROWS[0]["died"] == 1
    every = int(died.sum())

    def seen(after: int) -> int:
        end = float(np.sort(days[died])[-1 - after])
        spec = CoxSpec(design("age", "lab"), by_site=False, edges=(150.0, end))
        plan = Plan("survival.risk_sets", values(spec, theta=np.zeros((1, 2)), order=0), "x")
        found = hospitals().total(replace(plan, to=("s0",), _derived={}))
        assert found["left_out"] == 0
        return every - round(float(found["deaths"][:-1].sum()))

    assert [seen(after) for after in (0, 1, 4, 5)] == [0, 0, 0, 5]


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_pairs_of_single_patients(sums: str) -> None:
    """Ranks of single patients change one pair at a time as coefficients move."""

    def plan(least: int) -> Plan:
        made = cox(design("age", "lab"), [0.01, 0.02], task="concordance", least=least)
        return made

    assert [code(plan(least), sums) for least in (1, 4, 5)] == [
        "LEVEL_TOO_SMALL",
        "",  # taken together in groups of 5
        "",
    ]
