"""One run of a study over the hospitals of a hub, from the offer to the report.

``python -m polyclinic.study.driver HUBHOME RUN`` is a process of its own. It may be killed at any
time: the next one goes on from the last round that was kept, and ends with the same bytes.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from polyclinic.core.checkpoint import write_atomic
from polyclinic.core.codes import PASSING
from polyclinic.core.errors import InputError, PolyclinicError, Refused, Stopped
from polyclinic.core.fit import Round as Done
from polyclinic.engines.embedded import common_threshold
from polyclinic.governance.officer import plain
from polyclinic.governance.paper import APPROVED, REFUSED, Paper
from polyclinic.governance.study_file import Study
from polyclinic.report.progress import FIGURES
from polyclinic.report.travelled import NETWORK, carried
from polyclinic.study import hubstore
from polyclinic.study.fewer import Fewer
from polyclinic.study.hub import HubHome, Locked
from polyclinic.study.hubevents import Events
from polyclinic.study.hublobby import LOST, Line, Lobby, Round, lost_sites, no

PATIENT = (1.0, 1.5, 2.0, 3.0, 5.0)  # seconds between attempts, the last for ever
MOST_NAMES = 8  # of a run's names, that hospitals are told to forget; they forget the oldest
LOOK = 0.25  # seconds between two looks at the flag that ends a run
AWAY = ("SITE_LOST", "AGENT_LOST")
HUB, SPACE = "the hub", "space on the hub's disk"


class Cancelled(Exception):
    """Someone has asked to end the run."""


class Driver:
    """See the module.

    Parameters
    ----------
    line : to the hub; None: its socket.
    sleep : waits between attempts.
    clock : tells for how long a hospital is missed.
    """

    def __init__(
        self,
        home: HubHome,
        run: str,
        line: Line | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.home, self.id, self.store, self.sleep = home, run, home.store, sleep
        self.folder = home.run_folder(run)
        self.line = line or line_of(home)
        self.events = Events(self.folder / "events.jsonl")
        record = self.store.run(run)
        self.paper = Paper.open(self.store.paper(run), home.identity.public)
        self.lobby = Lobby(self.line, home.identity, self.paper)
        first = Paper.open(record.paper, home.identity.public)
        self.fewer = Fewer(first, self.events, clock)
        self._looked, self._cancelled = 0.0, False
        # A round is written down before it is counted: a process may have been killed between.
        self.round = max(record.round, len(self.events.rounds()))
        self._known: set[str] = set()  # plans of rounds that were written down before this attempt
        self._asked = 0.0  # when the last question was put
        self._bytes: dict[str, list[int]] = {}
        self._asked_as: list[str] = []  # names under which hospitals were asked
        self.ending = threading.Event()

    @property
    def study(self) -> Study:
        """What is run."""
        if not isinstance(self.paper.study, Study):
            raise InputError(
                f"{self.id} is a session",
                code="WRONG_VALUE",
                rule="a session is asked from Python",
                next="pc.connect",
            )
        return self.paper.study

    def drive(self) -> str:
        """Bring the run to its end; its last state, or "" when another process drives it."""
        with Locked(self.folder).hold() as mine:
            if not mine:
                return ""
            if self.store.run(self.id).finished:
                return self.store.run(self.id).state
            self._patiently(lambda: self.store.set_pid(self.id, os.getpid()))
            self._patiently(lambda: self.store.set_round(self.id, self.round))
            state, detail = self._outcome()
            self.ending.set()
            self._patiently(lambda: self._state(state, detail))
            # Only now: a hospital that is lost would be waited for.
            with suppress(PolyclinicError):
                self.lobby.done(self._asked_as[-MOST_NAMES:])
            return state

    def _outcome(self) -> tuple[str, str]:
        """The last state, and what is to be said about it."""
        try:
            if not self.paper.instead_of:
                self._approvals()
            self._run()
        except Cancelled:
            return hubstore.CANCELLED, self.store.why(self.id)
        except Refused as error:
            return hubstore.REFUSED, str(error)
        except PolyclinicError as error:
            if error.code == "INTERRUPTED":
                raise
            return hubstore.FAILED, str(error)
        except Exception as error:  # said by name only; where it was is in the driver's own log
            traceback.print_exc()
            return (
                hubstore.FAILED,
                f"{type(error).__name__}: an error inside Polyclinic  UNEXPECTED",
            )
        return hubstore.DONE, self.fewer.why(self.paper)

    def _patiently(self, write: Callable[[], None]) -> None:
        """Write, and where the disk is full wait for space: what happened is not forgotten."""
        for attempt in range(sys.maxsize):
            try:
                return write()
            except Stopped as error:
                if error.code != "CANNOT_WRITE":
                    raise
                print(error, file=sys.stderr, flush=True)
                self.sleep(_pause(attempt))

    def _state(self, state: str, detail: str = "") -> None:
        before = self.store.run(self.id)
        said = (before.state, before.detail) == (state, detail)
        if not said and self.store.set_state(self.id, state, detail):
            self.events.add("state", state=state, detail=detail)

    # before the run

    def _approvals(self) -> None:
        """Offer the study until every hospital has approved it."""
        for attempt in range(sys.maxsize):
            self.look()
            try:
                found = self.lobby.offer()
                self._decisions(found)
                self._approved_before(found)
                if not (text := still(found)):
                    return
                self._state(hubstore.WAITING_APPROVAL, text)
                importlib.import_module("polyclinic.study.run")  # while the officers decide
            except Stopped as error:
                self._waiting(error, attempt)
            self.sleep(_pause(min(attempt, 1)))  # an officer's decision counts at once

    def _decisions(self, found: Round) -> None:
        """Write the decisions down. Raises Refused where a hospital has said no."""
        known = self.store.decisions(self.id)
        for site, (decision, signed) in found.decisions.items():
            if site not in known or known[site]["signed"] != signed:
                self.store.decide(self.id, site, decision.verdict, decision.why, signed)
                said = {"site": site, "verdict": decision.verdict, "why": decision.why}
                self.events.add("decision", **said)
        declined(found)

    def _approved_before(self, found: Round) -> None:
        """A hospital that has approved and is away now is not waited for here, but in the run."""
        known = self.store.decisions(self.id)
        for site in found.still(LOST):
            if site in known and known[site]["verdict"] == APPROVED:
                found.states[site] = APPROVED

    # the run

    def _run(self) -> None:
        for attempt in range(sys.maxsize):
            kept = self.round
            self.look()
            try:
                self._attempt()
                return
            except PolyclinicError as error:
                if not _passing(error):
                    raise
                if self.study.federation.when_lost == "abort" and not _here(error):
                    raise
                if error.code in AWAY:
                    self.fewer.missed(lost_sites(error), self._asked)
                # What comes back at once and is lost again is asked less and less often.
                self._wait(error, 0 if self.round > kept else attempt)

    def _attempt(self) -> None:
        """Go on from what is kept, under a new run name; raises what stops it."""
        from polyclinic.study.connected import Connected
        from polyclinic.study.run import run

        self._asked = self.fewer.clock()
        self._known = {one.get("plan", "") for one in self.events.rounds()}
        said = self.lobby.hello()
        least = {site: one.min_patients for site, one in said.items()}
        sites = Connected(
            self.line,
            self.paper,
            self.home.identity,
            least=self._least(least),
            threshold=common_threshold(one.threshold for one in said.values()),
            before=self._before,
            without=self.fewer.without(self.paper),
            why=self.fewer.why(self.paper),
            watch=self._count,
        )
        self._state(hubstore.RUNNING, self.fewer.why(self.paper))
        out = self.folder / "result"
        try:
            run(self.study, out, resume=(out / "study.json").exists(), show=self._tell, sites=sites)
        finally:
            self._asked_as += sites.runs

    def _least(self, now: Mapping[str, int]) -> Mapping[str, int]:
        """What the hospitals asked for when the run began: a run that goes on asks the same."""
        found = self.events.first("least")
        if found is None:
            self.events.add("least", patients=dict(now))
            return now
        return dict(found["patients"])

    def _wait(self, error: PolyclinicError, attempt: int) -> None:
        """Wait until hub and hospitals are there again, whoever was lost."""
        self._waiting(error, attempt)
        self.sleep(_pause(attempt))
        for again in range(sys.maxsize):
            self.look()
            try:
                if _here(error):
                    self._probe()
                self._there()
                return
            except Stopped as still:
                self._waiting(still, again)
                if still.code == "CANNOT_WRITE":
                    error = still
                self.sleep(_pause(again))

    def _there(self) -> None:
        """Raises Stopped while a hospital is away without which the run does not go on."""
        try:
            self.lobby.hello()
            self.fewer.missed(())
        except Stopped as error:
            # A hub that is away hears nobody: who was missed before is missed anew.
            self.fewer.missed(lost_sites(error) if error.code in AWAY else (), self.fewer.clock())
            if not self._restarted():
                raise

    def _restarted(self) -> bool:
        """Go on without the hospitals that are missed, where that may be; whether it does."""
        paper = self.fewer.next(self.paper, self.round)
        if paper is None:
            return False
        lobby = Lobby(self.line, self.home.identity, paper)
        found = lobby.offer()
        if self.fewer.refused(found.codes):
            return False
        declined(found)
        if found.still(APPROVED) != list(paper.sites):
            return False  # one more is away, or has to decide: it is asked again
        self.store.restart(self.id, paper.signed(self.home.identity))
        self.paper, self.lobby = paper, lobby
        return True

    def _waiting(self, error: PolyclinicError, attempt: int) -> None:
        whom = _whom(error)
        kept = f"from round {self.round + 1}, with the same result" if self.round else "then"
        back = f"{whom} {'are' if ',' in whom else 'is'} back"
        back = f"there is {whom}" if whom.startswith("space ") else back
        detail = f"goes on by itself when {back}, {kept}"
        if attempt >= len(PATIENT):
            detail += f"\n{error.what}  {error.code}"
        if error.code in AWAY:
            detail += self.fewer.outlook(self.paper, self.round)
        with suppress(Stopped):  # a full disk: the state is written when there is space again
            self._state(hubstore.WAITING_FOR + whom, detail)

    def _probe(self) -> None:
        """Whether there is space again. Raises CANNOT_WRITE."""
        path = self.folder / "space"
        write_atomic(path, b"\0" * 1_000_000)
        path.unlink()

    # what is told

    def _tell(self, event: str, value: Any) -> None:
        if event in ("round", "step"):
            self._kept(event, value)
        elif event == "results":
            write_atomic(self.folder / "result" / NETWORK, carried(self.events.read()[0]))
        elif event == "model":
            gains = [r.figures["gain"] for r in reversed(value.rounds_) if "gain" in r.figures]
            self.events.add(
                "model",
                rounds=value.n_iter_,
                deviance=getattr(value.result_, "deviance", None),
                converged=bool(value.result_.converged),
                gain=next(iter(gains), None),
            )
        self.look()

    def _kept(self, event: str, done: Done) -> None:
        if done.plan in self._known:  # asked again: its bytes stand with the next round
            return
        self.round += 1
        moved, self._bytes = self._bytes, {}
        self.events.add(
            event,
            n=self.round,
            number=done.number,
            step=done.step,
            plan=done.plan,
            seconds=round(done.seconds, 4),
            loss=done.figures.get("loss"),
            figures={name: done.figures[name] for name in FIGURES if name in done.figures},
            task=done.task,
            bytes=moved,
        )
        self.store.set_round(self.id, self.round)

    def _count(self, out: Mapping[str, int], back: Mapping[str, int]) -> None:
        for site in {*out, *back}:
            moved = self._bytes.setdefault(site, [0, 0])
            moved[0] += out.get(site, 0)
            moved[1] += back.get(site, 0)

    def _before(self) -> None:
        """Before every question."""
        self._asked = self.fewer.clock()
        self.look()

    def look(self) -> None:
        """Raises Cancelled when someone has asked to end the run."""
        now = time.monotonic()
        if not self._cancelled and now - self._looked >= LOOK:
            self._looked = now
            with suppress(Stopped):
                self._cancelled = self.store.run(self.id).cancel
        if self._cancelled:
            raise Cancelled


class _Declined(Refused):
    """A hospital has refused the study."""

    def __init__(self, refused: Mapping[str, Any]) -> None:
        words = "; ".join(
            f"{site} has refused the study" + (f": {plain(one.why)}" if one.why else "")
            for site, one in refused.items()
        )
        super().__init__(
            words,
            code="STUDY_REFUSED",
            site=next(iter(refused)),
            rule="a study runs when every hospital of it has approved it",
            next="talk to the hospital, change the study, or leave the hospital out: "
            "[federation] sites",
        )


def declined(found: Round) -> None:
    """Raises Refused where a hospital has said no."""
    for site, code in found.codes.items():
        raise no(site, code, "does not take the study")
    refused = {s: d for s, (d, _) in found.decisions.items() if d.verdict == REFUSED}
    if refused:
        raise _Declined(refused)


def still(found: Round) -> str:
    """Who has to decide, and who is not there; "" when all have decided."""
    lines = []
    if waiting := found.still("waiting"):
        lines.append(f"to decide: {', '.join(waiting)}")
    if away := found.still("lost"):
        lines.append(f"not connected: {', '.join(away)}")
    return "\n".join(lines)


def _passing(error: PolyclinicError) -> bool:
    """Whether it helps to wait: someone is lost, or a disk is full."""
    codes = set(getattr(error, "refusals", {}).values()) or {error.code}
    return bool(codes & PASSING)


def _here(error: PolyclinicError) -> bool:
    """Whether it is this machine's disk that is full."""
    return error.code == "CANNOT_WRITE" and error.site is None


def _whom(error: PolyclinicError) -> str:
    """For whom, or for what, a run waits."""
    if error.code == "HUB_LOST":
        return HUB
    if _here(error):
        return SPACE
    names = ", ".join(getattr(error, "refusals", {})) or error.site or "the hospitals"
    return f"space at {names}" if error.code == "CANNOT_WRITE" else names


def _pause(attempt: int) -> float:
    return PATIENT[min(attempt, len(PATIENT) - 1)]


def line_of(home: HubHome) -> Line:
    """To the hub's server process."""
    from polyclinic.engines.hubline import HubLine

    line: Line = HubLine(home.socket)
    return line


def _interrupt(driver: Driver) -> None:
    """End a question that waits for its deadline when someone has asked to end the run."""
    main = threading.main_thread()

    def cancel(number: int, frame: object) -> None:
        if not driver.ending.is_set():
            raise Cancelled

    def watch() -> None:
        while main.is_alive():
            time.sleep(2 * LOOK)
            with suppress(PolyclinicError):
                record = driver.store.run(driver.id)
                if record.finished:
                    return
                if record.cancel and main.ident is not None:
                    signal.pthread_kill(main.ident, signal.SIGUSR1)
                    time.sleep(5.0)

    signal.signal(signal.SIGUSR1, cancel)
    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """One process, one run."""
    home, run = HubHome(Path(sys.argv[1])), sys.argv[2]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            driver = Driver(home, run)
        except InputError as error:  # a key or a paper that cannot be read
            home.store.set_state(run, hubstore.FAILED, str(error))
            raise
        _interrupt(driver)
        driver.drive()
    except (KeyboardInterrupt, PolyclinicError, Cancelled) as error:
        print(f"stopped: {type(error).__name__} {error}", file=sys.stderr)
        sys.exit(4)


if __name__ == "__main__":
    main()
