"""Addresses that cannot be asked, and what patterns name. Hadoop: tests/engines/test_hdfs.py."""

from __future__ import annotations

import contextlib
import socket

import pytest

from polyclinic.core.errors import InputError
from polyclinic.data import file_systems
from polyclinic.data.file_systems import Unreached, files_of, opened, reason
from polyclinic.data.parquet import open_lake

pytest.importorskip("pyarrow")


def test_a_pattern_takes_what_is_hidden_only_where_it_is_named(tmp_path):
    for name in (
        "a.pq",
        "_a.pq",
        ".a.pq",
        "b/c.pq",
        "b/_c/d.pq",
        "_b/c.pq",
        ".b/c/d.pq",
        "b/e.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "c%d.pq").touch()
    for pattern, names in (
        ("", ["a b/c%d.pq", "a.pq", "b/c.pq"]),
        ("/", ["a b/c%d.pq", "a.pq", "b/c.pq"]),
        ("/*", ["a.pq"]),
        ("/**/*.pq", ["a b/c%d.pq", "a.pq", "b/c.pq"]),
        ("/**/c.pq", ["b/c.pq"]),
        ("/_*", ["_a.pq"]),
        ("/_b/*", ["_b/c.pq"]),
        ("/**/_c/*", ["b/_c/d.pq"]),
        ("/.b/**/*", [".b/c/d.pq"]),
        ("/a b/*%*", ["a b/c%d.pq"]),
        ("/_a.pq", ["_a.pq"]),
        ("/none/*", []),
    ):
        for start in ("", "file://"):
            _, _, found = files_of(f"{start}{tmp_path}{pattern}", (".pq",))
            assert [one.removeprefix(f"{tmp_path}/") for one in found] == names, pattern


def test_a_name_node_that_is_not_there_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for host in (f"127.0.0.1:{port}", f"me@127.0.0.1:{port}", "127.0.0.1:70000"):
        with pytest.raises(InputError) as caught:
            open_lake(f"hdfs://{host}/visits/*.parquet", "north")
        assert caught.value.code == "NO_FILE" and "no NameNode answers at 127" in str(caught.value)
        assert "check that it runs" in str(caught.value)


def test_a_name_node_that_takes_no_connection_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(file_systems, "SECONDS", 0.2)
    with contextlib.ExitStack() as open_:
        full = open_.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # what its queue holds, and more
            one = open_.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        with pytest.raises(Unreached, match="TimeoutError"):
            opened(f"hdfs://127.0.0.1:{full.getsockname()[1]}/visits")


def test_why_nothing_was_read_is_said_without_what_stands_there():
    assert reason(OSError(255, "patient Miller")).startswith("Hadoop's client")
    assert reason(PermissionError(13, "patient Miller")) == "PermissionError"
    assert reason(Unreached("no NameNode", "start it")) == "no NameNode"
