"""What a site allows, as a value: an engine passes it on and cannot change it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """A site's rules.

    min_patients  patients that must stand behind every number that leaves (default 5)
    collect       tasks that may answer for this site alone, by name; ("*",) allows all
    """

    min_patients: int = 5
    collect: tuple[str, ...] = ("*",)

    def allows_collect(self, task: str) -> bool:
        return "*" in self.collect or task in self.collect
