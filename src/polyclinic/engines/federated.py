"""The federated engine: every site is a hospital's own process, reached through a hub.

A question travels in an envelope that the coordinator signs for one hospital, one run, and one
place in the order of that run's questions, and each hospital signs its answer to it. What the
hospitals answer, and how it is added up, is the same as in the embedded engine.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, Self

from polyclinic.core import codec
from polyclinic.core.codec import Bytes
from polyclinic.core.codes import NEXT, PASSING, RULES
from polyclinic.core.errors import PolyclinicError, Refused, Stopped
from polyclinic.core.federation import Cohort, Federation
from polyclinic.engines.embedded import About, Sums, summing
from polyclinic.privacy.secure import Identity, Roster

_CODE = 256  # bytes of an answer that is only a code
_MANY = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


class Line(Protocol):
    """What is needed of `polyclinic.engines.hubline.HubLine`."""

    def answers(
        self, messages: Mapping[str, bytes], timeout: float
    ) -> Iterable[tuple[str, Bytes]]: ...


class Sealed(Protocol):
    """What is needed of a question."""

    @property
    def message(self) -> Bytes: ...
    def likewise(self, site: str, n: int) -> Self: ...
    def sealed(self, identity: Identity) -> bytes: ...
    def answered(self, data: Bytes, public: bytes) -> Bytes: ...


class Agreed(Protocol):
    """What is needed of `polyclinic.governance.paper.Paper`."""

    @property
    def sites(self) -> Mapping[str, bytes]: ...
    @property
    def study(self) -> Any: ...
    @property
    def roster(self) -> Roster: ...
    def question(self, site: str, run: str, n: int, message: bytes) -> Sealed: ...


class HubTransport:
    """Questions of one run, sealed and numbered, through a hub.

    Parameters
    ----------
    line : to the hub.
    paper : what the hospitals have approved.
    identity : the coordinator's key.
    run : name of the run, used once.
    timeout : seconds that a hospital may take for an answer.
    """

    def __init__(
        self, line: Line, paper: Agreed, identity: Identity, run: str, timeout: float
    ) -> None:
        self.run, self.timeout = run, timeout
        self._line, self._paper, self._identity = line, paper, identity
        self._asked = dict.fromkeys(paper.sites, 0)

    def ask(self, messages: Mapping[str, bytes]) -> Mapping[str, Bytes]:
        """The answers of all that are asked, as their hospitals have signed them.

        Raises
        ------
        Stopped : SITE_LOST naming who has not answered in time; HUB_LOST.
        Refused : BAD_SIGNATURE naming whose answer is not its own, or is to another question.
        """
        questions = self._questions(messages)
        sealed = {site: one.sealed(self._identity) for site, one in questions.items()}
        replies = {
            site: self._opened(site, questions[site], reply)  # while others are still on their way
            for site, reply in self._line.answers(sealed, self.timeout)
            if site in questions
        }
        if silent := [site for site in messages if site not in replies]:
            raise site_lost(silent, len(self._paper.sites), self.timeout)
        return {site: replies[site] for site in messages}

    def apart(self, messages: Mapping[str, bytes]) -> Mapping[str, Bytes]:
        """The same, from any thread: a site is asked by one at a time."""
        return self.ask(messages)

    def _opened(self, site: str, question: Sealed, reply: Bytes) -> Bytes:
        """The answer of the hospital itself; or that it cannot answer now, which needs no key."""
        if len(reply) < _CODE and _passing(reply):
            return reply
        try:
            return question.answered(reply, self._paper.sites[site])
        except PolyclinicError as error:
            raise Refused(
                f"{site}: {error.what}",
                code="BAD_SIGNATURE",
                rule=RULES["BAD_SIGNATURE"],
                next=NEXT["BAD_SIGNATURE"],
                site=site,
                kept="everything up to the last round; nothing of this answer was used",
            ) from error

    @contextmanager
    def session(self) -> Iterator[None]:
        """Nothing is held between questions."""
        yield

    def _questions(self, messages: Mapping[str, bytes]) -> dict[str, Sealed]:
        found: dict[str, Sealed] = {}
        last: Sealed | None = None
        for site, message in messages.items():
            self._asked[site] += 1
            n = self._asked[site]
            if last is not None and last.message is message:
                last = last.likewise(site, n)
            else:
                last = self._paper.question(site, self.run, n, message)
            found[site] = last
        return found


class Federated:
    """The hospitals of an approved study, as an engine.

    Parameters
    ----------
    line : to the hub.
    paper : what the hospitals have approved.
    identity : the coordinator's key.
    timeout : seconds that a hospital may take for an answer.
    threshold : who must take part for a secure sum to be opened, as the hospitals have set it.
    """

    def __init__(
        self,
        line: Line,
        paper: Agreed,
        identity: Identity,
        timeout: float = 600.0,
        threshold: str = "two_thirds",
    ) -> None:
        self.line, self.paper, self.identity, self.timeout = line, paper, identity, timeout
        self.threshold = threshold
        self.run = ""

    def federation(
        self, cohort: Cohort | None = None, *, sums: Sums = "auto", about: About | None = None
    ) -> Federation:
        """The hospitals under a run name that was never used; `run` is that name.

        Parameters
        ----------
        cohort : the rows that all plans are about.
        sums : "clear", "secure" or "auto", as in the embedded engine.
        about : what the hospitals read of the study; None: what they have approved.
        """
        self.run = f"{time.time_ns():016x}{secrets.token_hex(8)}"  # hospitals let low names go
        transport = HubTransport(self.line, self.paper, self.identity, self.run, self.timeout)
        study = self.paper.study.study
        purpose = study.purpose if about is None else about.purpose
        chosen = summing(sums, self.paper.roster, self.run, self.threshold)
        return Federation(transport, list(self.paper.sites), cohort, chosen, purpose, witness=True)


def federation(
    paper: Agreed,
    line: Line,
    identity: Identity,
    *,
    cohort: Cohort | None = None,
    sums: Sums = "auto",
    about: About | None = None,
    timeout: float = 600.0,
) -> Federation:
    """The hospitals of an approved study under a fresh run name; see `Federated`."""
    return Federated(line, paper, identity, timeout).federation(cohort, sums=sums, about=about)


def _passing(reply: Bytes) -> bool:
    """Whether these bytes, which nobody has signed, only say that there is no answer now."""
    try:
        value = codec.decode(reply)
    except codec.CodecError:
        return False
    return value in [{"code": code} for code in PASSING]


def site_lost(silent: list[str], sites: int, timeout: float) -> Stopped:
    """The error of hospitals that have not answered in time."""
    names, one = ", ".join(silent), len(silent) == 1
    them, have = ("it", "has") if one else ("them", "have")
    rule = RULES["SITE_LOST"]
    if sites > len(silent):
        total, less = (_MANY.get(n, str(n)) for n in (sites, sites - len(silent)))
        rule = (
            f"the study needs all {total}. A total of {less} beside a total of {total} would show "
            f"{names}'s own numbers, so the run does not go on without {them}"
        )
    return Stopped(
        f"{names} {have} not answered for {_shown(timeout)}",
        code="SITE_LOST",
        site=names,
        rule=rule,
        next=f"none: when {names} {'is' if one else 'are'} back the run goes on, with the same "
        "result; give up: polyclinic hub cancel RUN",
        kept="everything up to the last round",
    )


def _shown(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
