"""Ten thousand messages that were good once, at other places: none is taken for a new one."""

from __future__ import annotations

import copy
import itertools
import random

import pytest

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.privacy.secure import (
    SecureCoordinator,
    SecureSite,
    SecureSumError,
    verify_transcript,
)
from polyclinic.privacy.secure import coordinator as coordinator_module
from polyclinic.privacy.secure.envelope import refused
from tests.privacy.secure.attacker import Deaf, Recorded, Remembering
from tests.privacy.secure.world import RUN, World

STEPS = ("BATCH", "KEYS", "SHARES", "PLAN", "SURVIVORS", "PROOF")


class Run(World):
    """The same sites, keys and journals in a run of that name."""

    def __init__(self, world, run):
        self.__dict__.update(world.__dict__)
        self.run = run
        self.sites = {name: self.site(name) for name in self.names}
        self.lost, self.changes, self.sent = {}, {}, []

    def site(self, name):
        return SecureSite(
            name,
            self.identities[name],
            self.roster,
            self.journals[name],
            run=self.run,
            membership="survivors",
        )

    def record(self, round, attempt=0):
        coordinator = SecureCoordinator(self.roster, run=self.run, batch=1)
        return Recorded(self, round, attempt, coordinator)

    def broken_off(self, round):
        """An attempt that ends after the uploads."""
        self.lost = {"SURVIVORS": set(self.names)}
        with pytest.raises(SecureSumError):
            self.record(round)
        self.lost = {}


@pytest.fixture(scope="module")
def history():
    """Conversations in order: rounds, two attempts of one round, and another run in between."""
    world = World(4, size=2, membership="survivors")
    first, second = Run(world, RUN), Run(world, "other")
    told = [first.record(0), first.record(1), second.record(0), second.record(1)]
    first.broken_off(2)
    return [*told, first.record(2, attempt=1), second.record(2, attempt=4)]


def edited(data, header, body):
    value = codec.decode(data)
    changed = {key: new for key, new in body.items() if key in value["body"]}
    return codec.encode({**value, **header, "body": {**value["body"], **changed}})


def ways(data, old, now):
    """A message of conversation `old` for `now`: as it was, with the other's place, run, batch."""
    yield "as it was", data
    kind = codec.decode(data)["kind"]
    set_up = kind in (*STEPS[:3], "ADVERTISE", "READY")
    place = {} if set_up else {"round": now.round, "attempt": now.attempt}
    run = {"run": now.world.run}
    yield "place", edited(data, place, {})
    if kind != "BATCH" or old.world.run == now.world.run:
        # A batch that a run has never seen is a new question there, and gets new keys.
        yield "run", edited(data, {**place, **run}, {})
    if kind not in ("BATCH", "RESULT"):
        # The coordinator may end an index when it likes; it is told nothing by that.
        yield "batch", edited(data, {**place, **run}, {"batch": now.batch})


def answers(history):
    return {reply for told in history for step in told.replies.values() for reply in step.values()}


def replay_to_sites(history):
    """All earlier requests to each site, before each of its steps, and after the last one."""
    known, count, taken = answers(history), 0, []
    for now in history:
        earlier = history[: history.index(now)]
        for (kind, rows), name in itertools.product(now.before.items(), now.world.names):
            journal = now.world.journals[name]
            journal._rows = dict(rows[name])
            site = now.world.site(name)
            for old in earlier:
                for message in (step[name] for step in old.requests.values()):
                    for way, data in ways(message, old, now):
                        before = dict(journal._rows)
                        reply = site.receive(data, now.world.contribute(name))
                        count += 1
                        good = reply in known or refused(codec.decode(reply))
                        if not good or journal._rows != before:
                            taken.append((now.round, kind, name, old.round, way))
                            journal._rows = dict(rows[name])
    return count, taken


def replay_to_coordinators(history, monkeypatch, most=1500):
    """Earlier and other answers, in place of each answer that is checked."""
    rng, count, taken = random.Random(0), 0, []
    cases = list(itertools.product(history, STEPS, history[0].world.names))
    for now, kind, name in cases:
        deaf = Deaf(now, monkeypatch)
        good = now.replies[kind][name]
        others = [
            (old, reply)
            for old in history
            for step in old.replies.values()
            for reply in step.values()
            if reply != good
        ]
        # Those of the same step and sender elsewhere are the most alike.
        likely = [(old, old.replies[kind][name]) for old in history if old is not now]
        for old, reply in likely + rng.sample(others, 4):
            for way, data in ways(reply, old, now):
                if data == good:
                    continue
                count += 1
                try:
                    deaf.total(kind, name, data)
                except PolyclinicError:
                    continue
                taken.append((now.round, kind, name, way))
            if count >= most:
                return count, taken
    return count, taken


@pytest.mark.slow
def test_of_ten_thousand_replayed_messages_none_is_accepted(history, monkeypatch):
    to_sites, taken = replay_to_sites(history)
    assert taken == []
    to_coordinators, taken = replay_to_coordinators(history, monkeypatch)
    assert taken == []
    assert to_sites + to_coordinators > 10_000
    assert to_coordinators == 1500


def test_a_site_whose_journal_is_set_back_would_accept_replays(history):
    first, later = history[0], copy.copy(history[1])
    later.before = {"PLAN": first.before["PLAN"]}
    _, taken = replay_to_sites([first, later])
    assert {way for *_, way in taken} == {"as it was", "place", "run"}


def test_a_coordinator_that_checks_nothing_would_accept_replays(history, monkeypatch):
    monkeypatch.setattr(Remembering, "verify", lambda *args: None)
    monkeypatch.setattr(coordinator_module, "same", lambda a, b: True)
    _, taken = replay_to_coordinators(history[:2], monkeypatch)
    assert ("SHARES", "batch") in {(kind, way) for _, kind, _, way in taken}


def test_the_record_of_one_round_is_no_record_of_another(history):
    refusals = 0
    for told, other in itertools.permutations(history, 2):
        place = {"plan": other.plan, "run": other.world.run, "round": other.round}
        if place == {"plan": told.plan, "run": told.world.run, "round": told.round}:
            continue
        with pytest.raises(SecureSumError):
            verify_transcript(told.world.roster, told.opened.transcript, **place)
        refusals += 1
    assert refusals == 30


def test_a_run_that_has_ended_answers_nothing_any_more():
    world = Run(World(3, size=2), RUN)
    told = world.record(0)
    for site in world.sites.values():
        site.end()
    world.sites["s01"] = world.site("s01")
    for step in told.requests.values():
        for name, message in step.items():
            assert refused(codec.decode(world.deliver(name, message))) == "DEADLINE"
    with pytest.raises(SecureSumError) as caught:
        world.record(1)
    assert caught.value.code == "DEADLINE"
    assert Run(world, "another").record(0).opened.sites == tuple(world.names)
