"""Who trains what where sites answer at their own pace: a state machine without numbers.

A version of the common weights is trained by each site once at most. An answer goes into the
buffer, and its site is free. The buffer is closed when it has `size` answers, or when nobody is
left for whom to wait: then there is a new version, and all who are free train it. A site that is
lost is not waited for; it is asked again with the next version, and is back when it answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Step = tuple[str, Any]  # ("add", staleness) | ("version", number) | ("train", site) | ("stop", "")


@dataclass(frozen=True)
class Desk:
    """Where everybody is.

    version   of the common weights, from 0
    training  by site the version that it trains, in the order in which sites were asked
    buffer    sites whose answers wait for the next version, in the order in which they came
    away      sites that were lost and have not answered since
    """

    sites: tuple[str, ...]
    version: int = 0
    training: Mapping[str, int] | None = None
    buffer: tuple[str, ...] = ()
    away: tuple[str, ...] = ()

    @property
    def asked(self) -> Mapping[str, int]:
        """What each site trains; in the beginning all train version 0."""
        return dict.fromkeys(self.sites, 0) if self.training is None else self.training

    @property
    def awaited(self) -> tuple[str, ...]:
        """Sites whose answer may come."""
        return tuple(site for site in self.asked if site not in self.away)

    def answered(self, site: str, size: int, last: int) -> tuple[Desk, list[Step]]:
        """What follows from an answer; after version `last` nobody trains."""
        stale = self.version - self.asked[site]
        back = tuple(name for name in self.away if name != site)
        desk = replace(self._without(site), buffer=(*self.buffer, site), away=back)
        return desk._closed([("add", stale)], size, last)

    def lost(self, site: str, size: int, last: int) -> tuple[Desk, list[Step]]:
        """What follows from a loss."""
        away = (*(name for name in self.away if name != site), site)
        return replace(self._without(site), away=away)._closed([], size, last)

    def _without(self, site: str) -> Desk:
        return replace(self, training={s: v for s, v in self.asked.items() if s != site})

    def _closed(self, steps: list[Step], size: int, last: int) -> tuple[Desk, list[Step]]:
        if len(self.buffer) < size and self.awaited:
            return self, steps
        if not self.buffer:
            return self, [*steps, ("stop", "")]
        version = self.version + 1
        free = [site for site in self.sites if site not in self.asked and version < last]
        training = {**self.asked, **dict.fromkeys(free, version)}
        steps = [*steps, ("version", version), *(("train", site) for site in free)]
        return replace(self, version=version, training=training, buffer=()), steps

    def to_data(self) -> dict[str, Any]:
        """Plain data."""
        lists: dict[str, Sequence[Any]] = {
            "sites": list(self.sites),
            "training": [list(one) for one in self.asked.items()],
            "buffer": list(self.buffer),
            "away": list(self.away),
        }
        return {**lists, "version": self.version}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Desk:
        return Desk(
            tuple(data["sites"]),
            data["version"],
            {site: version for site, version in data["training"]},
            tuple(data["buffer"]),
            tuple(data["away"]),
        )
