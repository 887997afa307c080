"""Offers that nobody waits for any more are taken back from the hospitals that have not decided.

A hospital that is away hears it when it is connected again; the supervisor looks every few seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Set

from polyclinic.core.errors import PolyclinicError
from polyclinic.governance.paper import Paper
from polyclinic.study import hubstore
from polyclinic.study.hub import HubHome
from polyclinic.study.hublobby import Line, Lobby
from polyclinic.study.hubstore import HubRun

ENDED = (hubstore.CANCELLED, hubstore.REFUSED, hubstore.FAILED)


class Withdrawals:
    """The coordinator's notices about runs that have ended before every hospital had decided."""

    def __init__(self, home: HubHome, line: Line) -> None:
        self.home, self.line = home, line
        self._left: dict[tuple[str, float], set[str]] = {}  # who has not heard of a run's end

    def step(self) -> None:
        """Tell who is connected and has not heard it.

        Raises
        ------
        Stopped : HUB_LOST, CANNOT_WRITE.
        """
        runs = self.home.store.runs()
        asked = {run.hash for run in runs if not run.finished}
        ended = {run.hash: run for run in runs if run.state in ENDED and run.hash not in asked}
        connected = set(self.line.sites()) if ended else set()
        for run in ended.values():
            if connected & self._unheard(run):
                self._tell(run, connected)

    def _unheard(self, run: HubRun) -> Set[str]:
        known = run.id, run.since
        if known not in self._left:
            store = self.home.store
            heard = store.heard_withdrawal(run.id) | set(store.decisions(run.id))
            self._left[known] = self._offered(run) - heard
        return self._left[known]

    def _offered(self, run: HubRun) -> set[str]:
        """To whom a run was offered; nobody is told of a paper that cannot be opened any more."""
        try:
            return set(self._paper(run).sites)
        except PolyclinicError as error:
            text = f"the offer of {run.id} is not taken back: {error.what}  {error.code}"
            print(text, file=sys.stderr, flush=True)
            return set()

    def _tell(self, run: HubRun, connected: Set[str]) -> None:
        left = self._left[run.id, run.since]
        lobby = Lobby(self.line, self.home.identity, self._paper(run))
        heard = lobby.withdraw(left & connected)
        self.home.store.withdrew(run.id, heard)
        left -= set(heard)

    def _paper(self, run: HubRun) -> Paper:
        return Paper.open(run.paper, self.home.identity.public)
