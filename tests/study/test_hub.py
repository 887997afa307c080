"""A hub's folder, its lock and its store; and the supervisor that starts drivers."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

from polyclinic.core.errors import InputError, Stopped
from polyclinic.study import hubrun, hubstore
from polyclinic.study.hub import HubHome, Locked
from polyclinic.study.hubevents import Events
from polyclinic.study.supervisor import Supervisor
from tests.study.hub_world import hub_home, study_of


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_HOME", str(tmp_path))
    return hub_home(tmp_path / "hubs" / "test")


def test_a_hub_is_made_whole_and_private(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_HOME", str(tmp_path / "home"))
    os.umask(0o022)
    home = HubHome.create("heart", port=9000)
    assert (home.name, home.port, home.enrol_port) == ("heart", 9000, 9001)
    for path in [home.folder, *home.folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert HubHome.named(None).folder == home.folder == HubHome.named("heart").folder
    with pytest.raises(InputError, match="HUB_EXISTS"):
        HubHome.create("heart")
    from polyclinic.engines.flare.kit import check_kit

    check_kit(home.kit)


def test_a_hub_that_was_moved_starts_from_its_new_place(tmp_path):
    from polyclinic.engines.flare.kit import check_kit

    home = HubHome(tmp_path / "test").init()
    moved = HubHome(shutil.copytree(home.folder, tmp_path / "backup" / "test"))
    with pytest.raises(InputError, match="KIT_CHANGED"):
        check_kit(moved.kit)
    moved.settle()
    check_kit(moved.kit)
    shown = (moved.kit / "kit.json").read_text()
    assert str(moved.folder) in shown and str(home.folder) not in shown
    certificate = (moved.kit / "startup/server.crt").read_bytes()
    moved.settle()
    assert (moved.kit / "startup/server.crt").read_bytes() == certificate
    shutil.rmtree(moved.kit)
    moved.settle()
    check_kit(moved.kit)
    assert (moved.kit / "startup/server.crt").read_bytes() != certificate


@pytest.mark.parametrize(
    ("name", "host", "port"),
    [("Heart", "localhost", 1), ("../x", "localhost", 1), ("h", 'a" x="', 1), ("h", "h", 65535)],
)
def test_what_cannot_be_a_hub_is_refused(tmp_path, monkeypatch, name, host, port):
    monkeypatch.setenv("POLYCLINIC_HOME", str(tmp_path))
    with pytest.raises(InputError, match="WRONG_VALUE"):
        HubHome.create(name, host, port)
    assert not list(tmp_path.iterdir())


def test_no_hub_and_several_hubs_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_HOME", str(tmp_path))
    with pytest.raises(InputError, match="hub init"):
        HubHome.named(None)
    for name in ("one", "two"):
        hub_home(tmp_path / "hubs" / name)
    with pytest.raises(InputError, match="one, two"):
        HubHome.named(None)
    with pytest.raises(InputError, match="NO_HUB"):
        _ = HubHome(tmp_path).name


@pytest.mark.parametrize("site", ["server", "", "Va", "a/b", "x" * 65])
def test_what_cannot_be_a_hospital_is_refused(home, site):
    with pytest.raises(InputError, match="WRONG_VALUE"):
        home.invite(site)


def test_a_lock_ends_with_its_process(tmp_path):
    lock = Locked(tmp_path / "run")
    assert lock.holder() == 0
    code = (
        "import sys, time; from pathlib import Path; from polyclinic.study.hub import Locked\n"
        "with Locked(Path(sys.argv[1])).hold() as mine: print(mine, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "True\n"
        assert lock.holder() == child.pid
        with lock.hold() as mine:
            assert not mine
        child.kill()
    assert lock.wait_free(5.0)
    with lock.hold() as mine:
        assert mine and lock.holder() == os.getpid()


def test_the_store_keeps_runs_and_decisions(home):
    store = home.store
    run = store.add_run(hubstore.STUDY, "heart", "h1", b"paper")
    again = store.add_run(hubstore.STUDY, "heart", "h1", b"paper")
    session = store.add_run(hubstore.SESSION, "session", "h2", b"paper")
    assert (run.id, again.id, session.id) == ("heart", "heart-2", "session")
    assert store.last_of("h1") == again and store.last_of("h3") is None
    assert [one.id for one in store.unfinished()] == ["heart", "heart-2"]
    before = store.run("heart").since
    store.set_state("heart", hubstore.WAITING_APPROVAL, "still")
    assert store.run("heart").since == before and store.run("heart").detail == "still"
    store.set_state("heart", hubstore.DONE)
    assert store.run("heart").since > before and store.run("heart").finished
    store.decide("heart", "va", "approved", "", b"1")
    store.decide("heart", "va", "refused", "why", b"2")
    assert {k: store.decisions("heart")["va"][k] for k in ("verdict", "why", "signed")} == {
        "verdict": "refused",
        "why": "why",
        "signed": b"2",
    }
    with pytest.raises(InputError, match="NO_RUN"):
        store.run("other")
    assert hubstore.HubStore(store.path).run("heart").finished  # another process sees it


def test_what_is_finished_or_is_to_end_is_not_revived(home):
    store = home.store
    run = store.add_run(hubstore.STUDY, "heart", "h1", b"paper").id
    store.cancel(run)
    assert not store.set_state(run, hubstore.RUNNING, "x")
    assert store.run(run).state == hubstore.WAITING_APPROVAL and not store.run(run).detail
    assert store.set_state(run, hubstore.FAILED, "why")
    for state in (hubstore.RUNNING, hubstore.CANCELLED):
        assert not store.set_state(run, state)
    assert (store.run(run).state, store.run(run).detail) == (hubstore.FAILED, "why")
    store.again(run)
    assert store.set_state(run, hubstore.RUNNING) and not store.run(run).cancel


def test_a_full_disk_is_said_and_changes_nothing(home):
    import sqlite3

    store = home.store
    store.add_run(hubstore.STUDY, "heart", "h1", b"paper")
    with (
        pytest.raises(Stopped, match="CANNOT_WRITE"),
        store._write() as db,
    ):
        db.execute("UPDATE runs SET state = 'x'")
        raise sqlite3.OperationalError("database or disk is full")
    assert store.run("heart").state == hubstore.WAITING_APPROVAL


def test_events_survive_a_line_that_was_cut_off(tmp_path):
    events = Events(tmp_path / "events.jsonl")
    assert events.read() == ([], 0)
    events.add("one", a=1)
    with open(events.path, "ab") as file:
        file.write(b'{"event": "cu')
    found, offset = events.read()
    assert [one["event"] for one in found] == ["one"]
    events.add("two")
    found, _ = events.read(offset)
    assert [one["event"] for one in found] == ["two"]
    assert events.first("two") and events.first("three") is None


def test_a_study_names_hospitals_that_are_there(home):
    with pytest.raises(InputError, match="NO_SITES"):
        hubrun.submit(home, study_of())
    for name in ("va", "cleveland"):
        token, _ = home.store.invite(name, 60.0)
        public = name.encode().ljust(32, b"\1")
        assert home.store.enrol(hubstore.hash_of(token), name, public, b"", "0.1.0")
    with pytest.raises(InputError, match="atlantis has not joined"):
        hubrun.submit(home, study_of(federation={"sites": ["va", "atlantis"]}))
    with pytest.raises(InputError, match="leave_out"):
        hubrun.submit(home, study_of(cohort={"empty_site": "leave_out"}))
    run = hubrun.submit(home, study_of(data={"schema": study_of().data.schema_, "folder": "x"}))
    assert hubrun.submit(home, study_of()).id == run.id  # handed in twice it is one run
    with pytest.raises(InputError, match="NOT_DONE"):
        hubrun.fetch(home, run.id, home.folder / "out")


def test_the_supervisor_starts_a_driver_and_only_one(home):
    home.store.add_run(hubstore.STUDY, "heart", "h1", b"paper")
    home.store.add_run(hubstore.SESSION, "session", "h2", b"paper")
    done = home.store.add_run(hubstore.STUDY, "old", "h3", b"paper")
    home.store.set_state(done.id, hubstore.DONE)
    code = (
        "import sys, time; from pathlib import Path; from polyclinic.study.hub import Locked\n"
        f"with Locked(Path({str(home.folder)!r}) / 'runs' / sys.argv[1]).hold(): time.sleep(60)"
    )
    first = Supervisor(home, [sys.executable, "-c", code])
    assert first.step() == ["heart"] and first.step() == []
    lock = Locked(home.run_folder("heart"))
    until = time.monotonic() + 10.0
    while not lock.holder() and time.monotonic() < until:
        time.sleep(0.02)
    assert Supervisor(home, ["false"]).step() == []  # a new one after a crash sees that it lives
    child, _ = first._children["heart"]
    assert os.getsid(child.pid) == child.pid  # outlives us
    child.kill()
    child.wait()
    assert lock.wait_free(5.0)
    first._reap()
    first._failed.clear()
    assert first.step() == ["heart"]
    second = first._children["heart"][0].pid  # the lock may name the first one for a moment
    while lock.holder() != second and time.monotonic() < until + 10.0:
        time.sleep(0.02)
    Supervisor(home).stop()  # also one that was started before it
    assert lock.wait_free(5.0)
    assert first._children["heart"][0].wait() == -signal.SIGTERM


def test_a_driver_that_cannot_start_is_tried_less_often(home):
    home.store.add_run(hubstore.STUDY, "heart", "h1", b"paper")
    supervisor = Supervisor(home, ["false"])
    assert supervisor.step() == ["heart"]
    supervisor._children["heart"][0].wait()
    assert supervisor.step() == []
    assert supervisor._failed["heart"][0] == 1
