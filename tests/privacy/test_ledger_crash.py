"""Processes that are killed, and processes that write at the same time."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import sys
import time
import traceback
from contextlib import closing
from itertools import count

import numpy as np
import pytest

from polyclinic.core.errors import Refused
from polyclinic.privacy import ledger as module
from polyclinic.privacy import ledger_file
from polyclinic.privacy.budget import Budget
from polyclinic.privacy.ledger import Ledger

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes by signal")

ENTRY = {
    "study": "heart",
    "step": "Newton round",
    "task": "glm.derivatives",
    "combine": "sum",
    "n_sums": 154,
    "patients": 140,
    "seen_as": "total of 4",
}
PATIENTS, EACH = 6400, 20


def by_count(events, delta):
    return float(sum(event["times"] for event in events))


BUDGET = Budget(100.0, 1e-6, by_count)


def name(i):
    return hashlib.sha256(str(i).encode()).hexdigest()


def spend_of(i):
    return {"mechanism": "gaussian", "multiplier": 4.0 + i, "times": 1}


def mask_of(i):
    mask = np.zeros(PATIENTS, dtype=bool)
    mask[EACH * i : EACH * (i + 1)] = True
    return mask


def commit(ledger, i, *, who=b"", **more):
    mask = more.pop("cohort_mask", mask_of(i))
    own = {
        "cohorts": [] if mask is None else [("va", mask)],
        "spend": spend_of(i),
        "budget": BUDGET,
        **more,
    }
    release = f"release {i} ".encode() + who + bytes(5000)
    return ledger.commit(name(i), release, entry=ENTRY, dataset="va", k=5, max_cohorts=400, **own)


def start(work, *arguments):
    """`work` in a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    try:
        work(*arguments)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def end_of(child):
    """The signal that ended the process, or 0."""
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def stored(path):
    """What the file holds, release by release; a half of anything fails here."""
    with closing(sqlite3.connect(path)) as db:
        releases = {row[0] for row in db.execute("SELECT content_hash FROM releases")}
        for table in ("spends", "cohorts"):
            rows = [row[0] for row in db.execute(f"SELECT release FROM {table}")]
            assert sorted(rows) == sorted(releases), f"{table} and releases differ"
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return releases


class KillAt:
    """Counts statements and kills its own process before the one it was told."""

    def __init__(self, at=None):
        self.seen, self.at = 0, at

    def __call__(self, statement):
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def statements_of_a_commit(path):
    with closing(Ledger(path)) as ledger:
        commit(ledger, 0)
        ledger._db.set_trace_callback(counted := KillAt())
        commit(ledger, 1)
    return counted.seen


def commit_and_die(path, i, at):
    ledger = Ledger(path)
    ledger._db.set_trace_callback(KillAt(at))
    commit(ledger, i)
    ledger._db.set_trace_callback(None)
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_at_every_statement_of_a_commit(tmp_path):
    n = statements_of_a_commit(tmp_path / "counted.sqlite")
    assert n >= 8  # begin, look-up, cohorts, spends, three inserts, commit
    path, done = tmp_path / "ledger.sqlite", 0
    for at in range(1, n + 2):
        before = stored(path) if path.exists() else set()
        assert end_of(start(commit_and_die, path, at, at)) == signal.SIGKILL
        after = stored(path)
        assert after - before == ({name(at)} if at > n else set())
        with closing(Ledger(path)) as ledger:
            known = ledger.released(name(at))
            assert (known is None) == (name(at) not in after)
            again = commit(ledger, at, who=b"again")
            assert again.startswith(f"release {at} again".encode()) == (known is None)
            done += 1
            assert len(ledger.spent("va")) == done
            assert ledger.spent("va").count(spend_of(at)) == 1


def open_and_die(path, at):
    kill, connect = KillAt(at), module.connect

    def watched(target):
        db = connect(target)
        db.set_trace_callback(kill)
        return db

    module.connect = ledger_file.connect = watched
    Ledger(path)


def test_killed_at_every_statement_of_the_first_opening(tmp_path):
    for at in range(1, 100):
        path = tmp_path / str(at) / "ledger.sqlite"
        end = end_of(start(open_and_die, path, at))
        with closing(Ledger(path)) as ledger:
            commit(ledger, 1)
        assert stored(path) == {name(1)}
        if not end:
            break
    assert 10 < at < 99


def commit_many(path, acknowledged, first):
    """Until it is killed."""
    ledger = Ledger(path)
    file = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for i in count(first):
        commit(ledger, i % 300, budget=None)
        os.write(file, f"{i % 300}\n".encode())


def test_killed_at_random_moments(tmp_path):
    """What was handed out is stored with its spend, over forty crashes of one ledger."""
    path, acknowledged = tmp_path / "ledger.sqlite", tmp_path / "acknowledged"
    Ledger(path).close()
    rng, killed = np.random.default_rng(int.from_bytes(os.urandom(4))), 0
    for _ in range(40):
        child = start(commit_many, path, acknowledged, len(stored(path)))
        time.sleep(rng.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        killed += end_of(child) == signal.SIGKILL
        found = stored(path)
        handed_out = acknowledged.read_text().split() if acknowledged.exists() else []
        assert {name(i) for i in handed_out} <= found
    assert killed == 40 and len(found) > 10
    with closing(Ledger(path)) as ledger:
        events = ledger.spent("va")
    assert sorted(event["multiplier"] for event in events) == [4.0 + i for i in range(len(found))]


def together(work, arguments):
    """One process per argument, set off at the same moment."""
    ready, go = os.pipe(), os.pipe()

    def waiting(argument):
        os.close(go[1])
        os.write(ready[1], b".")
        os.read(go[0], 1)
        work(argument)

    children = [start(waiting, argument) for argument in arguments]
    for _ in children:
        os.read(ready[0], 1)
    for end in (*go, *ready):
        os.close(end)
    assert [end_of(child) for child in children] == [0] * len(children)


def test_processes_together_never_overspend(tmp_path):
    path, budget = tmp_path / "ledger.sqlite", Budget(25.0, 1e-6, by_count)
    Ledger(path).close()

    def work(who):
        with closing(Ledger(path)) as ledger:
            for i in range(20 * who, 20 * who + 20):
                try:
                    commit(ledger, i, budget=budget)
                except Refused as error:
                    if error.code != "BUDGET_SPENT":
                        raise

    together(work, range(3))
    assert len(stored(path)) == 25


def test_processes_together_hand_out_the_same_bytes(tmp_path):
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()

    def work(who):
        with closing(Ledger(path)) as ledger:
            got = [commit(ledger, i, who=b"by %d" % who) for i in range(25)]
        (tmp_path / str(who)).write_bytes(b"".join(got))

    together(work, range(3))
    first = (tmp_path / "0").read_bytes()
    assert first == (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert len(stored(path)) == 25
    with closing(Ledger(path)) as ledger:
        assert len(ledger.spent("va")) == 25
        assert ledger.rows()[0]["times"] == 75


def test_processes_together_cannot_release_two_close_cohorts(tmp_path):
    path, n = tmp_path / "ledger.sqlite", 30
    Ledger(path).close()

    def work(who):
        with closing(Ledger(path)) as ledger:
            for i in range(n):
                mask = mask_of(2 * i)
                mask[EACH * (2 * i + 1)] = who
                try:
                    commit(ledger, 2 * i + who, cohort_mask=mask)
                except Refused as error:
                    if error.code != "COHORT_TOO_CLOSE":
                        raise

    together(work, [False, True])
    found = stored(path)
    assert all((name(2 * i) in found) != (name(2 * i + 1) in found) for i in range(n))


def test_processes_together_make_one_ledger(tmp_path):
    path = tmp_path / "ledger.sqlite"

    def work(who):
        with closing(Ledger(path)) as ledger:
            commit(ledger, who)

    together(work, range(6))
    assert stored(path) == {name(i) for i in range(6)}
