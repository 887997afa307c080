from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from polyclinic.core.codec import decode, encode
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.federation import Federation
from polyclinic.core.plan import Plan
from polyclinic.engines.books import Books
from polyclinic.engines.embedded import InProcess
from polyclinic.engines.site import Site
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.privacy.gate import Gate
from tests.core.toy import SUM
from tests.core.wiring import cut, domain, federation, partition

X = np.random.default_rng(1).normal(0.0, 1.0, 90)
PLAN = Plan("toy.sum", {"centre": 0.25, "rate": 1.0}, "descent")
PARTS = cut({"x": X}, (40, 30, 20))


def raw(total):
    return {name: array.tobytes() for name, array in total.values.items()}


class Tampered:
    """Sites whose answers are changed on the way."""

    def __init__(self, engine, change):
        self.inner, self.change = engine.transport, change

    def ask(self, messages):
        return self.change(dict(self.inner.ask(messages)), messages)

    def session(self):
        return nullcontext()


def tampered(change):
    engine = federation(PARTS)
    return Federation(Tampered(engine, change), engine.sites)


def altered(which, **fields):
    """Replace fields of the answer of site `which`; a function gets the old value."""

    def change(replies, _messages):
        old = decode(replies[which])
        new = {
            name: value(old[name]) if callable(value) else value for name, value in fields.items()
        }
        return {**replies, which: encode({**old, **new})}

    return change


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_any_order_of_sites_gives_the_same_bytes(order):
    parts = {name: PARTS[name] for name in order}
    found = federation(parts).total(PLAN)
    assert raw(found) == raw(federation(PARTS).total(PLAN))
    assert found.sites == tuple(order)


def test_the_total_is_the_pooled_sum():
    total = federation(PARTS).total(PLAN)
    assert total["n"] == 90
    assert total.number("sum") == pytest.approx(np.sum(X - 0.25), rel=1e-13)
    assert total["signs"].tolist() == [int(np.sum(X < 0)), int(np.sum(X >= 0))]
    assert total.hidden["signs"].tolist() == [0, 0]
    assert set(total.bytes) == {"a", "b", "c"}


def test_one_site_after_the_other_is_the_same_as_nested():
    """A total of two sites plus the third is the total of three: the ring is a group."""
    whole = federation(PARTS).total(PLAN)
    joined = {"ab": partition({"x": X[:70]}, site="ab"), "c": PARTS["c"]}
    nested = federation(joined).total(PLAN)
    assert raw(nested)["n"] == raw(whole)["n"]
    assert nested.number("sum") == pytest.approx(whole.number("sum"), rel=1e-13)


def test_collect_keeps_the_sites_apart():
    total = federation(PARTS).total(replace(PLAN, combine="collect", _derived={}))
    assert list(total.by_site) == ["a", "b", "c"]
    assert {name: int(one["n"]) for name, one in total.by_site.items()} == {
        "a": 40,
        "b": 30,
        "c": 20,
    }
    assert total.by_site["b"].sites == ("b",)
    assert not total.values


def test_collect_in_a_domain_has_one_site_without_a_name():
    total = domain(partition({"x": X})).total(replace(PLAN, combine="collect", _derived={}))
    assert list(total.by_site) == [""]
    assert int(total.by_site[""]["n"]) == 90


def test_a_plan_may_ask_some_sites_only():
    total = federation(PARTS).total(replace(PLAN, to=("c", "a"), _derived={}))
    assert total.sites == ("c", "a")
    assert total["n"] == 60


def test_the_cohort_goes_to_every_site():
    asked = []

    def rows(cohort, part=PARTS["a"]):
        asked.append(cohort)
        return ThreadWorkers(part)

    cohort = {"where": "age >= 18"}
    site = Site(Gate("a"), rows, Books.in_memory())
    Federation(InProcess({"a": site}), ["a"], cohort).total(PLAN)
    assert asked and all(one == cohort for one in asked)


def test_a_refusing_site_is_named_with_this_sides_words():
    parts = {**PARTS, "small": partition({"x": [1.0, 2.0]}, site="small")}
    with pytest.raises(Refused) as caught:
        federation(parts).total(PLAN.at(4, ""))
    error = caught.value
    assert (error.site, error.code, error.step) == ("small", "TOO_FEW_PATIENTS", "descent")
    assert "small refused to release round 4" in error.what
    assert error.exit_code == 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda replies, _: {k: v for k, v in replies.items() if k != "b"}, "SITE_LOST"),
        (lambda replies, _: {**replies, "b": replies["a"]}, "WRONG_ANSWER"),
        (altered("b", plan="0" * 64), "WRONG_ANSWER"),
        (altered("b", site=None), "WRONG_ANSWER"),
        (altered("b", words={}), "SCHEMA_MISMATCH"),
        (altered("b", words=None), "SCHEMA_MISMATCH"),
        (altered("b", hidden={}), "SCHEMA_MISMATCH"),
        (altered("b", words=lambda w: {**w, "n": w["n"].astype(np.float64)}), "SCHEMA_MISMATCH"),
        (altered("b", words=lambda w: {**w, "n": w["sum"]}), "SCHEMA_MISMATCH"),
        (altered("b", words=lambda w: {**w, "extra": w["n"]}), "SCHEMA_MISMATCH"),
        (altered("b", words=lambda w: {**w, "n": 30}), "SCHEMA_MISMATCH"),
        (altered("b", hidden=lambda h: {"signs": [0, 0]}), "SCHEMA_MISMATCH"),
        (altered("b", hidden=lambda h: {"signs": h["signs"][:1]}), "SCHEMA_MISMATCH"),
        (lambda replies, _: {**replies, "b": encode([1])}, "BAD_MESSAGE"),
        (lambda replies, _: {**replies, "b": encode({"code": "rm -rf"})}, "SITE_FAILED"),
        (lambda replies, _: {**replies, "b": encode({"code": ["x"]})}, "SITE_FAILED"),
    ],
)
def test_a_wrong_answer_is_refused_and_the_site_named(change, code):
    with pytest.raises(Refused) as caught:
        tampered(change).total(PLAN)
    assert (caught.value.code, caught.value.site) == (code, "b")


def test_bytes_that_are_no_message_name_the_site():
    with pytest.raises(PolyclinicError) as caught:
        tampered(lambda replies, _: {**replies, "b": b"garbage"}).total(PLAN)
    assert (caught.value.code, caught.value.site) == ("BAD_MESSAGE", "b")


def test_an_answer_to_another_round_is_refused():
    engine, kept = federation(PARTS), {}

    def replay(replies, _messages):
        kept.setdefault("b", replies["b"])
        return {**replies, "b": kept["b"]}

    stale = Federation(Tampered(engine, replay), engine.sites)
    stale.total(PLAN.at(1, ""))
    with pytest.raises(Refused) as caught:
        stale.total(PLAN.at(2, ""))
    assert caught.value.code == "WRONG_ANSWER"


def test_only_the_code_of_an_error_leaves_a_site():
    part = partition({"y": [123456.0] * 9}, site="a")  # no column x
    site = Site(Gate("a"), lambda cohort: ThreadWorkers(part), Books.in_memory())
    assert decode(site.answer(PLAN.to_bytes())) == {"code": "SITE_FAILED"}
    assert isinstance(site.log[0], KeyError)
    assert decode(site.answer(b"garbage")) == {"code": "BAD_MESSAGE"}
    assert decode(site.answer(Plan("no.such.task", {}).to_bytes())) == {"code": "UNKNOWN_TASK"}
    assert decode(site.answer(Plan("toy.sum", {}).to_bytes())) == {"code": "SITE_FAILED"}


def test_the_officers_leaf_list_is_the_sites_own():
    """Leaves are derived at the site: what a plan says about leaves is not read."""
    plan = Plan("toy.sum", {"centre": 0.0, "rate": 1.0, "leaves": ["x"]})
    assert set(federation(PARTS).total(plan).values) == {leaf.name for leaf in SUM.leaves(plan)}
