"""Sums that workers add in groups before they come to who asks."""

from __future__ import annotations

import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.fit import fit
from polyclinic.engines.held import KEPT, Holder
from polyclinic.engines.machines import Tree
from tests.engines.near import near
from tests.study.test_conformance import ALGORITHMS, partition

WORKERS = 7


def state(engine, name="logistic"):
    return codec.encode(fit(ALGORITHMS[name].algorithm(), engine.domain(partition())).state)


@pytest.fixture
def cluster(tmp_path):
    found = near(tmp_path, WORKERS, workers=WORKERS)
    found.machines.tree = Tree(fan_in=2, workers=3, bytes=0)
    return found


@pytest.fixture
def replies(cluster):
    """Of every question: the answers that have come up with numbers in them."""
    found, ask = [], cluster.machines.ask

    def asked(messages):
        answers = ask(messages)
        decoded = [codec.decode(reply) for reply in answers.values() if reply is not None]
        found.append([one for one in decoded if "sum" in one or "exposure" in one])
        return answers

    cluster.machines.ask = asked
    return found


@pytest.mark.parametrize("name", ["logistic", "boosting"])
def test_one_sum_comes_up_and_it_has_the_same_bytes(name, cluster, replies):
    assert state(cluster, name) == state(pc.Embedded(WORKERS), name)
    assert [len(some) for some in replies[:4]] == [0, 0, 0, 1]  # 7 workers, 4 of them, 2, 1
    assert all(len(some) <= 1 for some in replies)
    assert not any(holder._kept for holder in cluster.machines.holders.values())


def test_short_answers_come_at_once(cluster, replies):
    cluster.machines.tree = Tree(fan_in=2, workers=3)
    assert state(cluster) == state(pc.Embedded(WORKERS))
    assert len(replies[0]) == WORKERS


def test_a_tree_may_be_for_long_sums_alone(cluster, replies):
    cluster.machines.tree = None
    expected = state(cluster)
    size = sum(words.nbytes for words in replies[0][0]["sum"]["words"].values())
    for short in (0, 1):
        replies.clear()
        together = WORKERS * size + short
        cluster.machines.tree = Tree(fan_in=2, workers=3, bytes=0, together=together)
        assert state(cluster) == expected
        assert (len(replies[0]) > 1) == bool(short)  # before a tree they come one by one


def test_what_is_lost_on_its_way_is_computed_again(cluster, monkeypatch):
    lost = []

    def forgetful(holder, name):
        kept = holder._kept.pop(name, None)
        if len(lost) < 3:
            lost.append(name)
            return None
        return kept

    monkeypatch.setattr(Holder, "fetch", forgetful)
    assert state(cluster) == state(pc.Embedded(WORKERS))
    assert len(lost) == 3


def test_a_worker_that_is_lost_with_its_sum_changes_no_byte(cluster):
    ask = cluster.machines.ask

    def asked(messages):
        combines = any(codec.decode(one)["op"] == "combine" for one in messages.values())
        if combines and not cluster.machines.lost:
            cluster.machines.lost.add("w0")
        return ask(messages)

    cluster.machines.ask = asked
    assert state(cluster) == state(pc.Embedded(WORKERS))
    assert "w0" not in cluster.machines.holders


def test_a_holder_keeps_few_sums_for_others():
    holder = Holder(1 << 20)
    for i in range(KEPT + 1):
        holder._keep(str(i), b"sum")
    assert holder.fetch("0") is None and holder.fetch("1") == b"sum" and holder.fetch("1") is None
    holder.drop("2")
    assert holder.fetch("2") is None


def test_what_is_no_sum_is_not_held():
    holder, asked = Holder(1 << 20), {"op": "sum", "name": "one", "rows": "of nobody", "hold": 0}
    assert codec.decode(holder.answer(codec.encode(asked))) == {"unknown": True}
    assert holder.fetch("one") is None
