from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from polyclinic.core.codec import CodecError, Fixed, decode, encode
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


def test_words_are_those_of_values_that_are_the_same_in_many_plans_too():
    spec = {"columns": ["age", "sex at birth"], "site": {"of": ("hba1c",)}}
    plain = Plan("t", {"spec": spec, "state": {"of": "dose"}})
    fixed = Fixed(spec)
    assert {"age", "sex", "birth", "hba1c", "dose", "spec"} <= plain.words
    for _ in range(2):
        assert Plan("t", {"spec": fixed, "state": {"of": "dose"}}).words == plain.words
    assert Plan("t", {"spec": fixed}).words == plain.words - {"state", "dose"}


def test_once_computes_once_per_plan():
    plan, made = Plan("t", {}), []
    for _ in range(3):
        assert plan.once("x", lambda: made.append(1) or "value") == "value"
    assert plan.at(1, "").once("x", lambda: "fresh") == "fresh"
    assert made == [1]


ROUNDED = replace(PLAN, compress="int8", base="b" * 64, row=2, _derived={})


def test_a_plan_without_rounding_has_the_bytes_and_hashes_that_it_always_had():
    """Ledgers hold releases under these: with another hash noise would be drawn anew."""
    assert "compress" not in PLAN.to_data()
    assert PLAN.content_hash == "1466f0ce5d9e238bb511805ca0045d04ac53e528141a62ddd812256dc9fd57be"
    assert (
        PLAN.at(3, "f" * 64).round_hash
        == "42d04f31ab31006b0b3fd8e07752934c600d862b538d3b02097518668b1b2afc"
    )


def test_rounding_is_part_of_the_content_but_not_of_the_question():
    back = Plan.from_bytes(ROUNDED.to_bytes())
    assert (back.compress, back.base, back.row) == ("int8", "b" * 64, 2)
    others = [
        replace(ROUNDED, _derived={}, **one)
        for one in ({"compress": "float16"}, {"base": ""}, {"row": 0}, {"compress": ""})
    ]
    assert len({plan.content_hash for plan in (ROUNDED, *others)}) == 5
    assert {plan.question for plan in (ROUNDED, *others)} == {PLAN.question}


@pytest.mark.parametrize(
    "wrong",
    [
        {"compress": "int4"},
        {"compress": ""},
        {"compress": None},
        {"compress": ["int8"]},
        {"base": None},
        {"base": "b" * 301},
        {"row": -1},
        {"row": True},
        {"row": 1.0},
        {"combine": "collect"},
        {"more": 1},
    ],
)
def test_a_wrong_rounding_is_refused(wrong):
    with pytest.raises(CodecError) as caught:
        Plan.from_data({**ROUNDED.to_data(), **wrong})
    assert caught.value.code == "BAD_MESSAGE"


@pytest.mark.parametrize("absent", ["compress", "base", "row"])
def test_half_a_rounding_is_refused(absent):
    data = ROUNDED.to_data()
    del data[absent]
    with pytest.raises(CodecError):
        Plan.from_data(data)
