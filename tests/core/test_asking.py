"""Questions to single sites: one at a time each, and the first answer counts."""

from __future__ import annotations

import pickle
import threading

import pytest

from polyclinic.core.asking import Outstanding
from polyclinic.core.contribution import Total
from polyclinic.core.errors import Refused, Stopped
from polyclinic.core.plan import Plan

PLANS = {name: Plan("no.task", {"site": name}, to=(name,)) for name in "abc"}


def error(kind, code):
    def answer():
        raise kind("no", code=code, rule="")

    return answer


def test_whoever_blocks_does_not_block_the_others():
    asked, free = Outstanding(), threading.Event()

    def blocked():
        free.wait(20)
        return Total({"x": 3})

    asked.ask("a", PLANS["a"], blocked)
    for value in range(3):
        asked.ask("b", PLANS["b"], lambda value=value: Total({"x": value}))
        asked.ask("a", PLANS["b"], lambda: Total({"x": 99}))  # it has a question
        plan, total = asked.first()
        assert plan is PLANS["b"] and total["x"] == value and asked.sites == {"a"}
    free.set()
    plan, total = asked.first()
    assert plan is PLANS["a"] and total["x"] == 3 and not asked.sites


@pytest.mark.parametrize("kind", [Stopped, Refused])
@pytest.mark.parametrize("code", ["SITE_LOST", "AGENT_LOST"])
def test_a_loss_is_an_answer_without_values(kind, code):
    asked = Outstanding()
    asked.ask("a", PLANS["a"], error(kind, code))
    plan, total = asked.first()
    assert plan is PLANS["a"] and (total.lost, total.sites, total.values) == (code, ("a",), {})


@pytest.mark.parametrize("code", ["UPDATE_ALONE", "HUB_LOST", "RUN_LOST"])
def test_everything_else_is_raised(code):
    asked = Outstanding()
    asked.ask("a", PLANS["a"], error(Refused, code))
    with pytest.raises(Refused) as found:
        asked.first()
    assert found.value.code == code and not asked.sites


def test_what_is_waited_for_is_let_go_and_the_rest_is_kept():
    asked = Outstanding()
    for name in "abc":
        asked.ask(name, PLANS[name], lambda name=name: Total({"x": name}))
    asked.wait(("a", "c", "d"))
    assert asked.sites == {"b"}
    assert asked.first()[1]["x"] == "b"


def test_a_copy_has_asked_nobody():
    asked = Outstanding()
    asked.ask("a", PLANS["a"], lambda: Total({}))
    assert not pickle.loads(pickle.dumps(asked)).sites
    asked.wait("a")
