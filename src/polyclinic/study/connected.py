"""`Connected`: the hospitals of a hub as `Sites`. Their rows are at the hospitals, not here."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import pandas as pd

from polyclinic.core import codec
from polyclinic.core.codes import PASSING
from polyclinic.core.errors import InputError
from polyclinic.core.federation import Federation, Transport, codes_of
from polyclinic.core.partition import Partition
from polyclinic.data.cohort import Cohort
from polyclinic.data.table import Table
from polyclinic.engines.embedded import About, Embedded, Sums
from polyclinic.engines.federated import Federated
from polyclinic.governance.paper import Paper
from polyclinic.governance.study_file import Session
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Identity
from polyclinic.study.hublobby import Line, lost
from polyclinic.study.sites import Sites

_CODE_BYTES = 256  # an answer that is only a code is shorter
Watch = Callable[[Mapping[str, int], Mapping[str, int]], None]  # bytes to and from, by hospital


class Connected(Sites):
    """Hospitals that a hub reaches, for what they have approved; made by `pc.connect`.

    Estimators, formulas and descriptive statistics work as on other `Sites`.

    Parameters
    ----------
    line : to the hub.
    paper : what the hospitals have approved.
    identity : the coordinator's key.
    least : by hospital, how many patients it asks for behind a number.
    threshold : who must take part for a secure sum to be opened, as the hospitals have set it.
    before : called before every question; what it raises ends the run.
    watch : called after every question with the bytes that went to and fro.
    without : hospitals of the approved study without which it goes on, and `why`.
    """

    def __init__(
        self,
        line: Line,
        paper: Paper,
        identity: Identity,
        *,
        least: Mapping[str, int],
        threshold: str = "two_thirds",
        before: Callable[[], None] = lambda: None,
        watch: Watch = lambda out, back: None,
        without: Sequence[str] = (),
        why: str = "",
    ) -> None:
        super().__init__({}, paper.codebook, source=f"hub {paper.hub}")
        self.paper, self._line, self._identity = paper, line, identity
        self._without, self._why = list(without), why
        self._before, self._watch, self._threshold = before, watch, threshold
        self.policies = {site: Policy(min_patients=least[site]) for site in self.names}
        self.runs: list[str] = []  # names of what was asked under, shared by all copies

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.paper.sites)

    @property
    def engine(self) -> str:
        return "federated"

    @property
    def federation_part(self) -> dict[str, Any] | None:
        return {
            "hub": self.paper.hub,
            "hospitals": list(self.names),
            "without": self._without,
            "why": self._why,
        }

    def n_rows(self, site: str) -> int | None:
        return None

    @property
    def table(self) -> Callable[[str], Table]:
        return self._no_rows

    def at_home(self, folder: str | Path) -> Self:
        """The same: each hospital has its books at home already."""
        return self

    def with_policy(self, policy: Policy | Mapping[str, Policy]) -> Self:
        """Not from here. Raises InputError POLICY_SIGNED."""
        raise InputError(
            "the hospitals of a hub have policies of their own",
            code="POLICY_SIGNED",
            rule="what may leave a hospital is signed there",
            next="ask the hospital: polyclinic site policy --sign",
        )

    def _columns_in_use(self) -> tuple[str, ...]:
        study = self.paper.study
        return tuple(study.session.columns if isinstance(study, Session) else self.codebook.usable)

    def federation(
        self,
        engine: Embedded | None = None,
        cohort: Cohort | None = None,
        *,
        sums: Sums = "auto",
        about: About = About(),
    ) -> Federation:
        """The hospitals as they answer, under a run name of their own; `engine` is theirs.

        Raises
        ------
        InputError : OTHER_PURPOSE for a purpose that is not the approved one, WRONG_VALUE where a
            hospital without patients should be left out.
        """
        if self.empty_site == "leave_out":
            raise no_leaving_out()
        study = self.paper.study.study
        if about.purpose not in ("", study.purpose):
            raise InputError(
                "the purpose is not the one that the hospitals have approved",
                code="OTHER_PURPOSE",
                rule=f"approved was: {study.purpose or 'none'}",
                next="leave the purpose out, or connect for the other one",
            )
        cohort = cohort or self.fixed
        federated = Federated(
            self._line,
            self.paper,
            self._identity,
            self.paper.study.federation.seconds,
            self._threshold,
        )
        found: Federation = federated.federation(
            None if cohort is None else cohort.to_data(), sums=sums
        )
        self.runs.append(federated.run)
        found.transport = _Watched(found.transport, self._before, self._watch)
        return found

    def refuse_not_comparable(self, columns: Sequence[str]) -> None:
        """Also raises COLUMN_NOT_APPROVED for a column that the session does not list."""
        super().refuse_not_comparable(columns)
        study = self.paper.study
        if isinstance(study, Session):
            other = [name for name in columns if name not in study.session.columns]
            if other:
                raise InputError(
                    f"{', '.join(other)}: not among the columns of this session",
                    code="COLUMN_NOT_APPROVED",
                    rule=f"approved were: {', '.join(study.session.columns)}",
                    next="connect with more columns; every hospital then decides anew",
                )

    def rows(self, site: str, cohort: Cohort | None) -> Partition:
        """Not here. Raises InputError ROWS_AT_HOSPITAL."""
        self._no_rows(site)

    def local(self, site: str) -> pd.DataFrame:
        """Not here. Raises InputError ROWS_AT_HOSPITAL."""
        self._no_rows(site)

    def check(self) -> pd.DataFrame:
        """Not here. Raises InputError ROWS_AT_HOSPITAL."""
        self._no_rows("each hospital")

    def _no_rows(self, site: str) -> NoReturn:
        raise InputError(
            f"{site}: its rows are not on this machine",
            code="ROWS_AT_HOSPITAL",
            rule="rows stay at the hospital; sums leave it",
            next="ask for sums: sites.describe(), sites.table_one(); at the hospital itself: "
            "polyclinic site check",
        )

    def left_out(self, site: str, cohort: Cohort) -> dict[str, int]:
        """Nothing: known at the hospital only."""
        return {}

    def ledgers(self) -> dict[str, dict[str, Any]]:
        """Nothing: each hospital has its own."""
        return {}

    def __repr__(self) -> str:
        study = self.paper.study.study
        return f"Connected({len(self.names)} hospitals of hub {self.paper.hub}, for {study.name})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th scope='row'>{html.escape(site)}</th>"
            f"<td>at least {self.policies[site].min_patients}</td></tr>"
            for site in self.names
        )
        return (
            f"<p>{html.escape(repr(self))}</p><table><thead><tr><th scope='col'>hospital</th>"
            f"<th scope='col'>behind every number</th></tr></thead><tbody>{rows}</tbody></table>"
        )


class _Watched:
    """A transport whose messages are counted; after a loss it asks nobody any more.

    A run that has lost a hospital goes on under another name, so that nothing is gained by asking
    the others of this one, and each question would wait for its deadline.
    """

    def __init__(self, inner: Transport, before: Callable[[], None], watch: Watch) -> None:
        self._inner, self._before, self._watch = inner, before, watch
        self._over: BaseException | None = None

    def ask(self, messages: Mapping[str, bytes]) -> Mapping[str, codec.Bytes]:
        if self._over is not None:
            raise self._over
        try:
            self._before()
            replies = self._inner.ask(messages)
            self._all_there(replies)
        except BaseException as error:  # whatever it was, an exchange of heads would wait, too
            self._over = error
            raise
        self._watch(
            {site: len(data) for site, data in messages.items()},
            {site: len(data) for site, data in replies.items()},
        )
        return replies

    def apart(self, messages: Mapping[str, bytes]) -> Mapping[str, codec.Bytes]:
        """The answer of a site for which the others do not wait; its loss is its own."""
        if self._over is not None:
            raise self._over
        replies = self._inner.apart(messages)
        self._all_there(replies)
        self._watch(
            {site: len(data) for site, data in messages.items()},
            {site: len(data) for site, data in replies.items()},
        )
        return replies

    def _all_there(self, replies: Mapping[str, codec.Bytes]) -> None:
        """Whoever has lost the run is lost, whatever the others say. Raises Stopped."""
        short = {site: data for site, data in replies.items() if len(data) < _CODE_BYTES}
        codes = {site: code for site, code in codes_of(short).items() if code in PASSING}
        if codes:
            raise lost(codes, next(iter(codes.values())))

    @contextmanager
    def session(self) -> Iterator[None]:
        with self._inner.session():
            yield


def no_leaving_out() -> InputError:
    """A hospital without patients cannot be left out over a hub."""
    return InputError(
        'empty_site = "leave_out" is not possible over a hub',
        code="WRONG_VALUE",
        rule="a hospital that has too few patients says so; that it has none is not asked",
        next="leave the hospital out by name: [federation] sites",
    )


def connect(
    hub: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    algorithms: Sequence[str] | None = None,
    purpose: str = "",
    schema: Any = None,
    sites: Sequence[str] = (),
    name: str = "session",
    round_timeout: str = "10 min",
    timeout: float | None = None,
    show: Callable[[str], None] | None = print,
) -> Connected:
    """The hospitals of a hub on this machine, once all of them have approved what may be asked.

    Parameters
    ----------
    hub : its name; None: the only one here.
    columns : that may be read; None: all of the codebook.
    algorithms : "logistic", "linear", "poisson", "gamma", "descriptive", "evaluation"; None: all.
    purpose : one sentence that the hospitals' officers read and sign.
    schema : the codebook, or its path; None: that of the hub's last study.
    sites : hospitals that take part; none: all that have joined.
    name : of the session, a-z 0-9 -.
    round_timeout : how long a hospital may take for an answer.
    timeout : seconds to wait for the hospitals' decisions; None: as long as it takes.
    show : is told who still has to decide; None: nobody is told.

    Raises
    ------
    InputError : NO_HUB, NO_SCHEMA, UNKNOWN_SITE, WRONG_VALUE.
    Refused : a hospital has refused. Stopped : NOT_DECIDED after `timeout`, HUB_LOST; also later,
        with a question: SESSION_CANCELLED.
    """
    from polyclinic.study.hubsession import open_session

    wanted = {
        "columns": columns,
        "algorithms": algorithms,
        "purpose": purpose,
        "schema": schema,
        "sites": list(sites),
        "name": name,
        "round_timeout": round_timeout,
    }
    until = None if timeout is None else time.monotonic() + timeout
    return open_session(hub, wanted, until, show or (lambda text: None))
