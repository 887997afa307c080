"""How far a fit is, of its rounds: as a line that a person reads, and for logs."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from polyclinic.core.fit import Round
from polyclinic.engines.activity import Activity
from polyclinic.report.words import duration, plural

FIGURES = ("round", "rounds", "validation_loss", "sites")  # of a round, beside its loss
LEAST = 3  # parts of a line: the round, the loss, and the time left
RECENT = 5  # rounds whose mean says how long those to come take


@dataclass(frozen=True)
class Progress:
    """A fit after one more round.

    round, rounds   of the fit's own step: which one it was, and of how many at most; 0: not known
    loss            mean loss of the round; NaN: none is known
    watched         the same of the patients who are not trained on; NaN: none
    sites, bytes    that took part, and what left one of them
    seconds         that the round took
    left            seconds that the rest takes at most; NaN: not known
    """

    round: int
    rounds: int
    loss: float
    watched: float
    sites: int
    bytes: int
    seconds: float
    left: float


def tenth(found: Progress) -> bool:
    """Whether one more tenth of the rounds is done; False where nobody knows."""
    if not found.rounds:
        return False
    return 10 * found.round // found.rounds > 10 * (found.round - 1) // found.rounds


class Meter:
    """Reads the rounds of one fit, one after the other."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)

    def read(self, done: Round) -> Progress:
        """How far the fit is after a round."""
        figures = done.figures
        self._recent.append(done.seconds)
        round, rounds = int(figures.get("round", done.number)), int(figures.get("rounds", 0))
        each = sum(self._recent) / len(self._recent)
        sites = max((len(leaf["sites"]) for leaf in done.left), default=0)
        return Progress(
            round,
            rounds,
            figures.get("loss", math.nan),
            figures.get("validation_loss", math.nan),
            int(figures.get("sites", sites)),
            sum(leaf["bytes"] for leaf in done.left),
            done.seconds,
            max(rounds - round, 0) * each if rounds else math.nan,
        )


def line(found: Progress, step: str = "", loss: str = "", width: int = 80) -> str:
    """ "round 12 of 50   loss 0.4123   4 hospitals   1.3 s a round   50 s left".

    step   of a fit whose number of rounds is not known
    loss   the loss in other words
    width  beyond which parts are left out, those in the middle first
    """
    parts = [f"round {found.round} of {found.rounds}" if found.rounds else f"round {found.round}"]
    if step and not found.rounds:
        parts.append(step)
    if loss or math.isfinite(found.loss):
        parts.append(loss or f"loss {found.loss:.4g}")
    if math.isfinite(found.watched):
        parts.append(f"held out {found.watched:.4g}")
    if found.rounds:
        parts += [plural(found.sites, "hospital")] if found.sites else []
        parts += [f"{duration(found.seconds)} a round", f"{duration(found.left)} left"]
    return _fitting(parts, width)


def workers(found: Activity, width: int = 80) -> str:
    """ "2 workers   5 of 8 partitions   1.2 M rows/s   3 MB   1 straggler   0.4 s left".

    Rows per second and time are of the round that goes on; bytes, to workers and back, of all.
    """
    over = found.done == found.partitions
    which = f"{found.partitions}" if over else f"{found.done} of {found.partitions}"
    parts = [plural(found.workers, "worker"), f"{which} partitions"]
    if found.rate:
        parts.append(f"{short(found.rate).strip()} rows/s")
    parts.append(f"{short(found.bytes)}B")
    parts += [plural(found.stragglers, "straggler")] if found.stragglers else []
    parts += [f"{found.moved} moved"] if found.moved else []
    parts += [f"{found.lost} lost"] if found.lost else []
    if found.left:
        parts.append(f"{duration(found.left)} left")
    return _fitting(parts, width)


def short(count: float) -> str:
    """ "950 ", "12 k", "3.1 M"."""
    for unit in ("", "k", "M", "G"):
        if count < 1000 or unit == "G":
            break
        count /= 1000
    return f"{count:.1f} {unit}" if unit and count < 10 else f"{count:.0f} {unit}"


def _fitting(parts: list[str], width: int) -> str:
    while len("   ".join(parts)) > width and len(parts) > LEAST:
        del parts[-2]
    return "   ".join(parts)
