"""The coordinator's commands, on a hub whose server process does not run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyclinic.cli import hub as module
from polyclinic.cli import main as entry
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.engines.flare.pki import make_ca
from polyclinic.study import hubstore
from polyclinic.study.hub import HubHome, Locked
from polyclinic.study.hubevents import Events
from polyclinic.study.hubstore import hash_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


CERTIFICATE, _ = make_ca("any")


@pytest.fixture
def home(tmp_path, monkeypatch):
    from polyclinic.governance import signing

    monkeypatch.setenv("POLYCLINIC_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "hubs" / "heart"
    (folder / "socket").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    signing.generate(folder / "keys" / "coordinator.key")
    (folder / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    (folder / "hub.toml").write_text(
        'format = 1\nname = "heart"\nhost = "localhost"\nport = 8102\nenrol_port = 8103\n'
    )
    return HubHome(folder)


def joined(home, *names):
    for name in names:
        token, _ = home.store.invite(name, 60.0)
        key = name.encode().ljust(32, b"\1")
        assert home.store.enrol(hash_of(token), name, key, CERTIFICATE, "0.1.0")


def say(*arguments):
    done = CliRunner().invoke(entry.app, ["hub", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 88 for line in done.output.splitlines())
    return done.output


def study(folder):
    path = folder / "study.toml"
    path.write_text(
        'format = 1\n[study]\nname = "risk"\npurpose = "test"\n'
        f'[data]\nschema = "{EXAMPLES / "heart.toml"}"\nhub = "heart"\n'
        '[model]\nkind = "logistic"\nformula = "disease ~ age"\n'
    )
    return path


def test_an_invitation_is_a_private_file(home, tmp_path):
    text = say("invite", "va", "--out", "va.invite")
    assert "good for 14 days and one use" in text
    assert (tmp_path / "va.invite").stat().st_mode & 0o777 == 0o600
    assert 'site = "va"' in (tmp_path / "va.invite").read_text()
    assert "invited" in say("status")


def test_status_tells_the_truth_of_a_hub_that_is_down(home, tmp_path):
    joined(home, "cleveland", "va")
    home.store.saw({"va": {"heard": 720.0}})
    from polyclinic.study import hubrun

    run = hubrun.submit(home, study(tmp_path))
    home.store.set_state(run.id, hubstore.RUNNING)
    text = say("status")
    assert text.startswith("heart   not running   0 of 2 hospitals connected")
    assert "va         ! lost           12 min ago   0.1.0" in text
    assert "cleveland  ! not seen yet" in text
    assert "running" not in text.split("run  ")[1] and "stopped" in text
    assert "goes on with the hub: polyclinic hub start heart" in text
    found = json.loads(say("status", "--json"))
    assert found["up"] is None and found["runs"][0]["state"] == "stopped"
    assert "risk" in say("runs")
    with Locked(home.run_folder(run.id)).hold():
        assert "running" in say("status").split("run  ")[1]


def test_logs_cancel_and_revoke(home, tmp_path):
    joined(home, "cleveland", "va")
    from polyclinic.study import hubrun

    run = hubrun.submit(home, study(tmp_path))
    events = Events(home.run_folder(run.id) / "events.jsonl")
    events.add("decision", site="va", verdict="approved", why="")
    events.add(
        "round", n=1, number=1, step="Newton round", seconds=0.1, loss=2.0, bytes={"va": [900, 100]}
    )
    text = say("logs", "risk")
    assert "va approved" in text
    assert "round 1   Newton round   deviance 4.000   0.100 s   1.0 kB" in text
    assert "va is out" in say("revoke", "va")
    assert home.store.run("risk").state == hubstore.CANCELLED
    again = hubrun.submit(home, study(tmp_path))
    assert again.id == "risk-2"
    assert "is cancelled" in say("cancel", "risk-2")
    assert "revoked" in say("status")


def test_a_run_that_was_refused_says_so_again(home, tmp_path, capsys, monkeypatch):
    joined(home, "cleveland", "va")
    from polyclinic.study import hubrun

    run = hubrun.submit(home, study(tmp_path))
    error = Refused("va has refused the study: no", code="STUDY_REFUSED", rule="all", next="talk")
    home.store.set_state(run.id, hubstore.REFUSED, str(error))
    ended = module._ended(home, home.store.run(run.id))
    assert isinstance(ended, Refused) and ended.code == "STUDY_REFUSED"
    assert (ended.rule, ended.next) == ("all", "talk")
    monkeypatch.setattr(sys, "argv", ["polyclinic", "attach", "risk"])
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert left.value.code == 3
    assert "va has refused the study: no  STUDY_REFUSED" in capsys.readouterr().err
    home.store.again(run.id)
    home.store.set_state(run.id, hubstore.FAILED, "ValueError: an error inside  UNEXPECTED")
    ended = module._ended(home, home.store.run(run.id))
    assert type(ended) is PolyclinicError and ended.code == "UNEXPECTED"


def test_ctrl_c_detaches_and_says_how_to_come_back(home, tmp_path, capsys, monkeypatch):
    joined(home, "cleveland", "va")
    from polyclinic.study import hubrun

    def interrupted(*arguments):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(hubrun, "follow", interrupted)
    command = ["polyclinic", "run", str(study(tmp_path)), "--hub", "heart"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert left.value.code == 130
    found = capsys.readouterr()
    assert "polyclinic attach risk --hub heart" in found.err
    assert "heart is not running" in found.err
    assert not home.store.run("risk").finished


LONG = {
    "name": "a-hospital-with-a-long-name-of-sixty-four-letters-" + "x" * 14,
    "state": "no answer",
    "heard": 260_000.0,
    "version": "0.0.9",
    "note": "version 0.0.9 (protocol 1) is not the hub's 0.1.0 (protocol 1): takes part in no run",
    "certificate_days": 41,
}
LONG_RUN = {
    "id": "s" * 64,
    "state": "waiting for " + ", ".join(f"hospital-{n}" for n in range(12)),
    "finished": False,
    "round": 12,
    "since": 100.0,
    "hash": "0123456789",
    "detail": "goes on by itself when all of them are back, from round 13, " * 3,
}


def test_nothing_is_wider_than_a_terminal(home, monkeypatch):
    from polyclinic.study import hubservice

    found = {"hub": "h" * 60, "up": None, "version": "0.1.0", "hospitals": [LONG]}
    found["certificate_days"] = -1
    monkeypatch.setattr(hubservice, "status", lambda home: {**found, "runs": [LONG_RUN]})
    for command in ("status", "runs"):
        text = say(command)
        assert max(map(len, text.splitlines())) <= 80, text
        assert "hospital-11" in text and "s" * 64 in text
    said = " ".join(say("status").split())
    assert LONG["note"] in said and "! its certificate ends in 41 days: invite it again" in said
    assert "! the hub's certificate has ended: stop it, move server/ away, start it" in said


def resumed(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["polyclinic", "run", str(path), "--resume"])
    with pytest.raises(SystemExit) as left:
        entry.main()
    return left.value.code, capsys.readouterr().err


def test_resume_looks_on_at_a_run_that_is_not_over_and_never_hands_in_anew(
    home, tmp_path, capsys, monkeypatch
):
    joined(home, "cleveland", "va")
    from polyclinic.study import hubrun

    path = study(tmp_path)
    code, said = resumed(path, monkeypatch, capsys)
    assert code == 2 and "NOTHING_TO_RESUME" in said and "by themselves" in said
    assert home.store.runs() == []
    run = hubrun.submit(home, path)
    watched = []

    def follow(home, run):
        watched.append(run)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(hubrun, "follow", follow)
    assert resumed(path, monkeypatch, capsys)[0] == 130 and watched == [run.id]
    home.store.set_state(run.id, hubstore.FAILED, "x  SITE_LOST")
    assert resumed(path, monkeypatch, capsys)[0] == 130  # from what it has kept
    assert not home.store.run(run.id).finished
    for state in (hubstore.DONE, hubstore.CANCELLED):
        home.store.again(run.id)
        home.store.set_state(run.id, state)
        code, said = resumed(path, monkeypatch, capsys)
        assert code == 2 and f"{run.id}, is {state}" in said
    assert [one.id for one in home.store.runs()] == [run.id] and watched == [run.id] * 2


def test_times_are_short():
    shown = [module._ago(seconds) for seconds in (0.4, 59, 60, 3600, 86_400, 260_000)]
    assert shown == ["0 s", "59 s", "1 min", "1 h", "1 day", "3 days"]
