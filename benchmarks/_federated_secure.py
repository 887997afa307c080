"""Secure sums on the hub line: the protocol alone, and a whole total as a study asks for it.

"protocol" is SA-1 (exact128) between a coordinator and three sites that have their numbers ready;
"total" is `SecureSums` inside a `Federation`: each site's rows, gate, ledger and the exchange of
the heads of the logs belong to it. Both open the sum and compare it with the one of all numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks._federated_peers import FIRST, SITES, Rounds, Unable
from polyclinic.core import codec, ring
from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Members, Unaided
from polyclinic.core.federation import Federation
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain, register
from polyclinic.engines.books import Books
from polyclinic.engines.secure import SecureSums
from polyclinic.engines.site import Pinned, Site
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.policy import open_policy
from polyclinic.privacy.secure import (
    Identity,
    MemoryJournal,
    Roster,
    SecureCoordinator,
    SecureSite,
    drive,
)

WORD = b"SECURE:"
RUN = "5ec0"
ROWS = 100
TASK = "bench.values"
Ask = Callable[[Mapping[str, bytes]], Mapping[str, bytes]]


def values(site: str, size: int, step: int) -> np.ndarray:
    """A site's numbers of a round, the same wherever they are made."""
    return np.random.default_rng([SITES.index(site), step]).standard_normal(size)


class Values(Unaided):
    """As many numbers as the plan asks for, in place of a gradient."""

    name, version = TASK, 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return (Leaf("values", (plan.values["size"],)),)

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        return Exposure(members=(Members(("x",), np.unique(partition.persons)),))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        found = values(partition.site, plan.values["size"], plan.values["step"])
        return Contribution({"values": found}, Evidence(partition.n_patients, {}))


register([Values()])


class Agent:
    """A hospital's side of both: what begins with `WORD` is for it."""

    def __init__(self, site: str) -> None:
        self.site, self.identity = site, Identity.generate()

    def receive(self, message: bytes) -> bytes:
        kind, rest = bytes(message[len(WORD) :][:1]), message[len(WORD) + 1 :]
        if kind == b"k":
            return self.identity.public
        if kind == b"r":
            keys = codec.decode(rest)
            return self._pin(Roster({site: bytes.fromhex(key) for site, key in keys.items()}))
        if kind == b"p":
            return bytes(self.protocol.receive(rest, self._ready))
        return self.whole.answer(rest)

    def _pin(self, roster: Roster) -> bytes:
        journal = MemoryJournal()
        self.protocol = SecureSite(self.site, self.identity, roster, journal, run=RUN)
        books = Books(self.identity, Books.in_memory().ledger, MemoryJournal())
        rows = ThreadWorkers(Partition({"x": np.arange(float(ROWS))}, site=self.site))
        pinned, gate = Pinned(roster, RUN), Gate(self.site, open_policy())
        self.whole = Site(gate, lambda cohort: rows, books, len(SITES), pinned=pinned)
        return b"taken"

    def _ready(self, plan: Mapping[str, Any]) -> Any:
        return ring.encode(values(self.site, plan["size"], plan["step"]))


def totals(line: Any, seconds: float) -> dict[str, Callable[[int, int], np.ndarray]]:
    """By name: the opened sum of a size and a step."""

    def asks(kind: bytes) -> Ask:
        def ask(messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
            kinded = {site: WORD + kind + message for site, message in messages.items()}
            return dict(line.ask(kinded, seconds))

        return ask

    keys = asks(b"k")(dict.fromkeys(SITES, b""))
    told = codec.encode({site: key.hex() for site, key in keys.items()})
    asks(b"r")(dict.fromkeys(SITES, told))
    roster = Roster(keys)
    coordinator = SecureCoordinator(roster, run=RUN)
    summing = SecureSums(roster, RUN)
    whole = Federation(_Over(asks(b"t")), SITES, None, summing, "benchmark", witness=True)

    def protocol(size: int, step: int) -> np.ndarray:
        steps = coordinator.total({"size": size, "step": step}, size, round=step)
        return np.asarray(ring.decode(drive(steps, asks(b"p")).words))

    def total(size: int, step: int) -> np.ndarray:
        plan = Plan(TASK, {"size": size, "step": step}, "a round")
        return np.asarray(whole.total(plan)["values"])

    return {"protocol": protocol, "total": total}


def conduct(line: Any, rounds: list[Rounds], seconds: float) -> Iterator[dict[str, Any]]:
    """An entry for every total: its kind, its payload (8 bytes a number), its seconds."""
    known = totals(line, seconds)
    for kind, total in known.items():
        total(FIRST // 8, 0)  # keys are agreed
        step = 0
        for size, repeats, share in rounds:
            until = time.monotonic() + share
            for _ in range(repeats):
                if time.monotonic() > until:
                    break
                step += 1
                start = time.perf_counter()
                found = total(size // 8, step)
                took = time.perf_counter() - start
                wanted = sum(values(site, size // 8, step) for site in SITES)
                if not np.allclose(found, wanted, rtol=1e-12, atol=1e-12):
                    raise Unable(f"{kind}: the total is not the sum")
                yield {"kind": kind, "size": size, "seconds": took}


class _Over:
    """A transport that only asks."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    @contextmanager
    def session(self) -> Iterator[None]:
        yield
