from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import threading
import time

import pytest

from polyclinic.core import codec
from polyclinic.core.errors import InputError, Stopped
from polyclinic.governance import signing
from polyclinic.governance.audit import AuditLog, entries, verify
from polyclinic.governance.chain import line_hash, write_line
from tests.governance.logs import checked, fill, of

LINES = 30


@pytest.fixture(scope="module")
def thirty(tmp_path_factory, identity):
    """(bytes of a log of 30 lines, its signed head)"""
    log = fill(AuditLog(tmp_path_factory.mktemp("thirty") / "audit.jsonl", identity), LINES - 1)
    return log.path.read_bytes(), log.signed_head()


def test_what_is_appended_is_found_again_in_order(log, identity):
    assert log.append("approved", study="heart", hash="9c2e", rounds=[1, 2], by=None, ok=True) == 2
    assert log.append("refused", code="CELL_TOO_SMALL", at={"round": 3}) == 3
    assert checked(log.path, identity) == 3
    first, second, third = entries(log.path)
    assert (first["event"], first["details"]) == ("log_started", {"key": identity.public.hex()})
    assert second["details"]["rounds"] == [1, 2]
    assert third["details"] == {"code": "CELL_TOO_SMALL", "at": {"round": 3}}
    assert [record["seq"] for record in (first, second, third)] == [1, 2, 3]
    assert third["time"].endswith("+00:00")
    assert os.stat(log.path).st_mode & 0o777 == 0o600


def test_reopening_goes_on_where_it_ended(log, identity):
    fill(log, 3)
    again = AuditLog(log.path, identity)
    assert again.head() == log.head()
    assert again.append("approved") == 5
    assert log.append("approved") == 6  # the first object sees what the second wrote
    assert checked(log.path, identity) == 6


@pytest.mark.parametrize(
    "details",
    [{"x": 1.5}, {"x": [1, 2.0]}, {"x": {"y": 0.1}}, {"x": b"1"}, {"x": {1: 2}}, {"x": 2**70}],
    ids=str,
)
def test_a_value_does_not_enter_the_log(log, identity, details):
    with pytest.raises(InputError) as caught:
        log.append("released", **details)
    assert caught.value.code == "BAD_DETAILS"
    assert not any(str(value) in str(caught.value) for value in (1.5, 0.1, 2**70))
    assert checked(log.path, identity) == 1


@pytest.mark.parametrize("event", ["", "Two words", "a\nb", "x" * 65])
def test_an_event_has_a_plain_name(log, event):
    with pytest.raises(InputError, match="BAD_DETAILS"):
        log.append(event)


def test_an_event_is_of_bounded_length(log, identity):
    with pytest.raises(InputError, match="BAD_DETAILS"):
        log.append("released", note="x" * 70_000)
    log.append("released", note="x" * 60_000)
    assert AuditLog(log.path, identity).append("approved") == 3


@pytest.mark.parametrize("kind", ["edit", "delete", "insert"])
def test_every_changed_byte_is_found(tmp_path, identity, thirty, kind):
    data, draw, line = thirty[0], random.Random(7), 1
    path = tmp_path / "audit.jsonl"
    path.write_bytes(data)
    with open(path, "r+b", buffering=0) as file:
        for at, byte in enumerate(data):
            line += data[at - 1] == 10 and at > 0
            if kind != "edit" and line < LINES and at % 8:
                continue
            if kind == "edit":  # a digit becomes another one, so that the line is still JSON
                new = bytes([(byte - 47) % 10 + 48 if 48 <= byte <= 57 else byte ^ 1 << at % 8])
            else:
                new = b"" if kind == "delete" else bytes([byte ^ draw.randrange(1, 256)])
            rest = data[at:] if kind == "insert" else data[at + 1 :]
            os.pwrite(file.fileno(), new + rest, at)
            os.ftruncate(file.fileno(), at + len(new + rest))
            found = verify(path, identity.public)
            assert not found.ok, (at, new)
            assert found.line is not None and abs(found.line - line) <= 1, (line, found)
            os.pwrite(file.fileno(), data[at:], at)


def test_a_changed_byte_of_the_last_line_is_found_without_a_pinned_key(tmp_path, thirty):
    lines = thirty[0].splitlines(keepends=True)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(thirty[0])
    assert verify(path).ok
    for kept, at in [(LINES, at) for at in range(0, len(lines[-1]), 3)] + [(1, 60), (1, 200)]:
        last = bytearray(lines[kept - 1])
        last[at] ^= 1
        path.write_bytes(b"".join(lines[: kept - 1]) + last)
        assert not verify(path).ok, (kept, at)


def test_deleted_swapped_and_doubled_lines_are_found_where_they_are(tmp_path, identity, thirty):
    lines = thirty[0].splitlines(keepends=True)
    path = tmp_path / "audit.jsonl"

    def problem(changed):
        path.write_bytes(b"".join(changed))
        found = verify(path, identity.public)
        assert not found.ok
        return found.line, found.problem

    for at in range(LINES - 1):
        line, _ = problem(lines[:at] + lines[at + 1 :])
        assert line == at + 1
        line, _ = problem([*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]])
        assert line == at + 1
        line, text = problem([*lines[: at + 1], lines[at], *lines[at + 1 :]])
        assert (line, "inserted" in text) == (at + 2, True)


def test_an_edited_line_is_told_from_a_missing_one(tmp_path, identity, thirty):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(thirty[0].replace(b'"round":11', b'"round":99'))
    found = verify(path, identity.public)
    assert (found.line, found.entries, found.problem) == (13, 12, "the line was edited")


def test_a_log_forged_with_another_key_is_found(tmp_path, identity, stranger):
    log = fill(AuditLog(tmp_path / "audit.jsonl", stranger), 5)
    assert verify(log.path).ok
    found = verify(log.path, identity.public)
    assert (found.line, found.problem) == (1, "the log was started with another key")


def test_a_chain_that_leaves_a_number_out_is_found(log, identity):
    record = {"seq": 3, "time": "", "event": "x", "details": {}, "prev": log.head()["hash"]}
    with open(log.path, "ab") as file:
        file.write(write_line(record, identity))
    found = verify(log.path, identity.public)
    assert (found.ok, found.line) == (False, 2)


def test_every_truncation_is_found_with_a_head_kept_elsewhere(tmp_path, identity, thirty):
    data, head = thirty
    lines = data.splitlines(keepends=True)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(data)
    assert verify(path, identity.public, [head]).ok
    for kept in range(LINES):
        path.write_bytes(b"".join(lines[:kept]))
        assert not verify(path, identity.public, [head]).ok
        assert verify(path, identity.public).ok == (kept > 0)  # only the head can tell
    for cut in range(1, len(lines[-1])):
        path.write_bytes(data[:-cut])
        assert not verify(path, identity.public, [head]).ok


def test_a_log_written_anew_with_the_right_key_does_not_fit_a_head(tmp_path, identity, thirty):
    log = fill(AuditLog(tmp_path / "audit.jsonl", identity), LINES + 5)
    assert verify(log.path, identity.public).ok
    found = verify(log.path, identity.public, [thirty[1]])
    assert not found.ok and "rewritten" in found.problem


def test_a_head_of_another_site_or_no_head_does_not_pass(tmp_path, identity, stranger, log):
    other = fill(AuditLog(tmp_path / "other.jsonl", stranger), 2)
    for wrong in (other.signed_head(), b"", b"PCM1", codec.encode({"seq": 1}), b"x" * 5_000):
        found = verify(log.path, identity.public, [wrong])
        assert (found.ok, found.problem[:23]) == (False, "a head that was given i")
        assert found.line is None


def test_no_log_and_an_empty_log_are_not_well(tmp_path, identity):
    assert not verify(tmp_path / "absent", identity.public).ok
    (tmp_path / "empty").write_bytes(b"")
    assert not verify(tmp_path / "empty", identity.public).ok


def test_a_damaged_log_is_not_written_to(log, identity, stranger):
    fill(log, 3)
    whole = log.path.read_bytes()
    with pytest.raises(InputError, match="WRONG_KEY"):
        AuditLog(log.path, stranger)
    shorter = whole[: whole[:-1].rfind(b"\n") + 1]
    edited = whole.replace(b'"round":2', b'"round":7')
    for damaged, codes in (
        (shorter, {"open": 4, "held": "LOG_DAMAGED"}),
        (edited + b'{"details":{}}\n', {"open": "LOG_DAMAGED", "held": "LOG_DAMAGED"}),
        (b"not a log", {"open": "LOG_DAMAGED", "held": "LOG_DAMAGED"}),
        (whole.replace(b'"round":2', b'"round":7'), {"open": "LOG_DAMAGED"}),
        (whole[:-30] + b"0" * 29 + b"\n", {"open": "LOG_DAMAGED"}),
        (whole + b"x" * 200_000, {"open": "LOG_DAMAGED", "held": "LOG_DAMAGED"}),
        (edited + b'{"torn', {"open": "LOG_DAMAGED"}),
    ):
        log.path.write_bytes(damaged)
        for way, expected in codes.items():
            if isinstance(expected, int):
                continue
            with pytest.raises(InputError) as caught:
                AuditLog(log.path, identity) if way == "open" else log.append("approved")
            assert caught.value.code == expected, (way, damaged[-40:])
        assert log.path.read_bytes() == damaged


@pytest.mark.parametrize("at", [1, 2, 15, 28, 29])
def test_nothing_is_added_after_a_bad_line_wherever_it_is(tmp_path, identity, thirty, at):
    path = tmp_path / "audit.jsonl"
    lines = thirty[0].splitlines(keepends=True)
    for changed in (lines[at].replace(b'"seq"', b'"seQ"'), b"", lines[at] * 2):
        damaged = b"".join([*lines[:at], changed, *lines[at + 1 :]])
        path.write_bytes(damaged)
        if damaged == b"".join(lines[:-1]):
            continue  # cut off at the end: only a head tells
        with pytest.raises(InputError, match=f"at line {at}|at line {at + 1}|at line {at + 2}"):
            AuditLog(path, identity)
        assert path.read_bytes() == damaged


def test_an_end_that_was_cut_off_is_found_on_opening_with_a_head(tmp_path, identity, thirty):
    data, head = thirty
    path = tmp_path / "audit.jsonl"
    lines = data.splitlines(keepends=True)
    for kept in (0, 1, LINES - 1):
        path.write_bytes(b"".join(lines[:kept]))
        with pytest.raises(InputError, match="LOG_DAMAGED"):
            AuditLog(path, identity, [head])
        assert path.read_bytes() == b"".join(lines[:kept])
    path.write_bytes(data)
    assert AuditLog(path, identity, [head]).append("approved") == LINES + 1


def test_what_another_process_appends_is_checked_before_more_is_added(log, identity):
    fill(log, 3)
    before = log.path.read_bytes()
    other = fill(AuditLog(log.path, identity), 3)
    whole = other.path.read_bytes()
    log.path.write_bytes(before + whole[len(before) :].replace(b'"round":1', b'"round":4'))
    with pytest.raises(InputError, match="LOG_DAMAGED"):
        log.append("approved")


def test_a_torn_line_is_set_aside_and_told(log, identity):
    fill(log, 2)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"details":{"half')
    assert verify(log.path, identity.public).problem == "the last line is torn"
    again = AuditLog(log.path, identity)
    assert checked(log.path, identity) == 4
    (told,) = of(log.path, "torn_line_moved")
    aside = log.path.with_name(told["details"]["torn_file"])
    assert aside.name == "audit.jsonl.4.torn" and aside.read_bytes() == b'{"details":{"half'
    assert told["details"]["torn_bytes"] == 17
    assert again.append("approved") == 5
    assert AuditLog(log.path, identity).append("approved") == 6  # and told once


CRASHES = """
import os, signal, sys
from polyclinic.governance import audit
from polyclinic.privacy.secure.identity import Identity
path, key, point = sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write, truncate = os.write, os.ftruncate
def half(handle, data):
    write(handle, data[: len(data) // 2]); die()
def unsynced(handle, data):
    write(handle, data); die()
if point == "first line": os.write = half
log = audit.AuditLog(path, Identity.from_private_bytes(key))
for number in range(5):
    log.append("released", round=number)
if point == "half a line": os.write = half
if point == "before fsync": os.write = unsynced
if point in ("before the cut", "after the cut", "in the telling"):
    with open(path, "ab") as file: file.write(b'{"details":{"half')
if point == "before the cut": os.ftruncate = die
if point == "after the cut": os.ftruncate = lambda *a: (truncate(*a), die())
if point == "in the telling": os.write = half
log.append("last")
"""


@pytest.mark.parametrize(
    ("point", "torn"),
    [
        ("first line", 1),
        ("half a line", 1),
        ("before fsync", 0),
        ("before the cut", 1),
        ("after the cut", 1),
        ("in the telling", 1),
    ],
)
def test_kill_at_every_step_of_an_append_leaves_a_whole_log(tmp_path, identity, point, torn):
    path = tmp_path / "audit.jsonl"
    arguments = [str(path), identity.private_bytes().hex(), point]
    done = subprocess.run([sys.executable, "-c", CRASHES, *arguments], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    log = AuditLog(path, identity)
    log.append("approved")
    checked(path, identity)
    rounds = [record["details"]["round"] for record in of(path, "released")]
    assert rounds == ([] if point == "first line" else [0, 1, 2, 3, 4])
    told = [record["details"] for record in entries(path) if "torn_file" in record["details"]]
    assert len(told) == torn
    for details in told:
        aside = (path.parent / details["torn_file"]).read_bytes()
        assert len(aside) == details["torn_bytes"] and aside.startswith(b'{"details":{')


APPENDS = """
import sys
from polyclinic.governance.audit import AuditLog
from polyclinic.privacy.secure.identity import Identity
log = AuditLog(sys.argv[1], Identity.from_private_bytes(bytes.fromhex(sys.argv[2])))
count = int(sys.argv[3]) if len(sys.argv) > 3 else 10**9
for number in range(count):
    log.append("released", writer=sys.argv[0], round=number)
    print(log.head()["seq"], flush=True)
"""


def test_kill_in_the_midst_of_appends_loses_nothing_that_was_told(tmp_path, identity):
    path = tmp_path / "audit.jsonl"
    command = [sys.executable, "-c", APPENDS, str(path), identity.private_bytes().hex()]
    draw, told = random.Random(11), 0
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            time.sleep(draw.uniform(0.0, 0.1))
            child.kill()
            lines = child.stdout.read().split(b"\n")
        told = max(told, *(int(line) for line in lines[:-1]), 2)
        log = AuditLog(path, identity)
        assert checked(path, identity) >= told
        assert verify(path, identity.public, [log.signed_head()]).ok
    assert told > 5


def test_two_processes_and_two_threads_append_to_one_chain(log, identity):
    command = [sys.executable, "-c", APPENDS, str(log.path), identity.private_bytes().hex(), "100"]
    others = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    threads = [threading.Thread(target=fill, args=(log, 50)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [child.wait() for child in others] == [0, 0]
    assert checked(log.path, identity) == 301


def test_a_child_process_that_inherits_the_log_appends_to_one_chain(log, identity):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=fill, args=(log, 30)) for _ in range(2)]
    for child in children:
        child.start()
    fill(log, 30)
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert checked(log.path, identity) == 91


def test_a_full_disk_stops_and_leaves_the_log_whole(log, identity):
    fill(log, 2)
    before = log.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(Stopped) as caught:
            log.append("approved")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "CANNOT_WRITE"
    assert log.path.read_bytes() == before
    assert log.append("approved") == 4
    assert checked(log.path, identity) == 4


def test_an_fsync_that_fails_is_no_success(log, identity, monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr("polyclinic.governance.audit._sync", broken)
        with pytest.raises(Stopped, match="CANNOT_WRITE"):
            log.append("approved")
    assert checked(log.path, identity) == 1


def test_a_log_taken_away_is_not_begun_anew(log):
    log.path.unlink()
    with pytest.raises(Stopped, match="CANNOT_WRITE"):
        log.append("approved")
    assert not log.path.exists()


def test_the_log_is_json_lines_that_other_tools_read_and_check(log):
    fill(log, 3)
    before = hashlib.sha256(b"").hexdigest()
    for line in log.path.read_bytes().splitlines(keepends=True):
        assert json.loads(line)["prev"] == before
        before = hashlib.sha256(line).hexdigest()
    assert log.head()["hash"] == before
    assert signing.fingerprint(bytes(32)) == "6668 7aad f862 bd77"


def test_speed(tmp_path, identity, capsys):
    log = AuditLog(tmp_path / "audit.jsonl", identity)
    started = time.perf_counter()
    fill(log, 200)
    appended = time.perf_counter() - started
    with open(log.path, "ab") as file:  # the rest without fsync, which the check does not need
        seq, prev = log.head()["seq"], log.head()["hash"]
        for number in range(seq + 1, 10_001):
            record = {"seq": number, "time": "2026-01-01T00:00:00.000+00:00", "event": "released"}
            line = write_line({**record, "details": {"round": number}, "prev": prev}, identity)
            prev = line_hash(line)
            file.write(line)
    started = time.perf_counter()
    assert checked(log.path, identity) == 10_000
    verified = time.perf_counter() - started
    started = time.perf_counter()
    assert AuditLog(log.path, identity).head()["seq"] == 10_000
    opened = time.perf_counter() - started
    assert verified < 5 and opened < 5  # about 0.1 s
    with capsys.disabled():
        print(f"\n{200 / appended:,.0f} events/s; 10,000 lines checked in {verified:.2f} s")
