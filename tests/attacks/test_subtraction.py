"""A total less what others have shown by themselves is the sum of the one that has not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.contribution import Total
from polyclinic.core.federation import MAY
from polyclinic.core.plan import Plan
from tests.attacks.world import (
    FRAME,
    SITES,
    ask,
    close,
    column_sums,
    derivatives,
    descriptive,
    design,
    hessian,
    hospitals,
    level,
    moments,
    refusal,
    value,
)

RARE = FRAME.copy()
RARE.loc[RARE["site"] != "a", "pain"] = np.where(RARE.index[RARE["site"] != "a"] % 9, "none", "odd")
MADE = design(level("pain", "odd"), value("chol"))
PLAN = derivatives(MADE, np.zeros(3), "gaussian")
SHY = {**dict.fromkeys(SITES, pc.Policy()), "a": pc.Policy(release_alone=False)}


def small() -> pc.Sites:
    """Of the level that the plan names, hospital ``a`` has one patient; the others have many."""
    return hospitals(data=RARE)


def alone(sites: pc.Sites, plan: Plan, *names: str, combine: Any = "sum") -> Total:
    asked = replace(plan, to=names, combine=combine, _derived={})
    return sites.federation(sums="clear").total(asked)


def test_a_total_less_the_others_is_the_refused_sum_where_nothing_is_remembered() -> None:
    total = hessian(ask(small(), PLAN, "secure"), MADE)
    others = hessian(alone(small(), PLAN, "b", "c"), MADE)
    victim = RARE.loc[(RARE["site"] == "a") & (RARE["pain"] == "odd"), "chol"]
    assert len(victim) == 1
    assert close((total - others)[1, 2], victim.iloc[0])


@pytest.mark.parametrize("combine", ["sum", "collect"])
def test_what_some_have_shown_is_not_added_up(combine: str) -> None:
    sites = small()
    alone(sites, PLAN, "b", "c", combine=combine)
    for sums in ("secure", "auto"):
        code = refusal(lambda sums=sums: ask(sites, PLAN, sums))
        assert code == "SEEN_ALONE"


@pytest.mark.parametrize("combine", ["sum", "collect"])
def test_what_was_added_up_is_not_shown_afterwards(combine: str) -> None:
    sites = small()
    ask(sites, PLAN, "secure")
    for site in ("b", "c"):
        code = refusal(lambda site=site: alone(sites, PLAN, site, combine=combine))
        assert code == "SEEN_TOGETHER"


def test_going_on_securely_nobody_has_shown_the_sum_before() -> None:
    """The whole way of "auto": who would not refuse does not answer alone either."""
    sites = small()
    federation = sites.federation(sums="auto")
    federation.total(PLAN)
    assert federation.summing.refusals == {"a": "LEVEL_TOO_SMALL"}
    for books in sites._books.values():
        assert {row["seen_as"] for row in books.ledger.rows()} == {"total of 3"}


def test_what_all_have_shown_may_be_added_up() -> None:
    plan = moments(design(value("age")))
    sites = hospitals()
    shown = ask(sites, plan, "clear")
    assert ask(sites, plan, "secure")["x"].tobytes() == shown["x"].tobytes()


def test_asking_whether_a_site_would_answer_shows_nothing_of_it() -> None:
    sites = hospitals()
    federation = sites.federation(sums="clear")
    plan = moments(design(value("age")))
    message = codec.encode({"kind": MAY, "plan": plan.to_data()})
    replies = federation.transport.ask(dict.fromkeys(SITES, message))
    assert {codec.decode(reply) == {"may": True} for reply in replies.values()} == {True}
    assert not any(books.ledger.rows() for books in sites._books.values())


def test_the_total_of_a_cohort_that_only_one_hospital_has() -> None:
    """Its own sum in all but name; a hospital that shows none of its own refuses."""
    where = "chol > 0 and cost < 1e5"
    data = FRAME.copy()
    data.loc[data["site"] != "a", "cost"] = 2e5
    plan = moments(design(value("age")))
    shy = {site: SHY[site] for site in SITES}
    kept = pc.Sites(hospitals(data=data)._tables, hospitals().codebook, policy=shy)
    assert refusal(lambda: ask(kept, plan, "secure", where)) in {
        "TOO_FEW_SITES",
        "SUBSET_TOO_SMALL",
    }
    both = pc.Sites(hospitals()._tables, hospitals().codebook, policy=shy)
    total = ask(both, plan, "secure")
    assert close(column_sums(total, design(value("age"))), [FRAME["age"].sum()])


def narrowed(sums: str) -> dict[float, str]:
    """The code for fewer and fewer patients, down to nobody."""
    plan = descriptive("levels", by=None, columns=[{"name": "sex", "levels": 2}])
    codes = {}
    for low in (300.0, 345.0, 400.0, 413.0, 500.0):
        sites = hospitals()
        where = f"chol > {low}"
        codes[low] = refusal(lambda sites=sites, where=where: ask(sites, plan, sums, where))
    return codes


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_nobody_left_looks_like_a_few_left(sums: str) -> None:
    codes = narrowed(sums)
    assert codes[345.0] == codes[400.0] == codes[413.0] == codes[500.0] == "SUBSET_TOO_SMALL"


def test_a_question_to_each_hospital_is_not_added_up() -> None:
    """The total of one hospital's answer and of nothing is that answer."""
    asked = {"columns": [{"name": "sex", "levels": 2}], "by": None}
    values = {"task": "descriptive.levels", "version": 1, "sites": {"a": asked, "": None}}
    plan = Plan("descriptive.each_site", values)
    for sums in ("clear", "secure"):
        with pytest.raises(pc.PolyclinicError, match="BAD_MESSAGE"):
            ask(hospitals(), plan, sums)
