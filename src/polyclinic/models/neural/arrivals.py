"""In which order the answers of sites come that nobody waits for, where that is said beforehand.

A clock: in one trust domain no time passes between sites, so how long each trains is given, and
what comes first follows from it. A list: the order of an earlier run, whose bytes come out again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.models.neural.batches import steps_of
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.turns import trains

Event = tuple[str, int, str]  # site, version that it trained, "" or the code of its loss
Seconds = Mapping[str, float] | Callable[[str, int], float]


class Arrivals(Protocol):
    """Which site's answer comes next.

    next     the event after `past`, among sites that train (by site the version); None: any
    seconds  that a site takes for a version; None: no time is told
    """

    def next(
        self, past: Sequence[Event], training: Mapping[str, int], due: Mapping[str, float]
    ) -> Event | None: ...
    def seconds(self, site: str, version: int) -> float | None: ...


@dataclass(frozen=True)
class Clock:
    """Simulated time.

    step   seconds of a local step at each site, or a function of site and version
    steps  local steps of a round at each site
    """

    step: Seconds
    steps: Mapping[str, int]

    def next(
        self, past: Sequence[Event], training: Mapping[str, int], due: Mapping[str, float]
    ) -> Event | None:
        """Whoever is ready first; of several the first by name."""
        site = min(training, key=lambda name: (due[name], name))
        return site, training[site], ""

    def seconds(self, site: str, version: int) -> float:
        """Of the local steps of a round."""
        each = self.step(site, version) if callable(self.step) else self.step.get(site, 0.0)
        if not np.isfinite(each) or each <= 0:
            raise InputError(
                f"seconds of a local step at {site}: {each!r}",
                code="WRONG_VALUE",
                rule="every site has its seconds of a local step, above 0",
                next="correct the value",
            )
        return float(each) * self.steps[site]


@dataclass(frozen=True)
class Replay:
    """The order of an earlier run; after its end as they come."""

    events: tuple[Event, ...]

    def next(
        self, past: Sequence[Event], training: Mapping[str, int], due: Mapping[str, float]
    ) -> Event | None:
        """The event in the same place. Raises InputError (WRONG_VALUE) where it cannot come."""
        if len(past) >= len(self.events):
            return None
        site, version, code = self.events[len(past)]
        if training.get(site) != version:
            raise InputError(
                f"event {len(past) + 1} is of {site} and version {version}, which it does not "
                "train then",
                code="WRONG_VALUE",
                rule="a run is replayed with the model, sites and events of the earlier one",
                next="correct the value",
            )
        return site, version, code

    def seconds(self, site: str, version: int) -> float | None:
        """Nothing."""
        return None


def arrivals_of(
    given: Any, spec: NeuralSpec, rows: Mapping[str, int] | None
) -> Clock | Replay | None:
    """What `Embedded.arrivals` says. `rows`: of each site; None: not known here.

    Raises
    ------
    InputError : WRONG_VALUE for anything else, and for a clock over sites that keep their rows.
    """
    if given is None:
        return None
    if isinstance(given, Mapping) or callable(given):
        if rows is None:
            raise _wrong("a clock over hospitals", "simulated time is of arrays in one domain")
        return Clock(given, {site: steps_of(spec.strategy, n, site) for site, n in rows.items()})
    try:
        return Replay(tuple((str(s), int(v), str(code)) for s, v, code in given))
    except (TypeError, ValueError):
        raise _wrong(
            f"arrivals = {given!r}"[:80], "seconds by site, or `events_` of a fit"
        ) from None


def times(spec: NeuralSpec, clock: Clock, rounds: int) -> NDArray[np.float64]:
    """Simulated time at the end of each round of a strategy that waits for all, (rounds,)."""
    sites = tuple(clock.steps)
    each = [
        max(clock.seconds(site, t) for site in sites if trains(spec, site, t))
        for t in range(rounds)
    ]
    return np.cumsum(each)


def _wrong(what: str, rule: str) -> InputError:
    return InputError(what, code="WRONG_VALUE", rule=rule, next="correct the value")
