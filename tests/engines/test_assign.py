from __future__ import annotations

import pytest

from polyclinic.engines.assign import assign, moved
from polyclinic.engines.speeds import Costs

SIZES = dict.fromkeys(range(8), 100)
HALVES = {part: "a" if part < 4 else "b" for part in SIZES}


def rows(found, sizes=SIZES):
    return {w: sum(sizes[p] for p in found if found[p] == w) for w in set(found.values())}


def after(costs, rounds=100, owner=HALVES, held=None):
    return {**owner, **moved(SIZES, owner, ["a", "b"], costs, rounds, held)}


def test_parts_go_to_whoever_is_done_first():
    sizes = {0: 40, 1: 10, 2: 10, 3: 10, 4: 10}
    assert rows(assign(sizes, ["a", "b"]), sizes) == {"a": 40, "b": 40}
    slow = assign(SIZES, ["a", "b"], costs=Costs(speed={"a": 3.0, "b": 1.0}))
    assert rows(slow) == {"a": 600, "b": 200}
    loaded = assign({0: 10, 1: 10}, ["a", "b"], load={"a": 100})
    assert set(loaded.values()) == {"b"}
    assert list(assign(sizes, ["a", "b"], "round_robin").values()) == ["a", "b", "a", "b", "a"]


def test_parts_go_where_they_fit():
    small = assign(SIZES, ["a", "b"], costs=Costs(room={"a": 120, "b": 10_000}))
    assert rows(small) == {"a": 100, "b": 700}
    nowhere = assign(SIZES, ["a", "b"], costs=Costs(room={"a": 150, "b": 150}))
    assert rows(nowhere) == {"a": 400, "b": 400}


@pytest.mark.parametrize(("speed", "kept"), [(0.25, 100), (0.5, 300), (0.85, 400), (0.01, 100)])
def test_a_slow_worker_gives_what_lets_the_round_end_soonest(speed, kept):
    found = after(Costs(1e-2, 1e-2, {"a": 1.0, "b": speed}))
    assert rows(found)["b"] == kept
    assert after(Costs(1e-2, 1e-2, {"a": 1.0, "b": speed}), owner=found) == found


def test_moves_must_pay_for_what_is_read_again():
    slow = Costs(1e-3, 1.0, {"a": 1.0, "b": 0.25})  # saves 0.9 s of 1.6, for 301
    assert after(slow, rounds=300) == HALVES
    assert after(slow, rounds=400) != HALVES
    assert after(slow, rounds=1, held={"a": set(range(8))}) != HALVES


def test_differences_that_are_noise_move_nothing():
    assert after(Costs(1e-6, 1e-6, {"a": 1.0, "b": 0.25})) == HALVES
    assert after(Costs(1.0, 0.0, {"a": 1.0, "b": 0.8})) == HALVES


def test_what_has_outgrown_a_memory_moves():
    assert rows(after(Costs(1e-2, 0.1, room={"a": 200, "b": 10_000}))) == {"a": 200, "b": 600}


def test_a_worker_that_has_joined_gets_its_share():
    owner = dict.fromkeys(SIZES, "a")
    assert rows(after(Costs(1e-2, 1e-2, {"a": 1.0}), owner=owner)) == {"a": 400, "b": 400}
