"""Starts a driver for every unfinished run that has none, so that runs go on by themselves.

``python -m polyclinic.study.supervisor HUBHOME`` runs beside the hub's server process until its
standard input ends, then ends them. It also takes offers back that nobody waits for any more.
Drivers are processes of their own: where it is killed they go on, and the next one leaves them
alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from polyclinic.core.errors import PolyclinicError
from polyclinic.study.hub import HubHome, Locked

EVERY = 1.0
LONGEST_PAUSE = 60.0
STEADY = 30.0  # seconds after which a driver that ends is not one that cannot start
SEEN_EVERY, WITHDRAW_EVERY = 15.0, 2.0


class Supervisor:
    """See the module. `command` starts a driver; the run's name is added."""

    def __init__(self, home: HubHome, command: list[str] | None = None) -> None:
        self.home = home
        self.command = command or [
            sys.executable,
            "-P",
            "-m",
            "polyclinic.study.driver",
            str(home.folder),
        ]
        self._children: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._failed: dict[str, tuple[int, float]] = {}  # how often in a row, not before when

    def step(self) -> list[str]:
        """Start what has to be started; the runs that were."""
        self._reap()
        started = []
        for run in self.home.store.unfinished():
            due = self._failed.get(run.id, (0, 0.0))[1]
            if run.id in self._children or time.monotonic() < due:
                continue
            if Locked(self.home.run_folder(run.id)).holder() == 0:
                self._start(run.id)
                started.append(run.id)
        return started

    def stop(self) -> None:
        """Have all drivers end; the next ones go on from the last round."""
        for run in self.home.store.unfinished():
            process = Locked(self.home.run_folder(run.id)).holder()
            if process > 0:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)

    def _start(self, run: str) -> None:
        folder = self.home.run_folder(run)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(folder / "driver.log", "ab") as log:
            child = subprocess.Popen(
                [*self.command, run],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children[run] = child, time.monotonic()

    def _reap(self) -> None:
        """Drivers that have ended; one that cannot even start is tried less and less often."""
        for run, (child, since) in list(self._children.items()):
            if child.poll() is None:
                continue
            del self._children[run]
            quick = child.returncode != 0 and time.monotonic() - since < STEADY
            times = self._failed.get(run, (0, 0.0))[0] + 1 if quick else 0
            pause = min(2.0 ** (times - 1), LONGEST_PAUSE) if times else 0.0
            self._failed[run] = times, time.monotonic() + pause


def _note_who_is_there(home: HubHome) -> None:
    """Write down which hospitals are connected now, for `hub status` when they are not."""
    from polyclinic.study.driver import line_of

    while True:
        with suppress(PolyclinicError, OSError):
            home.store.saw(line_of(home).sites())
        time.sleep(SEEN_EVERY)


def _withdraw(home: HubHome) -> None:
    """Take offers back that nobody waits for, for as long as this process runs."""
    from polyclinic.study.driver import line_of
    from polyclinic.study.withdraw import Withdrawals

    withdrawals = Withdrawals(home, line_of(home))
    while True:
        with suppress(PolyclinicError, OSError):
            withdrawals.step()
        time.sleep(WITHDRAW_EVERY)


def main() -> None:
    """Look every second until standard input ends."""
    home = HubHome(Path(sys.argv[1]))
    over = threading.Event()

    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    for work in (_note_who_is_there, _withdraw):
        threading.Thread(target=work, args=[home], daemon=True).start()
    supervisor = Supervisor(home)
    while not over.is_set():
        try:
            supervisor.step()
        except (PolyclinicError, OSError) as error:  # a full disk: look again
            print(f"supervisor: {error}", file=sys.stderr, flush=True)
        over.wait(EVERY)
    with suppress(PolyclinicError, OSError):
        supervisor.stop()


if __name__ == "__main__":
    main()
