"""A run that goes on without a lost hospital: when it may, when it does not, and what is said."""

from __future__ import annotations

import json

import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.toml import validate
from polyclinic.governance.paper import Paper
from polyclinic.governance.study_file import Study
from polyclinic.study import hubrun, hubservice, hubstore
from polyclinic.study.driver import Driver
from polyclinic.study.hublobby import lost
from tests.study.hub_world import FOUR, STUDY, Waits, World, embedded, study_of

THREE = ("cleveland", "hungarian", "switzerland")
CHEAP = {
    "privacy": {"secure_sums": False, "show_sites": False},
    "federation": {"when_lost": "restart_without", "required": 3, "round_timeout": "60 s"},
}


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def world(heart_files, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_HOME", str(tmp_path))
    world = World(tmp_path, heart_files, FOUR)
    yield world
    world.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def three(heart_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three") / "run"
    return embedded(folder, study_of(**CHEAP), heart_files, THREE)


def driver(world, run, clock, *then):
    """Every wait takes 20 seconds of the clock."""

    def wait():
        clock.now += 20.0
        world.decide()

    return Driver(world.home, run.id, world.line, Waits(*then, wait), clock)


def result(world, run):
    return world.home.run_folder(run.id) / "result"


def same(world, run, whole):
    for name in ("coefficients.csv", "model.pcm"):
        assert (result(world, run) / name).read_bytes() == (whole / name).read_bytes(), name


def asked(world, name):
    """Whether a hospital was asked anything of a run."""
    return (world.folders[name] / "runs").exists()


def away_at(world, n, *names):
    """Have hospitals go away with question `n`."""
    world.line.trouble = lambda k, messages: world.line.away.update(names if k == n else ())


def details(world, run):
    events, _ = hubrun.events_of(world.home, run.id).read()
    return [(e["state"], e["detail"]) for e in events if e["event"] == "state"]


def approved(world, study, clock):
    """A run that all four have approved, and the hub knows it."""
    run = hubrun.submit(world.home, study)
    first = driver(world, run, clock)
    first.lobby.offer()
    world.decide()
    first._decisions(first.lobby.offer())
    return run


def test_before_the_first_round_it_goes_on_without_and_says_so(world, three, clock):
    run = approved(world, study_of(**CHEAP, output={"report": ["html"]}), clock)
    world.line.away = {"va"}
    begun = clock.now
    one = driver(world, run, clock)
    assert one.drive() == hubstore.DONE, world.home.store.run(run.id).detail
    assert 60.0 <= clock.now - begun <= 100.0
    same(world, run, three)
    why = (
        "without va, which did not answer for 60 s before anything was computed; "
        "the study allows at least 3 hospitals"
    )
    states = details(world, run)
    waiting = [text for state, text in states if state == "waiting for va"]
    assert waiting and "or without, after 60 s" in waiting[0]
    assert ("running", why) in states and states[-1] == ("done", why)
    found = json.loads((result(world, run) / "metrics.json").read_bytes())
    assert found["federation"] == {
        "hub": "test", "hospitals": list(THREE), "without": ["va"], "why": why,
    }  # fmt: skip
    assert found["model"]["sites"] == 3
    assert f"the run went on {why}." in (result(world, run) / "report.html").read_text()
    # The fourth was not asked, has nothing to decide, and nothing of the others is shown to it.
    world.line.away = set()
    inbox = world.agents["va"].inbox
    assert not asked(world, "va")
    assert [inbox.state(paper.hash) for paper in inbox.papers()] == ["approved"]
    # Handed in again with all four: the others keep to their three.
    again = hubrun.submit(world.home, study_of(**CHEAP, output={"report": ["html"]}))
    assert again.id != run.id
    assert driver(world, again, clock).drive() == hubstore.REFUSED
    assert "MEMBERSHIP_CHANGED" in world.home.store.run(again.id).detail


def test_a_hospital_that_comes_back_in_time_takes_part(world, clock):
    run = approved(world, study_of(**CHEAP), clock)
    world.line.away = {"va"}

    def back():
        clock.now += 50.0
        world.line.away = set()

    def gone_again():
        raise AssertionError("nothing to wait for")

    assert driver(world, run, clock, back, gone_again).drive() == hubstore.DONE
    found = json.loads((result(world, run) / "metrics.json").read_bytes())
    assert found["federation"]["hospitals"] == list(FOUR) and found["federation"]["why"] == ""
    assert details(world, run)[-1] == ("done", "")


def test_it_is_missed_anew_after_the_hub_was_away(world, clock):
    """Nobody was heard meanwhile, so that nobody can have been silent."""
    run = approved(world, study_of(**CHEAP), clock)
    line = world.line
    line.away = {"va"}

    def hub_away():
        clock.now += 55.0
        line.hub = False

    def hub_back():
        clock.now += 3600.0
        line.hub = True

    def later():
        clock.now += 20.0

    begun = clock.now + 55.0 + 3600.0
    one = Driver(world.home, run.id, line, Waits(hub_away, hub_back, later), clock)
    assert one.drive() == hubstore.DONE
    assert clock.now - begun >= 60.0


def waited_for(world, run, clock):
    """Drive a run to its end; what was said of it while the hospital stayed away, a long time."""
    waits = []

    def wait():
        clock.now += 1000.0
        waits.append(world.home.store.run(run.id))
        if len(waits) == 6:
            world.line.away = set()

    assert Driver(world.home, run.id, world.line, Waits(wait), clock).drive() == hubstore.DONE
    return waits


def test_after_a_kept_round_it_waits(world, heart_files, tmp_path, clock):
    whole = embedded(tmp_path / "embedded", study_of(**CHEAP), heart_files, FOUR)
    run = approved(world, study_of(**CHEAP), clock)
    away_at(world, 9, "va")
    waits = waited_for(world, run, clock)
    assert {one.state for one in waits} == {"waiting for va"}
    assert not any("without" in one.detail for one in waits)
    same(world, run, whole)


def test_where_a_number_has_left_it_waits_though_no_round_was_kept(world, heart_files, clock):
    """The three others have answered the first question, so that they refuse to go on as three."""
    run = approved(world, study_of(**CHEAP), clock)
    asked_of = []
    ask = world.line.ask

    def once(messages, timeout):
        replies = ask(messages, timeout)
        if any(data.startswith(b"PCE1") for data in messages.values()) and not asked_of:
            asked_of.append(list(messages))
            world.line.away = {"va"}
            del replies["va"]
        return replies

    world.line.ask = once
    waits = waited_for(world, run, clock)
    assert asked_of == [list(FOUR)]
    text = "not without: cleveland, hungarian, switzerland had begun to answer before the loss"
    assert any(text in one.detail for one in waits)
    found = json.loads((result(world, run) / "metrics.json").read_bytes())
    assert found["federation"]["hospitals"] == list(FOUR)
    # A later driver does not ask the hospitals for it again.
    assert Driver(world.home, run.id, world.line, Waits(), clock).fewer._fixed == list(THREE)


def test_too_few_for_the_study_wait(world, clock):
    run = approved(world, study_of(**CHEAP), clock)
    world.line.away = {"va", "hungarian"}
    waits = []

    def wait():
        clock.now += 1000.0
        waits.append(world.home.store.run(run.id))
        if len(waits) == 5:
            world.line.away = {"hungarian"}

    assert Driver(world.home, run.id, world.line, Waits(wait), clock).drive() == hubstore.DONE
    text = "not without: the study asks for at least 3 hospitals"
    assert all(text in one.detail for one in waits[1:5])
    found = json.loads((result(world, run) / "metrics.json").read_bytes())
    assert found["federation"]["without"] == ["hungarian"]


@pytest.mark.parametrize("at", ["offered", "stored", "asked"])
def test_a_driver_that_is_killed_meanwhile_is_replaced(world, three, clock, monkeypatch, at):
    class Killed(BaseException):
        pass

    def killed(*args, **named):
        raise Killed

    run = approved(world, study_of(**CHEAP), clock)
    world.line.away = {"va"}
    with monkeypatch.context() as patch:
        if at == "offered":
            patch.setattr(hubstore.HubStore, "restart", killed)
        elif at == "stored":
            patch.setattr(Driver, "_attempt", _twice(Driver._attempt, killed))
        else:
            world.line.trouble = lambda n, messages: killed() if n == 3 else None
        with pytest.raises(Killed):
            driver(world, run, clock).drive()
    world.line.trouble = lambda n, messages: None
    begun = clock.now
    assert driver(world, run, clock).drive() == hubstore.DONE
    assert (clock.now - begun >= 60.0) == (at == "offered")  # else the new paper is in the store
    same(world, run, three)
    assert not asked(world, "va")


def _twice(attempt, then):
    """The second attempt is another one."""
    times = []

    def one(self):
        times.append(1)
        return attempt(self) if len(times) == 1 else then()

    return one


def test_two_hospitals_one_after_the_other(world, heart_files, tmp_path, clock):
    rules = {**CHEAP["federation"], "required": ["cleveland", "hungarian"]}
    study = study_of(privacy=CHEAP["privacy"], federation=rules)
    whole = embedded(tmp_path / "embedded", study, heart_files, ("cleveland", "hungarian"))
    run = approved(world, study, clock)
    world.line.away = {"va"}

    def trouble(n, messages):
        if n == 1:  # it is gone before any of the three has answered
            world.line.away.add("switzerland")
            raise lost(["switzerland"])

    world.line.trouble = trouble
    assert driver(world, run, clock).drive() == hubstore.DONE
    paper = Paper.open(world.home.store.paper(run.id), world.home.identity.public)
    assert list(paper.sites) == ["cleveland", "hungarian"]
    first = Paper.open(world.home.store.run(run.id).paper, world.home.identity.public)
    assert paper.instead_of == first.hash and list(first.sites) == list(FOUR)
    same(world, run, whole)
    why = world.home.store.run(run.id).detail
    assert why.startswith("without switzerland, va, which") and why.endswith(
        "the study allows at least cleveland and hungarian"
    )


def test_an_approval_that_is_taken_back_ends_the_run_that_goes_on(world, clock):
    run = approved(world, study_of(**CHEAP), clock)
    world.line.away = {"va"}

    def trouble(n, messages):
        if n == 5:
            inbox = world.agents["hungarian"].inbox
            inbox.decide(inbox.find("heart"), "refused", "second thoughts")

    world.line.trouble = trouble
    assert driver(world, run, clock).drive() == hubstore.REFUSED
    assert "STUDY_REFUSED" in world.home.store.run(run.id).detail


def test_revoking_a_hospital_that_was_left_out_ends_nothing(world, clock):
    run = approved(world, study_of(**CHEAP), clock)
    world.line.away = {"va"}

    def trouble(n, messages):
        if n == 3:
            hubservice.revoke(world.home, "va")

    world.line.trouble = trouble
    assert driver(world, run, clock).drive() == hubstore.DONE


@pytest.mark.parametrize(
    ("required", "rule"),
    [
        (4, "of 4 hospitals none could be left out"),
        (["mainz"], "mainz: not among the hospitals of the study"),
        (list(FOUR), "none could be left out"),
    ],
)
def test_who_is_required_must_fit_the_hospitals_that_have_joined(world, required, rule):
    study = study_of(federation={"when_lost": "restart_without", "required": required})
    with pytest.raises(InputError, match="WRONG_VALUE") as caught:
        hubrun.submit(world.home, study)
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("federation", "rule"),
    [
        ({"when_lost": "restart_without"}, "belong together"),
        ({"when_lost": "restart_without", "required": "all"}, "belong together"),
        ({"when_lost": "wait", "required": 3}, "belong together"),
        ({"required": ["va"]}, "belong together"),
        ({"when_lost": "restart_without", "required": 1}, "a number from 2 on"),
        ({"when_lost": "restart_without", "required": True}, "a number from 2 on"),
        ({"when_lost": "restart_without", "required": []}, "names of hospitals"),
        ({"when_lost": "restart_without", "required": "some"}, "names of hospitals"),
        ({"when_lost": "restart_without", "required": [3]}, "names of hospitals"),
        (
            {"when_lost": "restart_without", "required": ["mainz"], "sites": list(FOUR)},
            "mainz: not among",
        ),
        (
            {"when_lost": "restart_without", "required": 4, "sites": list(FOUR)},
            "none could be left out",
        ),
        (
            {"when_lost": "restart_without", "required": ["va"], "sites": ["va", "hungarian"]},
            "of 2 hospitals none could be left out",
        ),
        ({"when_lost": "restart", "required": 3}, "'restart_without'"),
    ],
)
def test_a_contradiction_stops_before_anything_is_read(federation, rule):
    content = {**STUDY, "federation": federation}
    with pytest.raises(InputError, match="WRONG_VALUE") as caught:
        validate(content, Study, "study.toml")
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("required", "rest", "allowed"),
    [
        (2, "abc", True),
        (2, "ab", True),
        (2, "a", False),
        (2, "abcd", False),  # nobody is left out
        (2, "abx", False),
        (["a"], "ab", True),
        (["a"], "a", False),
        (["a"], "bcd", False),
        (["a", "b", "b"], "ab", True),
    ],
)
def test_who_may_be_left_out(required, rest, allowed):
    rules = study_of(federation={"when_lost": "restart_without", "required": required}).federation
    assert rules.allows(rest, "abcd") is allowed
    assert not study_of().federation.allows(rest, "abcd")
