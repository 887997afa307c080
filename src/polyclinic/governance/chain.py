"""The line format of the audit log, and the check of a whole log.

Every line is canonical JSON: seq, time, event, details, prev (SHA-256 of the line before it,
newline included) and sig (the site's Ed25519 signature over the rest). The signature of the last
line covers all lines, because each holds the hash of the one before; those in between tell an
edited line from a missing one. Lines cut off at the end are seen only by a signed head kept
elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.governance.signing import signed_by

if TYPE_CHECKING:
    from polyclinic.privacy.secure.identity import Identity

STARTED = "log_started"
HEAD_RECEIVED = "head_received"
BEFORE_FIRST = hashlib.sha256(b"").hexdigest()
LONGEST_LINE = 65_536
_LONGEST_HEAD = 1_024
_LINE_DOMAIN = b"polyclinic/audit-line/1\0"
_HEAD_DOMAIN = b"polyclinic/audit-head/1\0"
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_KEYS = {"seq", "time", "event", "details", "prev", "sig"}


@dataclass(frozen=True)
class Verified:
    """What the check of a log found: how many lines stand, and the first problem.

    `line` counts from 1; None when the problem is no line's (a head that does not fit, no file).
    """

    entries: int
    ok: bool
    problem: str = ""
    line: int | None = None


def write_line(record: Mapping[str, Any], identity: Identity) -> bytes:
    """The signed bytes of one log line, newline included."""
    signature = identity.sign(_LINE_DOMAIN + _canonical(record))
    return _canonical({**record, "sig": signature.hex()}) + b"\n"


def read_line(line: bytes) -> dict[str, Any] | None:
    """The record of one line, or None when the bytes are not a canonical line."""
    try:
        record = json.loads(line)
        canonical = isinstance(record, dict) and _canonical(record) + b"\n" == line
    except (ValueError, RecursionError):
        return None
    if not canonical or set(record) != _KEYS or type(record["seq"]) is not int:
        return None
    return dict(record)


def line_signed(record: Mapping[str, Any], public_key: bytes) -> bool:
    """Did the holder of `public_key` write this line?"""
    body = _canonical({key: value for key, value in record.items() if key != "sig"})
    return signed_by(public_key, _unhex(record["sig"]), _LINE_DOMAIN + body)


def line_hash(line: bytes) -> str:
    """What the next line holds as ``prev``."""
    return hashlib.sha256(line).hexdigest()


def sign_head(seq: int, hash: str, identity: Identity) -> bytes:
    """Canonical bytes that say: my log has `seq` lines and the last one has this hash."""
    body = {"seq": seq, "hash": hash}
    signature = identity.sign(_HEAD_DOMAIN + codec.encode(body))
    return codec.encode({**body, "signature": signature.hex()})


def open_head(data: bytes, public_key: bytes) -> dict[str, Any]:
    """``{"seq", "hash"}`` of a signed head.

    Raises
    ------
    PolyclinicError : BAD_MESSAGE when the bytes are no head, BAD_SIGNATURE when another key signed.
    """
    head = _parse_head(data)
    body = {"seq": head["seq"], "hash": head["hash"]}
    if not signed_by(public_key, _unhex(head["signature"]), _HEAD_DOMAIN + codec.encode(body)):
        raise PolyclinicError(
            "the head of an audit log is not signed by the key that was pinned for that site",
            code="BAD_SIGNATURE",
            rule="a head counts only with the signature of the site whose log it describes",
            next="compare the site's fingerprint by telephone",
        )
    return body


def entries(path: str | os.PathLike[str], start: int = 0) -> Iterator[dict[str, Any]]:
    """The readable lines of a log from byte `start` on, unchecked: `verify` checks."""
    with open(path, "rb") as file:
        file.seek(start)
        for line in _lines(file):
            record = read_line(line)
            if record is not None:
                yield record


def held_heads(path: str | os.PathLike[str], site: str) -> list[bytes]:
    """The signed heads of another `site` that this log holds, to check that site's log with."""
    return [
        bytes.fromhex(record["details"]["head"])
        for record in entries(path)
        if record["event"] == HEAD_RECEIVED and record["details"]["site"] == site
    ]


def verify(
    path: str | os.PathLike[str],
    public_key: bytes | None = None,
    heads: Iterable[bytes] = (),
) -> Verified:
    """Check a whole log: any edited, deleted, moved, inserted or torn line is found.

    Parameters
    ----------
    public_key : the site's 32-byte key as pinned elsewhere; without it the key that the first line
        names is taken, which a forger of the whole log could replace.
    heads : signed heads of this log that were kept outside; a head ahead of the log shows that
        lines were cut off.
    """
    if not Path(path).is_file():
        return Verified(0, False, "there is no log here")
    walk, heads = _Walk(public_key), list(heads)
    try:
        wanted = [_parse_head(data) for data in heads]
    except PolyclinicError:
        return Verified(0, False, "a head that was given is not one")
    seen: dict[int, str] = {}
    marks = {head["seq"] for head in wanted}
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # a line that is being written now is not torn
        for line in _lines(file):
            if not walk.step(line):
                return walk.result()
            if walk.seq in marks:
                seen[walk.seq] = walk.hash
    walk.finish()
    if not walk.problem:
        walk.problem = _heads_problem(heads, wanted, seen, walk)
    return walk.result()


class _Walk:
    """Goes through a log line by line; `problem` is empty while all is well."""

    def __init__(self, public_key: bytes | None) -> None:
        self.key = public_key
        self.seq, self.hash = 0, BEFORE_FIRST
        self.problem, self.line = "", None
        self._last: dict[str, Any] | None = None

    line: int | None

    def step(self, line: bytes) -> bool:
        """Take the next line. False: it does not stand."""
        here = self.seq + 1
        record = read_line(line)
        if record is None:
            torn = not line.endswith(b"\n")
            return self._fail("the last line is torn" if torn else "the line was edited", here)
        if here == 1 and not self._take_key(record):
            return False
        if record["seq"] != here or record["prev"] != self.hash:
            return self._blame(record, here)
        self.seq, self.hash, self._last = here, line_hash(line), record
        return True

    def finish(self) -> None:
        """After the last line: its signature covers everything before it."""
        if self._last is None:
            self._fail("the log is empty", 1)
        elif not line_signed(self._last, self.key or b""):
            self._fail("the line was edited", self.seq)

    def result(self) -> Verified:
        stands = self.seq if self.line is None else self.line - 1
        return Verified(stands, not self.problem, self.problem, self.line)

    def _take_key(self, record: Mapping[str, Any]) -> bool:
        if record["event"] != STARTED or not isinstance(record["details"], dict):
            return self._fail("the beginning of the log is missing", 1)
        named = _unhex(record["details"].get("key"))
        if self.key is None:
            self.key = named
        if self.key != named:
            return self._fail("the log was started with another key", 1)
        return True

    def _blame(self, record: Mapping[str, Any], here: int) -> bool:
        """The chain breaks between the line before and this one: which of them is it?"""
        key = self.key or b""
        if self._last is not None and not line_signed(self._last, key):
            return self._fail("the line was edited", here - 1)
        if not line_signed(record, key):
            return self._fail("the line was edited", here)
        return self._fail("lines were deleted, inserted or moved here", here)

    def _fail(self, problem: str, line: int) -> bool:
        self.problem, self.line = problem, line
        return False


def _heads_problem(
    heads: list[bytes], wanted: list[dict[str, Any]], seen: Mapping[int, str], walk: _Walk
) -> str:
    for data, head in zip(heads, wanted, strict=True):
        try:
            open_head(data, walk.key or b"")
        except PolyclinicError:
            return "a head that was given is not signed by this site"
        if head["seq"] > walk.seq:
            missing = head["seq"] - walk.seq
            return f"at least {missing} lines are missing at the end: a head names {head['seq']}"
        if seen[head["seq"]] != head["hash"]:
            return f"line {head['seq']} is not the one that a head names: the log was rewritten"
    return ""


def _parse_head(data: bytes) -> dict[str, Any]:
    head = codec.decode(data) if len(data) <= _LONGEST_HEAD else None
    if (
        not isinstance(head, dict)
        or set(head) != {"seq", "hash", "signature"}
        or type(head["seq"]) is not int
        or head["seq"] < 1
        or not isinstance(head["hash"], str)
    ):
        raise codec.CodecError("this is no head of an audit log", code="BAD_MESSAGE")
    return head


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LONGEST_LINE + 1):
        yield line


def _canonical(record: Mapping[str, Any]) -> bytes:
    return _JSON.encode(record).encode()


def _unhex(text: Any) -> bytes:
    """The bytes of lower-case hex; none for any other text, so that bytes have one spelling."""
    try:
        data = bytes.fromhex(text)
    except (TypeError, ValueError):
        return b""
    return data if data.hex() == text else b""
