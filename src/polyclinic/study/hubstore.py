"""What a hub remembers, in SQLite: hospitals, invitations, runs and decisions."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyclinic.core.errors import InputError, Stopped

WAITING_APPROVAL = "waiting for approval"
RUNNING = "running"
WAITING_FOR = "waiting for "  # and whom
DONE, REFUSED, FAILED, CANCELLED = "done", "refused", "failed", "cancelled"
FINISHED = (DONE, REFUSED, FAILED, CANCELLED)
STUDY, SESSION = "study", "session"
AT_HUB = "cancelled at the hub"
TOKEN_BYTES = 16
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sites (
  name TEXT PRIMARY KEY, public BLOB NOT NULL, certificate BLOB NOT NULL, version TEXT NOT NULL,
  joined REAL NOT NULL, revoked REAL);
CREATE TABLE IF NOT EXISTS invites (
  token BLOB PRIMARY KEY, site TEXT NOT NULL, expires REAL NOT NULL, used REAL);
CREATE TABLE IF NOT EXISTS runs (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, study TEXT NOT NULL, hash TEXT NOT NULL,
  paper BLOB NOT NULL, state TEXT NOT NULL, round INTEGER NOT NULL, since REAL NOT NULL,
  detail TEXT NOT NULL, pid INTEGER NOT NULL, cancel INTEGER NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS decisions (
  run TEXT NOT NULL, site TEXT NOT NULL, verdict TEXT NOT NULL, why TEXT NOT NULL,
  signed BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (run, site));
CREATE TABLE IF NOT EXISTS restarts (
  run TEXT NOT NULL, paper BLOB NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS cancelled (run TEXT PRIMARY KEY, why TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen (site TEXT PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS withdrawn (
  run TEXT NOT NULL, site TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (run, site));
"""


@dataclass(frozen=True)
class Member:
    """A hospital that has joined; `revoked`: since when it may not take part, or None."""

    name: str
    public: bytes
    certificate: bytes
    version: str
    joined: float
    revoked: float | None


@dataclass(frozen=True)
class HubRun:
    """A run as the store has it.

    kind    "study", or "session" for the questions of an analyst
    hash    of the paper that the hospitals decide about
    since   when it came into its state
    """

    id: str
    kind: str
    study: str
    hash: str
    paper: bytes
    state: str
    round: int
    since: float
    detail: str
    pid: int
    cancel: bool
    created: float

    @property
    def finished(self) -> bool:
        """True when nothing more will happen."""
        return self.state in FINISHED


class HubStore:
    """The store of one hub. Every method opens it anew: processes and threads share it.

    Raises
    ------
    Stopped : CANNOT_WRITE when the disk is full or not writable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        if not path.exists():
            path.touch(mode=0o600)
        with self._open() as db:
            # Not WAL: on a full disk that could not even be read.
            db.execute("PRAGMA journal_mode=DELETE")
            db.executescript(_SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        try:
            with self._lock:
                db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
                try:
                    db.row_factory = sqlite3.Row
                    db.execute("PRAGMA synchronous=FULL")
                    yield db
                finally:
                    db.close()
        except sqlite3.OperationalError as error:
            raise Stopped(
                f"{self.path}: {error}",
                code="CANNOT_WRITE",
                rule="a hub writes down what it does before it does it",
                next="free some space on the hub's disk; runs then go on by themselves",
                kept="everything that was written before",
            ) from error

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

    # hospitals

    def invite(self, site: str, lifetime: float) -> tuple[str, float]:
        """A new token for `site` and when it expires; those before it are worth nothing."""
        token, expires = secrets.token_hex(TOKEN_BYTES), time.time() + lifetime
        with self._write() as db:
            db.execute("DELETE FROM invites WHERE site = ?", (site,))
            db.execute(
                "INSERT INTO invites VALUES (?, ?, ?, NULL)", (hash_of(token), site, expires)
            )
        return token, expires

    def invited(self, digest: bytes) -> str | None:
        """The hospital whose token has this hash, if the token is still good."""
        with self._open() as db:
            rows = db.execute(
                "SELECT token, site FROM invites WHERE used IS NULL AND expires > ?",
                (time.time(),),
            ).fetchall()
        good = [row["site"] for row in rows if secrets.compare_digest(row["token"], digest)]
        return good[0] if good else None

    def enrol(
        self, digest: bytes, site: str, public: bytes, certificate: bytes, version: str
    ) -> bool:
        """Take the token and let the hospital in, both or none; False when the token is gone."""
        now = time.time()
        with self._write() as db:
            used = db.execute(
                "UPDATE invites SET used = ? WHERE token = ? AND site = ? AND used IS NULL",
                (now, digest, site),
            ).rowcount
            if used != 1:
                return False
            db.execute(
                "INSERT OR REPLACE INTO sites VALUES (?, ?, ?, ?, ?, NULL)",
                (site, public, certificate, version, now),
            )
        return True

    def members(self, *, revoked: bool = False) -> dict[str, Member]:
        """The hospitals by name, in order; with `revoked` also those that were put out."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM sites ORDER BY name").fetchall()
        found = [Member(**dict(row)) for row in rows]
        return {one.name: one for one in found if revoked or one.revoked is None}

    def waiting_invites(self) -> dict[str, float]:
        """Hospitals that were invited and have not joined, and until when they may."""
        with self._open() as db:
            rows = db.execute(
                "SELECT site, expires FROM invites WHERE used IS NULL AND expires > ? ORDER BY 1",
                (time.time(),),
            ).fetchall()
        return {row["site"]: row["expires"] for row in rows}

    def saw(self, sites: Mapping[str, Any]) -> None:
        """Hospitals that are connected; "heard" is how many seconds ago."""
        now = time.time()
        rows = [(site, now - float(one.get("heard", 0.0))) for site, one in sites.items()]
        with self._write() as db:
            db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", rows)

    def last_seen(self) -> dict[str, float]:
        """When each hospital was connected last."""
        with self._open() as db:
            return {row["site"]: row["at"] for row in db.execute("SELECT * FROM seen")}

    def seen_version(self, site: str, version: str) -> None:
        """What a hospital says that it runs now."""
        with self._write() as db:
            db.execute("UPDATE sites SET version = ? WHERE name = ?", (version, site))

    def revoke(self, site: str) -> bool:
        """Put a hospital out; False where it is not in. Its open invitation ends, too."""
        with self._write() as db:
            db.execute("DELETE FROM invites WHERE site = ?", (site,))
            done = db.execute(
                "UPDATE sites SET revoked = ? WHERE name = ? AND revoked IS NULL",
                (time.time(), site),
            )
            return done.rowcount == 1

    # runs

    def add_run(self, kind: str, study: str, digest: str, paper: bytes) -> HubRun:
        """A new run; its id is the study's name, with a number where that is taken."""
        now = time.time()
        with self._write() as db:
            taken = {row["id"] for row in db.execute("SELECT id FROM runs")}
            number = 1
            while (id := study if number == 1 else f"{study}-{number}") in taken:
                number += 1
            db.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, 0, ?, '', 0, 0, ?)",
                (id, kind, study, digest, paper, WAITING_APPROVAL, now, now),
            )
        return self.run(id)

    def run(self, id: str) -> HubRun:
        """The run of this id. Raises InputError NO_RUN."""
        with self._open() as db:
            row = db.execute("SELECT * FROM runs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise InputError(
                f"the hub has no run {id}",
                code="NO_RUN",
                rule="a run is called as `polyclinic hub runs` lists it",
                next="polyclinic hub runs",
                kept="nothing was changed",
            )
        return _run(row)

    def runs(self) -> list[HubRun]:
        """All runs, oldest first."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM runs ORDER BY created, id").fetchall()
        return [_run(row) for row in rows]

    def unfinished(self) -> list[HubRun]:
        """Runs of studies that a driver has to see to."""
        return [run for run in self.runs() if run.kind == STUDY and not run.finished]

    def last_of(self, digest: str) -> HubRun | None:
        """The newest run of a paper."""
        found = [run for run in self.runs() if run.hash == digest]
        return found[-1] if found else None

    def set_state(self, id: str, state: str, detail: str = "") -> bool:
        """What a run is doing; `since` moves only when the state is another.

        False, and nothing is changed, where the run is finished, or is to end and `state` is no
        end: another process may have cancelled it meanwhile.
        """
        with self._write() as db:
            done = db.execute(
                "UPDATE runs SET since = CASE WHEN state = ? THEN since ELSE ? END, "
                f"state = ?, detail = ? WHERE id = ? AND state NOT IN {FINISHED} "
                f"AND (cancel = 0 OR ? IN {FINISHED})",
                (state, time.time(), state, detail, id, state),
            )
            return done.rowcount == 1

    def set_round(self, id: str, number: int) -> None:
        """How many rounds a run has kept."""
        with self._write() as db:
            db.execute("UPDATE runs SET round = ? WHERE id = ?", (number, id))

    def set_pid(self, id: str, pid: int) -> None:
        """Which process drives a run."""
        with self._write() as db:
            db.execute("UPDATE runs SET pid = ? WHERE id = ?", (pid, id))

    def again(self, id: str) -> None:
        """Let a run that has failed go on."""
        with self._write() as db:
            db.execute(
                "UPDATE runs SET state = ?, detail = '', since = ?, cancel = 0 WHERE id = ?",
                (WAITING_APPROVAL, time.time(), id),
            )
            db.execute("DELETE FROM withdrawn WHERE run = ?", (id,))
            db.execute("DELETE FROM cancelled WHERE run = ?", (id,))

    def cancel(self, id: str, why: str = AT_HUB) -> None:
        """Ask the driver of a run to end it; what was asked first counts."""
        with self._write() as db:
            db.execute("UPDATE runs SET cancel = 1 WHERE id = ?", (id,))
            db.execute("INSERT OR IGNORE INTO cancelled VALUES (?, ?)", (id, why))

    def why(self, id: str) -> str:
        """Why a run was cancelled."""
        with self._open() as db:
            row = db.execute("SELECT why FROM cancelled WHERE run = ?", (id,)).fetchone()
        return AT_HUB if row is None else str(row["why"])

    def restart(self, id: str, paper: bytes) -> None:
        """Have a run go on with another paper."""
        with self._write() as db:
            db.execute("INSERT INTO restarts VALUES (?, ?, ?)", (id, paper, time.time()))

    def paper(self, id: str) -> bytes:
        """The paper that a run goes on with: as it was handed in, or without some hospitals."""
        with self._open() as db:
            last = db.execute(
                "SELECT paper FROM restarts WHERE run = ? ORDER BY rowid DESC LIMIT 1", (id,)
            ).fetchone()
        return self.run(id).paper if last is None else bytes(last["paper"])

    # decisions

    def withdrew(self, run: str, sites: Iterable[str]) -> None:
        """Hospitals that have heard that a run waits for their decision no more."""
        now = time.time()
        with self._write() as db:
            rows = [(run, site, now) for site in sites]
            db.executemany("INSERT OR REPLACE INTO withdrawn VALUES (?, ?, ?)", rows)

    def heard_withdrawal(self, run: str) -> set[str]:
        """Those that have heard it."""
        with self._open() as db:
            rows = db.execute("SELECT site FROM withdrawn WHERE run = ?", (run,)).fetchall()
        return {row["site"] for row in rows}

    def decide(self, run: str, site: str, verdict: str, why: str, signed: bytes) -> None:
        """What a hospital has decided about a run, with its signature."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO decisions VALUES (?, ?, ?, ?, ?, ?)",
                (run, site, verdict, why, signed, time.time()),
            )

    def decisions(self, run: str) -> dict[str, Mapping[str, Any]]:
        """verdict, why, signed and at, by hospital."""
        with self._open() as db:
            rows = db.execute(
                "SELECT * FROM decisions WHERE run = ? ORDER BY site", (run,)
            ).fetchall()
        return {row["site"]: dict(row) for row in rows}


def hash_of(token: str) -> bytes:
    """Under what a token is kept."""
    return hashlib.sha256(b"polyclinic invite 1\0" + token.encode()).digest()


def _run(row: sqlite3.Row) -> HubRun:
    return HubRun(**{**dict(row), "cancel": bool(row["cancel"])})
