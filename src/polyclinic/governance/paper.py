"""The papers of a study across hospitals: the study as it is offered, each hospital's decision, and
the envelope of every question.

The coordinator signs what it offers, a hospital's officer signs the decision, and both signatures
are over the hash of the same content: the study file, the codebook and the keys of all hospitals
that take part. A question comes in an envelope that the coordinator has signed for one hospital,
one run of one study, and one place in the order of that run's questions; the answer comes in one
that the hospital has signed for this very question.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from polyclinic.core import codec
from polyclinic.core.codec import Bytes
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.data.codebook import Codebook
from polyclinic.governance.signing import signed_by, unhex
from polyclinic.governance.study_file import Session, Study
from polyclinic.privacy.secure import Identity, Roster

PROTOCOL = 1  # what hub and sites say to each other; another number is another language
_OFFER, _DECISION = "polyclinic offer 1", "polyclinic decision 1"
_QUESTION, _ANSWER = "polyclinic question 1", "polyclinic answer 1"
_NOTICE = "polyclinic notice 1"
DONE, WITHDRAWN = "done", "withdrawn"
ENVELOPE, REPLY = b"PCE1", b"PCA1"
_LONGEST_HEAD = 4096
APPROVED, REFUSED = "approved", "refused"


@dataclass(frozen=True)
class Paper:
    """A study as it is offered.

    study        the study file, or what a session may ask
    codebook     the columns as the coordinator understands them
    sites        name of every hospital that takes part -> its public key
    hub          name of the hub
    coordinator  public key of who asks
    instead_of   hash of the paper that all hospitals have approved, where this one goes on
                 without some of them; "": it is that paper itself
    """

    study: Study | Session
    codebook: Codebook
    sites: Mapping[str, bytes]
    hub: str
    coordinator: bytes
    instead_of: str = ""

    @cached_property
    def roster(self) -> Roster:
        """The hospitals' keys, for secure sums."""
        return Roster(self.sites)

    @cached_property
    def hash(self) -> str:
        """What is approved: any change of the content is another study."""
        return codec.digest(self._content())

    @property
    def short_hash(self) -> str:
        """The hash as people compare it."""
        return f"{self.hash[:4]} {self.hash[4:8]}"

    @property
    def family(self) -> str:
        """The hash that this paper and all that go on without hospitals of it have in common."""
        return self.instead_of or self.hash

    def over(self, sites: Iterable[str]) -> Paper:
        """The same over these hospitals alone, as the run goes on when the others are lost."""
        keys = {site: self.sites[site] for site in sites}
        return replace(self, sites=keys, instead_of=self.hash)

    def question(self, site: str, run: str, n: int, message: bytes) -> Question:
        """A question of this study."""
        return Question(site, self.hash, run, n, message)

    def signed(self, identity: Identity) -> bytes:
        """The offer as bytes, signed by the coordinator."""
        signature = identity.sign(codec.encode([_OFFER, self._content()]))
        return codec.encode({"offer": self._content(), "signature": signature.hex()})

    @staticmethod
    def open(data: bytes, coordinator: bytes) -> Paper:
        """The study in an offer.

        Raises
        ------
        PolyclinicError : BAD_MESSAGE for bytes of another form, BAD_SIGNATURE for another signer.
        """
        value = codec.decode(data)
        if not isinstance(value, dict) or set(value) != {"offer", "signature"}:
            raise bad_message("an offer")
        content = value["offer"]
        if not signed_by(coordinator, unhex(value["signature"]), codec.encode([_OFFER, content])):
            raise bad_signature("the offer is not signed by the coordinator of this hub")
        try:
            paper = Paper(
                (Session if "session" in content["study"] else Study).model_validate(
                    content["study"]
                ),
                Codebook.from_dict(content["codebook"]),
                {site: bytes.fromhex(key) for site, key in content["sites"].items()},
                content["hub"],
                coordinator,
                content["instead_of"],
            )
            _ = paper.roster
            if not all(isinstance(text, str) for text in (paper.hub, paper.instead_of)):
                raise TypeError("a hub has a name, and a paper a hash")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise bad_message("an offer") from error
        if codec.digest(paper._content()) != codec.digest(content):
            raise bad_message("an offer")
        return paper

    def _content(self) -> dict[str, Any]:
        return {
            # Where the coordinator computes is nobody else's matter.
            "study": self.study.model_dump(
                by_alias=True, mode="json", exclude={"engine": {"device"}}
            ),
            "codebook": self.codebook.to_dict(),  # keeps the order of columns and levels
            "sites": {site: key.hex() for site, key in sorted(self.sites.items())},
            "hub": self.hub,
            "coordinator": self.coordinator.hex(),
            "instead_of": self.instead_of,
        }


@dataclass(frozen=True)
class Decision:
    """What a hospital's officer has decided about a study.

    verdict  "approved" or "refused"
    why      in words, of a refusal
    """

    site: str
    study: str
    verdict: str
    why: str = ""

    def signed(self, identity: Identity) -> bytes:
        """The decision as bytes, signed with the hospital's key."""
        signature = identity.sign(codec.encode([_DECISION, self._content()]))
        return codec.encode({"decision": self._content(), "signature": signature.hex()})

    @staticmethod
    def open(data: bytes, public: bytes) -> Decision:
        """The decision in signed bytes. Raises BAD_MESSAGE or BAD_SIGNATURE."""
        value = codec.decode(data)
        if not isinstance(value, dict) or set(value) != {"decision", "signature"}:
            raise bad_message("a decision")
        content = value["decision"]
        if not signed_by(public, unhex(value["signature"]), codec.encode([_DECISION, content])):
            raise bad_signature("a decision is not signed by the hospital")
        texts = isinstance(content, dict) and all(isinstance(v, str) for v in content.values())
        if not texts or set(content) != {"site", "study", "verdict", "why"}:
            raise bad_message("a decision")
        if content["verdict"] not in (APPROVED, REFUSED):
            raise bad_message("a decision")
        return Decision(**content)

    def _content(self) -> dict[str, str]:
        return {"site": self.site, "study": self.study, "verdict": self.verdict, "why": self.why}


@dataclass(frozen=True)
class Notice:
    """What the coordinator tells a hospital, beside its questions.

    what  "done": a run is over, and what is held of it can be let go; "withdrawn": nobody waits for
          a decision about the study any more
    run   of "done"; "": the study as a whole
    """

    site: str
    what: str
    study: str
    run: str = ""

    def signed(self, identity: Identity) -> bytes:
        """The notice as bytes, signed by the coordinator."""
        content = {"site": self.site, "what": self.what, "study": self.study, "run": self.run}
        signature = identity.sign(codec.encode([_NOTICE, content])).hex()
        return codec.encode({"notice": content, "signature": signature})

    @staticmethod
    def open(value: Mapping[str, Any], coordinator: bytes) -> Notice:
        """The notice in decoded bytes. Raises BAD_MESSAGE or BAD_SIGNATURE."""
        if set(value) != {"notice", "signature"}:
            raise bad_message("a notice")
        content = value["notice"]
        if not signed_by(coordinator, unhex(value["signature"]), codec.encode([_NOTICE, content])):
            raise bad_signature("a notice is not signed by the coordinator of this hub")
        texts = isinstance(content, dict) and all(isinstance(v, str) for v in content.values())
        if not texts or set(content) != {"site", "what", "study", "run"}:
            raise bad_message("a notice")
        return Notice(**content)


@dataclass(frozen=True)
class Question:
    """One message to one hospital, as its envelope says.

    study  hash of the paper
    run    name of the run, used once
    n      place among the questions of the run, from 1; it only grows
    """

    site: str
    study: str
    run: str
    n: int
    message: Bytes

    @cached_property
    def sha256(self) -> str:
        """Of the message."""
        return hashlib.sha256(self.message).hexdigest()

    def likewise(self, site: str, n: int) -> Question:
        """The same message to another hospital; a long one is not hashed again."""
        found = replace(self, site=site, n=n)
        found.__dict__["sha256"] = self.sha256
        return found

    def sealed(self, identity: Identity) -> bytes:
        """The envelope, signed by the coordinator."""
        place = {"site": self.site, "study": self.study, "run": self.run, "n": self.n}
        head = {**place, "sha256": self.sha256}
        return _sealed(ENVELOPE, _QUESTION, head, self.message, identity)

    @staticmethod
    def open(data: Bytes, coordinator: bytes) -> Question:
        """The question in an envelope. Raises BAD_MESSAGE or BAD_SIGNATURE."""
        head, message = _unsealed(ENVELOPE, _QUESTION, data, coordinator)
        sha256 = head.pop("sha256")
        question = Question(**_checked(head, _PLACE), message=message)
        if sha256 != question.sha256:
            raise bad_signature("a question is not the one that was signed")
        return question

    def answered(self, data: Bytes, public: bytes) -> Bytes:
        """The message in the answer to this question, signed with the hospital's key `public`.

        Raises
        ------
        InputError : BAD_MESSAGE, BAD_SIGNATURE.
        """
        answer = Answer.open(data, public)
        if answer.place != Answer.to(self, b"").place:
            raise bad_signature("an answer belongs to another question")
        return answer.message


@dataclass(frozen=True)
class Answer:
    """What a hospital says to a question, a refusal too.

    site, study, run, n  the question's
    asked                SHA-256 of the question's message
    """

    site: str
    study: str
    run: str
    n: int
    asked: str
    message: Bytes

    @staticmethod
    def to(question: Question, message: Bytes) -> Answer:
        """The answer to `question`."""
        place = (question.site, question.study, question.run, question.n)
        return Answer(*place, question.sha256, message)

    @property
    def place(self) -> dict[str, Any]:
        """Which question it answers."""
        place = {"site": self.site, "study": self.study, "run": self.run, "n": self.n}
        return {**place, "asked": self.asked}

    def signed(self, identity: Identity) -> bytes:
        """The answer as bytes, signed with the hospital's key."""
        head = {**self.place, "sha256": hashlib.sha256(self.message).hexdigest()}
        return _sealed(REPLY, _ANSWER, head, self.message, identity)

    @staticmethod
    def open(data: Bytes, public: bytes) -> Answer:
        """The answer in signed bytes. Raises BAD_MESSAGE or BAD_SIGNATURE."""
        head, message = _unsealed(REPLY, _ANSWER, data, public)
        if head.pop("sha256") != hashlib.sha256(message).hexdigest():
            raise bad_signature("an answer is not the one that was signed")
        return Answer(**_checked(head, {**_PLACE, "asked": str}), message=message)


_PLACE = {"site": str, "study": str, "run": str, "n": int}


def _sealed(
    magic: bytes, word: str, head: Mapping[str, Any], message: Bytes, identity: Identity
) -> bytes:
    """A signed head, then the message, whose SHA-256 stands in the head."""
    signature = identity.sign(codec.encode([word, dict(head)])).hex()
    text = codec.encode({"head": dict(head), "signature": signature})
    return b"".join((magic, struct.pack("<I", len(text)), text, message))


def _unsealed(magic: bytes, word: str, data: Bytes, public: bytes) -> tuple[dict[str, Any], Bytes]:
    """Head and message, which is not copied; who calls compares it with the head."""
    start = len(magic) + 4
    if data[: len(magic)] != magic or len(data) < start:
        raise bad_message("an envelope")
    (length,) = struct.unpack("<I", data[len(magic) : start])
    if length > _LONGEST_HEAD or len(data) < start + length:
        raise bad_message("an envelope")
    value = codec.decode(bytes(data[start : start + length]))
    if not isinstance(value, dict) or set(value) != {"head", "signature"}:
        raise bad_message("an envelope")
    head = value["head"]
    if not signed_by(public, unhex(value["signature"]), codec.encode([word, head])):
        raise bad_signature("what lies in an envelope is not signed by who should have sent it")
    if not isinstance(head, dict) or "sha256" not in head:
        raise bad_message("an envelope")
    return head, memoryview(data)[start + length :]


def _checked(head: dict[str, Any], kinds: Mapping[str, type]) -> dict[str, Any]:
    if set(head) != set(kinds) or any(type(head[k]) is not kind for k, kind in kinds.items()):
        raise bad_message("an envelope")
    return head


def bad_message(what: str) -> PolyclinicError:
    """Bytes that are not what they should be."""
    return InputError(
        f"{what} of another form than this version knows",
        code="BAD_MESSAGE",
        rule="messages have one canonical form",
        next="compare the versions of hub and site: polyclinic --version",
    )


def bad_signature(what: str) -> PolyclinicError:
    """A signature that does not fit."""
    return InputError(
        what,
        code="BAD_SIGNATURE",
        rule="everything is signed by who says it, with a key that was pinned when the site joined",
        next="compare the fingerprints by telephone",
    )
