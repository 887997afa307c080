"""The federated engine: every site is a hospital's own process, reached through a hub.

A question travels in an envelope that the coordinator signs for one hospital, one run, and one
place in the order of that run's questions. What the hospitals answer, and how it is added up, is
the same as in the embedded engine.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from polyclinic.core.codes import RULES
from polyclinic.core.errors import Stopped
from polyclinic.core.federation import Cohort, Federation
from polyclinic.engines.embedded import About, Sums, summing
from polyclinic.privacy.secure import Identity, Roster

_MANY = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


class Line(Protocol):
    """What is needed of `polyclinic.engines.hubline.HubLine`."""

    def ask(self, messages: Mapping[str, bytes], timeout: float) -> Mapping[str, bytes]: ...


class Sealed(Protocol):
    """What is needed of a question."""

    def sealed(self, identity: Identity) -> bytes: ...


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

    def ask(self, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The answers of all that are asked.

        Raises
        ------
        Stopped : SITE_LOST naming who has not answered in time; HUB_LOST.
        """
        sealed = {site: self._sealed(site, message) for site, message in messages.items()}
        replies = self._line.ask(sealed, self.timeout)
        if silent := [site for site in messages if site not in replies]:
            raise site_lost(silent, len(self._paper.sites), self.timeout)
        return {site: replies[site] for site in messages}

    @contextmanager
    def session(self) -> Iterator[None]:
        """Nothing is held between questions."""
        yield

    def _sealed(self, site: str, message: bytes) -> bytes:
        self._asked[site] += 1
        question = self._paper.question(site, self.run, self._asked[site], message)
        return question.sealed(self._identity)


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
        self.run = secrets.token_hex(16)
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
