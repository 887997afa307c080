"""The site's log of every decision: appended, fsynced, hash-chained; never a value, only hashes.

`polyclinic.governance.chain` has the line format and `verify`. A line torn by a crash is moved to
a file beside the log and the move becomes the next event, so nothing vanishes without a trace.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyclinic.core.checkpoint import sync_folder
from polyclinic.core.errors import InputError, PolyclinicError, Stopped
from polyclinic.governance.chain import (
    HEAD_RECEIVED,
    LONGEST_LINE,
    OTHER_KEY,
    STARTED,
    Verified,
    Walk,
    entries,
    held_heads,
    lines,
    verify,
    write_line,
)
from polyclinic.governance.heads import Held, open_head, sign_head

if TYPE_CHECKING:
    from polyclinic.privacy.secure.identity import Identity

__all__ = ["AuditLog", "Verified", "entries", "held_heads", "verify"]

TORN = "torn_line_moved"
HEAD_REJECTED = "head_rejected"
_BEGIN = b'{"details":'
_EVENT = re.compile(r"[a-z][a-z0-9_]{0,63}")
_sync = getattr(os, "fdatasync", os.fsync)


class AuditLog:
    """One site's log. Several processes may append to one file: a lock orders them.

    Parameters
    ----------
    path : the file; made with a first event that names the site's key when it is absent.
    identity : the site's key; it signs every line.
    heads : signed heads of this log that are held elsewhere.

    Raises
    ------
    InputError : LOG_DAMAGED when the log is not as it was written, from its first line on, or ends
        before a head; WRONG_KEY when it was started with another key.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: Identity,
        heads: Iterable[bytes | Held] = (),
    ) -> None:
        self.path = Path(path)
        self._identity = identity
        self._guard = threading.Lock()
        self._walk, self._size = Walk(identity.public, heads), 0
        self._held: dict[str, dict[int, str]] = {}
        self._held_until = 0
        with self._open(os.O_CREAT):
            pass

    def append(self, event: str, /, **details: Any) -> int:
        """Write one event and return its number; the line is on disk when this returns.

        Details are decisions, names and hashes: str, int, bool, None, and list or dict of those.
        A float is refused, because it would be a value.
        """
        if not _EVENT.fullmatch(event):
            raise _bad_details(f"event {event!r} is not a name of a-z, 0-9 and _")
        clean = _clean(details)
        with self._open() as handle:
            return self._write(handle, event, clean)

    def head(self) -> dict[str, Any]:
        """``{"seq", "hash"}`` of the last line."""
        with self._open():
            return {"seq": self._walk.seq, "hash": self._walk.hash}

    def signed_head(self) -> bytes:
        """The head with the site's signature, for other sites to keep."""
        head = self.head()
        return sign_head(head["seq"], head["hash"], self._identity)

    def receive_head(self, site: str, data: bytes, public_key: bytes) -> dict[str, Any]:
        """Keep the signed head of another `site` in this log.

        An earlier one than the last is kept, too: of two runs at once one may bring older news. All
        that are kept must lie in the other log; `verify` sees whether they do.

        Raises
        ------
        PolyclinicError : BAD_MESSAGE, BAD_SIGNATURE; HEAD_WENT_BACK when the other log differs
            where it should be the same; the refusal is logged.
        """
        head = open_head(data, public_key)
        self._read_held()
        before = self._held.get(site, {}).get(head["seq"])
        if before == head["hash"]:
            return head
        if before is not None:
            self.append(HEAD_REJECTED, site=site, seq=head["seq"], hash=head["hash"])
            raise PolyclinicError(
                f"{site} shows another log of {head['seq']} lines than before",
                code="HEAD_WENT_BACK",
                rule="a log only grows, and what was written stays",
                next=f"ask {site} for its log and check it with the heads held here",
                site=site,
            )
        self.append(HEAD_RECEIVED, site=site, head=data.hex(), **head)
        return head

    def _read_held(self) -> None:
        end = self._size
        for record in entries(self.path, self._held_until):
            if record["event"] == HEAD_RECEIVED:
                details = record["details"]
                self._held.setdefault(details["site"], {})[details["seq"]] = details["hash"]
        self._held_until = end

    @contextmanager
    def _open(self, create: int = 0) -> Iterator[int]:
        """The file, locked against other threads and processes, with its end known."""
        with self._guard:
            try:
                if create:
                    self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                handle = os.open(self.path, os.O_RDWR | os.O_APPEND | create, 0o600)
            except OSError as error:
                raise self._cannot(error) from error
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._catch_up(handle)
                yield handle
            finally:
                os.close(handle)

    def _catch_up(self, handle: int) -> None:
        """Check what is new in the file: all of it at first, later what others have appended."""
        size = os.fstat(handle).st_size
        if size == self._size and size:
            return
        if size < self._size:
            raise self._damaged("is shorter than it was")
        torn = self._read_on(handle, size)
        if self._walk.seq or self._walk.awaited or self._walk.problem:
            self._stands()
        elif not torn.startswith(_BEGIN[: len(torn)]):
            raise self._damaged("is something else")
        aside = self._torn_path()
        moved = self._set_aside(handle, aside, torn) if torn or aside.exists() else {}
        if not self._walk.seq:
            sync_folder(self.path.parent)
            self._write(handle, STARTED, {"key": self._identity.public.hex(), **moved})
        elif moved:
            self._write(handle, TORN, moved)

    def _read_on(self, handle: int, size: int) -> bytes:
        """Walk through the lines that were not read yet; the rest of one that a crash tore."""
        with os.fdopen(os.dup(handle), "rb") as file:
            file.seek(self._size)
            for line in lines(file):
                if not line.endswith(b"\n") and self._size + len(line) == size:
                    return line
                if not self._walk.step(line):
                    break
                self._size += len(line)
        return b""

    def _stands(self) -> None:
        """Raise unless the log is as it was written, as far as it was read."""
        self._walk.finish()
        found = self._walk.result()
        if found.problem == OTHER_KEY:
            raise self._wrong_key()
        if not found.ok:
            where = "" if found.line is None else f", at line {found.line:,}"
            raise self._damaged(f"is damaged{where}: {found.problem}")

    def _torn_path(self) -> Path:
        """Named by the line's number, which becomes that of the event that tells of it."""
        return self.path.with_name(f"{self.path.name}.{self._walk.seq + 1}.torn")

    def _set_aside(self, handle: int, aside: Path, torn: bytes) -> dict[str, Any]:
        """Move a torn line aside, also after a crash in the midst of it. The event comes last."""
        try:
            with open(aside, "ab") as file:
                file.write(torn)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(aside.parent)
            os.ftruncate(handle, self._size)
        except OSError as error:
            raise self._cannot(error) from error
        moved = aside.read_bytes()
        digest = hashlib.sha256(moved).hexdigest()
        return {"torn_file": aside.name, "torn_bytes": len(moved), "torn_sha256": digest}

    def _write(self, handle: int, event: str, details: Mapping[str, Any]) -> int:
        record = {
            "seq": self._walk.seq + 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "details": details,
            "prev": self._walk.hash,
        }
        line = write_line(record, self._identity)
        if len(line) > LONGEST_LINE:
            raise _bad_details(f"an event of {len(line)} bytes is too long")
        try:
            written = os.write(handle, line)
            if written != len(line):
                raise OSError(0, f"only {written} of {len(line)} bytes could be written")
            _sync(handle)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(handle, self._size)
            raise self._cannot(error) from error
        self._walk.step(line)
        self._size += len(line)
        return self._walk.seq

    def _cannot(self, error: OSError) -> Stopped:
        return Stopped(
            f"{self.path}: {error.strerror or error}",
            code="CANNOT_WRITE",
            rule="nothing is done before it stands in the audit log",
            next="make the log's disk writable and free some space, then go on",
            kept="every event before this one",
        )

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: the audit log {what}",
            code="LOG_DAMAGED",
            rule="a log only grows, and nothing is added to a damaged one",
            next="look at it: polyclinic site audit verify; then restore the file from a backup",
            kept="the damaged file is left as it is",
        )

    def _wrong_key(self) -> InputError:
        return InputError(
            f"{self.path}: the audit log was started with another key",
            code="WRONG_KEY",
            rule="one log, one key",
            next="open it with the key that its first line names, or start a new log",
            kept="the log is left as it is",
        )


def _clean(value: Any, depth: int = 0) -> Any:
    """`value` when it may stand in a log."""
    if value is None or type(value) in (str, bool):
        return value
    if type(value) is int and abs(value) < 2**63:
        return value
    if depth < 8 and isinstance(value, (list, tuple)):
        return [_clean(item, depth + 1) for item in value]
    if depth < 8 and isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {key: _clean(item, depth + 1) for key, item in value.items()}
    raise _bad_details(f"a {type(value).__name__} of this form does not belong into an event")


def _bad_details(what: str) -> InputError:
    return InputError(
        f"audit log: {what}",
        code="BAD_DETAILS",
        rule="an event holds decisions, names and hashes: text, whole numbers, true, false and "
        f"lists and tables of these, at most {LONGEST_LINE} bytes; never a value",
        next="log the hash of the value instead",
    )
