"""`pc.connect`: the same estimators and statistics over the hospitals of a hub."""

from __future__ import annotations

import time

import pytest

import polyclinic as pc
from polyclinic.core.errors import InputError, Refused, Stopped
from polyclinic.study import hubrun, hubservice, hubsession, hubstore
from tests.study.hub_world import CODEBOOK, HOSPITALS, World

COLUMNS = ["disease", "age", "sex"]
WANTED = {
    "columns": COLUMNS,
    "algorithms": None,
    "purpose": "Diagnostic model; research",
    "schema": CODEBOOK,
    "sites": [],
    "name": "session",
    "round_timeout": "10 min",
}


@pytest.fixture
def world(heart_files, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_HOME", str(tmp_path))
    monkeypatch.setattr(hubsession, "PATIENT", (0.02,))
    world = World(tmp_path, heart_files)
    yield world
    hubsession._OPEN.close()
    world.close()


def opened(world, seconds, **changes):
    until, wanted = time.monotonic() + seconds, {**WANTED, **changes}
    return hubsession.open_session("test", wanted, until, lambda text: None, world.line)


def approved(world):
    """A session, with officers who decide while it waits."""
    said = []

    def tell(text):
        said.append(text)
        world.decide()

    sites = hubsession.open_session("test", WANTED, None, tell, world.line)
    assert all(name in said[0] for name in HOSPITALS)
    return sites


def test_estimators_and_statistics_are_those_of_the_embedded_engine(world, heart_files):
    sites = approved(world)
    here = pc.read({name: heart_files[name] for name in HOSPITALS}, schema=CODEBOOK)
    formula = "disease ~ age + sex"
    over, plain = (pc.LogisticRegression().fit(one, formula) for one in (sites, here))
    assert over.summary().to_csv() == plain.summary().to_csv()
    both = [one.describe(["age"]) for one in (sites, here)]
    assert both[0].to_csv() == both[1].to_csv()
    fixed = sites.cohort("age >= 40", columns=COLUMNS)
    assert type(fixed) is type(sites) and fixed.runs is sites.runs
    assert pc.LogisticRegression().fit(fixed, formula).result_.converged
    assert len(set(sites.runs)) == 3
    assert "2 hospitals of hub test" in repr(sites) and "at least 5" in sites._repr_html_()


def test_what_is_at_the_hospitals_is_said_to_be_there(world):
    sites = approved(world)
    for asked in (
        lambda: sites.table("cleveland"),
        lambda: sites.rows("cleveland", None),
        lambda: sites.local("cleveland"),
        sites.check,
    ):
        with pytest.raises(InputError, match="ROWS_AT_HOSPITAL"):
            asked()
    with pytest.raises(InputError, match="POLICY_SIGNED"):
        sites.with_policy(pc.Policy())
    with pytest.raises(InputError, match="COLUMN_NOT_APPROVED"):
        pc.LogisticRegression().fit(sites, "disease ~ thalach")
    with pytest.raises(InputError, match="OTHER_PURPOSE"):
        pc.LogisticRegression().fit(sites, "disease ~ age", purpose="something else")
    with pytest.raises(InputError, match="leave_out"):
        sites.cohort(columns=COLUMNS, empty_site="leave_out").describe(["age"])
    assert sites.n_rows("cleveland") is None and sites.ledgers() == {}


def test_a_lost_hospital_is_named_and_the_session_goes_on_later(world):
    sites = approved(world)
    world.line.trouble = lambda n, messages: world.line.away.update({"hungarian"})
    before = world.line.asked
    with pytest.raises(Stopped, match="SITE_LOST") as found:
        pc.LogisticRegression().fit(sites, "disease ~ age")
    assert found.value.site == "hungarian"
    assert world.line.asked == before + 1  # nobody is asked for heads of logs after that
    world.line.trouble, world.line.away = lambda n, messages: None, set()
    assert pc.LogisticRegression().fit(sites, "disease ~ age").result_.converged


def test_the_same_session_needs_no_second_approval(world):
    approved(world)
    hubsession._OPEN.close()
    run = world.home.store.runs()[0].id
    assert opened(world, seconds=1.0).names == HOSPITALS
    assert [one.id for one in world.home.store.runs()] == [run]
    assert hubservice.status(world.home, world.line)["runs"][0]["state"] == hubservice.OPEN
    hubsession._OPEN.close()
    assert hubservice.status(world.home, world.line)["runs"][0]["state"] == hubservice.CLOSED


def test_a_session_whose_hospital_is_put_out_ends_with_its_next_question(world, monkeypatch):
    sites = approved(world)
    monkeypatch.setattr(type(world.home), "publish", lambda home: None)
    assert pc.LogisticRegression().fit(sites, "disease ~ age").result_.converged
    asked = world.line.asked
    hubservice.revoke(world.home, "hungarian")
    with pytest.raises(Stopped, match="SESSION_CANCELLED") as found:
        pc.LogisticRegression().fit(sites, "disease ~ age + sex")
    assert "hungarian was put out of the hub" in found.value.what
    assert world.line.asked == asked
    assert hubservice.status(world.home, world.line)["runs"][0]["state"] == hubstore.CANCELLED


def test_a_session_that_waits_for_approval_can_be_cancelled(world):
    def tell(text):
        hubrun.cancel(world.home, world.home.store.runs()[0].id)

    with pytest.raises(Stopped, match="SESSION_CANCELLED"):
        hubsession.open_session("test", WANTED, None, tell, world.line)


def test_a_session_that_is_cancelled_while_it_is_offered_can_be_opened_again(world):
    ask = world.line.ask

    def asked(messages, timeout):
        replies, world.line.ask = ask(messages, timeout), ask
        hubrun.cancel(world.home, "session")
        return replies

    world.line.ask = asked
    with pytest.raises(Stopped, match="SESSION_CANCELLED") as found:
        opened(world, seconds=5.0)
    assert found.value.what == "session session is over: cancelled at the hub"
    assert world.home.store.run("session").state == hubstore.CANCELLED
    world.decide()
    assert opened(world, seconds=5.0).names == HOSPITALS
    states = {one.id: one.state for one in world.home.store.runs()}
    assert states == {"session": hubstore.CANCELLED, "session-2": hubstore.RUNNING}


def test_a_session_that_is_to_end_is_not_taken_up_again(world):
    with pytest.raises(Stopped, match="NOT_DECIDED"):
        opened(world, seconds=0.1)
    world.home.store.cancel("session")
    with pytest.raises(Stopped, match="NOT_DECIDED"):
        opened(world, seconds=0.1)
    assert [one.id for one in world.home.store.runs()] == ["session", "session-2"]


def test_a_refusal_and_a_timeout_are_said(world):
    with pytest.raises(Stopped, match="NOT_DECIDED") as found:
        opened(world, seconds=0.1)
    assert "hungarian" in found.value.what
    world.decide("refused", "no", only=("hungarian",))
    with pytest.raises(Refused, match="hungarian has refused the study: no"):
        opened(world, seconds=1.0)
    assert world.home.store.runs()[0].state == hubstore.REFUSED


def test_wrong_requests_stop_at_once(world):
    for changes, code in (
        ({"columns": ["aeg"]}, "UNKNOWN_COLUMN"),
        ({"algorithms": ["magic"]}, "WRONG_VALUE"),
        ({"sites": ["atlantis"]}, "UNKNOWN_SITE"),
        ({"schema": None}, "NO_SCHEMA"),
    ):
        with pytest.raises(InputError, match=code):
            opened(world, seconds=0.1, **changes)
    with pytest.raises(InputError, match="NO_HUB"):
        pc.connect("nowhere")
    assert not world.home.store.runs()
