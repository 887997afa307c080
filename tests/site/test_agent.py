"""A hospital's agent: the same numbers as in one process, and nothing but what was approved."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from polyclinic.core import codec
from polyclinic.core.errors import InputError, Refused
from polyclinic.core.federation import MAY
from polyclinic.core.plan import Plan
from polyclinic.data.read import read_table
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.workers import ThreadWorkers
from polyclinic.governance.chain import verify
from polyclinic.governance.paper import REFUSED, Notice, Question
from polyclinic.governance.scope import Scope
from polyclinic.models.glm import glm
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Identity
from polyclinic.site import agent as agents
from polyclinic.site.agent import FRAME
from polyclinic.site.data import Joined
from polyclinic.study.sites import Sites
from tests.site.world import PURPOSE, SITES, codes, plan_of, study


@pytest.mark.parametrize("sums", ["auto", "secure", "clear"])
def test_a_fit_over_agents_has_the_bytes_of_one_in_one_process(world, sums):
    from polyclinic.core.fit import fit

    paper = world.approved()
    found = world.fit(paper, sums=sums)
    tables = {s: read_table(world.folder / f"{s}.csv", world.codebook, s) for s in SITES}
    scope = Scope.of(paper)
    together = Sites(tables, world.codebook).federation(Embedded(), scope.cohort, sums=sums)
    assert fit(glm(scope.spec), together).model[-1].coef.tobytes() == found.coef.tobytes()
    assert codes(world) == [] and world.left()
    assert all(verify(home.audit_path).ok for home in world.homes.values())


def test_a_hospital_says_how_many_cores_may_compute(world, monkeypatch):
    folder, used = world.homes["north"].folder, []

    class Watched(ThreadWorkers):
        def __init__(self, rows, partitions=1, threads=None):
            used.append(threads)
            super().__init__(rows, partitions, threads)

    monkeypatch.setattr(agents, "ThreadWorkers", Watched)
    paper = world.approved()
    message = plan_of(paper).to_bytes()
    for cores in (1, 3, 0):
        replace(Joined.load(folder), cores=cores).save(folder)
        world.agents["north"].close()
        world.agents["north"] = agents.Agent(folder)
        world.ask(paper, message, run=f"r{cores}")
    assert used == [1, 3, None]  # none: all that are there


def test_hello_tells_nothing_of_patients(world):
    found = world.letter("north", kind="HELLO")
    whose = {"site", "version", "protocol", "public", "codebook"}
    assert set(found) == whose | {"min_patients", "threshold"}
    assert found["codebook"] == world.codebook.content_hash and found["min_patients"] == 5


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "SHELL"},
        {"kind": 5},
        {"kind": "HELLO", "more": "x"},
        {"kind": "OFFER"},
        {"kind": "OFFER", "paper": 5},
        {"kind": "OFFER", "paper": "zz"},
        {"kind": "STATE", "study": "../../etc"},
        {"kind": "STATE", "study": ["x"]},
        {},
        [],
        None,
    ],
)
def test_letters_of_another_form_are_refused(world, content):
    reply = codec.decode(world.agents["north"].receive(codec.encode(content)))
    assert set(reply) == {"code"} and reply["code"] in ("BAD_MESSAGE", "UNKNOWN_STUDY")
    assert codes(world) == [reply["code"]]


def test_nothing_is_answered_before_an_approval_or_after_it_is_taken_back(world):
    paper = world.paper()
    message = plan_of(paper).to_bytes()
    assert world.ask(paper, message) == {"code": "UNKNOWN_STUDY"}
    world.offer(paper)
    assert world.ask(paper, message) == {"code": "NOT_APPROVED"}
    world.decide(paper)
    assert "words" in world.ask(paper, message)
    before = len(world.left())
    world.decide(paper, REFUSED, why="no more")
    assert world.ask(paper, message, n=2) == {"code": "STUDY_REFUSED"}
    assert codes(world) == ["UNKNOWN_STUDY", "NOT_APPROVED", "STUDY_REFUSED"]
    assert len(world.left()) == before


def test_an_edited_policy_counts_at_once_also_inside_a_secure_sum(world):
    paper = world.approved()
    home = world.homes["north"]
    wire = world.federation(paper, sums="secure").transport
    text = home.policy_path.read_text()
    plan = plan_of(paper)
    assert "words" in codec.decode(wire.ask({"north": plan.to_bytes()})["north"])
    home.policy_path.write_text(text.replace("min_patients = 5", "min_patients = 500"))
    steps = [plan.to_bytes(), codec.encode({"kind": "AGREE"})]
    for message in steps:
        assert codec.decode(wire.ask({"north": message})["north"]) == {"code": "POLICY_CHANGED"}
    home.sign_policy()
    may = codec.encode({"kind": MAY, "secure": False, "plan": plan.to_data()})
    assert codec.decode(wire.ask({"north": may})["north"]) == {"code": "TOO_FEW_PATIENTS"}
    assert home.policy().policy == Policy(min_patients=500)


def test_questions_of_others_and_for_others_are_refused(world):
    paper, stranger = world.approved(), Identity.generate()
    message = plan_of(paper).to_bytes()
    agent = world.agents["north"]

    def answer(sealed):
        return codec.decode(agent.receive(sealed))

    assert answer(world.sealed(paper, message, by=stranger)) == {"code": "BAD_SIGNATURE"}
    wrong = codec.decode(world.carry("north", world.sealed(paper, message, site="west")))
    assert wrong == {"code": "WRONG_SITE"}
    long = world.sealed(paper, message, run="r" * 5000)
    assert answer(long) == {"code": "BAD_MESSAGE"}
    assert answer(b"PCE1" + struct.pack("<I", 1 << 31) + b"x" * 100) == {"code": "BAD_MESSAGE"}
    for run in ("../../x", "", "a/b", "A", "r" * 100):
        assert world.ask(paper, message, run=run) == {"code": "BAD_MESSAGE"}
    for n in (0, -1):
        assert world.ask(paper, message, n=n) == {"code": "BAD_MESSAGE"}
    assert not world.left() and len(codes(world)) == 11


def test_every_answer_to_a_question_is_signed_for_this_very_question(world):
    paper = world.approved()
    message, agent = plan_of(paper).to_bytes(), world.agents["north"]
    sealed = [world.sealed(paper, message, n=n) for n in (1, 2)]
    first, second = (Question.open(data, world.coordinator.public) for data in sealed)
    reply = agent.receive(sealed[0])
    assert "words" in codec.decode(world.signed("north", first, reply))
    refusal = agent.receive(sealed[0])
    assert codec.decode(world.signed("north", first, refusal)) == {"code": "REPLAYED"}
    elsewhere = replace(first, message=b"another question")
    for question, site in ((second, "north"), (elsewhere, "north"), (first, "west")):
        with pytest.raises(InputError, match="BAD_SIGNATURE"):
            world.signed(site, question, reply)


def test_only_the_coordinator_ends_a_run_or_withdraws_an_offer(world):
    paper, waiting = world.approved(), world.paper(study("ill ~ age", name="other"))
    message = plan_of(paper).to_bytes()
    world.offer(waiting)
    assert "words" in world.ask(paper, message)

    def told(notice, by=world.coordinator):
        return codec.decode(world.agents["north"].receive(notice.signed(by)))

    done = Notice("north", "done", paper.hash, "r1")
    gone = Notice("north", "withdrawn", waiting.hash)
    letter = {"kind": "DONE", "study": paper.hash, "run": "r1"}
    assert world.letter("north", **letter) == {"code": "BAD_MESSAGE"}
    bare = {"notice": codec.decode(done.signed(world.coordinator))["notice"], "signature": ""}
    assert world.letter("north", **bare) == {"code": "BAD_SIGNATURE"}
    for notice in (done, gone):
        assert told(notice, by=world.homes["north"].identity) == {"code": "BAD_SIGNATURE"}
        assert told(replace(notice, site="west")) == {"code": "WRONG_SITE"}
        assert told(replace(notice, what="forget")) == {"code": "BAD_MESSAGE"}
    assert "words" in world.ask(paper, message, n=2)
    assert world.agents["north"].inbox.state(waiting.hash) == "waiting"
    assert told(done) == told(gone) == {"ok": True}
    assert world.ask(paper, message, n=3) == {"code": "RUN_LOST"}


def test_an_answer_that_is_too_long_to_carry_is_a_signed_refusal(world, monkeypatch):
    paper = world.approved()
    message = plan_of(paper).to_bytes()
    monkeypatch.setattr("polyclinic.core.codec.LONGEST", 8192 + 100)
    assert world.ask(paper, message) == {"code": "SITE_FAILED"}


def plans_outside(paper):
    inside = plan_of(paper)
    everyone = {**inside.cohort, "where": "age == 44"}
    yield replace(inside, cohort=everyone, _derived={})
    yield replace(inside, purpose="", _derived={})
    values = {"a": {"name": "ward", "levels": 2}, "b": {"name": "sex", "levels": 2}}
    yield replace(inside, task="descriptive.cross_table", values=values, _derived={})
    design = dict(inside.values["design"])
    factor = {"kind": "value", "column": "chol", "args": []}
    term = {"name": "chol", "bound": 800.0, "factors": [factor]}
    design["terms"] = [*design["terms"], term]
    yield replace(inside, values={**inside.values, "design": design}, _derived={})


def test_a_plan_outside_the_study_is_refused_in_every_kind_of_message(world):
    paper = world.approved()
    outside = list(plans_outside(paper))
    place = 0
    for plan in outside:
        may = codec.encode({"kind": MAY, "secure": True, "plan": plan.to_data()})
        for message in (plan.to_bytes(), may):
            place += 1
            assert world.ask(paper, message, n=place) == {"code": "OUTSIDE_STUDY"}
    assert codes(world) == ["OUTSIDE_STUDY"] * place
    for number, plan in enumerate(outside):
        for what in ("secure", "leaning"):
            run = f"s{number}{what}"
            federation = world.federation(paper, run=run, sums="secure")
            federation.cohort, federation.purpose = plan.cohort, plan.purpose
            federation.summing._leaning = what == "leaning"
            with pytest.raises(Refused) as found:
                federation.total(plan)
            assert found.value.code == "OUTSIDE_STUDY"
            assert set(found.value.refusals) == set(SITES)
    for site in SITES:
        assert not world.left(site)
        notes = [one["note"] for one in world.agents[site].books.ledger.refusals()]
        assert notes and all("not in the approved study" in note for note in notes)


def test_only_as_many_different_questions_as_the_study_has(world):
    paper = world.approved()
    scope = Scope.of(paper)
    spec = scope.spec
    values = spec.values(order=0, shift=np.zeros(2), class_weight=np.zeros(0), response_exponent=0)
    cohort = scope.cohort.to_data()

    def answer(number):
        theta = np.array([[0.0, 0.0, number / 1e4]])
        plan = Plan("glm.derivatives", {**values, "theta": theta}, cohort=cohort, purpose=PURPOSE)
        may = codec.encode({"kind": MAY, "secure": False, "plan": plan.to_data()})
        return world.ask(paper, may, n=number + 1)

    found = [answer(number) for number in range(scope.rounds + 3)]
    assert found[: scope.rounds] == [{"may": True}] * scope.rounds
    assert found[scope.rounds :] == [{"code": "OUTSIDE_STUDY"}] * 3
    world.agents["north"].close()
    world.agents["north"] = type(world.agents["north"])(world.homes["north"].folder)
    again = world.ask(paper, plan_of(paper).to_bytes(), run="r2")
    assert again == {"code": "OUTSIDE_STUDY"}  # what was asked is remembered


@pytest.fixture
def quick_log(monkeypatch):
    """A log that does not wait for the disk: it is not what these tests are about."""
    monkeypatch.setattr("polyclinic.governance.audit._sync", lambda handle: None)


def test_ten_thousand_replays_are_refused_and_written_down(world, quick_log):
    paper = world.approved()
    federation = world.federation(paper, sums="secure")
    wire = federation.transport
    federation.total(plan_of(paper))
    before = {site: len(world.left(site)) for site in SITES}
    old = [(site, sealed) for site, sealed in wire.sent if site == "north"]
    refused = codec.encode({"code": "REPLAYED"})
    for number in range(10_000):
        site, sealed = old[number % len(old)]
        assert world.carry(site, sealed) == refused
    assert codes(world).count("REPLAYED") == 10_000
    assert {site: len(world.left(site)) for site in SITES} == before
    assert verify(world.homes["north"].audit_path).ok


def test_ten_thousand_flipped_bits_are_refused(world, quick_log):
    paper = world.approved()
    sealed = world.sealed(paper, plan_of(paper).to_bytes())
    rng = np.random.default_rng(7)
    agent = world.agents["north"]
    known = set()
    for place in rng.integers(0, 8 * len(sealed), 10_000):
        bent = bytearray(sealed)
        bent[place // 8] ^= 1 << (place % 8)
        reply = codec.decode(agent.receive(bytes(bent)))
        assert set(reply) == {"code"}
        known.add(reply["code"])
    assert known <= {"BAD_MESSAGE", "BAD_SIGNATURE"} and not world.left()
    assert len(codes(world)) == 10_000
    assert "words" in codec.decode(world.carry("north", sealed))


def test_a_failure_leaves_a_code_and_its_place_but_no_value(world, monkeypatch):
    paper = world.approved()
    world.agents["north"].table.columns["age"][3] = 44.125

    def broken(*_):
        raise ValueError("patient 3 is 44.125 years old")

    monkeypatch.setattr("polyclinic.site.agent.rows_of", broken)
    assert world.ask(paper, plan_of(paper).to_bytes()) == {"code": "SITE_FAILED"}
    home = world.homes["north"]
    said = (home.folder / "log" / "agent.log").read_text()
    assert "ValueError" in said and " broken\n" in said
    assert "44.125" not in said and "44.125" not in home.audit_path.read_text()
    assert codes(world) == ["SITE_FAILED"]


def test_too_little_memory_is_said(world, monkeypatch):
    paper = world.approved()
    monkeypatch.setattr("polyclinic.site.agent.rows_of", lambda *_: np.empty(2**58))
    assert world.ask(paper, plan_of(paper).to_bytes()) == {"code": "OUT_OF_MEMORY"}
    assert codes(world) == ["OUT_OF_MEMORY"]


def test_a_full_disk_lets_nothing_out(world, monkeypatch):
    paper = world.approved()
    monkeypatch.setattr(
        "polyclinic.governance.audit.os.write",
        lambda *_: (_ for _ in ()).throw(OSError(28, "no space")),
    )
    reply = world.ask(paper, plan_of(paper).to_bytes())
    assert reply in ({"code": "CANNOT_WRITE"}, {"code": "SITE_FAILED"})
    assert not world.left()


class Process:
    """The agent as the process that it is at a hospital."""

    def __init__(self, world, home):
        self.world = world
        command = [sys.executable, "-m", "polyclinic.site.agent", str(home)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.number = 0

    def ask(self, data):
        self.number += 1
        self.process.stdin.write(FRAME.pack(self.number, len(data)) + data)
        self.process.stdin.flush()
        number, length = FRAME.unpack(self.process.stdout.read(FRAME.size))
        assert number == self.number
        reply = self.process.stdout.read(length)
        if data.startswith(b"PCE1"):
            question = Question.open(data, self.world.coordinator.public)
            reply = self.world.signed("north", question, reply)
        return codec.decode(reply)

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(20)


def test_a_killed_agent_never_takes_up_a_run_again(world):
    paper = world.approved()
    home = world.homes["north"].folder
    message = plan_of(paper).to_bytes()
    first = Process(world, home)
    released = first.ask(world.sealed(paper, message, n=1))
    assert "words" in released
    os.kill(first.process.pid, signal.SIGKILL)
    first.end()
    second = Process(world, home)
    assert second.ask(world.sealed(paper, message, n=2)) == {"code": "RUN_LOST"}
    assert second.ask(world.sealed(paper, message, n=1)) == {"code": "RUN_LOST"}
    again = second.ask(world.sealed(paper, message, n=1, run="r2"))
    assert codec.encode(again["words"]) == codec.encode(released["words"])
    assert "words" in second.ask(world.sealed(paper, message, n=2, run="r2"))
    done = Notice("north", "done", paper.hash, "r2").signed(world.coordinator)
    assert second.ask(done) == {"ok": True}
    assert second.ask(world.sealed(paper, message, n=9, run="r2")) == {"code": "RUN_LOST"}
    assert second.end() == 0
    assert codes(world).count("RUN_LOST") == 3


def test_frames_that_are_too_long_or_cut_short(world):
    process = Process(world, world.homes["north"].folder)
    hello = codec.encode({"kind": "HELLO"})
    assert process.ask(hello)["site"] == "north"
    stdin = process.process.stdin
    stdin.write(FRAME.pack(99, 40) + b"only this")
    assert process.end() == 0


def test_an_agent_without_data_says_so_and_ends(world, tmp_path):
    (tmp_path / "north.csv").unlink()
    command = [sys.executable, "-m", "polyclinic.site.agent", str(world.homes["north"].folder)]
    done = subprocess.run(command, capture_output=True, input=b"", timeout=60, check=False)
    assert done.returncode == 2 and b"NO_FILE" in done.stderr and done.stdout == b""


def test_a_rounded_difference_is_to_an_answer_of_the_same_study(world):
    solver = {"name": "gd", "compress": "int8"}
    first = world.approved(study(solver=solver))
    second = world.approved(study(name="second", solver=solver))
    spec = Scope.of(first).spec
    values = spec.values(
        theta=np.zeros((1, spec.size)),
        order=1,
        shift=np.zeros(len(spec.design.terms)),
        class_weight=np.zeros(0),
        response_exponent=spec.response_exponent,
    )
    start = replace(
        plan_of(first), task="glm.derivatives", values=values, compress="int8", _derived={}
    )
    moved = {**values, "theta": values["theta"] + 0.1}
    then = replace(start, values=moved, base=start.content_hash, _derived={})
    assert "words" in world.ask(first, start.to_bytes(), run="r1")
    assert world.ask(second, then.to_bytes(), run="r2") == {"code": "OUTSIDE_STUDY"}
    assert "words" in world.ask(first, then.to_bytes(), n=2, run="r1")


def test_one_question_of_a_run_is_not_one_of_another_study(world):
    first, second = world.approved(), world.approved(study("ill ~ age", name="other"))
    assert "words" in world.ask(first, plan_of(first).to_bytes())
    assert world.ask(second, plan_of(second).to_bytes(), n=2) == {"code": "REPLAYED"}
    assert world.ask(second, plan_of(first).to_bytes(), run="r2") == {"code": "OUTSIDE_STUDY"}
    assert Question.open(world.sealed(first, b"x"), world.coordinator.public).n == 1
