"""What a site must remember so that no key ever hides two vectors, also when it is killed.

A journal maps texts to bytes. `write` is one durable step: either all changes are on disk when it
returns, or none was made. It changes nothing when what the caller has read is no longer so; of two
processes over one journal one wins.

A journal is never restored from a backup: it would forget which keys are used. Delete it instead.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from polyclinic.privacy.secure.errors import failure


class Journal(Protocol):
    """What `SecureSite` needs of a journal."""

    def get(self, key: str) -> bytes | None:
        """The value of a key, or None."""
        ...

    def write(self, changes: Mapping[str, bytes | None], seen: Mapping[str, bytes | None]) -> bool:
        """Make all changes (None erases) if every key of `seen` still has that value."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, in order."""
        ...


class MemoryJournal:
    """A journal that ends with the process. For sites whose run cannot outlive them."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        return self._rows.get(key)

    def write(self, changes: Mapping[str, bytes | None], seen: Mapping[str, bytes | None]) -> bool:
        with self._lock:
            if any(self._rows.get(key) != value for key, value in seen.items()):
                return False
            for key, value in changes.items():
                if value is None:
                    self._rows.pop(key, None)
                else:
                    self._rows[key] = value
        return True

    def keys(self, prefix: str) -> list[str]:
        with self._lock:
            return sorted(key for key in self._rows if key.startswith(prefix))


class SQLiteJournal:
    """A journal in one file that only its owner may read, for a site that is a process of its own.

    Erased values are overwritten.

    Raises
    ------
    SecureSumError : CANNOT_WRITE when the file is damaged, locked, or the disk is full.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(
                self.path, timeout=30, isolation_level=None, check_same_thread=False
            )
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from error

    def get(self, key: str) -> bytes | None:
        with self._lock:
            try:
                return self._value(key)
            except sqlite3.Error as error:
                raise self._broken(error) from error

    def write(self, changes: Mapping[str, bytes | None], seen: Mapping[str, bytes | None]) -> bool:
        with self._lock:
            try:
                done = self._write(changes, seen)
                if done and None in changes.values():
                    # What was erased must not live on in the log file.
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                return done
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise self._broken(error) from error

    def keys(self, prefix: str) -> list[str]:
        with self._lock:
            try:
                found = self._db.execute(
                    "SELECT key FROM journal WHERE substr(key, 1, ?) = ? ORDER BY key",
                    (len(prefix), prefix),
                )
                return [key for (key,) in found]
            except sqlite3.Error as error:
                raise self._broken(error) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _prepare(self) -> None:
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "PRAGMA secure_delete=ON",
            "CREATE TABLE IF NOT EXISTS journal (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
        ):
            self._db.execute(statement)

    def _value(self, key: str) -> bytes | None:
        row = self._db.execute("SELECT value FROM journal WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def _write(self, changes: Mapping[str, bytes | None], seen: Mapping[str, bytes | None]) -> bool:
        self._db.execute("BEGIN IMMEDIATE")
        if any(self._value(key) != value for key, value in seen.items()):
            self._db.execute("ROLLBACK")
            return False
        for key, value in changes.items():
            if value is None:
                self._db.execute("DELETE FROM journal WHERE key = ?", (key,))
            else:
                self._db.execute("INSERT OR REPLACE INTO journal VALUES (?, ?)", (key, value))
        self._db.execute("COMMIT")
        return True

    def _broken(self, error: Exception) -> Exception:
        return failure("CANNOT_WRITE", f"{self.path}: {error}")
