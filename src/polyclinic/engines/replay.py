"""Rounds that overlapped, gone through again in one process, in the order of an earlier fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyclinic.core.contribution import Sum
from polyclinic.core.errors import InputError
from polyclinic.core.overlap import Ages
from polyclinic.core.plan import Plan
from polyclinic.engines.workers import ThreadWorkers


class Replay:
    """Sums with the bytes of those of an earlier fit: an `Overlap`.

    Parameters
    ----------
    workers : the rows, cut as they were then.
    events : number of the round, rows from, up to, and age of the coefficients: `events_` of a fit.

    Raises
    ------
    InputError : WRONG_VALUE for other events.
    """

    def __init__(self, workers: ThreadWorkers, events: Any) -> None:
        self._workers, self._asked = workers, dict[int, dict[int, Plan]]()
        self._ages: dict[int, list[tuple[int, int, int]]] = {}
        try:
            for number, first, stop, age in events:
                self._ages.setdefault(int(number), []).append((int(first), int(stop), int(age)))
        except (TypeError, ValueError):
            raise _other(f"arrivals = {events!r}"[:80]) from None

    def next(self, plans: Sequence[Plan]) -> tuple[Sum, Ages]:
        """The sum of the first plan's round; each part of the rows at the coefficients of then."""
        now = plans[0].round
        self._asked[now] = {plan.round: plan for plan in plans}
        ages = tuple(self._ages.get(now, ()))
        sums = []
        for first, stop, age in ages:
            plan = self._asked.get(now - age, {}).get(now)
            if plan is None:
                raise _other(f"round {now}, {age} rounds late")
            sums.append(self._workers.sum_of(plan, first, stop))
        if not sums or ages[-1][1] != self._workers.rows.n_rows:
            raise _other(f"round {now}")
        for old in [number for number in self._asked if number < now - len(plans)]:
            del self._asked[old]
        total, *others = sums
        for more in others:
            total = total + more
        return total, ages

    def close(self) -> None:
        """Nothing is begun."""


def _other(what: str) -> InputError:
    return InputError(
        f"{what} is not of this fit",
        code="WRONG_VALUE",
        rule="arrivals are the `events_` of a fit with the same rows, partitions, max_rounds and "
        "staleness, from its first round on",
        next="fit as then, or leave arrivals out",
    )
