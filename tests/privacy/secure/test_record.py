"""What a site writes down: every refusal, and every total that it helps to open."""

from __future__ import annotations

import pytest

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.governance.audit import AuditLog, entries
from polyclinic.privacy.secure import SecureSite, SecureSumError
from tests.privacy.secure.world import RUN, World, code, edited


class Logged(World):
    """A world in which s00 writes down what happens."""

    def __init__(self, k=4, **settings):
        self.events = []
        super().__init__(k, **settings)

    def record(self, event, /, **details):
        self.events.append((event, details))

    def site(self, name):
        record = self.record if name == "s00" else None
        key, journal = self.identities[name], self.journals[name]
        return SecureSite(name, key, self.roster, journal, run=RUN, record=record, **self.settings)


def refused(kind, code, round):
    return "secure_refused", {"code": code, "kind": kind, "run": RUN, "round": round}


def test_a_total_is_written_down_once_when_it_is_opened_and_once_when_it_is_known():
    world = Logged(membership="survivors")
    world.lost = {"PLAN": {"s03"}}
    opened = world.total(7, attempt=2)
    about = {"run": RUN, "round": 7, "attempt": 2, "sites": ["s00", "s01", "s02"]}
    known = {**about, "total_sha256": codec.digest(opened.words)}
    assert world.events == [("secure_revealed", about), ("secure_closed", known)]
    for kind in ("PROOF", "RESULT"):
        world.deliver("s00", world.messages(kind, "s00")[0][0])
    again = refused("PROOF", "DEADLINE", 7)
    assert world.events == [("secure_revealed", about), ("secure_closed", known), again]


def test_every_refusal_is_written_down():
    world = Logged()
    world.total(0)
    world.events.clear()
    asked = {kind: world.messages(kind, "s00")[0][0] for kind, *_ in world.sent}
    plan = asked["PLAN"]
    for message, event in [
        (b"no message", refused("unknown", "BAD_MESSAGE", None)),
        (edited(plan, lambda m: m.update(run="other")), refused("unknown", "BAD_MESSAGE", None)),
        (edited(plan, lambda m: m.update(round=2**63)), refused("unknown", "BAD_MESSAGE", None)),
        (edited(plan, lambda m: m.update(kind="x" * 99)), refused("unknown", "BAD_MESSAGE", 0)),
        (edited(plan, lambda m: m.update(round=5)), refused("PLAN", "INDEX_REUSED", 5)),
        (asked["SURVIVORS"], refused("SURVIVORS", "DEADLINE", 0)),
        (
            edited(asked["KEYS"], lambda m: m["body"].update(adverts={})),
            refused("KEYS", "KEY_SUBSTITUTED", 0),
        ),
    ]:
        assert code(world.deliver("s00", message)) == event[1]["code"]
        assert world.events.pop() == event
    assert world.events == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PolyclinicError("ward 9", code="TOO_FEW_PATIENTS"), "TOO_FEW_PATIENTS"),
        (RuntimeError("ward 9"), "SITE_FAILED"),
    ],
)
def test_what_the_owner_refuses_is_written_down_with_its_code_alone(error, told):
    world = Logged()

    def refuse(plan):
        raise error

    world.contribute = lambda name: refuse
    with pytest.raises(SecureSumError):
        world.total(1)
    assert world.events == [refused("PLAN", told, 1)]


def test_nothing_is_opened_that_cannot_be_written_down():
    world = Logged()

    def full(event, /, **details):
        raise OSError("the disk is full")

    world.record = full
    world.sites["s00"] = world.site("s00")
    with pytest.raises(SecureSumError) as caught:
        world.total()
    assert (caught.value.code, caught.value.site) == ("SITE_FAILED", "s00")
    batch = codec.decode(world.messages("PROOF", "s00")[0][0])["body"]["batch"]
    assert world.state("s00", batch) == "AGREED"
    assert world.opened("s00") is None
    assert code(world.deliver("s00", b"no message")) == "SITE_FAILED"


def test_a_sites_log_takes_these_events(tmp_path):
    world = Logged()
    log = AuditLog(tmp_path / "log", world.identities["s00"])
    world.record = log.append
    world.sites["s00"] = world.site("s00")
    world.total()
    assert code(world.deliver("s00", b"no message")) == "BAD_MESSAGE"
    events = [entry["event"] for entry in entries(tmp_path / "log")]
    assert events[-3:] == ["secure_revealed", "secure_closed", "secure_refused"]
