"""A hundred thousand broken messages: an answer or a typed error each, in little time and space."""

from __future__ import annotations

import contextlib
import logging
import random
import resource
import signal
import tracemalloc

import numpy as np
import pytest

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.privacy.secure import verify_transcript
from polyclinic.privacy.secure.envelope import refused
from tests.privacy.secure.attacker import Deaf, Recorded, Remembering
from tests.privacy.secure.mutations import KINDS, Mutator
from tests.privacy.secure.world import RUN, World

SITE, TRANSCRIPT = 77_000, 5_000
COORDINATOR = dict(zip(KINDS, (8_000, 4_000, 2_500, 1_800, 900, 700, 100), strict=True))
_SIGNED = {"BAD_MESSAGE", "BAD_SIGNATURE"}
FOUND = {
    "BATCH": {*_SIGNED, "KEY_SUBSTITUTED"},
    "KEYS": {*_SIGNED, "SHARE_INVALID"},
    "SHARES": _SIGNED,
    "PLAN": {*_SIGNED, "SCHEMA_MISMATCH", "U2_EQUIVOCATION"},
    "SURVIVORS": {*_SIGNED, "U2_EQUIVOCATION"},
    "PROOF": {*_SIGNED, "SHARE_INVALID"},
    "RESULT": set(),
}
MOST_MEGABYTES = 200
MOST_SECONDS = 5


class Hang(BaseException):
    """Raised inside a message that takes too long; nothing in between may swallow it."""


@contextlib.contextmanager
def no_hang():
    def late(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MOST_MEGABYTES * 1024


@pytest.fixture(scope="module")
def recorded():
    world = World(3, size=2, batch=1, membership="survivors")
    return Recorded(world)


class Target:
    """Site s00 as it was before one kind of request, for every message anew."""

    def __init__(self, recorded, kind):
        self.world, self.rows = recorded.world, recorded.before[kind]["s00"]
        self.journal = self.world.journals["s00"]
        self.restart()

    def restart(self):
        self.journal._rows = dict(self.rows)
        self.site = self.world.site("s00")

    def receive(self, message):
        reply = self.site.receive(message, self.world.contribute("s00"))
        if self.journal._rows != self.rows:
            self.restart()
        return codec.decode(reply)


def fuzz_site(recorded, kind, count, ways=None):
    """Codes, and the number of answers that were none."""
    rng = random.Random(f"site {kind}")
    mutator = Mutator(rng, recorded.world.identities)
    target, told = Target(recorded, kind), {}
    message, others = recorded.requests[kind]["s00"], everything(recorded)
    change = mutator.mutated if ways is None else getattr(mutator, ways)
    with no_hang() as start:
        for _ in range(count):
            changed = change(message, rng.choice(others))
            start()
            value = target.receive(changed)
            code = refused(value) or value["kind"]
            told[code] = told.get(code, 0) + 1
            if code == "UNMASK":
                assert value == codec.decode(recorded.replies[kind]["s00"])
    return told


def everything(recorded):
    return [
        data
        for side in (recorded.requests, recorded.replies)
        for step in side.values()
        for data in step.values()
    ]


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_site_answers_every_message_and_never_by_accident(recorded, kind):
    told = fuzz_site(recorded, kind, SITE // len(KINDS) + 1)
    assert "SITE_FAILED" not in told
    assert "BAD_MESSAGE" in told
    assert len(told) > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_coordinator_opens_the_right_total_or_gives_a_typed_error(recorded, kind, monkeypatch):
    deaf = Deaf(recorded, monkeypatch)
    rng = random.Random(f"coordinator {kind}")
    mutator = Mutator(rng, recorded.world.identities)
    others, codes, opened = everything(recorded), set(), 0
    with no_hang() as start:
        for _ in range(COORDINATOR[kind]):
            name = rng.choice(recorded.world.names)
            changed = mutator.mutated(recorded.replies[kind][name], rng.choice(others))
            start()
            try:
                words = deaf.total(kind, name, changed).words
            except PolyclinicError as error:
                codes.add(error.code)
            else:
                opened += 1
                assert words.tobytes() == recorded.opened.words.tobytes()
    assert codes >= FOUND[kind]
    # Sealed shares are not the coordinator's to read, and a result is told, not asked.
    assert opened == 0 or kind in ("KEYS", "RESULT")


@pytest.mark.slow
def test_a_record_gives_the_right_total_or_a_typed_error(recorded):
    world = recorded.world
    roster = Remembering({n: world.roster.public(n) for n in world.names})
    rng = random.Random("transcript")
    mutator, others, codes = Mutator(rng, world.identities), everything(recorded), set()
    with no_hang() as start:
        for _ in range(TRANSCRIPT):
            changed = mutator.mutated(recorded.opened.transcript, rng.choice(others))
            start()
            try:
                words = verify_transcript(roster, changed, plan=recorded.plan, run=RUN)
            except PolyclinicError as error:
                codes.add(error.code)
            else:
                assert words.tobytes() == recorded.opened.words.tobytes()
    assert {"BAD_MESSAGE", "BAD_SIGNATURE", "SCHEMA_MISMATCH", "BELOW_THRESHOLD"} <= codes


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_declared_huge_takes_no_space(recorded, kind):
    tracemalloc.start()
    try:
        told = fuzz_site(recorded, kind, 300, "huge")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20
    assert "SITE_FAILED" not in told


@pytest.mark.parametrize("depth", range(460, 500))
def test_a_message_that_is_nested_too_deeply_is_no_accident(recorded, depth, monkeypatch):
    """Somewhere here Python's stack ends, in reading or in checking what was read."""
    deaf = Deaf(recorded, monkeypatch)
    for kind in ("BATCH", "PLAN"):
        value = codec.decode(recorded.replies[kind]["s00"])
        text = codec.encode({**value, "body": 12345})[12:].replace(
            b"12345", b'{"vector":' + b"[" * depth + b"]" * depth + b"}"
        )
        data = codec.MAGIC + len(text).to_bytes(8, "little") + text
        with pytest.raises(PolyclinicError) as caught:
            deaf.total(kind, "s00", data)
        assert caught.value.code == "BAD_MESSAGE"
        assert Target(recorded, "PLAN").receive(data) == {"code": "BAD_MESSAGE"}


@pytest.mark.parametrize("version", [np.zeros(0), np.zeros(2), [], None, True, "1"])
def test_a_record_with_a_strange_version_is_no_accident(recorded, version):
    value = {**codec.decode(recorded.opened.transcript), "version": version}
    with pytest.raises(PolyclinicError) as caught:
        verify_transcript(recorded.world.roster, codec.encode(value), plan=recorded.plan, run=RUN)
    assert caught.value.code == "BAD_MESSAGE"
