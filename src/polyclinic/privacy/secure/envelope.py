"""The form of all messages: requests of the coordinator, and signed answers of the sites.

A site signs domain, version, kind, run, round, attempt, its name and the SHA-256 of the body's
canonical bytes, so an answer cannot stand for another step, place or sender. Requests are not
signed: a site believes nothing in them that other sites have not signed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.privacy.secure.errors import SecureSumError, failure
from polyclinic.privacy.secure.identity import Identity, Roster

VERSION = 1
DOMAIN = "polyclinic SA-1"
MOST_BYTES = 2**30
_MOST_ROUNDS = 2**63
_REQUEST = {"kind", "version", "run", "round", "attempt", "body"}
_SIGNED = _REQUEST | {"sender", "signature"}


@dataclass(frozen=True)
class Place:
    """Where in an analysis a message belongs; round and attempt are 0 while keys are set up."""

    run: str
    round: int = 0
    attempt: int = 0


@dataclass(frozen=True)
class Request:
    """What the coordinator asks. `digest` stands for all of its bytes."""

    kind: str
    place: Place
    body: dict[str, Any]
    digest: str


def request(kind: str, place: Place, body: dict[str, Any]) -> bytes:
    """Bytes of a request."""
    return codec.encode({**_header(kind, place), "body": body})


def read_request(data: bytes, run: str) -> Request:
    """The request in `data`. Raises BAD_MESSAGE or VERSION_MISMATCH."""
    if len(data) > MOST_BYTES:
        raise failure("BAD_MESSAGE", "a request is too long")
    value = codec.decode(data)
    _check_shape(value, _REQUEST)
    place = Place(value["run"], value["round"], value["attempt"])
    if place.run != run:
        raise failure("BAD_MESSAGE", "a request belongs to another run")
    return Request(value["kind"], place, value["body"], hashlib.sha256(data).hexdigest())


def sign(
    identity: Identity,
    sender: str,
    kind: str,
    place: Place,
    body: dict[str, Any],
    digest: str | None = None,
) -> dict[str, Any]:
    """The signed form of a body, whose digest may be known already."""
    header = {**_header(kind, place), "sender": sender}
    signature = identity.sign(_to_sign(header, digest or body_digest(body))).hex()
    return {**header, "body": body, "signature": signature}


@dataclass(frozen=True)
class Signed:
    """The body of an answer whose signature was checked, and the SHA-256 of its bytes."""

    body: dict[str, Any]
    digest: str


def check(roster: Roster, value: Any, sender: str, kind: str, place: Place) -> Signed:
    """The body of a signed answer.

    Raises
    ------
    SecureSumError : BAD_MESSAGE, VERSION_MISMATCH, or BAD_SIGNATURE when `sender` has not signed
        this body for this kind and place.
    """
    try:
        _check_shape(value, _SIGNED)
        signature = from_hex(value["signature"], 64)
    except SecureSumError as error:
        raise failure(error.code, f"an answer of {sender} is malformed", sender) from None
    expected = {**_header(kind, place), "sender": sender}
    if any(value[name] != wanted for name, wanted in expected.items()):
        raise failure("BAD_SIGNATURE", f"an answer of {sender} belongs elsewhere", sender)
    body: dict[str, Any] = value["body"]
    digest = body_digest(body)
    roster.verify(sender, signature, _to_sign(expected, digest))
    return Signed(body, digest)


def body_digest(body: dict[str, Any]) -> str:
    """SHA-256 of a body's canonical bytes."""
    return codec.digest(body)


def refusal(code: str) -> bytes:
    """Bytes that say no; a code is all that is told."""
    return codec.encode({"code": code})


def refused(value: Any) -> str | None:
    """The code of a refusal, or None for any other value."""
    if isinstance(value, dict) and set(value) == {"code"} and is_code(value["code"]):
        code: str = value["code"]
        return code
    return None


def is_code(value: Any) -> bool:
    """Whether `value` is a name in capitals and digits, as codes are."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= 40
        and value.isascii()
        and value.replace("_", "A").isalnum()
        and value == value.upper()
    )


def fields(value: Any, **kinds: type) -> dict[str, Any]:
    """`value` as a dict with exactly these fields of exactly these types, or BAD_MESSAGE."""
    if (
        not isinstance(value, dict)
        or set(value) != set(kinds)
        or not all(type(value[name]) is kind for name, kind in kinds.items())
    ):
        raise failure("BAD_MESSAGE", "a message does not have the fields of its kind")
    return value


def from_hex(value: Any, size: int) -> bytes:
    """`size` bytes from their hexadecimal text, or BAD_MESSAGE."""
    try:
        data = bytes.fromhex(value)
    except (TypeError, ValueError):
        data = b""
    if len(data) != size or data.hex() != value:
        raise failure("BAD_MESSAGE", "a message holds no bytes where it should")
    return data


def same(a: Any, b: Any) -> bool:
    """Whether two values have the same canonical bytes."""
    return codec.encode(a) == codec.encode(b)


def check_run(run: str) -> None:
    """Raises ValueError unless `run` is a name that fits into every message."""
    if not 0 < len(run) <= 128:
        raise ValueError("the name of a run has 1 to 128 characters")


def to_words(data: bytes) -> NDArray[np.uint64]:
    """Bytes (a multiple of 8) as an array that travels."""
    return np.frombuffer(data, "<u8").astype(np.uint64)


def from_words(words: Any, shape: tuple[int, ...]) -> bytes:
    """The bytes of an array that has travelled, or BAD_MESSAGE."""
    if not isinstance(words, np.ndarray) or words.dtype != np.uint64 or words.shape != shape:
        raise failure("BAD_MESSAGE", "a message holds no array of the right shape")
    return words.astype("<u8").tobytes()


def _header(kind: str, place: Place) -> dict[str, Any]:
    return {
        "kind": kind,
        "version": VERSION,
        "run": place.run,
        "round": place.round,
        "attempt": place.attempt,
    }


def _check_shape(value: Any, names: set[str]) -> None:
    if not isinstance(value, dict) or type(value.get("version")) is not int:
        raise failure("BAD_MESSAGE", "a message has no version")
    if value["version"] != VERSION:
        raise failure("VERSION_MISMATCH", f"a message has version {value['version']}")
    kinds: dict[str, type] = dict.fromkeys(names, str)
    fields(value, **{**kinds, "version": int, "round": int, "attempt": int, "body": dict})
    if not all(0 <= value[name] < _MOST_ROUNDS for name in ("round", "attempt")):
        raise failure("BAD_MESSAGE", "rounds and attempts count from 0")


def _to_sign(header: dict[str, Any], digest: str) -> bytes:
    names = ("kind", "version", "run", "round", "attempt", "sender")
    return codec.encode([DOMAIN, *(header[name] for name in names), digest])
