from __future__ import annotations

import stat
import threading

import pytest

from polyclinic.privacy.secure import MemoryJournal, SecureSumError, SQLiteJournal


@pytest.fixture(params=["memory", "sqlite"])
def journal(request, tmp_path):
    return MemoryJournal() if request.param == "memory" else SQLiteJournal(tmp_path / "journal")


def test_all_changes_are_made_or_none(journal):
    assert journal.write({"a": b"1", "b": b"2"}, {"a": None})
    assert not journal.write({"a": b"3", "c": b"4"}, {"b": b"x"})
    assert (journal.get("a"), journal.get("b"), journal.get("c")) == (b"1", b"2", None)
    assert journal.write({"a": None, "b": b"5"}, {"a": b"1"})
    assert (journal.get("a"), journal.get("b")) == (None, b"5")


def test_keys_by_prefix(journal):
    journal.write({"a%1": b"", "a_2": b"", "b": b""}, {})
    assert journal.keys("a") == ["a%1", "a_2"]
    assert journal.keys("a%") == ["a%1"]


def test_of_many_writers_that_saw_the_same_one_wins(journal):
    won = []
    threads = [
        threading.Thread(
            target=lambda i=i: won.append(journal.write({"k": b"%d" % i}, {"k": None}))
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_another_process_sees_what_was_written_and_only_the_owner_may_read(tmp_path):
    path = tmp_path / "journal"
    first, second = SQLiteJournal(path), SQLiteJournal(path)
    assert first.write({"k": b"v"}, {})
    assert second.get("k") == b"v"
    assert not second.write({"k": b"w"}, {"k": None})
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}


def test_what_is_erased_is_in_no_file_any_more(tmp_path):
    journal = SQLiteJournal(tmp_path / "journal")
    secret = b"a very secret value " * 300
    journal.write({"k": secret, "gone": b"", "other": b"stays"}, {})
    journal.write({"gone": None}, {})  # moves all from the log file into the journal
    assert any(secret[:40] in p.read_bytes() for p in tmp_path.iterdir())
    journal.write({"k": None}, {})
    assert not any(secret[:40] in p.read_bytes() for p in tmp_path.iterdir())
    assert journal.get("other") == b"stays"


def test_a_damaged_file_is_an_error_with_a_code(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(b"no database " * 100)
    with pytest.raises(SecureSumError) as caught:
        SQLiteJournal(path)
    assert caught.value.code == "CANNOT_WRITE"
    journal = SQLiteJournal(tmp_path / "good")
    journal.close()
    with pytest.raises(SecureSumError):
        journal.get("k")
    with pytest.raises(SecureSumError):
        journal.write({"k": b""}, {})
