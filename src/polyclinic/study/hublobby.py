"""What the coordinator says to hospitals before and beside the questions of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

from polyclinic.core import codec
from polyclinic.core.codes import NEXT, PASSING, RULES
from polyclinic.core.errors import PolyclinicError, Refused, Stopped
from polyclinic.governance.paper import (
    APPROVED,
    DONE,
    PROTOCOL,
    REFUSED,
    WITHDRAWN,
    Decision,
    Notice,
    Paper,
)
from polyclinic.governance.signing import unhex
from polyclinic.privacy.secure import Identity
from polyclinic.privacy.secure.keyring import THRESHOLDS

VERSION = version("polyclinic")
WAITING, LOST = "waiting", "lost"
LETTER_SECONDS = 10.0


class Line(Protocol):
    """What is needed of `engines.hubline.HubLine`."""

    def sites(self) -> Mapping[str, Any]: ...
    def ask(self, messages: Mapping[str, bytes], timeout: float) -> Mapping[str, codec.Bytes]: ...
    def answers(
        self, messages: Mapping[str, bytes], timeout: float
    ) -> Iterable[tuple[str, codec.Bytes]]: ...


@dataclass(frozen=True)
class Hello:
    """What a hospital says of itself."""

    site: str
    version: str
    protocol: int
    public: bytes
    codebook: str
    min_patients: int
    threshold: str

    @property
    def same_version(self) -> bool:
        """Whether hub and hospital speak the same language."""
        return (self.version, self.protocol) == (VERSION, PROTOCOL)


@dataclass
class Round:
    """One round of offers.

    states     by hospital: "approved", "refused", "waiting" or "lost"
    decisions  signed ones, opened
    codes      of hospitals that would not even show the offer to anyone
    """

    states: dict[str, str] = field(default_factory=dict)
    decisions: dict[str, tuple[Decision, bytes]] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)

    def still(self, state: str) -> list[str]:
        """The hospitals in `state`."""
        return [site for site, found in self.states.items() if found == state]


def hellos(
    line: Line, sites: Iterable[str], seconds: float = LETTER_SECONDS
) -> dict[str, Hello | None]:
    """What each of `sites` says of itself; None where nothing came, or nothing that can be read.

    Raises
    ------
    Stopped : HUB_LOST.
    """
    names = list(sites)
    connected = set(line.sites())
    there = [name for name in names if name in connected]
    letter = codec.encode({"kind": "HELLO"})
    replies = line.ask(dict.fromkeys(there, letter), seconds) if there else {}
    return {name: _hello(name, replies.get(name)) for name in names}


def _hello(site: str, reply: codec.Bytes | None) -> Hello | None:
    value = _decoded(reply)
    texts, numbers = ("site", "version", "public", "codebook", "threshold"), ("protocol",)
    kinds = dict.fromkeys(texts, str) | dict.fromkeys((*numbers, "min_patients"), int)
    if any(type(value.get(name)) is not kind for name, kind in kinds.items()):
        return None
    if value["site"] != site or len(value["version"]) > 64 or value["min_patients"] < 1:
        return None
    if value["threshold"] not in THRESHOLDS:
        return None
    return Hello(
        site,
        value["version"],
        value["protocol"],
        unhex(value["public"]),
        value["codebook"],
        value["min_patients"],
        value["threshold"],
    )


class Lobby:
    """The coordinator's letters about one paper."""

    def __init__(self, line: Line, identity: Identity, paper: Paper) -> None:
        self.line, self.paper, self._identity = line, paper, identity
        self._offer = codec.encode({"kind": "OFFER", "paper": paper.signed(identity).hex()})

    def offer(self) -> Round:
        """Offer the paper to every hospital, also to those that have decided.

        Raises
        ------
        Stopped : HUB_LOST.
        """
        connected = set(self.line.sites())
        there = [site for site in self.paper.sites if site in connected]
        asked = dict.fromkeys(there, self._offer)
        replies = self.line.ask(asked, LETTER_SECONDS) if asked else {}
        found = Round()
        for site in self.paper.sites:
            self._read(site, _decoded(replies.get(site)), found)
        return found

    def _read(self, site: str, value: dict[str, Any], found: Round) -> None:
        state, code = value.get("state"), _code(value)
        if code and code not in PASSING:
            found.states[site], found.codes[site] = REFUSED, code
        elif state == WAITING:
            found.states[site] = WAITING
        elif state in (APPROVED, REFUSED):
            found.states[site] = self._decision(site, state, value.get("decision"), found)
        else:
            found.states[site] = LOST

    def _decision(self, site: str, state: str, signed: Any, found: Round) -> str:
        """A verdict counts when the hospital has signed it for this very paper."""
        try:
            data = bytes.fromhex(signed)
            decision = Decision.open(data, self.paper.sites[site])
        except (PolyclinicError, codec.CodecError, TypeError, ValueError, KeyError):
            found.codes[site] = "BAD_SIGNATURE"
            return REFUSED
        if (decision.site, decision.study, decision.verdict) != (site, self.paper.hash, state):
            found.codes[site] = "BAD_SIGNATURE"
            return REFUSED
        found.decisions[site] = decision, data
        return state

    def hello(self, seconds: float = LETTER_SECONDS) -> dict[str, Hello]:
        """What all hospitals say of themselves.

        Raises
        ------
        Stopped : SITE_LOST naming who did not answer, HUB_LOST.
        Refused : VERSION_DIFFERS, KEY_SUBSTITUTED, CODEBOOK_DIFFERS.
        """
        found = hellos(self.line, self.paper.sites, seconds)
        if silent := [site for site, one in found.items() if one is None]:
            raise lost(silent)
        answers = {site: one for site, one in found.items() if one is not None}
        for site, one in answers.items():
            self._check(site, one)
        return answers

    def _check(self, site: str, one: Hello) -> None:
        if not one.same_version:
            raise version_differs(site, one.version, one.protocol)
        if one.public != self.paper.sites[site]:
            raise no(site, "KEY_SUBSTITUTED", "answers with another key than it joined with")
        if one.codebook and one.codebook != self.paper.codebook.content_hash:
            raise no(site, "CODEBOOK_DIFFERS", "reads its data by another codebook")

    def done(self, runs: Iterable[str]) -> None:
        """Let the hospitals forget what they hold of finished runs; who is away forgets later."""
        for run in runs:
            self._tell(self.paper.sites, DONE, run)

    def withdraw(self, sites: Iterable[str]) -> list[str]:
        """Tell connected hospitals that nobody waits for their decision; who has heard it.

        Raises
        ------
        Stopped : HUB_LOST.
        """
        replies = self._tell(sites, WITHDRAWN)
        return [site for site, reply in replies.items() if _code(_decoded(reply)) not in PASSING]

    def _tell(self, sites: Iterable[str], what: str, run: str = "") -> Mapping[str, codec.Bytes]:
        notices = {
            site: Notice(site, what, self.paper.hash, run).signed(self._identity) for site in sites
        }
        return self.line.ask(notices, LETTER_SECONDS)


def _decoded(reply: codec.Bytes | None) -> dict[str, Any]:
    try:
        value = codec.decode(reply) if reply is not None else {}
    except codec.CodecError:
        return {}
    return value if isinstance(value, dict) else {}


def _code(value: Mapping[str, Any]) -> str:
    """The code in an answer that nobody has signed: one of those that there are, or ""."""
    code = value.get("code")
    if not isinstance(code, str):
        return ""
    return code if code in RULES else "SITE_FAILED"


def lost(sites: Iterable[str], code: str = "SITE_LOST") -> Stopped:
    """The error of hospitals that do not answer."""
    names = ", ".join(sites)
    what = f"{names} cannot write" if code == "CANNOT_WRITE" else f"{names} did not answer"
    return Stopped(
        what if names else "the hub is not there",
        code=code,
        site=names or None,
        rule=RULES.get(code, ""),
        next=NEXT.get(code, ""),
        kept="everything up to the last round",
    )


def lost_sites(error: PolyclinicError) -> list[str]:
    """The hospitals of an error that `lost` or a transport has made."""
    return error.site.split(", ") if error.site else []


def no(site: str, code: str, what: str) -> Refused:
    """A hospital with which a run cannot be made."""
    return Refused(
        f"{site} {what}",
        code=code,
        site=site,
        rule=RULES.get(code, ""),
        next=NEXT.get(code, "ask the hospital"),
        kept="nothing was asked",
    )


def version_differs(site: str, theirs: str, protocol: int) -> Refused:
    """Hub and hospital are not of one version."""
    return Refused(
        f"{site} has Polyclinic {theirs} (protocol {protocol}), the hub has "
        f"{VERSION} (protocol {PROTOCOL})",
        code="VERSION_DIFFERS",
        site=site,
        rule="hub and hospitals run the same version: the same question has then the same answer",
        next="install the same version at both, then give the same command again",
        kept="nothing was asked",
    )
