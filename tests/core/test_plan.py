from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from polyclinic.core.codec import CodecError, decode, encode
from polyclinic.core.plan import Plan
from tests.core.test_codec import keys, same, values
from tests.core.toy import Descend

PLAN = Plan(
    "toy.sum",
    {"centre": 1.0, "x": np.arange(3.0)},
    "descent",
    cohort={"where": "a > 1"},
    to=("a", "b"),
)


@given(values, keys)
def test_any_values_make_the_round_trip(value, name):
    plan = Plan("toy.sum", {name: value})
    back = Plan.from_bytes(plan.to_bytes())
    assert same(back.values[name], decode(encode(value)))
    assert back.to_bytes() == plan.to_bytes()


def test_every_field_comes_back():
    plan = PLAN.at(3, "f" * 64)
    back = Plan.from_bytes(plan.to_bytes())
    for field in ("task", "version", "step", "combine", "cohort", "round", "parent", "to"):
        assert getattr(back, field) == getattr(plan, field)
    assert back.round_hash == plan.round_hash
    assert back.content_hash == plan.content_hash


def test_the_order_of_keys_is_no_part_of_a_plan():
    one, two = (Plan("t", dict(items)) for items in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)]))
    assert one.to_bytes() == two.to_bytes()
    assert one.round_hash == two.round_hash


def test_words_and_place_are_no_part_of_the_content_and_all_else_is():
    words = Plan("toy.sum", PLAN.values, "in other words", cohort=PLAN.cohort, purpose="other")
    assert words.content_hash == PLAN.content_hash  # or a new word would buy fresh noise
    later = PLAN.at(7, "x")
    assert later.content_hash == PLAN.content_hash
    assert later.round_hash != PLAN.round_hash
    others = [
        Plan("toy.other", PLAN.values, PLAN.step, cohort=PLAN.cohort, to=PLAN.to),
        Plan("toy.sum", {**PLAN.values, "centre": 1.5}, PLAN.step, cohort=PLAN.cohort, to=PLAN.to),
        Plan("toy.sum", PLAN.values, PLAN.step, cohort=None, to=PLAN.to),
        Plan("toy.sum", PLAN.values, PLAN.step, 2, cohort=PLAN.cohort, to=PLAN.to),
        Plan("toy.sum", PLAN.values, PLAN.step, combine="collect", cohort=PLAN.cohort, to=PLAN.to),
    ]
    assert len({PLAN.content_hash, *(plan.content_hash for plan in others)}) == len(others) + 1


def test_planning_twice_gives_the_same_bytes():
    algorithm = Descend()
    state = algorithm.init(3)
    assert algorithm.plan(state).to_bytes() == algorithm.plan(state).to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"task": 3},
        {"version": "1"},
        {"values": []},
        {"combine": "concatenate"},
        {"cohort": "all"},
        {"to": "a"},
        {"round": None},
        {"parent": 0},
        {"step": None},
        {"extra": 1},
        {"to": [1]},
        {"version": True},
        {"round": False},
    ],
)
def test_a_plan_with_a_wrong_field_is_refused(change):
    fields = decode(PLAN.to_bytes())
    with pytest.raises(CodecError) as caught:
        Plan.from_bytes(encode({**fields, **change}))
    assert caught.value.code == "BAD_MESSAGE"


@pytest.mark.parametrize("field", ["task", "values", "to", "parent"])
def test_a_plan_without_a_field_is_refused(field):
    fields = decode(PLAN.to_bytes())
    del fields[field]
    with pytest.raises(CodecError):
        Plan.from_bytes(encode(fields))


def test_a_list_is_no_plan():
    with pytest.raises(CodecError):
        Plan.from_bytes(encode([1, 2]))


def test_once_computes_once_per_plan():
    plan, made = Plan("t", {}), []
    for _ in range(3):
        assert plan.once("x", lambda: made.append(1) or "value") == "value"
    assert plan.at(1, "").once("x", lambda: "fresh") == "fresh"
    assert made == [1]
