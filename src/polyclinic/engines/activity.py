"""What a cluster is doing, for who watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

OFTEN = 0.2  # seconds between two looks


@dataclass
class Activity:
    """Of the round that is going on, or of the last one; `copied`, `moved`, `lost` and `bytes` of
    all rounds so far.

    workers, partitions, done  that take part, and partitions that have been added up
    rows, rows_done            of all partitions, and of those
    seconds                    since the round has begun, or that it took
    stragglers                 workers whose partitions others compute as well, in this round
    copied, moved              partitions that were computed twice, and that have changed hands
    lost                       workers
    bytes                      to workers and back
    rounds                     that are over
    watch                      called with this while rounds go on, now and then
    """

    workers: int = 0
    partitions: int = 0
    done: int = 0
    rows: int = 0
    rows_done: int = 0
    seconds: float = 0.0
    stragglers: int = 0
    copied: int = 0
    moved: int = 0
    lost: int = 0
    bytes: int = 0
    rounds: int = 0
    watch: Callable[[Activity], None] | None = field(default=None, repr=False)
    _begun: float = field(default=0.0, repr=False)
    _shown: float = field(default=0.0, repr=False)

    @property
    def rate(self) -> float:
        """Rows per second of this round; 0: not known yet."""
        return self.rows_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float:
        """Seconds that the rest of the round takes at this rate; 0 where it is over."""
        return (self.rows - self.rows_done) / self.rate if self.rate else 0.0

    def begin(self, workers: int, partitions: int, rows: int) -> None:
        """A round begins."""
        self.workers, self.partitions, self.rows = workers, partitions, rows
        self.done = self.rows_done = self.stragglers = 0
        self._begun = time.monotonic()
        self._tell()

    def add(self, partitions: int, rows: int) -> None:
        """Some of its partitions are added up."""
        self.done, self.rows_done = self.done + partitions, self.rows_done + rows
        self._tell()

    def end(self) -> None:
        """The round is over."""
        self.rounds += 1
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        self.seconds = now - self._begun
        if self.watch is not None and now - self._shown > OFTEN:
            self._shown = now
            self.watch(self)
