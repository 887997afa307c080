"""Stragglers among workers with threads of their own: what is computed twice counts once."""

from __future__ import annotations

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.contribution import Sum
from polyclinic.core.fit import fit
from polyclinic.engines.clusters import Cluster
from tests.engines.near import Apart
from tests.study.test_conformance import ALGORITHMS, partition

PARTS = 8


@pytest.fixture
def machines(tmp_path):
    found = Apart(tmp_path, {"w0": 0.004, "w1": 0.004, "w2": 0.004})
    yield found
    found.close()


def fitted(engine, **more):
    algorithm = ALGORITHMS["logistic"].algorithm()
    return codec.encode(fit(algorithm, engine.domain(partition()), **more).state)


def sums(machines, name=""):
    """Sums by round and parts, of all who have computed them."""
    found = {}
    for address, asked, reply in machines.answered:
        if asked["op"] == "sum" and name in ("", address):
            key = codec.digest(asked["plan"]), tuple(asked["parts"])
            found.setdefault(key, []).append(codec.decode(reply))
    return found


def test_a_stragglers_parts_are_computed_by_the_idle_and_count_once(machines):
    def pause(done):
        machines.holders["w1"].each = 0.5 if done.number == 2 else 0.004

    expected = fitted(pc.Embedded(PARTS))
    assert fitted(Cluster(PARTS, machines=machines), callbacks=[pause]) == expected
    activity = machines.activity
    assert activity.copied > 0 and activity.lost == 0
    late = [codec.decode(reply) for who, _, reply in machines.answered if who == "w1"]
    assert {one["error"]["what"] for one in late if "error" in one} == {"Dropped"}
    assert "error" not in late[-1]  # it takes part again


def test_a_straggler_that_holds_everything_is_helped(machines):
    """There is nobody in the round to compare it with: what earlier rounds took is."""
    machines.speeds.speed |= {"w0": 0.01, "w1": 10.0, "w2": 0.01}
    machines.speeds.measured = lambda kind, answers: machines.speeds._row.update({kind: 2e-5})

    def pause(done):
        machines.holders["w1"].each = 0.5 if done.number == 2 else 0.004
        machines.speeds.speed |= {"w0": 1.0, "w1": 1.0, "w2": 1.0}

    expected = fitted(pc.Embedded(PARTS))
    assert fitted(Cluster(PARTS, machines=machines), callbacks=[pause]) == expected
    assert len(machines.answered[0][1]["parts"]) == PARTS
    assert machines.activity.copied >= PARTS


def test_copies_have_the_same_bytes(machines):
    machines.holders["w1"].each, machines.policy = 0.15, "round_robin"
    for holder in machines.holders.values():
        holder.drop = lambda name: None  # every late answer is made, so that it can be compared
    fitted(Cluster(PARTS, machines=machines))
    machines.close()
    late, others = sums(machines, "w1"), sums(machines)
    compared = 0
    for (plan, parts), (reply, *_) in late.items():
        copies = [
            (p, one[0]) for (q, p), one in others.items() if q == plan and set(p) < set(parts)
        ]
        if sum(len(p) for p, _ in copies) == len(parts) and "sum" in reply:
            total = Sum.from_data(copies[0][1]["sum"])
            for _, more in copies[1:]:
                total = total + Sum.from_data(more["sum"])
            assert codec.encode(total.to_data()) == codec.encode(reply["sum"])
            compared += 1
    assert compared > 0


@pytest.mark.parametrize("gone", ["w1", "w0"])
def test_a_loss_while_copies_are_made_changes_no_byte(machines, gone):
    """Of the straggler, or of who has its copies."""

    def pause(done):
        if done.number == 2:
            machines.holders["w1"].each = 0.2

    def one(address, message):
        reply = type(machines).one(machines, address, message)
        if machines.activity.copied and not machines.lost:
            machines.lost.add(gone)
        return reply

    machines.one = one
    expected = fitted(pc.Embedded(PARTS))
    assert fitted(Cluster(PARTS, machines=machines), callbacks=[pause]) == expected
    assert machines.lost == {gone} and machines.activity.lost == 1


def test_an_error_of_a_copy_ends_no_run(machines):
    machines.holders["w1"].each = 0.1
    machines.policy = "round_robin"

    def one(address, message):
        asked = codec.decode(message)
        if address != "w1" and asked["op"] == "sum" and 1 in asked["parts"]:  # a part of w1's
            return codec.encode({"error": {"kind": "", "what": "MemoryError"}})
        return type(machines).one(machines, address, message)

    machines.one = one
    expected = fitted(pc.Embedded(PARTS))
    assert fitted(Cluster(PARTS, machines=machines)) == expected
    assert machines.activity.copied > 0


def test_who_is_told_not_to_does_not(machines):
    machines.speculate = False
    machines.holders["w1"].each = 0.05
    fitted(Cluster(PARTS, machines=machines))
    assert machines.activity.copied == 0


def test_who_reads_is_not_slow(machines, monkeypatch):
    """Seconds of a round are without those of reading."""
    seen, measured = [], machines.speeds.measured

    def look(kind, answers):
        seen.append({one.worker: one for one in answers})
        measured(kind, answers)

    monkeypatch.setattr(machines.speeds, "measured", look)
    fitted(Cluster(PARTS, machines=machines))
    for worker, one in seen[0].items():
        said = next(codec.decode(reply) for who, _, reply in machines.answered if who == worker)
        assert 0 < said["read"]["seconds"] == one.read_seconds
        assert one.seconds == said["seconds"] - said["read"]["seconds"]
        assert one.read_rows == one.rows


def test_a_slow_worker_gives_partitions_away_and_nothing_goes_back_and_forth(machines):
    machines.speculate = False
    machines.holders["w1"].each = 0.03
    expected = fitted(pc.Embedded(PARTS))
    owners = []

    def look(done):
        asked = [one for one in machines.answered if one[1]["op"] == "sum"]
        owners.append({address: len(one["parts"]) for address, one, _ in asked[-3:]})

    found = fitted(Cluster(PARTS, machines=machines), callbacks=[look])
    assert found == expected
    assert owners[0]["w1"] > 1 and owners[-1]["w1"] == 1
    assert machines.activity.moved <= 3


def test_a_part_that_is_dropped_is_not_computed(tmp_path):
    from polyclinic.engines.held import Holder

    holder = Holder(1 << 20)
    holder.drop("late")
    reply = codec.decode(holder.answer(codec.encode({"op": "sum", "name": "late"})))
    assert reply["error"]["what"] == "Dropped"
    assert "seconds" not in reply and not np.any(list(holder._rows))
