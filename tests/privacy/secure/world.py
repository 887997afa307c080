"""A consortium in one process, and ways to lose or change its messages."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from polyclinic.core import codec, ring
from polyclinic.privacy.secure import (
    Identity,
    MemoryJournal,
    Roster,
    SecureCoordinator,
    SecureSite,
    drive,
)

RUN = "run"


class World:
    """K sites with a vector each, and a coordinator. `lose` and `change` act on the wire."""

    def __init__(self, k, size=4, journals=None, threshold="two_thirds", batch=4, **settings):
        self.names = [f"s{i:02d}" for i in range(k)]
        self.identities = {name: Identity.generate() for name in self.names}
        self.roster = Roster({n: i.public for n, i in self.identities.items()})
        self.settings = {"threshold": threshold, **settings}
        self.batch = batch
        self.begin(journals)
        self.size = size
        values = np.random.default_rng(k).normal(size=(k, size)) * 1e3
        self.values = dict(zip(self.names, values, strict=True))
        self.lost: dict[str, set[str]] = {}
        self.sent: list[tuple[str, str, bytes, bytes | None]] = []
        self.changes = {}

    def begin(self, journals=None):
        """A run in which nothing was opened yet."""
        self.journals = journals or {name: MemoryJournal() for name in self.names}
        self.sites = {name: self.site(name) for name in self.names}
        self.coordinator = self.new_coordinator()

    def new_coordinator(self):
        """One that knows nothing of what was asked before."""
        rule = self.settings["threshold"]
        return SecureCoordinator(self.roster, run=RUN, threshold=rule, batch=self.batch)

    def opened(self, name):
        """The sites over which `name` has helped to open a total, or None."""
        return (self.sites[name].records.row("run").value or {}).get("opened")

    def state(self, name, batch, index=0):
        return self.sites[name].records.row("index", batch, index).value["state"]

    def site(self, name):
        """The site after a restart: the same key and journal, nothing else."""
        return SecureSite(
            name, self.identities[name], self.roster, self.journals[name], run=RUN, **self.settings
        )

    def contribute(self, name):
        return lambda plan: ring.encode(self.values[name])

    def deliver(self, name, message):
        return self.sites[name].receive(message, self.contribute(name))

    def ask(self, messages):
        replies = {}
        for name, message in messages.items():
            kind = codec.decode(message)["kind"]
            change = self.changes.get((kind, name)) or self.changes.get((kind, "*"))
            if name in self.lost.get(kind, ()):
                replies[name] = None
            else:
                if change and change[0] == "request":
                    message = edited(message, change[1])
                reply = self.deliver(name, message)
                replies[name] = (
                    edited(reply, change[1]) if change and change[0] == "reply" else reply
                )
            self.sent.append((kind, name, message, replies[name]))
        return replies

    def total(self, round=0, plan=None, **more):
        plan = {"n": round} if plan is None else plan
        return drive(self.coordinator.total(plan, self.size, round=round, **more), self.ask)

    def messages(self, kind, name):
        return [(m, r) for k, n, m, r in self.sent if (k, n) == (kind, name)]


def edited(data, edit):
    value = codec.decode(data)
    changed = edit(value)
    return codec.encode(value if changed is None else changed)


def code(reply):
    value = codec.decode(reply)
    return value["code"] if set(value) == {"code"} else None


def exact(vectors):
    """The sum of encoded vectors with Python's own integers, as numbers."""
    rows = [[word(row) for row in ring.encode(v)] for v in vectors]
    return [float(Fraction(sum(column), 2**64)) for column in zip(*rows, strict=True)]


def word(row):
    value = int(row[0]) | int(row[1]) << 64
    return value - 2**128 if value >= 2**127 else value
