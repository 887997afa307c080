"""Callbacks that watch a fit: a line in the terminal, and logs that TensorBoard shows."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from polyclinic.core.errors import Stopped
from polyclinic.core.fit import Round
from polyclinic.engines.activity import Activity
from polyclinic.engines.clusters import Cluster
from polyclinic.report.event_file import EventFile
from polyclinic.report.progress import Meter, line, tenth, workers

PLAIN_SECONDS = 30.0


class ProgressLine:
    """A line that says how far a fit is: ``net.fit(..., callbacks=[pc.ProgressLine()])``.

    On a terminal it is rewritten; elsewhere there is one for each tenth of the rounds, or after 30
    seconds.

    Parameters
    ----------
    out : where it is written; None: standard error.
    engine : a `polyclinic.cluster`, of which is said what its workers do, also within a round.
    """

    def __init__(self, out: TextIO | None = None, engine: Any = None) -> None:
        self._out, self._meter, self._said, self._wide = out, Meter(), time.monotonic(), 0
        self._engine = engine if isinstance(engine, Cluster) else None
        if self._engine is not None:
            self._engine.activity.watch = self._within
            if self._engine.dashboard:
                print(f"dashboard {self._engine.dashboard}", file=self._out or sys.stderr)

    def __call__(self, done: Round) -> None:
        """Called after every round."""
        found = self._meter.read(done)
        self._say(line(found, done.step), tenth(found), found.round == found.rounds)
        if self._engine is not None and not self._moves:
            self._say(workers(self._engine.activity), tenth(found))

    def _within(self, found: Activity) -> None:
        """Called while a round goes on."""
        self._say(workers(found))

    @property
    def _moves(self) -> bool:
        return (self._out or sys.stderr).isatty()

    def _say(self, text: str, due: bool = False, last: bool = False) -> None:
        out = self._out or sys.stderr
        if self._moves:
            print(f"\r{text:<{self._wide}}", end="\n" if last else "", file=out, flush=True)
            self._wide = 0 if last else len(text)
        elif due or time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            print(text, file=out, flush=True)


class TensorBoard:
    """Logs of a fit that TensorBoard shows: ``net.fit(..., callbacks=[pc.TensorBoard("runs/a")])``.

    Of every round of the fit loss, loss of the patients who are held out, seconds, hospitals, and
    the bytes that left one of them. ``tensorboard --logdir runs`` shows the runs side by side; a
    run that goes on later adds a file to its folder.

    Parameters
    ----------
    folder : of this fit; made where it is missing.

    Raises
    ------
    Stopped : CANNOT_WRITE.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._meter = Meter()
        self._file: EventFile | None = None

    def __call__(self, done: Round) -> None:
        """Called after every round."""
        found = self._meter.read(done)
        if not math.isfinite(found.loss) and not found.rounds:
            return
        numbers = {
            "loss/training": found.loss,
            "loss/held out": found.watched,
            "round/seconds": found.seconds,
            "round/hospitals": float(found.sites),
            "round/bytes of a hospital": float(found.bytes),
        }
        known = {name: value for name, value in numbers.items() if math.isfinite(value)}
        try:
            if self._file is None:
                self._file = EventFile(self.folder)
            self._file.add(found.round, known)
        except OSError as error:
            raise Stopped(
                f"{self.folder}: {error.strerror or error}",
                code="CANNOT_WRITE",
                rule="the numbers of every round are written to the log",
                next="free some space, or use another folder",
                kept="the rounds up to this one, where the fit has a store",
            ) from error
