"""How much of a data set's privacy budget is spent.

Every release with noise is one event, as plain data. The events of a data set are composed together
by the accountant, never by adding up epsilons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyclinic.core import codec
from polyclinic.core.errors import InputError

Event = Mapping[str, Any]
EpsilonOf = Callable[[Sequence[Event], float], float]


@dataclass(frozen=True)
class Budget:
    """The most that all releases of one data set may cost together.

    epsilon     at most; 0 allows no release with noise
    delta       at which epsilon is meant, 0 < delta < 1
    epsilon_of  the accountant; by default `polyclinic.privacy.accounting.epsilon`
    """

    epsilon: float
    delta: float
    epsilon_of: EpsilonOf | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.epsilon < math.inf and 0 < self.delta < 1):
            raise InputError(
                "the privacy budget is not one",
                code="BAD_BUDGET",
                rule="epsilon is a number of 0 or more, delta lies between 0 and 1",
                next="set both in the site's policy, for example epsilon 3, delta 1e-6",
            )

    def spent(self, events: Sequence[Event]) -> float:
        """Epsilon of all events together."""
        if not events:
            return 0.0
        return (self.epsilon_of or _accountant())(grouped(events), self.delta)

    def fits(self, events_spent: Sequence[Event], new_event: Event) -> bool:
        """Whether one more event stays within the budget. An unclear answer is a no."""
        try:
            events = [*events_spent, new_event]
            if self.epsilon_of is not None:
                return self.spent(events) <= self.epsilon
            from polyclinic.privacy import accounting

            return accounting.within(grouped(events), self.delta, self.epsilon)
        except ArithmeticError:  # next to no noise: more than a number can hold
            return False

    def left(self, events: Sequence[Event]) -> float:
        """Epsilon that is not spent; composition makes it a bound, not a sum to be shared out."""
        return max(0.0, self.epsilon - self.spent(events))


def grouped(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The same events, identical ones as one with their `times` added up.

    Raises
    ------
    InputError : BAD_EVENT when `times` is not a whole number of 1 or more.
    """
    groups: dict[bytes, dict[str, Any]] = {}
    for event in events:
        times = event.get("times", 1)
        if type(times) is not int or times < 1:
            raise InputError(
                "a privacy event does not say how often it happened",
                code="BAD_EVENT",
                rule="times is a whole number of 1 or more",
            )
        kind = {name: value for name, value in event.items() if name != "times"}
        group = groups.setdefault(codec.encode(kind), {**kind, "times": 0})
        group["times"] += times
    return [groups[key] for key in sorted(groups)]


def _accountant() -> EpsilonOf:
    from polyclinic.privacy import accounting  # only sites with a budget need its library

    return accounting.epsilon
