"""A coordinator that keeps to no rule: it says what it likes to whom it likes."""

from __future__ import annotations

import os
from types import SimpleNamespace

from polyclinic.core import codec
from polyclinic.privacy.secure import Roster, SecureCoordinator, drive
from polyclinic.privacy.secure import coordinator as module
from polyclinic.privacy.secure.envelope import Place, refused, request
from tests.privacy.secure.world import RUN


class Attacker:
    """One batch of a world's sites, step by step.

    Every step may be honest or not; `said` collects all that the sites have answered.
    """

    def __init__(self, world, names=None, count=4):
        self.world, self.count = world, count
        self.names = list(names or world.names)
        self.batch = os.urandom(16).hex()
        self.adverts, self.dealt, self.said = {}, {}, []

    def say(self, name, kind, body, round=0, attempt=0, **header):
        """The answer of a site: its value, or the code of a refusal."""
        message = request(kind, Place(RUN, round, attempt), body)
        if header:
            message = codec.encode({**codec.decode(message), **header})
        value = codec.decode(self.world.deliver(name, message))
        self.said.append((name, kind, value))
        return refused(value) or value

    def advertise(self):
        ask = {"batch": self.batch, "count": self.count}
        self.adverts = {name: self.say(name, "BATCH", ask) for name in self.names}
        return self.adverts

    def keys(self, name, adverts=None):
        chosen = self.adverts if adverts is None else adverts
        return self.say(name, "KEYS", {"batch": self.batch, "adverts": chosen})

    def delivery(self, name):
        """What the peers of a site have sealed for it."""
        at, peers = self.names.index(name), [n for n in self.names if n != name]
        bodies = {peer: self.dealt[peer]["body"] for peer in peers}
        return {
            "batch": self.batch,
            "sealed": {peer: bodies[peer]["sealed"][name] for peer in peers},
            "rows": {peer: bodies[peer]["rows"][at] for peer in peers},
        }

    def shared(self):
        """Honest up to the dealt shares."""
        self.advertise()
        self.dealt = {name: self.keys(name) for name in self.names}
        return self

    def ready(self):
        """Honest up to the first plan."""
        self.shared()
        for name in self.names:
            assert self.say(name, "SHARES", self.delivery(name))["kind"] == "READY"
        return self

    def plan_body(self, plan=None, index=0, **fields):
        body = {
            "batch": self.batch,
            "index": index,
            "transcript": codec.digest(self.adverts),
            "members": self.names,
            "plan": {"n": 0} if plan is None else plan,
            "profile": "exact128",
            "size": self.world.size,
        }
        return {**body, **fields}

    def plan(self, name, plan=None, index=0, round=0, attempt=0, **fields):
        return self.say(name, "PLAN", self.plan_body(plan, index, **fields), round, attempt)

    def uploads(self, names=None, **how):
        """Vectors, and their digests by site."""
        masked = {name: self.plan(name, **how) for name in names or self.names}
        return masked, {name: codec.digest(value["body"]) for name, value in masked.items()}

    def agree(self, name, survivors, index=0, round=0, attempt=0):
        body = {"batch": self.batch, "index": index, "survivors": survivors}
        return self.say(name, "SURVIVORS", body, round, attempt)

    def agrees(self, survivors, names=None, **how):
        return {name: self.agree(name, survivors, **how) for name in names or survivors}

    def proof(self, name, survivors, agrees, lost=None, index=0, round=0, attempt=0, **header):
        rest = [n for n in self.names if n not in survivors]
        body = {"batch": self.batch, "index": index, "survivors": survivors, "agrees": agrees}
        body["lost"] = rest if lost is None else lost
        return self.say(name, "PROOF", body, round, attempt, **header)

    def close(self, name, survivors, index=0, round=0, attempt=0):
        body = {"batch": self.batch, "index": index, "survivors": sorted(survivors)}
        return self.say(name, "RESULT", {**body, "total": "0" * 64}, round, attempt)

    def opened(self, index=0, round=0, attempt=0):
        """A whole honest round."""
        where = {"index": index, "round": round, "attempt": attempt}
        _, survivors = self.uploads(**where)
        agrees = self.agrees(survivors, **where)
        for name in self.names:
            self.proof(name, survivors, agrees, **where)
        for name in self.names:
            self.close(name, survivors, **where)
        return survivors, agrees

    def shares(self):
        """All shares that were given away: (index, dealer) -> kind -> holders."""
        found = {}
        for name, kind, value in self.said:
            if kind == "PROOF" and refused(value) is None:
                for what in ("seed", "mask"):
                    for dealer in value["body"][what]:
                        place = found.setdefault((value["body"]["index"], dealer), {})
                        place.setdefault(what, set()).add(name)
        return found


class Recorded:
    """One batch and one round of a world: every message, and the journals before every step."""

    def __init__(self, world, round=0, attempt=0, coordinator=None):
        self.world, self.round, self.attempt = world, round, attempt
        self.coordinator = coordinator or world.coordinator
        self.requests, self.replies, self.before = {}, {}, {}
        self.plan = {"n": round}
        total = self.coordinator.total(self.plan, world.size, round=round, attempt=attempt)
        self.opened = drive(total, self._ask)
        self.batch = codec.decode(self.requests["PLAN"]["s00"])["body"]["batch"]

    def _ask(self, messages):
        kind = codec.decode(next(iter(messages.values())))["kind"]
        journals = self.world.journals.items()
        self.before[kind] = {name: dict(journal._rows) for name, journal in journals}
        self.requests[kind] = messages
        self.replies[kind] = self.world.ask(messages)
        return self.replies[kind]


class Deaf:
    """A coordinator that hears a recorded conversation again, with one answer changed."""

    def __init__(self, recorded, monkeypatch):
        self.recorded, world = recorded, recorded.world
        self.roster = Remembering({n: world.roster.public(n) for n in world.names})
        fixed = SimpleNamespace(token_hex=lambda size: recorded.batch)
        monkeypatch.setattr(module, "secrets", fixed)

    def total(self, kind, name, data):
        """What it opens when the site `name` answers `data` to the request of that kind."""
        recorded, world = self.recorded, self.recorded.world
        coordinator = SecureCoordinator(self.roster, run=getattr(world, "run", RUN), batch=1)
        where = {"round": recorded.round, "attempt": recorded.attempt}
        total = coordinator.total(recorded.plan, world.size, **where)

        steps = iter(recorded.replies.items())

        def ask(messages):
            asked, replies = next(steps)
            return {**replies, name: data} if asked == kind else replies

        return drive(total, ask)


class Remembering(Roster):
    """A roster that checks a signature once: the same messages come thousands of times."""

    def __init__(self, sites):
        super().__init__(sites)
        self._good = set()

    def verify(self, name, signature, data):
        if (name, signature, data) not in self._good:
            super().verify(name, signature, data)
            self._good.add((name, signature, data))
