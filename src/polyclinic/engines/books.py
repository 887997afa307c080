"""What a site remembers between questions: its key, its ledger, its journal and its log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from polyclinic.core import codec
from polyclinic.core.compress import Known
from polyclinic.core.contribution import Release
from polyclinic.core.exposure import Members
from polyclinic.core.plan import Plan
from polyclinic.core.task import Remembering, lookup
from polyclinic.privacy.ledger import Asked, Ledger, Mask
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Identity, MemoryJournal
from polyclinic.privacy.secure.journal import Journal

Kept = tuple[Mapping[str, Any], Mapping[str, Any]]  # words and hidden entries by leaf
HELD_ROUNDS = 3  # rounds of one fit before the last one whose answers can be asked for again


@dataclass(frozen=True)
class Memory:
    """What a site keeps for a later round, and under which keys the rounds before it are."""

    kept: Mapping[str, Any]
    chain: tuple[str, ...] = ()


class Log(Protocol):
    """A site's tamper-evident log. Its head, signed, is shown to the other sites."""

    def append(self, event: str, /, **details: Any) -> int: ...
    def signed_head(self) -> bytes: ...
    def receive_head(self, site: str, data: bytes, public_key: bytes) -> Any: ...


@dataclass(frozen=True)
class Books:
    """One site's.

    identity  its signing key
    ledger    what it released, and at what cost
    journal   its steps in secure sums
    log       what was decided, for auditors; None: not kept
    dataset   name of its data in the ledger: cohorts of one data set are compared
    budget    name under which the privacy spent on the data is kept, in all their versions;
              "": that of the data set
    """

    identity: Identity
    ledger: Ledger
    journal: Journal
    log: Log | None = None
    dataset: str = "data"
    budget: str = ""
    _known: set[tuple[str, bytes]] = field(default_factory=set, repr=False)

    @staticmethod
    def in_memory() -> Books:
        """For as long as this process lives."""
        return Books(Identity.generate(), Ledger(None), MemoryJournal())

    def record(self, event: str, /, **details: Any) -> None:
        """Write an event to the log, where there is one."""
        if self.log is not None:
            self.log.append(event, **details)

    def base(self, plan: Plan, kind: str = "values") -> str:
        """Under what a plan's content is kept: the same question about other data is another."""
        if isinstance(lookup(plan.task, plan.version), Remembering):
            return self.kept_over(plan.bare_hash, plan.cohort, kind)
        return self.kept_as(plan.content_hash, kind)

    def kept_as(self, content_hash: str, kind: str = "values") -> str:
        """The same, from the content's hash."""
        return codec.digest([kind, content_hash, self.dataset])

    def kept_over(self, bare_hash: str, cohort: Any, kind: str = "values") -> str:
        """The same of a plan whose site goes on from it, by what later plans know of it."""
        return codec.digest([kind, bare_hash, cohort, self.dataset])

    def known(self, key: str) -> Known | None:
        """What was sent of rounded leaves up to the release under this key, if there is one."""
        found = self.ledger.holds(key)
        known: Known | None = None if found is None else codec.decode(found).get("known")
        return known

    def memory(self, key: str) -> Memory | None:
        """What was kept for later rounds beside the release under this key, if there is one."""
        found = self.ledger.holds(key)
        if found is None:
            return None
        value = codec.decode(found)
        if "memory" not in value:
            return None
        return Memory(value["memory"], (*value.get("chain", ()), key))

    def before(self, key: str) -> Kept | None:
        """Words and hidden entries that were released under this key, if any."""
        found = self.ledger.released(key)
        return None if found is None else _opened(found)

    def commit(
        self,
        key: str,
        release: Release,
        *,
        asked: Asked,
        policy: Policy,
        members: Iterable[Members],
        population: int,
        spend: Mapping[str, Any] | None,
        entry: Mapping[str, Any],
        known: Known | None = None,
        memory: Memory | None = None,
    ) -> Kept:
        """Store a release before it leaves; what may leave. `known` and `memory` are stored with
        it; of the rounds that it goes on from only the last few are held.

        Raises
        ------
        Refused : what `Ledger.commit` raises.
        """
        # Noise hides a patient in any combination of cohorts; what it costs is the budget's.
        compared = () if spend and policy.budget else members
        cohorts = self._cohorts(compared)
        beside: dict[str, Any] = {"known": known} if known else {}
        chain: tuple[str, ...] = () if memory is None else memory.chain
        if memory is not None:
            beside |= {"memory": memory.kept, "chain": list(chain[-HELD_ROUNDS:])}
        data = codec.encode({"words": release.words, "hidden": release.hidden, **beside})
        kept = self.ledger.commit(
            key,
            data,
            entry=entry,
            asked=asked,
            dataset=self.budget or self.dataset,
            cohorts=_Masks(cohorts, population),
            k=policy.min_difference,
            max_cohorts=policy.max_cohorts,
            spend=spend,
            budget=policy.budget,
            forget=chain[:-HELD_ROUNDS],
        )
        self._known.update((name, one.digest) for name, one in cohorts)
        return _opened(kept)

    def check(self, members: Iterable[Members], population: int, policy: Policy) -> None:
        """Whether sums over these patients may leave, too. Raises what the commit would raise."""
        for name, mask in _Masks(self._cohorts(members), population):
            self.ledger.check_cohort(name, mask, policy.min_difference, policy.max_cohorts)

    def _cohorts(self, members: Iterable[Members]) -> list[tuple[str, Members]]:
        """Data set and patients, of each column; those not yet in the ledger."""
        found = {}
        for one in members:
            if not len(one.patients):
                continue
            for column in one.columns or ("",):
                name = f"{self.dataset}/{column}"
                if (name, one.digest) not in self._known:
                    found[name, one.digest] = one
        return [(name, one) for (name, _), one in found.items()]


@dataclass(frozen=True)
class _Masks(Sequence[tuple[str, Mask]]):
    """Data set and patients as a ledger takes them, each made when it is asked for: a truth value
    for each of many patients, of all cells of all columns at once, would be large."""

    of: Sequence[tuple[str, Members]]
    population: int

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, at: Any) -> Any:
        name, members = self.of[at]
        mask = np.zeros(self.population, dtype=bool)
        mask[members.patients] = True
        return name, mask


def _opened(data: bytes) -> Kept:
    value = codec.decode(data)
    return value["words"], value["hidden"]
