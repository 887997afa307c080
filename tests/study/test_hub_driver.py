"""Runs over the hospitals of a hub: approved, stopped anywhere, cancelled, refused."""

from __future__ import annotations

import json

import pytest

from polyclinic.cli import hub
from polyclinic.core import codec
from polyclinic.core.errors import InputError, Stopped
from polyclinic.study import hubrun, hubservice, hubstore
from polyclinic.study.driver import Driver
from polyclinic.study.hub import Locked
from tests.study.hub_world import FOUR, HOSPITALS, Waits, World, embedded, study_of

SAME = ("coefficients.csv", "model.pcm")


@pytest.fixture(scope="module")
def whole(heart_files, tmp_path_factory):
    """The undisturbed run in one process."""
    return embedded(tmp_path_factory.mktemp("embedded") / "run", study_of(), heart_files)


@pytest.fixture
def world(heart_files, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_HOME", str(tmp_path))
    world = World(tmp_path, heart_files)
    yield world
    world.close()


def same(world: World, run: str, whole) -> None:
    result = world.home.run_folder(run) / "result"
    for name in SAME:
        assert (result / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_waits_for_approval_and_equals_the_embedded_one(world, whole):
    run = hubrun.submit(world.home, study_of(output={"report": ["html"]}))
    seen = []

    def look():
        seen.append(world.home.store.run(run.id))
        world.decide()

    driver = Driver(world.home, run.id, world.line, Waits(look))
    assert driver.drive() == hubstore.DONE
    assert seen[0].state == hubstore.WAITING_APPROVAL
    assert all(name in seen[0].detail for name in HOSPITALS)
    same(world, run.id, whole)
    decisions = world.home.store.decisions(run.id)
    assert {name: one["verdict"] for name, one in decisions.items()} == dict.fromkeys(
        HOSPITALS, "approved"
    )
    results = json.loads((world.home.run_folder(run.id) / "result" / "metrics.json").read_bytes())
    assert results["study"]["engine"] == "federated"
    assert results["gate"]["ledger"] == {}
    report = (world.home.run_folder(run.id) / "result" / "report.html").read_text()
    assert "none was left out" not in report
    for agent in world.agents.values():
        assert not agent._runs  # DONE was sent
    rounds = hubrun.events_of(world.home, run.id).rounds()
    assert [one["n"] for one in rounds] == list(range(1, len(rounds) + 1))
    assert all(set(one["bytes"]) == set(HOSPITALS) for one in rounds)
    assert world.home.store.run(run.id).round == len(rounds)


@pytest.mark.parametrize(
    ("at", "kind"),
    [(1, "away"), (5, "away"), (18, "away"), (2, "restarted"), (15, "restarted"), (9, "hub")],
)
def test_a_lost_hospital_or_hub_changes_nothing(world, whole, at, kind):
    run = hubrun.submit(world.home, study_of())
    line, states = world.line, []

    def trouble(n, messages):
        if n == at:
            if kind == "away":
                line.away = {"hungarian"}
            elif kind == "restarted":
                world.start("hungarian")
            else:
                line.hub = False

    def look():
        world.decide()
        states.append(world.home.store.run(run.id).state)
        if len(states) > 3:
            line.away, line.hub = set(), True

    line.trouble = trouble
    ended = Driver(world.home, run.id, line, Waits(look)).drive()
    assert ended == hubstore.DONE, world.home.store.run(run.id).detail
    same(world, run.id, whole)
    whom = "the hub" if kind == "hub" else "hungarian"
    assert f"waiting for {whom}" in states, states


@pytest.mark.slow
def test_secure_sums_over_four_hospitals_go_on_too(heart_files, tmp_path):
    study = study_of(
        model={"kind": "logistic", "formula": "disease ~ age + sex + C(cp)"},
        output={"report": ["html"]},
    )
    whole = embedded(tmp_path / "embedded", study, heart_files, FOUR)
    world = World(tmp_path, heart_files, FOUR)
    run = hubrun.submit(world.home, study)

    def trouble(n, messages):
        if n == 40:
            world.start("va")

    world.line.trouble = trouble
    assert Driver(world.home, run.id, world.line, Waits(world.decide)).drive() == hubstore.DONE
    same(world, run.id, whole)
    found = json.loads((world.home.run_folder(run.id) / "result" / "metrics.json").read_bytes())
    assert found["gate"]["sums"] == "secure"
    world.close()


def test_with_abort_a_lost_hospital_ends_the_run_and_the_same_command_goes_on(world, whole):
    study = study_of(federation={"when_lost": "abort"})
    run = hubrun.submit(world.home, study)
    world.line.trouble = lambda n, messages: world.line.away.update({"hungarian"} if n == 7 else ())
    assert Driver(world.home, run.id, world.line, Waits(world.decide)).drive() == hubstore.FAILED
    ended = world.home.store.run(run.id)
    assert "SITE_LOST" in ended.detail and "hungarian" in ended.detail
    world.line.away = set()
    again = hubrun.submit(world.home, study)
    assert again.id == run.id and not again.finished
    assert Driver(world.home, run.id, world.line, Waits(world.decide)).drive() == hubstore.DONE
    same(world, run.id, whole)


@pytest.mark.parametrize("at", [1, 14])
def test_a_driver_that_is_killed_is_replaced(world, whole, at):
    class Killed(BaseException):
        pass

    run = hubrun.submit(world.home, study_of())

    def trouble(n, messages):
        if n == at:
            raise Killed

    world.line.trouble = trouble
    with pytest.raises(Killed):
        Driver(world.home, run.id, world.line, Waits(world.decide)).drive()
    assert not world.home.store.run(run.id).finished
    assert hubservice.status(world.home, world.line)["runs"][0]["state"] == hubservice.STARTING
    assert Driver(world.home, run.id, world.line, Waits()).drive() == hubstore.DONE
    same(world, run.id, whole)


@pytest.mark.parametrize("uncounted", [3, 22, 0])
def test_a_round_is_counted_once_wherever_a_driver_is_killed(world, whole, monkeypatch, uncounted):
    """After a round is written down and before it is counted; or, 0, before its end is."""

    class Killed(BaseException):
        pass

    run, store = hubrun.submit(world.home, study_of()), hubstore.HubStore
    count, state, killed = store.set_round, store.set_state, []

    def at(now, write, *args):
        if args[2] == now and not killed:
            killed.append(now)
            raise Killed
        return write(*args)

    monkeypatch.setattr(store, "set_round", lambda *a: at(uncounted or None, count, *a))
    monkeypatch.setattr(store, "set_state", lambda *a: at(hubstore.DONE, state, *a))
    with pytest.raises(Killed):
        Driver(world.home, run.id, world.line, Waits(world.decide)).drive()
    before = world.line.asked
    assert Driver(world.home, run.id, world.line, Waits()).drive() == hubstore.DONE
    assert world.line.asked > before
    rounds = hubrun.events_of(world.home, run.id).rounds()
    assert [one["n"] for one in rounds] == list(range(1, world.home.store.run(run.id).round + 1))
    assert len({one["plan"] for one in rounds}) == len(rounds) == 22
    same(world, run.id, whole)


def test_a_refusal_ends_the_run_with_its_words(world):
    run = hubrun.submit(world.home, study_of())

    def decide():
        world.decide("refused", "not our patients", only=("hungarian",))
        world.decide()

    assert Driver(world.home, run.id, world.line, Waits(decide)).drive() == hubstore.REFUSED
    assert (
        "hungarian has refused the study: not our patients" in world.home.store.run(run.id).detail
    )
    assert world.line.asked == 0


def test_a_rule_of_a_hospital_ends_the_run_as_refused_with_the_exit_code_of_a_refusal(world, whole):
    home = world.agents["hungarian"].home
    text = home.policy_path.read_text()

    def policy(least):
        home.policy_path.write_text(text.replace("min_patients = 5", f"min_patients = {least}"))
        home.sign_policy()

    policy(5000)
    run = hubrun.submit(world.home, study_of())
    ended = Driver(world.home, run.id, world.line, Waits(world.decide)).drive()
    assert ended == hubstore.REFUSED
    shown = hub._ended(world.home, world.home.store.run(run.id))
    assert shown.exit_code == 3 and shown.code == "TOO_FEW_PATIENTS"
    policy(5)
    again = hubrun.submit(world.home, study_of())
    assert again.id == run.id
    assert Driver(world.home, run.id, world.line, Waits(world.decide)).drive() == hubstore.DONE
    same(world, run.id, whole)


def test_an_answer_that_the_hospital_has_not_signed_ends_the_run(world):
    run, ask = hubrun.submit(world.home, study_of()), world.line.ask

    def asked(messages, timeout):
        replies = ask(messages, timeout)
        if world.line.asked == 3:
            replies["hungarian"] = replies["cleveland"]
        return replies

    world.line.ask = asked
    assert Driver(world.home, run.id, world.line, Waits(world.decide)).drive() == hubstore.REFUSED
    detail = world.home.store.run(run.id).detail
    assert "hungarian" in detail and "BAD_SIGNATURE" in detail
    assert world.line.asked == 3


def test_an_approval_that_is_taken_back_ends_the_run(world):
    run = hubrun.submit(world.home, study_of())

    def trouble(n, messages):
        if n == 10:
            inbox = world.agents["hungarian"].inbox
            inbox.decide(inbox.papers()[0], "refused", "second thoughts")

    world.line.trouble = trouble
    assert Driver(world.home, run.id, world.line, Waits(world.decide)).drive() == hubstore.REFUSED
    assert "STUDY_REFUSED" in world.home.store.run(run.id).detail


def test_cancel_is_seen_while_waiting_and_between_rounds(world):
    run = hubrun.submit(world.home, study_of())
    with Locked(world.home.run_folder(run.id)).hold():  # as if another process drove it
        assert not hubrun.cancel(world.home, run.id).finished
    assert Driver(world.home, run.id, world.line, Waits()).drive() == hubstore.CANCELLED
    again = hubrun.submit(world.home, study_of())
    assert again.id != run.id
    driver = Driver(world.home, again.id, world.line, Waits(world.decide))

    def trouble(n, messages):
        if n == 12:
            world.home.store.cancel(again.id)
            driver._looked = 0.0

    world.line.trouble = trouble
    assert driver.drive() == hubstore.CANCELLED
    assert world.line.asked == 12
    with pytest.raises(InputError, match="RUN_FINISHED"):
        hubrun.cancel(world.home, again.id)


def test_a_run_without_a_driver_is_cancelled_at_once(world):
    run = hubrun.submit(world.home, study_of())
    assert hubrun.cancel(world.home, run.id).state == hubstore.CANCELLED
    assert [one["event"] for one in hubrun.follow(world.home, run.id)] == ["state"]


@pytest.mark.parametrize("driven", [True, False])
def test_why_a_run_was_cancelled_is_said_by_the_run_and_its_log(world, monkeypatch, driven):
    monkeypatch.setattr(type(world.home), "publish", lambda home: None)
    run = hubrun.submit(world.home, study_of())
    if driven:
        with Locked(world.home.run_folder(run.id)).hold():  # as if another process drove it
            hubservice.revoke(world.home, "hungarian")
            hubrun.cancel(world.home, run.id)  # what was asked first counts
        Driver(world.home, run.id, world.line, Waits()).drive()
    else:
        hubservice.revoke(world.home, "hungarian")
    ended, said = world.home.store.run(run.id), "hungarian was put out of the hub"
    (event,) = hubrun.follow(world.home, run.id)
    assert (ended.state, ended.detail, event["detail"]) == (hubstore.CANCELLED, said, said)


def test_a_store_made_before_reasons_were_kept_is_taken(world):
    run = hubrun.submit(world.home, study_of())
    with world.home.store._write() as db:
        db.execute("DROP TABLE cancelled")
        db.execute("UPDATE runs SET cancel = 1")
    store = hubstore.HubStore(world.home.store.path)
    assert store.why(run.id) == "cancelled at the hub"
    store.cancel(run.id, "x")
    assert store.why(run.id) == "x"


def test_two_drivers_do_not_drive_one_run(world):
    run = hubrun.submit(world.home, study_of())
    with Locked(world.home.run_folder(run.id)).hold() as mine:
        assert mine
        assert Driver(world.home, run.id, world.line, Waits()).drive() == ""


def test_another_version_is_named_and_refuses_the_run(world, monkeypatch):
    run = hubrun.submit(world.home, study_of())
    hello = type(world.agents["hungarian"])._hello

    def older(agent, letter):
        found = hello(agent, letter)
        return {**found, "version": "0.0.9"} if agent.name == "hungarian" else found

    monkeypatch.setattr(type(world.agents["hungarian"]), "_hello", older)
    assert Driver(world.home, run.id, world.line, Waits(world.decide)).drive() == hubstore.REFUSED
    detail = world.home.store.run(run.id).detail
    assert "hungarian has Polyclinic 0.0.9" in detail and "VERSION_DIFFERS" in detail
    hospitals = {one["name"]: one for one in hubservice.status(world.home, world.line)["hospitals"]}
    assert "0.0.9" in hospitals["hungarian"]["note"] and not hospitals["cleveland"]["note"]


def test_a_full_disk_is_waited_out(world, whole, monkeypatch):
    from polyclinic.core import checkpoint

    run = hubrun.submit(world.home, study_of())
    full, states = [], []
    real = checkpoint.Checkpoint.save

    def save(store, value):
        if world.line.asked > 5 and len(full) < 1:
            full.append(store)
            raise Stopped("disk", code="CANNOT_WRITE")
        real(store, value)

    def look():
        world.decide()
        states.append(world.home.store.run(run.id).state)

    monkeypatch.setattr(checkpoint.Checkpoint, "save", save)
    assert Driver(world.home, run.id, world.line, Waits(look)).drive() == hubstore.DONE
    assert "waiting for space on the hub's disk" in states
    same(world, run.id, whole)


def test_a_site_that_does_not_take_the_study_is_named(world):
    other = study_of(study={"name": "other", "purpose": "x"})
    run = hubrun.submit(world.home, other)
    world.agents["hungarian"].inbox._joined = lambda: (_ for _ in ()).throw(
        InputError("x", code="WRONG_HUB")
    )
    assert Driver(world.home, run.id, world.line, Waits(world.decide)).drive() == hubstore.REFUSED
    assert "hungarian does not take the study" in world.home.store.run(run.id).detail


@pytest.mark.parametrize(
    ("code", "said"), [("\x1b[31m" + "x" * 100_000, "SITE_FAILED"), ("WRONG_HUB", "WRONG_HUB")]
)
def test_a_code_that_there_is_not_does_not_become_the_words_of_a_run(world, code, said):
    run, ask = hubrun.submit(world.home, study_of()), world.line.ask

    def asked(messages, timeout):
        return {**ask(messages, timeout), "hungarian": codec.encode({"code": code})}

    world.line.ask = asked
    assert Driver(world.home, run.id, world.line, Waits(world.decide)).drive() == hubstore.REFUSED
    detail = world.home.store.run(run.id).detail
    assert said in detail and "\x1b" not in detail and len(detail) < 1000


def test_who_is_lost_is_named_before_anything_else_is_asked(world, whole):
    """A letter to a hospital that is silent would wait for its deadline."""
    run = hubrun.submit(world.home, study_of())
    line, ask, told = world.line, world.line.ask, []

    def trouble(n, messages):
        if n == 5:
            line.away = {"hungarian"}

    def asked(messages, timeout):
        if line.away & set(messages):
            told.append(world.home.store.run(run.id).state)
        return ask(messages, timeout)

    def look():
        world.decide()
        if line.away:
            assert world.home.store.run(run.id).state == "waiting for hungarian"
            line.away = set()

    line.trouble, line.ask = trouble, asked
    assert Driver(world.home, run.id, line, Waits(look)).drive() == hubstore.DONE
    assert told == []
    same(world, run.id, whole)


@pytest.mark.parametrize("at", [1, 6, 15])
def test_a_full_disk_at_a_hospital_is_waited_for(world, whole, at):
    run = hubrun.submit(world.home, study_of())
    log, states = world.agents["hungarian"].home.audit, []
    write = log.append

    def full(event, /, **details):
        raise Stopped("the disk is full", code="CANNOT_WRITE")

    def trouble(n, messages):
        if n == at:
            log.append = full

    def look():
        world.decide()
        states.append(world.home.store.run(run.id).state)
        if states.count("waiting for space at hungarian") > 2:
            log.append = write

    world.line.trouble = trouble
    ended = Driver(world.home, run.id, world.line, Waits(look)).drive()
    assert ended == hubstore.DONE, world.home.store.run(run.id).detail
    assert "waiting for space at hungarian" in states
    same(world, run.id, whole)
