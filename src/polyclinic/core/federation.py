"""Sites that answer together: the clear sum, written once above any transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from polyclinic.core import codec
from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.contribution import Sum, Total, add_words, open_total, words_shape
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup

Cohort = Mapping[str, Any]


class Workers(Protocol):
    """Partitions inside one trust domain, before the gate."""

    def sum(self, plan: Plan) -> Sum: ...


class Transport(Protocol):
    """Carries bytes to sites and back; knows nothing of what they mean."""

    def ask(self, messages: Mapping[str, bytes]) -> Mapping[str, bytes]: ...
    def session(self) -> AbstractContextManager[None]: ...


class Engine(Protocol):
    """What `fit` needs: the total of a plan."""

    def total(self, plan: Plan) -> Total: ...
    def session(self) -> AbstractContextManager[None]: ...


class Federation:
    """Asks every site, adds what they release, opens the total.

    Parameters
    ----------
    sites : names, in the order in which results are shown.
    cohort : the rows that every plan of this federation is about.
    """

    def __init__(
        self, transport: Transport, sites: Sequence[str], cohort: Cohort | None = None
    ) -> None:
        self.transport, self.sites, self.cohort = transport, tuple(sites), cohort

    @contextmanager
    def session(self) -> Iterator[None]:
        with self.transport.session():
            yield

    def total(self, plan: Plan) -> Total:
        plan = replace(plan, cohort=self.cohort, _derived={})
        asked = plan.to or self.sites
        leaves = lookup(plan.task, plan.version).leaves(plan)
        message = plan.to_bytes()
        replies = self.transport.ask(dict.fromkeys(asked, message))
        released = {site: _open_reply(site, plan, leaves, replies.get(site)) for site in asked}
        sizes = {site: len(replies[site]) for site in asked}
        if plan.combine == "collect":
            by_site = {
                site: open_total(leaves, words, sites=(site,), hidden=_shape(leaves, hidden))
                for site, (words, hidden) in released.items()
            }
            return Total({}, asked, by_site=by_site, bytes=sizes)
        first, *others = released.values()
        words, hidden = dict(first[0]), dict(first[1])
        for more, flags in others:
            words = {name: add_words(words[name], more[name]) for name in words}
            hidden = {name: hidden[name] + flags[name] for name in hidden}
        return open_total(leaves, words, sites=asked, hidden=_shape(leaves, hidden), bytes=sizes)


class Inline:
    """Workers of one partition, computed where they are called."""

    def __init__(self, rows: Partition) -> None:
        self.rows = rows

    def sum(self, plan: Plan) -> Sum:
        task = lookup(plan.task, plan.version)
        return Sum.of(task.leaves(plan), task.local(plan, self.rows))


class Domain:
    """One trust domain: workers add up, nothing crosses a border, so there is no gate."""

    def __init__(
        self, workers: Workers, session: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self.workers, self._session = workers, session

    def session(self) -> AbstractContextManager[None]:
        return self._session()

    def total(self, plan: Plan) -> Total:
        leaves = lookup(plan.task, plan.version).leaves(plan)
        total = open_total(leaves, self.workers.sum(plan).words)
        return Total({}, by_site={"": total}) if plan.combine == "collect" else total


Opened = tuple[Mapping[str, Any], Mapping[str, Any]]


def _open_reply(site: str, plan: Plan, leaves: Sequence[Leaf], reply: bytes | None) -> Opened:
    if reply is None:
        raise _crossed(site, plan, "SITE_LOST")
    try:
        fields = codec.decode(reply)
    except codec.CodecError:
        raise _crossed(site, plan, "BAD_MESSAGE") from None
    if not isinstance(fields, dict):
        raise _crossed(site, plan, "BAD_MESSAGE")
    if "code" in fields:
        raise _crossed(site, plan, str(fields["code"]))
    words, hidden = fields.get("words"), fields.get("hidden")
    if fields.get("site") != site or fields.get("plan") != plan.round_hash:
        raise _crossed(site, plan, "WRONG_ANSWER")
    if not _fits(leaves, words, hidden):
        raise _crossed(site, plan, "SCHEMA_MISMATCH")
    return words, hidden  # type: ignore[return-value]  # _fits has checked both


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


def _crossed(site: str, plan: Plan, code: str) -> PolyclinicError:
    """The error for a code that crossed a border; the words are this side's own."""
    code = code if code in RULES else "SITE_FAILED"
    return Refused(
        f"{site} refused to release round {plan.round} ({plan.step or plan.task})",
        code=code,
        rule=RULES[code],
        next=NEXT.get(code, ""),
        site=site,
        step=plan.step,
        kept="nothing of this round left a hospital; earlier rounds are kept",
    )
