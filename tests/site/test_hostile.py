"""A coordinator with its key who wants more than was approved, and what a hospital writes down."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np

from polyclinic.core import codec
from polyclinic.engines.embedded import common_threshold
from polyclinic.engines.federated import Federated
from polyclinic.governance.scope import Scope
from polyclinic.site.agent import FRAME
from tests.site.test_agent import plan_of
from tests.site.world import SITES


def test_what_goes_into_the_log_of_a_refusal_is_short(world):
    paper = world.approved()
    for number, name in enumerate(("step", "parent", "task")):
        plan = replace(plan_of(paper), **{name: "x" * 100_000}, _derived={})
        assert world.ask(paper, plan.to_bytes(), n=number + 1) == {"code": "BAD_MESSAGE"}
    assert world.homes["north"].audit_path.stat().st_size < 20_000


def test_only_the_approved_numbers_of_a_model_are_free(world):
    """The coordinator may write any plan; what the study fixes is fixed."""
    paper = world.approved()
    good = plan_of(paper)
    scope = Scope.of(paper)
    model = scope.spec.values(
        theta=np.zeros((1, 3)),
        order=0,
        shift=np.zeros(2),
        class_weight=np.zeros(0),
        response_exponent=0,
    )
    fit = replace(good, task="glm.derivatives", values=model, _derived={})
    changes = [
        {"rows": {"sample": 0.1, "seed": 1, "round": 0, "part": 0}},
        {"rows": {"folds": 5, "without": 0}},
        {"class_weight": np.array([1e9, 1.0])},
        {"family": "poisson"},
        {"order": 3},
        {"order": True},
        {"theta": np.zeros((65, 3))},
        {"theta": np.full((1, 3), np.nan)},
        {"theta": np.full((1, 3), np.inf)},
        {"shift": np.array([np.inf, 0.0])},
        {"noise": {"multiplier": 0.0}},
    ]
    plans = [replace(fit, values={**model, **one}, _derived={}) for one in changes]
    places = [
        {"round": -1},
        {"round": 10**9},
        {"version": 2},
        {"combine": "collect"},
        {"to": ("elsewhere",)},
        {"purpose": "another"},
        {"cohort": None},
        {"cohort": {**fit.cohort, "where": "age == 44"}},
        {"task": "subprocess.Popen"},
    ]
    plans += [replace(fit, **one, _derived={}) for one in places]
    assert scope.refuses(fit) == ""
    assert [plan for plan in plans if not scope.refuses(plan)] == []
    for place, plan in enumerate(plans):
        try:
            message = plan.to_bytes()
        except codec.CodecError:
            continue
        assert set(world.ask(paper, message, n=place + 1)) == {"code"}
    assert not world.left()


def test_what_the_network_process_refuses_stands_in_the_log(world):
    """Told under number 0, which is never answered; nonsense there is passed over."""
    home = world.homes["north"]
    about = {"why": "for somebody else", "peer": "west", "origin": "west", "channel": "admin"}
    note = codec.encode({**about, "topic": "sys.shell", "times": 7})
    frames = b"".join(FRAME.pack(0, len(one)) + one for one in (note, b"nonsense"))
    command = [sys.executable, "-m", "polyclinic.site.agent", str(home.folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    hello = codec.encode({"kind": "HELLO"})
    process.stdin.write(frames + FRAME.pack(1, len(hello)) + hello)
    process.stdin.flush()
    number, length = FRAME.unpack(process.stdout.read(FRAME.size))
    assert number == 1 and codec.decode(process.stdout.read(length))["site"] == "north"
    for _ in range(100):
        if found := world.log(event="network_refused"):
            break
        time.sleep(0.05)
    process.stdin.close()
    process.stdout.close()
    process.wait(20)
    assert found == [{**about, "topic": "sys.shell", "times": 7}]


def test_hospitals_that_open_a_sum_by_majority_do_so(world):
    for home in world.homes.values():
        text = home.policy_path.read_text()
        home.policy_path.write_text(text.replace('"two_thirds"', '"majority"'))
        home.sign_policy()
    paper = world.approved()
    said = [world.letter(site, kind="HELLO")["threshold"] for site in SITES]
    assert common_threshold(said) == "majority"
    assert common_threshold(["majority", "two_thirds"]) == "two_thirds"
    wire = world.federation(paper).transport
    line = Federated(Direct(wire), paper, world.coordinator, threshold=common_threshold(said))
    together = line.federation(Scope.of(paper).cohort.to_data(), sums="secure")
    assert together.total(plan_of(paper)).seen == "total of 3"


class Direct:
    """A line to agents in this process."""

    def __init__(self, wire):
        self.agents = wire.world.agents

    def answers(self, messages, timeout):
        return [(site, self.agents[site].receive(sealed)) for site, sealed in messages.items()]
