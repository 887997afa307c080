"""The file of a ledger: made whole or not at all, and looked through before it is used."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from polyclinic.core.checkpoint import sync_folder

WAIT = 60.0  # seconds for another process's transaction
_APPLICATION, _VERSION = 0x50434C47, 2
SCHEMA = """
CREATE TABLE releases (
    content_hash TEXT PRIMARY KEY, release BLOB NOT NULL, time TEXT NOT NULL, study TEXT NOT NULL,
    step TEXT NOT NULL, task TEXT NOT NULL, combine TEXT NOT NULL, n_sums INTEGER NOT NULL,
    patients INTEGER NOT NULL, bytes INTEGER NOT NULL, seen_as TEXT NOT NULL,
    times INTEGER NOT NULL DEFAULT 1, question TEXT NOT NULL, members TEXT NOT NULL
) STRICT;
CREATE INDEX questions ON releases (question, members);
CREATE TABLE cohorts (
    id INTEGER PRIMARY KEY, dataset TEXT NOT NULL, n_patients INTEGER NOT NULL, bits BLOB NOT NULL,
    release TEXT NOT NULL REFERENCES releases (content_hash), UNIQUE (dataset, bits)
) STRICT;
CREATE TABLE spends (
    id INTEGER PRIMARY KEY, dataset TEXT NOT NULL, event BLOB NOT NULL,
    release TEXT NOT NULL UNIQUE REFERENCES releases (content_hash)
) STRICT;
CREATE TABLE refusals (
    time TEXT NOT NULL, study TEXT NOT NULL, step TEXT NOT NULL, task TEXT NOT NULL,
    code TEXT NOT NULL, note TEXT NOT NULL, times INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (study, step, task, code, note)
) STRICT;
"""


def connect(target: str) -> sqlite3.Connection:
    """A connection, whose transactions are begun by hand."""
    db = sqlite3.connect(
        target,
        timeout=WAIT,
        isolation_level=None,
        check_same_thread=False,
        uri=target.startswith("file:"),
    )
    db.execute("PRAGMA foreign_keys = ON")
    return db


def create(path: Path) -> None:
    """An empty ledger, whole or not at all, and never in the place of another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(connect(str(temporary))) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_VERSION}")
            db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def check(path: Path) -> None:
    """Raise sqlite3.DatabaseError unless the file is a whole ledger. Opened for reading only."""
    with closing(connect(f"{path.as_uri()}?mode=ro")) as db:
        marks = tuple(
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if marks != (_APPLICATION, _VERSION):
            raise sqlite3.DatabaseError("the file is not a ledger of this version")
        page = db.execute("PRAGMA page_size").fetchone()[0]
        log = path.with_name(path.name + "-wal")
        if path.stat().st_size % page and not (log.exists() and log.stat().st_size):
            raise sqlite3.DatabaseError("the file is cut short")
        if db.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
            raise sqlite3.DatabaseError("the file is damaged")
        if db.execute("PRAGMA foreign_key_check").fetchall():
            raise sqlite3.DatabaseError("an entry has lost its release")
