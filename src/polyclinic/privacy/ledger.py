"""A site's ledger: what left, over which patients, at what privacy cost, and what was refused.

One SQLite file per site. A release, its cohort and its spend are stored in one transaction that
checks cohort and budget itself, and only then may the release leave. So a crash neither loses a
spend nor makes one twice, and several processes over one file cannot overspend together. A plan
that is asked again gets the bytes of the first time, which cost nothing more.
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.errors import InputError, PolyclinicError, Refused, Stopped
from polyclinic.privacy import cohorts
from polyclinic.privacy.budget import Budget, grouped
from polyclinic.privacy.ledger_file import SCHEMA, check, connect, create

Mask = NDArray[np.bool_]

_HASH = 32
_ROWS = """
SELECT study, step, task, combine, SUM(times) AS times, n_sums AS sums, patients,
       SUM(bytes * times) AS bytes, seen_as, MIN(time) AS time
FROM releases GROUP BY study, step, task, combine, n_sums, patients, seen_as
ORDER BY MIN(rowid)
"""
_TOO_CLOSE = (
    "two groups of patients that were asked about differ in none or in enough patients, "
    "and groups combined do not single out a few"
)


@dataclass(frozen=True)
class Asked:
    """A question, and over which sites only its total is seen.

    question   digest of what is asked, whatever becomes of the answers; "": not compared
    members    digest of the sites; "": the answer is seen alone
    all_shown  every one of these sites has shown its own answer before
    """

    question: str = ""
    members: str = ""
    all_shown: bool = False


@dataclass
class _Apart:
    """Cohorts no two of which share a patient, as the cells of a column are.

    Each is then an atom, and what is left is one that is in no sum. So nothing smaller than the
    smallest cohort is in the row space, nor two atoms of together fewer: no audit is needed.
    """

    fewest: float = math.inf
    union: NDArray[np.uint64] | None = None
    broken: bool = False

    def add(self, rows: Sequence[NDArray[np.uint64]]) -> None:
        for row in rows:
            if self.broken:
                return
            if self.union is None:
                self.union = np.zeros_like(row)
            self.broken = bool((row & self.union).any())
            self.union |= row
            self.fewest = min(self.fewest, int(np.bitwise_count(row).sum()))

    def holds(self, new: NDArray[np.uint64], k: int) -> bool:
        """Whether all are so, with one more of at least `k` patients."""
        shared = self.union is not None and bool((new & self.union).any())
        return not self.broken and self.fewest >= k and not shared


@dataclass
class _Seen:
    """The committed cohorts of one data set up to the row `last`, and the audit of the first ones.

    Only cohorts with a rule to check cost an audit, so it follows when it is asked for.
    """

    n_patients: int
    bits: NDArray[np.uint64]
    atoms: cohorts.Atoms
    last: int = 0
    audited: int = 0
    apart: _Apart = field(default_factory=lambda: _Apart())
    tried: tuple[NDArray[np.uint64], cohorts.Atoms] | None = None

    def exposes(self, new: NDArray[np.uint64], k: int) -> bool:
        """Whether one more cohort exposes an atom that was not exposed before it."""
        if self.apart.holds(new, k):
            return False
        for row in self.bits[self.audited :]:
            self.atoms = self._with(row)
        self.audited = len(self.bits)
        self.tried = (new, self._with(new))
        after = self.tried[1].exposed(k)
        return bool(after) and bool(after - self.atoms.exposed(k))

    def _with(self, row: NDArray[np.uint64]) -> cohorts.Atoms:
        """With one more cohort, which mostly is the one that was tried last."""
        tried, self.tried = self.tried, None
        if tried is not None and np.array_equal(tried[0], row):
            return tried[1]
        return self.atoms.add(row)


class Ledger:
    """The ledger in one file, or in memory with None. One object may serve several threads.

    Raises
    ------
    Stopped : LEDGER_DAMAGED when the file is not a whole ledger; it is left as it is.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path).absolute()
        self._lock = threading.RLock()
        self._seen: dict[str, _Seen] = {}
        self._none: dict[int, cohorts.Atoms] = {}  # by words, where data sets start
        with self._guard():
            if self.path is None:
                self._db = connect(":memory:")
                self._db.executescript(SCHEMA)
            else:
                if not os.path.lexists(self.path):
                    create(self.path)
                check(self.path)
                self._db = connect(str(self.path))
                self._db.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        """Close the file. What was committed is on disk already."""
        with self._lock:
            self._db.close()

    def released(self, content_hash: str) -> bytes | None:
        """What was released for this content before, if it is still held; counted as asked once
        more. What is not held has to be found again, see `commit`."""
        with self._guard():
            return self._again(content_hash)

    def holds(self, content_hash: str) -> bytes | None:
        """What was released for this content, for the site's own eyes; nobody asks for it."""
        with self._guard():
            found = self._entry(content_hash)
            return self._unseal(found) if found is not None and len(found) > _HASH else None

    def shown(self, question: str) -> bool:
        """Whether the answer to a question was released to be seen alone."""
        with self._guard():
            return "" in self._members_of(question)

    def added_up(self, question: str) -> bool:
        """Whether the answer to a question was released in a total."""
        with self._guard():
            return bool(self._members_of(question) - {""})

    def check_cohort(self, dataset: str, mask: Mask, k: int, max_cohorts: int) -> None:
        """Whether a sum over these patients of the data set, (n_patients,), may leave as well.

        Raises
        ------
        Refused : COHORT_TOO_CLOSE when it differs from a released cohort in 1 to k-1 patients or
            the cohorts together expose fewer than k; TOO_MANY_COHORTS beyond `max_cohorts`.
        """
        with self._guard():
            self._check_cohort(dataset, mask, k, max_cohorts)

    def commit(
        self,
        content_hash: str,
        release: bytes,
        *,
        entry: Mapping[str, Any],
        dataset: str,
        asked: Asked = Asked(),
        cohorts: Sequence[tuple[str, Mask]] = (),
        k: int | None = None,
        max_cohorts: int | None = None,
        spend: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
        forget: Sequence[str] = (),
    ) -> bytes:
        """Store a release with its cohorts and its spend, or nothing; the bytes that may leave.

        These are the bytes of the first commit of this content, whoever made it.

        Parameters
        ----------
        entry : study, step, task, combine, n_sums, patients, seen_as; bytes, if not those of
            `release`.
        dataset : whose budget the spend is of.
        asked : the question, compared with those before.
        cohorts : data set and patients, (n_patients,), of every sum in it; with `k` and
            `max_cohorts`.
        spend : the privacy event; None for sums without noise.
        budget : what the data set's events may cost; None: any.
        forget : earlier contents whose bytes are dropped; all else about them stays, and their
            SHA-256: who finds the same bytes again may release them again.

        Raises
        ------
        Refused : SEEN_TOGETHER, SEEN_ALONE, MEMBERSHIP_CHANGED, COHORT_TOO_CLOSE,
            TOO_MANY_COHORTS, BUDGET_SPENT; LEFTOVER_LOST for other bytes than those dropped.
        """
        if cohorts and (k is None or max_cohorts is None):
            raise TypeError("a cohort is checked against k and max_cohorts")
        with self._guard(), self._transaction(name for name, _ in cohorts):
            first = self._again(content_hash)
            if first is not None:
                return first
            if self._found_again(content_hash, release):
                self._drop(forget)
                return release
            self._check_audience(asked)
            if spend is not None:
                self._check_budget(dataset, spend, budget)
            self._store(content_hash, release, entry, asked)
            for about, mask in cohorts:
                self._check_cohort(about, mask, k or 0, max_cohorts or 0)
                self._db.execute(
                    "INSERT INTO cohorts (dataset, n_patients, bits, release) "
                    "VALUES (?, ?, ?, ?) ON CONFLICT (dataset, bits) DO NOTHING",
                    (about, int(mask.size), _seal(_bytes(mask)), content_hash),
                )
            if spend is not None:
                self._db.execute(
                    "INSERT INTO spends (dataset, event, release) VALUES (?, ?, ?)",
                    (dataset, _seal(codec.encode(spend)), content_hash),
                )
            self._drop(forget)
        return release

    def refuse(self, *, study: str, step: str, task: str, code: str, note: str = "") -> None:
        """Write down a refusal. The note is for the site's own eyes."""
        with self._guard():
            self._db.execute(
                "INSERT INTO refusals (time, study, step, task, code, note) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET times = times + 1, time = excluded.time",
                (_now(), study, step, task, code, note),
            )

    def spent(self, dataset: str) -> list[dict[str, Any]]:
        """The privacy events of a data set, oldest first."""
        with self._guard():
            found = self._db.execute(
                "SELECT event FROM spends WHERE dataset = ? ORDER BY id", (dataset,)
            ).fetchall()
            return [codec.decode(self._unseal(event)) for (event,) in found]

    def datasets(self) -> list[str]:
        """Data sets of which something noisy was released."""
        with self._guard():
            found = self._db.execute("SELECT DISTINCT dataset FROM spends ORDER BY 1")
            return [str(name) for (name,) in found]

    def rows(self) -> list[dict[str, Any]]:
        """What left, as an officer reads it: the releases of one step as one row.

        study, step, task, combine, times, sums (each time), patients, bytes (of all times),
        seen_as, time (of the first).
        """
        return self._dicts(_ROWS)

    def refusals(self) -> list[dict[str, Any]]:
        """What was refused: study, step, task, code, note, times, time (of the last)."""
        return self._dicts(
            "SELECT study, step, task, code, note, times, time FROM refusals ORDER BY rowid"
        )

    def _members_of(self, question: str) -> set[str]:
        asked = "SELECT DISTINCT members FROM releases WHERE question = ? AND question <> ''"
        found = self._db.execute(asked, (question,)).fetchall()
        return {str(members) for (members,) in found}

    def _check_audience(self, asked: Asked) -> None:
        """Two totals of one question over different sites show the site that is in one of them;
        a total less what others have shown alone is the sum of the rest."""
        others = self._members_of(asked.question) - {asked.members}
        if not others or (others == {""} and asked.all_shown):
            return
        code = "MEMBERSHIP_CHANGED" if others - {""} else "SEEN_ALONE"
        code = code if asked.members else "SEEN_TOGETHER"
        what = "the same sum was released before, over other hospitals or by itself"
        raise Refused(what, code=code, rule=RULES[code], next=NEXT[code])

    def _store(
        self, content_hash: str, release: bytes, entry: Mapping[str, Any], asked: Asked
    ) -> None:
        texts = [str(entry[name]) for name in ("study", "step", "task", "combine", "seen_as")]
        self._db.execute(
            "INSERT INTO releases (content_hash, release, time, bytes, n_sums, patients, "
            "study, step, task, combine, seen_as, question, members) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                content_hash,
                _seal(release),
                _now(),
                int(entry.get("bytes", len(release))),
                int(entry["n_sums"]),
                int(entry["patients"]),
                *texts,
                asked.question,
                asked.members,
            ),
        )

    def _entry(self, content_hash: str) -> bytes | None:
        """The sealed bytes of a release; its seal alone where they were dropped."""
        found = self._db.execute(
            "SELECT release FROM releases WHERE content_hash = ?", (content_hash,)
        ).fetchall()
        return found[0][0] if found else None

    def _again(self, content_hash: str) -> bytes | None:
        found = self._entry(content_hash)
        if found is None or len(found) <= _HASH:
            return None
        self._count(content_hash, found)
        return self._unseal(found)

    def _found_again(self, content_hash: str, release: bytes) -> bool:
        """Hold what was dropped once more. Raises LEFTOVER_LOST for other bytes."""
        found, sealed = self._entry(content_hash), _seal(release)
        if found is None:
            return False
        if found != sealed[:_HASH]:
            code, what = "LEFTOVER_LOST", "the bytes of this release are no longer kept"
            raise Refused(what, code=code, rule=RULES[code], next=NEXT[code])
        self._count(content_hash, sealed)
        return True

    def _count(self, content_hash: str, sealed: bytes) -> None:
        self._db.execute(
            "UPDATE releases SET times = times + 1, release = ? WHERE content_hash = ?",
            (sealed, content_hash),
        )

    def _drop(self, contents: Sequence[str]) -> None:
        drop = f"UPDATE releases SET release = substr(release, 1, {_HASH}) WHERE content_hash = ?"
        self._db.executemany(drop, [(one,) for one in contents])

    def _check_cohort(self, dataset: str, mask: Mask, k: int, max_cohorts: int) -> None:
        seen = self._catch_up(dataset, int(mask.size))
        new = cohorts.pack(mask)
        if not cohorts.difference(new, seen.bits).all():
            return
        if len(seen.bits) >= (max_cohorts if k <= 1 else min(max_cohorts, cohorts.MOST)):
            raise Refused(
                "too many different groups of patients were asked about",
                code="TOO_MANY_COHORTS",
                rule="the site's policy: at most so many different cohorts of one data set",
                next="use a cohort that was asked about before",
            )
        # Fewer than k patients are asked about only where the others' make up for it: by itself
        # that exposes nobody, a second such cohort may.
        audited = np.count_nonzero(mask) >= k
        if k > 1 and (cohorts.too_close(new, seen.bits, k) or (audited and seen.exposes(new, k))):
            raise Refused(
                "the group of patients is too close to others that were asked about",
                code="COHORT_TOO_CLOSE",
                rule=_TOO_CLOSE,
                next="use a cohort that was asked about before, or one that differs more",
            )

    def _catch_up(self, dataset: str, n_patients: int) -> _Seen:
        """The committed cohorts; those that other processes added are read now."""
        seen = self._seen.get(dataset)
        if seen is not None and not seen.last and seen.n_patients != n_patients:
            seen = None  # nothing of it has left
        found = self._db.execute(
            "SELECT id, n_patients, bits FROM cohorts WHERE dataset = ? AND id > ? ORDER BY id",
            (dataset, seen.last if seen else 0),
        ).fetchall()
        n_words = -(-n_patients // 64)
        if any(n != n_patients for _, n, _ in found) or (seen and seen.n_patients != n_patients):
            raise InputError(
                "the data set has another number of patients than before",
                code="DATA_CHANGED",
                rule="cohorts are compared over the same patients in the same order",
                next="give the changed data a new data set id",
            )
        if seen is None:
            words = np.zeros((0, n_words), dtype=np.uint64)
            if n_words not in self._none:
                self._none = {n_words: cohorts.Atoms.none(n_words)}
            seen = _Seen(n_patients, words, self._none[n_words])
        if found:
            new = [np.frombuffer(self._unseal(bits), dtype="<u8") for _, _, bits in found]
            seen.bits = np.vstack([seen.bits, *new])
            seen.apart.add(new)
            seen.last = found[-1][0]
        self._seen[dataset] = seen
        return seen

    def _check_budget(self, dataset: str, spend: Mapping[str, Any], budget: Budget | None) -> None:
        grouped([spend])
        if budget is not None and not budget.fits(self.spent(dataset), spend):
            raise Refused(
                "the data set's privacy budget does not allow this release",
                code="BUDGET_SPENT",
                rule="the site's policy: all noisy releases of a data set cost at most so much",
                next="ask with more noise, or ask the site for a larger budget",
            )

    def _dicts(self, query: str) -> list[dict[str, Any]]:
        with self._guard():
            cursor = self._db.execute(query)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    @contextmanager
    def _transaction(self, datasets: Iterable[str]) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            for name in datasets:  # what was read of them may have been rolled back
                self._seen.pop(name, None)
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """One thread at a time, and the database's errors in our words."""
        with self._lock:
            try:
                yield
            except (sqlite3.OperationalError, OSError) as error:
                raise self._stopped(
                    str(error),
                    code="CANNOT_WRITE",
                    rule="nothing leaves before it is in the ledger",
                    next="free some space or end the program that holds the file, then ask again",
                ) from error
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:
                    raise  # a wrong call
                raise self._damaged(str(error)) from error

    def _unseal(self, data: bytes) -> bytes:
        body = data[_HASH:]
        if hashlib.sha256(body).digest() != data[:_HASH]:
            raise self._damaged("an entry is not as it was written")
        return body

    def _damaged(self, what: str) -> PolyclinicError:
        return self._stopped(
            what,
            code="LEDGER_DAMAGED",
            rule="a site whose ledger cannot be read releases nothing",
            next="restore the file with its -wal file from a backup; a new one would forget what "
            "was spent",
        )

    def _stopped(self, what: str, **more: str) -> Stopped:
        return Stopped(f"{self.path or 'ledger'}: {what}", kept="the file is left as it is", **more)


def _bytes(mask: Mask) -> bytes:
    return cohorts.pack(mask).astype("<u8").tobytes()


def _seal(data: bytes) -> bytes:
    return hashlib.sha256(data).digest() + data


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
