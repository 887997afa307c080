"""Sites that answer together, over any transport, by clear or by secure sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from polyclinic.core import codec
from polyclinic.core.asking import FirstOf, Outstanding
from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.compress import HELD, Answers, known_after
from polyclinic.core.contribution import Sum, Total, add_words, open_total, words_shape
from polyclinic.core.errors import PolyclinicError, Refused, Stopped
from polyclinic.core.leaf import Leaf
from polyclinic.core.overlap import Overlap, across_borders, nobody_waits
from polyclinic.core.packing import unpack
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Remembering, goes_on_from, lookup

Cohort = Mapping[str, Any]
Memory = Mapping[str, Any]  # what a site keeps for a later round
HEADS = "HEADS"  # the kind of message that carries signed heads of the sites' logs
MAY = "MAY"  # the kind of message that asks whether a site would release its answer alone
Ask = Callable[[Mapping[str, bytes]], Mapping[str, codec.Bytes]]


class Workers(Protocol):
    """Partitions inside one trust domain, before the gate."""

    def sum(self, plan: Plan) -> Sum: ...
    def remember(self, plan: Plan, memory: Memory) -> tuple[Sum, Memory]: ...


class Transport(Protocol):
    """Carries bytes to sites and back; knows nothing of what they mean.

    apart  as `ask`, of single sites and from any thread: a loss ends no other question
    """

    def ask(self, messages: Mapping[str, bytes]) -> Mapping[str, codec.Bytes]: ...
    def apart(self, messages: Mapping[str, bytes]) -> Mapping[str, codec.Bytes]: ...
    def session(self) -> AbstractContextManager[None]: ...


class Engine(Protocol):
    """What `fit` needs: the total of a plan.

    first           the answer of whichever site is first, and its plan; the others go on
    ahead           the total of the first of these plans, which are of the next rounds; workers who
                    are free may begin the others
    memory, recall  what a run that goes on later has to know of the rounds before, as plain data
    """

    def total(self, plan: Plan) -> Total: ...
    def first(self, asked: FirstOf) -> tuple[Plan, Total]: ...
    def ahead(self, plans: Sequence[Plan]) -> Total: ...
    def memory(self) -> dict[str, Any]: ...
    def recall(self, memory: Mapping[str, Any]) -> None: ...
    def session(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Summed:
    """What sites released, added up, in ring form; `hidden` counts sites, `bytes` is by site.

    seen, opened_by, shared  as in `Total`
    """

    words: Mapping[str, Any]
    hidden: Mapping[str, Any]
    bytes: Mapping[str, int]
    seen: str = "this site"
    opened_by: int = 0
    shared: int = 0


class Summing(Protocol):
    """How the releases of sites become their sum.

    refusals  sites that may not release alone, with their codes, so that only secure sums are left
    secure    True: only totals are seen from now on
    """

    refusals: dict[str, str]

    @property
    def secure(self) -> bool: ...
    def memory(self) -> dict[str, Any]: ...
    def recall(self, memory: Mapping[str, Any]) -> None: ...

    def total(
        self, plan: Plan, leaves: Sequence[Leaf], sites: Sequence[str], ask: Ask
    ) -> Summed: ...


class ClearSums:
    """Every site's release is seen, then added."""

    secure = False

    def __init__(self) -> None:
        self.refusals: dict[str, str] = {}

    def memory(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Nothing."""

    def total(self, plan: Plan, leaves: Sequence[Leaf], sites: Sequence[str], ask: Ask) -> Summed:
        """The sum. Raises what `open_replies` raises."""
        released, sizes = open_replies(plan, leaves, sites, ask)
        first, *others = released.values()
        words, hidden = dict(first[0]), dict(first[1])
        for more, flags in others:
            words = {name: add_words(words[name], more[name]) for name in words}
            hidden = {name: hidden[name] + flags[name] for name in hidden}
        return Summed(words, hidden, sizes)


class Federation:
    """Asks every site, adds what they release, opens the total.

    Parameters
    ----------
    sites : names, in the order in which results are shown.
    cohort : the rows that every plan of this federation is about.
    summing : clear sums, or a protocol of secure ones.
    purpose : what it is all for, in the study's own words.
    witness : after each round every site gets the signed heads of the others' logs, so that none
        can cut its own short.
    """

    def __init__(
        self,
        transport: Transport,
        sites: Sequence[str],
        cohort: Cohort | None = None,
        summing: Summing | None = None,
        purpose: str = "",
        witness: bool = False,
    ) -> None:
        self._heads: dict[str, str] | None = {} if witness else None
        self.transport, self.sites, self.cohort = transport, tuple(sites), cohort
        self.summing, self.purpose = summing or ClearSums(), purpose
        self._answers, self._outstanding = Answers(), Outstanding()

    @contextmanager
    def session(self) -> Iterator[None]:
        """At its end the heads of the last round are handed on, too."""
        with self.transport.session(), self._witnessed():
            yield

    @contextmanager
    def _witnessed(self, one: str = "") -> Iterator[None]:
        """An exchange of heads afterwards, whatever happened; it never hides an error. With all
        who have no question of their own, or with one site."""
        try:
            yield
        except BaseException:
            with suppress(Exception):
                self._exchange(one)
            raise
        self._exchange(one)

    def memory(self) -> dict[str, Any]:
        """What the summing has learnt: which sites may not release alone; and rounded sums."""
        rounded = self._answers.to_data()
        return {**self.summing.memory(), **({"rounded": rounded} if rounded else {})}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on as before: what was summed securely is not asked in the clear."""
        self.summing.recall(memory)
        self._answers = Answers.from_data(memory.get("rounded", ()))

    def total(self, plan: Plan) -> Total:
        """The total of a plan over all sites. Raises Refused, or what the summing raises."""
        self._outstanding.wait(self.sites)
        with self._witnessed():
            return self._total(plan)

    def first(self, asked: FirstOf) -> tuple[Plan, Total]:
        """The answer of whichever site is first, seen by itself, and its plan.

        Of a site that is lost a total without values. Raises Refused, or what the transport raises.
        """
        for site, plan in asked.plans.items():
            self._outstanding.ask(site, plan, partial(self._alone, site, plan))
        return self._outstanding.first()

    def ahead(self, plans: Sequence[Plan]) -> Total:
        """No total of hospitals is of more than one question. Raises InputError (WRONG_VALUE)."""
        raise across_borders()

    def _alone(self, site: str, plan: Plan) -> Total:
        plan = replace(plan, cohort=self.cohort, purpose=self.purpose, _derived={})
        leaves = lookup(plan.task, plan.version).leaves(plan)
        with self._witnessed(site):
            released, sizes = open_replies(plan, leaves, (site,), self.transport.apart)
        words, hidden = released[site]
        return open_total(leaves, words, sites=(site,), hidden=_shape(leaves, hidden), bytes=sizes)

    def _exchange(self, one: str = "") -> None:
        if self._heads is None:
            return
        sites = (one,) if one else [s for s in self.sites if s not in self._outstanding.sites]
        ask = self.transport.apart if one else self.transport.ask
        message = codec.encode({"kind": HEADS, "heads": dict(self._heads)})
        replies = ask(dict.fromkeys(sites, message))
        if codes := codes_of(replies):
            raise refused_by(codes, Plan(HEADS, {}, "heads of the logs"))
        for site, reply in replies.items():
            head = codec.decode(reply).get("head", "")
            if isinstance(head, str) and head:
                self._heads[site] = head

    def _total(self, plan: Plan) -> Total:
        asked_as = plan = plan.exact() if self.summing.secure else plan
        base, known = self._answers.find(plan.base)
        plan = replace(plan, cohort=self.cohort, purpose=self.purpose, base=base, _derived={})
        asked = plan.to or self.sites
        leaves = lookup(plan.task, plan.version).leaves(plan)
        if plan.combine == "collect":
            released, sizes = open_replies(plan, leaves, asked, self.transport.ask)
            by_site = {
                site: open_total(leaves, words, sites=(site,), hidden=_shape(leaves, hidden))
                for site, (words, hidden) in released.items()
            }
            return Total({}, asked, by_site=by_site, bytes=sizes)
        summed = self.summing.total(plan, leaves, asked, self.transport.ask)
        words = summed.words
        if plan.compress and not summed.opened_by:  # a secure sum is exact
            after = known_after(leaves, words, known, plan.row)
            self._answers.keep(asked_as.content_hash, plan.content_hash, after)
            words = {**words, **after}
        return open_total(
            leaves,
            words,
            sites=asked,
            hidden=_shape(leaves, summed.hidden),
            bytes=summed.bytes,
            seen=summed.seen,
            opened_by=summed.opened_by,
            shared=summed.shared,
        )


def remembered(plan: Plan, rows: Partition, memory: Memory) -> tuple[Sum, Memory]:
    """The sum over all rows of a site by a task that goes on from `memory`."""
    task = lookup(plan.task, plan.version)
    if not isinstance(task, Remembering):
        raise TypeError(f"{plan.task} remembers nothing")
    contribution, after = task.remember(plan, rows, memory)
    return Sum.of(task.leaves(plan), contribution), after


class Inline:
    """Workers of one partition, computed where they are called."""

    def __init__(self, rows: Partition) -> None:
        self.rows = rows

    def sum(self, plan: Plan) -> Sum:
        task = lookup(plan.task, plan.version)
        return Sum.of(task.leaves(plan), task.local(plan, self.rows))

    def remember(self, plan: Plan, memory: Memory) -> tuple[Sum, Memory]:
        """See `remembered`."""
        return remembered(plan, self.rows, memory)


class Domain:
    """One trust domain: workers add up, nothing crosses a border, so there is no gate.

    overlap  how rounds overlap in it; None: they do not
    """

    def __init__(
        self,
        workers: Workers,
        session: Callable[[], AbstractContextManager[None]] = nullcontext,
        overlap: Callable[[], Overlap] | None = None,
    ) -> None:
        self._parts, self._session = {"": workers}, session
        self._kept: dict[str, dict[str, Memory]] = {}
        self._overlap, self._begun = overlap, list[Overlap]()

    @contextmanager
    def session(self) -> Iterator[None]:
        """At its end nobody goes on with a round that was begun."""
        with self._session():
            try:
                yield
            finally:
                while self._begun:
                    self._begun.pop().close()

    def memory(self) -> dict[str, Any]:
        """What sites keep for later rounds."""
        return {"kept": [list(one) for one in self._kept.items()]}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on as before."""
        self._kept = {after: dict(kept) for after, kept in memory.get("kept", ())}

    def total(self, plan: Plan) -> Total:
        leaves = lookup(plan.task, plan.version).leaves(plan)
        sums = self._sums(plan)
        if plan.combine == "collect":
            by_site = {site: open_total(leaves, one.words) for site, one in sums.items()}
            return Total({}, tuple(sums) if "" not in sums else (), by_site=by_site)
        first, *others = sums.values()
        for more in others:
            first = first + more
        return open_total(leaves, first.words)

    def first(self, asked: FirstOf) -> tuple[Plan, Total]:
        """The answer of the site that was asked first, and its plan."""
        plan = next(iter(asked.plans.values()))
        return plan, self.total(plan)

    def ahead(self, plans: Sequence[Plan]) -> Total:
        """The total of the first of these plans. Raises InputError (WRONG_VALUE) without workers
        that could begin the others."""
        if not self._begun:
            if self._overlap is None:
                raise nobody_waits()
            self._begun.append(self._overlap())
        leaves = lookup(plans[0].task, plans[0].version).leaves(plans[0])
        summed, ages = self._begun[0].next(plans)
        return open_total(leaves, summed.words, ages=ages)

    def _sums(self, plan: Plan) -> dict[str, Sum]:
        """The sum of each site, which may go on from what it kept."""
        asked = {site: one for site, one in self._parts.items() if site in plan.to or not plan.to}
        if not isinstance(lookup(plan.task, plan.version), Remembering):
            return {site: workers.sum(plan) for site, workers in asked.items()}
        before, sums, kept = self._kept.get(goes_on_from(plan), {}), {}, {}
        for site, workers in asked.items():
            sums[site], kept[site] = workers.remember(plan, before.get(site, {}))
        if any(kept.values()) and plan.to:
            self._keep_of(plan, kept)
        elif any(kept.values()):
            self._kept = dict([*self._kept.items(), (plan.bare_hash, kept)][-HELD:])
        return sums

    def _keep_of(self, plan: Plan, kept: Mapping[str, Memory]) -> None:
        """Hold the last of each of these sites: asked by itself, it goes on from no other."""
        held = {
            after: {site: one for site, one in sites.items() if site not in kept}
            for after, sites in self._kept.items()
        }
        held[plan.bare_hash] = {**held.get(plan.bare_hash, {}), **kept}
        self._kept = {after: sites for after, sites in held.items() if sites}


class Domains(Domain):
    """One trust domain of several sites, each of which can answer by itself."""

    def __init__(
        self,
        sites: Mapping[str, Workers],
        session: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        first, *_ = sites.values()
        super().__init__(first, session)
        self._parts = dict(sites)


Opened = tuple[Mapping[str, Any], Mapping[str, Any]]


def open_replies(
    plan: Plan, leaves: Sequence[Leaf], sites: Sequence[str], ask: Ask
) -> tuple[dict[str, Opened], dict[str, int]]:
    """Words and hidden entries by site, and the bytes of each answer.

    Raises
    ------
    Refused : with the code of the first site that did not answer as asked; `refusals` has all.
    """
    replies = ask(dict.fromkeys(sites, plan.to_bytes()))
    opened: dict[str, Opened] = {}
    codes: dict[str, str] = {}
    for site in sites:
        found = _open_reply(site, plan, leaves, replies.get(site))
        if isinstance(found, str):
            codes[site] = found
        else:
            opened[site] = found
    if codes:
        raise refused_by(codes, plan)
    return opened, {site: len(replies[site]) for site in sites}


def _open_reply(
    site: str, plan: Plan, leaves: Sequence[Leaf], reply: codec.Bytes | None
) -> Opened | str:
    """What a site released, or the code of why not."""
    if reply is None:
        return "SITE_LOST"
    try:
        fields = codec.decode(reply)
    except codec.CodecError:
        return "BAD_MESSAGE"
    if not isinstance(fields, dict):
        return "BAD_MESSAGE"
    if "code" in fields:
        return str(fields["code"])
    words, hidden = fields.get("words"), fields.get("hidden")
    if fields.get("site") != site or fields.get("plan") != plan.round_hash:
        return "WRONG_ANSWER"
    packed = plan.compress or any(leaf.packed for leaf in leaves)
    if packed and isinstance(words, dict):
        try:
            words = {name: unpack(packed) for name, packed in words.items()}
        except codec.CodecError:
            return "BAD_MESSAGE"
    return (words, hidden) if _fits(leaves, words, hidden) else "SCHEMA_MISMATCH"  # type: ignore[return-value]


def _fits(leaves: Sequence[Leaf], words: Any, hidden: Any) -> bool:
    expected = {leaf.name: words_shape(leaf) for leaf in leaves}
    flags = {leaf.name: ((leaf.size,), "int64") for leaf in leaves if leaf.small == "hide"}
    return all(
        isinstance(got, dict)
        and set(got) == set(wanted)
        and all(
            isinstance(got[n], np.ndarray) and (got[n].shape, got[n].dtype) == wanted[n]
            for n in wanted
        )
        for got, wanted in ((words, expected), (hidden, flags))
    )


def _shape(leaves: Sequence[Leaf], hidden: Mapping[str, Any]) -> dict[str, Any]:
    return {
        leaf.name: hidden[leaf.name].reshape(leaf.shape) for leaf in leaves if leaf.small == "hide"
    }


def codes_of(replies: Mapping[str, codec.Bytes | None]) -> dict[str, str]:
    """The codes of the sites that refused, in order."""
    found = {}
    for site, reply in replies.items():
        fields: Any = {"code": "SITE_LOST"}
        if reply is not None:
            try:
                fields = codec.decode(reply)
            except codec.CodecError:
                fields = {"code": "BAD_MESSAGE"}
        if isinstance(fields, dict) and "code" in fields:
            found[site] = str(fields["code"])
    return found


def refused_by(codes: Mapping[str, str], plan: Plan) -> PolyclinicError:
    """The error for codes that crossed borders; the words are this side's own."""
    for site in (site for site, code in codes.items() if code == "CLUSTER_LOST"):
        return Stopped(
            f"the cluster of {site} was lost in round {plan.round} ({plan.step or plan.task})",
            code="CLUSTER_LOST",
            rule=RULES["CLUSTER_LOST"],
            next=NEXT["CLUSTER_LOST"],
            site=site,
            step=plan.step,
            kept="every round before, where the run has a store or a run folder",
        )
    site, code = next(iter(codes.items()))
    code = code if code in RULES else "SITE_FAILED"
    others = f" (and {len(codes) - 1} more)" if len(codes) > 1 else ""
    return Refused(
        f"{site}{others} refused to release round {plan.round} ({plan.step or plan.task})",
        code=code,
        rule=RULES[code],
        next=NEXT.get(code, ""),
        site=site,
        step=plan.step,
        kept="what was released before is kept, with its place in the hospitals' ledgers",
        refusals=codes,
    )
