"""One run of one site in its journal: rows by name, and the states that an index goes through."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from polyclinic.core import codec
from polyclinic.privacy.secure.journal import Journal

PLANNED, UPLOADED, AGREED, REVEALED = "PLANNED", "UPLOADED", "AGREED", "REVEALED"
CLOSED = "CLOSED"

Changes = dict[tuple[Any, ...], "Mapping[str, Any] | bytes | None"]


@dataclass(frozen=True)
class Row:
    """A row as it was read: `value` is None where there is none."""

    name: tuple[Any, ...]
    raw: bytes | None

    @cached_property
    def value(self) -> dict[str, Any] | None:
        value: dict[str, Any] | None = None if self.raw is None else codec.decode(self.raw)
        return value


class Records:
    """Rows of one site and run.

    ("run",)                      members of the run, the index that is open, and the sites over
                                  which a total was opened
    ("batch", batch)              stage of the set-up, own ADVERTISE message, sealing key until used
    ("adverts", batch)            the ADVERTISE messages of all sites
    ("secret", batch, index)      own secrets until the upload, shares until they are revealed
    ("index", batch, index)       state, and what was planned, uploaded and agreed
    ("round", round)              the plan of a round, its last attempt, the sites agreed upon
    ("reply", ..., kind)          the bytes of an answer, to send them again
    """

    def __init__(self, journal: Journal, site: str, run: str) -> None:
        self._journal, self._site, self._run = journal, site, run

    def row(self, *name: Any) -> Row:
        return Row(name, self._journal.get(self._key(name)))

    def reply(self, *name: Any) -> bytes | None:
        """The stored bytes of an answer."""
        return self._journal.get(self._key(("reply", *name)))

    def write(
        self,
        changes: Changes,
        seen: Sequence[Row] = (),
    ) -> bool:
        """All changes in one durable step, unless a row of `seen` has changed meanwhile."""
        raw = {
            self._key(name): codec.encode(value) if isinstance(value, Mapping) else value
            for name, value in changes.items()
        }
        return self._journal.write(raw, {self._key(row.name): row.raw for row in seen})

    def names(self, kind: str) -> list[tuple[Any, ...]]:
        """Names of all rows of a kind."""
        prefix = self._key((kind, ""))[:-3]
        return [tuple(json.loads(key)[2:]) for key in self._journal.keys(prefix)]

    def _key(self, name: Sequence[Any]) -> str:
        return json.dumps([self._site, self._run, *name], separators=(",", ":"))
