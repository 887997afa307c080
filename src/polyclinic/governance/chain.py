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

from polyclinic.governance.heads import Held
from polyclinic.governance.signing import signed_by, unhex

if TYPE_CHECKING:
    from polyclinic.privacy.secure.identity import Identity

STARTED = "log_started"
OTHER_KEY = "the log was started with another key"
HEAD_RECEIVED = "head_received"
BEFORE_FIRST = hashlib.sha256(b"").hexdigest()
LONGEST_LINE = 65_536
_LINE_DOMAIN = b"polyclinic/audit-line/1\0"
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_KEYS = {"seq", "time", "event", "details", "prev", "sig"}


@dataclass(frozen=True)
class Verified:
    """What the check of a log found: how many lines stand, and the first problem.

    line       counts from 1; None when the problem is no line's (a head that does not fit, no file)
    witnessed  the last line for which a head from outside vouches: later ones may have been cut off
    """

    entries: int
    ok: bool
    problem: str = ""
    line: int | None = None
    witnessed: int = 0


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
    return signed_by(public_key, unhex(record["sig"]), _LINE_DOMAIN + body)


def line_hash(line: bytes) -> str:
    """What the next line holds as ``prev``."""
    return hashlib.sha256(line).hexdigest()


def entries(path: str | os.PathLike[str], start: int = 0) -> Iterator[dict[str, Any]]:
    """The readable lines of a log from byte `start` on, unchecked: `verify` checks."""
    with open(path, "rb") as file:
        file.seek(start)
        for line in lines(file):
            record = read_line(line)
            if record is not None:
                yield record


def held_heads(path: str | os.PathLike[str], site: str) -> list[bytes]:
    """The signed heads of another `site` that this log holds, to check that site's log with."""
    found = []
    for record in entries(path):
        known = record["event"] == HEAD_RECEIVED and isinstance(record["details"], dict)
        if known and record["details"].get("site") == site:
            found.append(unhex(record["details"].get("head")))
    return found


def verify(
    path: str | os.PathLike[str],
    public_key: bytes | None = None,
    heads: Iterable[bytes | Held] = (),
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
    walk = Walk(public_key, heads)
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # a line that is being written now is not torn
        for line in lines(file):
            if not walk.step(line):
                break
    walk.finish()
    return walk.result()


class Walk:
    """Goes through a log line by line; `problem` is empty while all is well.

    `seq` and `hash` are those of the last line that stands.
    """

    def __init__(self, public_key: bytes | None, heads: Iterable[bytes | Held] = ()) -> None:
        self.key = public_key
        self.seq, self.hash = 0, BEFORE_FIRST
        self.problem = ""
        self._line: int | None = None
        self._last: dict[str, Any] | None = None
        self._heads = [head if isinstance(head, Held) else Held(head) for head in heads]
        self._seen = dict.fromkeys((head.seq for head in self._heads), "")
        self._witnessed = 0

    @property
    def awaited(self) -> bool:
        """Do heads tell of lines, and were not compared yet?"""
        return bool(self._heads)

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
        if here in self._seen:
            self._seen[here] = self.hash
        return True

    def finish(self) -> None:
        """After the last line: its signature covers all before it, and heads tell of any after."""
        if self.problem:
            return
        if self._last is None:
            self._fail("the log is empty", 1)
        elif not line_signed(self._last, self.key or b""):
            self._fail("the line was edited", self.seq)
        for head in self._heads:
            if not self.problem:
                self._compare(head)
        self._heads = []  # they were about the log as it was found

    def result(self) -> Verified:
        stands = self.seq if self._line is None else self._line - 1
        return Verified(stands, not self.problem, self.problem, self._line, self._witnessed)

    def _compare(self, head: Held) -> None:
        if not head.signed_by(self.key or b""):
            self.problem = f"{head} is not signed by this site"
        elif head.seq > self.seq:
            missing = head.seq - self.seq
            self.problem = (
                f"at least {missing} lines are missing at the end: {head} names line {head.seq}"
            )
        elif self._seen[head.seq] != head.hash:
            self.problem = f"line {head.seq} is not the one that {head} names: it was rewritten"
        else:
            self._witnessed = max(self._witnessed, head.seq)

    def _take_key(self, record: Mapping[str, Any]) -> bool:
        if record["event"] != STARTED or not isinstance(record["details"], dict):
            return self._fail("the beginning of the log is missing", 1)
        named = unhex(record["details"].get("key"))
        if self.key is None:
            self.key = named
        if self.key != named:
            return self._fail(OTHER_KEY, 1)
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
        self.problem, self._line = problem, line
        return False


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines from where `file` stands; one that is too long comes in pieces."""
    while line := file.readline(LONGEST_LINE + 1):
        yield line


def _canonical(record: Mapping[str, Any]) -> bytes:
    return _JSON.encode(record).encode()
