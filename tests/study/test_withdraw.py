"""Offers of runs that have ended are taken back from hospitals that have not decided."""

from __future__ import annotations

import pytest

from polyclinic.core import codec
from polyclinic.study import hubrun, hubstore
from polyclinic.study.driver import Driver
from polyclinic.study.withdraw import Withdrawals
from tests.study.hub_world import HOSPITALS, Waits, World, study_of


@pytest.fixture
def world(heart_files, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_HOME", str(tmp_path))
    world = World(tmp_path, heart_files)
    yield world
    world.close()


def offered(world, look):
    """A run that waits for approval, until `look` ends it."""
    run = hubrun.submit(world.home, study_of())
    assert Driver(world.home, run.id, world.line, Waits(look)).drive() in hubstore.FINISHED
    return world.home.store.run(run.id)


def waiting(world):
    return [
        name
        for name, agent in world.agents.items()
        if any(agent.inbox.state(paper.hash) == "waiting" for paper in agent.inbox.papers())
    ]


def test_a_cancelled_run_waits_at_no_hospital_also_at_one_that_was_away(world):
    def cancel():
        world.home.store.cancel(world.home.store.runs()[0].id)

    run = offered(world, cancel)
    assert run.state == hubstore.CANCELLED and waiting(world) == list(HOSPITALS)
    world.line.away = {"hungarian"}
    Withdrawals(world.home, world.line).step()
    assert waiting(world) == ["hungarian"]
    world.line.away = set()
    Withdrawals(world.home, world.line).step()  # the hub was started anew meanwhile
    assert waiting(world) == []
    assert world.home.store.heard_withdrawal(run.id) == set(HOSPITALS)


def test_a_paper_that_cannot_be_opened_and_an_odd_answer_stop_nothing(world, capsys):
    store = world.home.store
    for name, paper in (("old", b"not a paper"), ("older", codec.encode({"offer": 1}))):
        store.cancel(store.add_run(hubstore.STUDY, name, name, paper).id)
        store.set_state(name, hubstore.CANCELLED)
    run = offered(world, lambda: store.cancel("heart"))
    withdrawals, ask = Withdrawals(world.home, world.line), world.line.ask
    world.line.ask = lambda messages, timeout: {
        **ask(messages, timeout), "hungarian": codec.encode({"code": ["x"]})
    }  # fmt: skip
    withdrawals.step()
    withdrawals.step()
    assert waiting(world) == []
    assert store.heard_withdrawal(run.id) == set(HOSPITALS)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == [
        "the offer of old is not taken back",
        "the offer of older is not taken back",
    ]


def test_nobody_is_told_twice_or_what_is_asked_again(world):
    def refuse():
        world.decide("refused", "no", only=("hungarian",))

    run = offered(world, refuse)
    assert run.state == hubstore.REFUSED and waiting(world) == ["cleveland"]
    told, ask = [], world.line.ask
    world.line.ask = lambda messages, timeout: told.append(set(messages)) or ask(messages, timeout)
    withdrawals = Withdrawals(world.home, world.line)
    for _ in range(3):
        withdrawals.step()
    assert told == [{"cleveland"}] and waiting(world) == []
    world.agents["cleveland"].inbox.offer(run.paper)
    world.home.store.again(run.id)  # handed in again
    withdrawals.step()
    assert waiting(world) == ["cleveland"]
