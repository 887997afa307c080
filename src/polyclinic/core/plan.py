"""What every site is asked to compute in one round, as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from polyclinic.core import codec
from polyclinic.core.compress import KINDS

T = TypeVar("T")
Combine = Literal["sum", "collect"]
_WORD = re.compile(r"\w+")
LONGEST = 300  # letters of a name: it goes into the logs of whoever is asked


@dataclass(frozen=True)
class Plan:
    """Data only, so that a reviewer can read all of it and two sites get the same bytes.

    task     name of the installed `Task` that computes it, with `version`
    step     the round in words, as an officer reads it: "Newton round"
    values   every number that the computation uses; nested dict of arrays, numbers and texts
    combine  "sum" over sites, or "collect": one contribution per site, allowed by name only
    cohort   the rows it is about; fixed once per analysis
    purpose  what the study is for, in its own words; a site's policy says what it may read for it
    round    number of the round; `parent` is the round hash of the plan before it
    to       the sites that are asked; empty = all
    compress "float16" or "int8": leaves that may be rounded leave as rounded differences; "": no
    base     with `compress`, the content hash of the plan from whose answer the differences are
             taken, as far as rounding let it through; "": from zero
    row      place in that answer, along the first axis of its leaves
    """

    task: str
    values: Mapping[str, Any]
    step: str = ""
    version: int = 1
    combine: Combine = "sum"
    cohort: Mapping[str, Any] | None = None
    purpose: str = ""
    round: int = 0
    parent: str = ""
    to: tuple[str, ...] = ()
    compress: str = ""
    base: str = ""
    row: int = 0
    _derived: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def at(self, round: int, parent: str) -> Plan:
        return replace(self, round=round, parent=parent, _derived={})

    def exact(self) -> Plan:
        """The same without rounding."""
        return replace(self, compress="", base="", row=0, _derived={}) if self.compress else self

    def once(self, name: str, make: Callable[[], T]) -> T:
        """A value derived from the plan, computed once and shared by all partitions."""
        if name not in self._derived:
            self._derived[name] = make()
        found: T = self._derived[name]
        return found

    def looked_up(self, kept: Callable[[str], Mapping[str, Any] | None]) -> None:
        """Let tasks read what the site that answers keeps, by the `bare_hash` of a plan."""
        self._derived["kept"] = kept

    def informed(self, known: Mapping[str, Any]) -> None:
        """Let tasks read what is known of all rows of the site that answers."""
        self._derived["known"] = known

    @property
    def known(self) -> Mapping[str, Any]:
        """What `informed` has told, or nothing."""
        found: Mapping[str, Any] = self._derived.get("known", {})
        return found

    def kept(self, after: str) -> Mapping[str, Any] | None:
        """What the site kept at the round of an earlier plan; None: nothing, or none answers."""
        look = self._derived.get("kept")
        found: Mapping[str, Any] | None = look(after) if look and after else None
        return found

    def content(self) -> dict[str, Any]:
        """What is computed, without its words and its place: asking again is the same content."""
        return {**self._sums(), **(self._rounding() if self.compress else {})}

    def _sums(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "version": self.version,
            "values": self.values,
            "combine": self.combine,
            "cohort": self.cohort,
        }

    def _rounding(self) -> dict[str, Any]:
        return {"compress": self.compress, "base": self.base, "row": self.row}

    @property
    def words(self) -> set[str]:
        """Every word in its texts and keys: among them the columns that any task could read."""
        return self.once("words", lambda: _words([self.values, self.cohort or {}]))

    @property
    def content_hash(self) -> str:
        return self.once("content_hash", lambda: codec.digest(self.content()))

    @property
    def bare_hash(self) -> str:
        """Of what is asked, over whatever cohort: what an algorithm knows of its own plan."""
        if self.cohort is None and not self.compress:
            return self.content_hash
        return self.once("bare_hash", lambda: codec.digest({**self._sums(), "cohort": None}))

    @property
    def question(self) -> str:
        """The sums whatever becomes of them: rounded or not, added up or one answer per site."""
        return self.once("question", lambda: codec.digest({**self._sums(), "combine": "any"}))

    @property
    def round_hash(self) -> str:
        place = {"content": self.content_hash, "round": self.round, "parent": self.parent}
        return self.once("round_hash", lambda: codec.digest(place))

    def to_bytes(self) -> bytes:
        return codec.encode(self.to_data())

    def to_data(self) -> dict[str, Any]:
        """All of it, as it travels."""
        place = {"step": self.step, "purpose": self.purpose, "to": list(self.to)}
        return {**self.content(), **place, "round": self.round, "parent": self.parent}

    @staticmethod
    def from_bytes(data: bytes) -> Plan:
        """The plan in `data`. Raises CodecError for an absent, extra or wrong field."""
        return Plan.from_data(codec.decode(data))

    @staticmethod
    def from_data(fields: Any) -> Plan:
        """The plan of decoded bytes. Raises CodecError for an absent, extra or wrong field."""
        kinds: dict[str, tuple[type, ...]] = {
            "task": (str,),
            "version": (int,),
            "step": (str,),
            "values": (dict,),
            "combine": (str,),
            "cohort": (dict, type(None)),
            "to": (list,),
            "purpose": (str,),
            "round": (int,),
            "parent": (str,),
        }
        if isinstance(fields, dict) and "compress" in fields:
            kinds |= {"compress": (str,), "base": (str,), "row": (int,)}
        if (
            not isinstance(fields, dict)
            or set(fields) != set(kinds)
            or not all(type(fields[name]) in kind for name, kind in kinds.items())
            or fields["combine"] not in ("sum", "collect")
            or not all(isinstance(site, str) for site in fields["to"])
            or any(len(fields[name]) > LONGEST for name in ("task", "step", "parent"))
            or ("compress" in fields and not _rounds(fields))
        ):
            raise codec.CodecError("a plan has the wrong fields", code="BAD_MESSAGE")
        return Plan(**{**fields, "to": tuple(fields["to"])})


def _words(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value, *_WORD.findall(value)}
    if isinstance(value, codec.Fixed):
        if "words" not in value.derived:
            value.derived["words"] = _words(dict(value))
        found: set[str] = value.derived["words"]
        return found
    if isinstance(value, Mapping):
        return _words(list(value)).union(*map(_words, value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*map(_words, value))
    return set()


def _rounds(fields: Mapping[str, Any]) -> bool:
    known = fields["compress"] in KINDS and fields["combine"] == "sum"
    return known and len(fields["base"]) <= LONGEST and fields["row"] >= 0
