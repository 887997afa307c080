"""Coefficients that put all risk on a few patients: sums would say when the last of them leaves.

While one of them is at risk the mean of their mark over the risk set is 1, and then 0. So its
gradient, the loss and what else follows the order of times count the events until the last of them
leaves: that patient's place among the times, however many patients and events there are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.plan import Plan
from polyclinic.data.codebook import Codebook
from polyclinic.data.read import split_frame
from polyclinic.governance.study_file import Study
from polyclinic.privacy.policy import open_policy
from tests.attacks import test_survival as survival
from tests.attacks.test_survival import ask, code, cox, design, gradient, hospitals, left_out
from tests.governance.test_scope import recorded, scope_of
from tests.governance.test_scope_learner import changed

N, LARGE = 300, 40.0
MARKED = {"five": 5, "twenty": 20, "forty": 40}


def _rows(site: int) -> dict[str, Any]:
    rng = np.random.default_rng(100 + site)
    found: dict[str, Any] = {
        "age": np.rint(rng.normal(60, 10, N)),
        "days": np.round(rng.exponential(300, N)) + 1.0,
        "died": (rng.random(N) < 0.45) * 1.0,
        "ward": rng.integers(0, 2, N) * 1.0,
    }
    early = np.argsort(found["days"])[: 2 * N // 3]  # all of the marked leave before the others
    for name, count in MARKED.items():
        found[name] = np.isin(np.arange(N), rng.choice(early, count, replace=False)) * 1.0
    found["one"] = np.isin(np.arange(N), rng.choice(N, 60, replace=False)) | (found["five"] == 1)
    found["two"] = (found["one"] == 0) | (found["five"] == 1)
    found["months"] = np.ceil(found["days"] / 30)
    first = np.cumsum(found["died"]) <= 5
    return {**found, "first": found["died"] * first, "one": found["one"] * 1.0} | {
        "two": found["two"] * 1.0
    }


@pytest.fixture(autouse=True)
def wards(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    made = [_rows(site) for site in range(3)]
    monkeypatch.setattr(survival, "ROWS", made)
    return made


def _until_the_last(rows: dict[str, Any], name: str, time: str = "days") -> float:
    marked, died = rows[name] == 1, rows["died"] == 1
    last = rows[time][marked].max()
    return float(np.sum(died & (rows[time] <= last)) - np.sum(died & marked))


def _alone(plan: Plan) -> Plan:
    return replace(plan, to=("s0",), _derived={})


@pytest.mark.parametrize("sums", ["clear", "secure"])
@pytest.mark.parametrize("name", MARKED)
def test_all_risk_on_a_few_counts_events_until_the_last_leaves(
    name: str, sums: str, wards: list[dict[str, Any]]
) -> None:
    what = design("age", name)
    plan = cox(what, [0.0, LARGE])
    free = gradient(ask(_alone(plan), open_policy()), what)[1]
    assert np.isclose(free, _until_the_last(wards[0], name), atol=1e-9)
    for order in (0, 2):
        asked = cox(what, [[0.0, LARGE], [0.0, 7.0]], order)
        assert left_out(asked if sums == "secure" else _alone(asked), sums)
    assert not left_out(cox(what, [0.01, 1.0], 2), sums)


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_no_other_hospital_makes_up_for_it(sums: str, wards: list[dict[str, Any]]) -> None:
    """The marked are at one hospital: the total less what is known of the others is its own."""
    for rows in wards[1:]:
        rows["twenty"] = np.zeros(N)
    asked = cox(design("age", "twenty"), np.array([[0.0, LARGE], [0.0, 0.5]]))
    if sums == "secure":
        assert ask(asked, sums=sums)["too_large"].astype(bool).tolist() == [True, False]
    else:
        assert ask(_alone(asked))["too_large"].astype(bool).tolist() == [True, False]


def test_several_columns_together_single_a_few_out(wards: list[dict[str, Any]]) -> None:
    what = design("one", "two")
    plan = cox(what, [LARGE, LARGE])
    assert int(np.sum(wards[0]["one"] * wards[0]["two"])) == 5
    found = gradient(ask(_alone(plan), open_policy()), what)
    died, both = wards[0]["died"] == 1, wards[0]["five"] == 1
    until = died & (wards[0]["days"] <= wards[0]["days"][both].max())
    # One mark or the other is on everybody: their means add up to 2 until the last has left.
    seen = found.sum() + sum(float(wards[0][name] @ died) for name in ("one", "two"))
    assert np.isclose(seen, died.sum() + until.sum())
    assert ask(_alone(plan))["too_large"].all() and left_out(plan, "secure")


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_tied_times(ties: str, wards: list[dict[str, Any]]) -> None:
    what = replace(design("age", "twenty"), response="months")
    plan = cox(what, [0.0, LARGE], ties=ties)
    free = gradient(ask(_alone(plan), open_policy()), what)[1]
    # Efron's rule takes the marked off a part at a time; the means before and after are the same.
    assert np.isclose(free, _until_the_last(wards[0], "twenty", "months"), atol=1e-9)
    assert ask(_alone(plan))["too_large"].all() and left_out(plan, "secure")
    assert not left_out(cox(what, [0.01, 0.5], ties=ties), "secure")


def test_strata(wards: list[dict[str, Any]]) -> None:
    what, more = design("age", "twenty", strata=("ward",)), {"levels": (2,)}
    plan = cox(what, [0.0, LARGE], **more)
    free = gradient(ask(_alone(plan), open_policy()), what)[1]
    inside = [wards[0]["ward"] == ward for ward in (0, 1)]
    parts = [{name: values[some] for name, values in wards[0].items()} for some in inside]
    assert np.isclose(free, sum(_until_the_last(part, "twenty") for part in parts), atol=1e-9)
    assert ask(_alone(plan))["too_large"].all() and left_out(plan, "secure")
    assert not left_out(cox(what, [0.01, 0.5], **more), "secure")


@pytest.mark.parametrize("sums", ["clear", "secure"])
@pytest.mark.parametrize("task", ["scores", "concordance", "schoenfeld"])
def test_the_other_steps_under_them(task: str, sums: str) -> None:
    what = design("age", "forty")
    asked = [cox(what, [0.0, size], task=task) for size in (LARGE, 0.5)]
    codes = [code(one if sums == "secure" else _alone(one), sums) for one in asked]
    assert codes == ["EFFECTIVE_SIZE", ""]


def test_the_last_few_of_a_risk_set(wards: list[dict[str, Any]]) -> None:
    """Half are marked, but not the last two: when the last of the marked leaves, sets are small."""
    order = np.argsort(wards[0]["days"])
    wards[0]["forty"] = np.isin(np.arange(N), order[1:-2:2]) * 1.0
    wards[0]["died"][order[-2:]] = 1.0
    plan = _alone(cox(design("age", "forty"), [0.0, LARGE]))
    assert ask(plan)["too_large"].all()
    assert not ask(_alone(cox(design("age", "forty"), [0.0, 2.0])))["too_large"].any()


def test_sums_of_functions_of_few_times_are_the_times(wards: list[dict[str, Any]]) -> None:
    """Of whole days the sum of logarithms is their product, and that has few factors."""
    for rows in wards:
        rows["twenties"] = rows["died"] * (np.cumsum(rows["died"]) <= 20)
    plan = cox(design("age", event="first"), [0.0], task="schoenfeld")
    days = wards[0]["days"][wards[0]["first"] == 1]
    found = ask(_alone(plan), open_policy())["times"]
    assert round(float(np.exp(found[1, 0]))) == int(np.prod(days)) and found[0, 0] == days.sum()
    assert code(_alone(plan)) == "LEVEL_TOO_SMALL"
    assert code(plan, "secure") == "LEVEL_TOO_SMALL"  # 15 events in all
    enough = cox(design("age", event="twenties"), [0.0], task="schoenfeld")
    assert code(_alone(enough)) == "" and code(enough, "secure") == ""
    assert code(enough, engine=hospitals()) == ""


BOOK = Codebook.from_dict(
    {
        "name": "wards",
        "columns": {
            "site": {"type": "text"},
            "age": {"type": "integer", "unit": "a", "range": [0, 128]},
            "days": {"type": "number", "range": [0, 4096]},
            "died": {"type": "binary", "levels": {"no": "", "yes": ""}},
            "twenty": {"type": "binary", "levels": {"no": "", "yes": ""}},
        },
    }
)


def test_an_approved_study_leaves_the_coefficients_to_who_asks(
    wards: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scope covers them, so that the gate alone stands between; the honest fit passes it."""
    frames = [pd.DataFrame(rows)[["age", "days", "died", "twenty"]] for rows in wards]
    whole = pd.concat([frame.assign(site=f"s{k}") for k, frame in enumerate(frames)])
    whole[["died", "twenty"]] = np.where(whole[["died", "twenty"]] == 1, "yes", "no")
    tables = split_frame(whole, "site", BOOK)
    sites = pc.Sites(tables, BOOK)
    study = Study.model_validate(
        {
            "format": 1,
            "study": {"name": "wards", "purpose": "research"},
            "data": {
                "schema": "wards.toml",
                "sites": {name: f"{name}.csv" for name in sites.names},
            },
            "model": {"kind": "cox", "formula": "Surv(days, died) ~ age + twenty"},
            "privacy": {"show_sites": False},
            "output": {"report": []},
        }
    )
    own = recorded(study, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(study, BOOK, sites.names)
    (one, *_) = (plan for plan in own if plan.task == "survival.derivatives")
    chosen = changed(one, "state", to={"theta": np.array([[0.0, LARGE]]), "order": 1})
    assert scope.refuses(chosen) == ""
    total = sites.federation(sums="secure").total(chosen)
    assert total["too_large"].all() and not total["gradient"].any()
    free = pc.Sites(tables, BOOK, policy=open_policy()).federation(sums="secure").total(chosen)
    assert np.isclose(free["gradient"][0, 1], sum(_until_the_last(r, "twenty") for r in wards))
