"""The federated engine over real processes: the bytes of the embedded one, sealed and numbered."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from polyclinic.core import codec
from polyclinic.core.errors import Refused, Stopped
from polyclinic.core.fit import fit
from polyclinic.core.plan import Plan
from polyclinic.data.codebook import Codebook
from polyclinic.engines.federated import Federated, HubTransport, federation
from polyclinic.governance.paper import Answer, Paper, Question
from polyclinic.governance.study_file import Session
from polyclinic.privacy.secure import Identity
from tests.core import wiring
from tests.core.toy import Descend
from tests.network.agent_for_tests import rows
from tests.network.conftest import SITES

COORDINATOR = Identity.generate()
KEYS = {site: Identity.generate() for site in SITES}
PLAN = Plan("toy.sum", {"centre": 0.1, "rate": 1.0}, "sum")
BOOK = {"format": 1, "name": "toy", "columns": {"x": {"type": "number", "range": [-50, 50]}}}
SESSION = {
    "format": 1,
    "study": {"name": "toy", "purpose": "a test"},
    "data": {"hub": "heart", "schema": "toy.toml"},
    "session": {"columns": ["x"], "algorithms": ["descriptive"]},
}


def paper_of(keys):
    book = Codebook.from_dict(BOOK)
    keys = {site: bytes(key) for site, key in keys.items()}
    return Paper(Session.model_validate(SESSION), book, keys, "heart", COORDINATOR.public)


@pytest.fixture(scope="module")
def paper(network):
    keys = network.line.ask(dict.fromkeys(SITES, b"key:"), 40)
    found = paper_of(keys)
    offer = codec.encode([found.signed(COORDINATOR).hex(), COORDINATOR.public.hex()])
    taken = network.line.ask(dict.fromkeys(SITES, b"paper:" + offer), 40)
    assert taken == dict.fromkeys(SITES, b"taken")
    return found


@pytest.mark.parametrize("sums", ["clear", "secure", "auto"])
def test_the_bytes_of_the_embedded_engine(network, paper, sums):
    far = federation(paper, network.line, COORDINATOR, sums=sums, timeout=40)
    near = wiring.federation({site: rows(site) for site in SITES})
    one, other = fit(Descend(), far), fit(Descend(), near)
    assert codec.encode(one.model) == codec.encode(other.model)
    assert far.summing.secure is (sums == "secure")
    assert far.purpose == "a test"


def test_every_federation_has_a_run_of_its_own(paper):
    engine = Federated(Recorder(), paper, COORDINATOR)
    names = set()
    for _ in range(3):
        engine.federation()
        names.add(engine.run)
    assert len(names) == 3


class Recorder:
    """A line that keeps what it is given, and answers for all but some.

    `bend` changes what a site answers: from the question and its signed answer.
    """

    def __init__(self, silent=(), bend=lambda question, reply: reply):
        self.silent, self.bend, self.questions, self.timeouts = silent, bend, [], []

    def answers(self, messages, timeout):
        self.timeouts.append(timeout)
        opened = {s: Question.open(data, COORDINATOR.public) for s, data in messages.items()}
        self.questions.append(opened)
        signed = {s: Answer.to(q, q.message).signed(KEYS[s]) for s, q in opened.items()}
        for site, reply in signed.items():
            if site not in self.silent:
                yield site, self.bend(opened[site], reply)


def transport(line):
    keys = {site: key.public for site, key in KEYS.items()}
    return HubTransport(line, paper_of(keys), COORDINATOR, "run", 600.0)


def test_questions_are_sealed_for_one_site_and_numbered_from_one():
    line = Recorder()
    over = transport(line)
    assert over.ask({"a": b"1", "b": b"2"}) == {"a": b"1", "b": b"2"}
    over.ask({"b": b"3"})
    over.ask({"a": b"4"})
    seen = [(site, q.site, q.run, q.n) for asked in line.questions for site, q in asked.items()]
    assert seen == [
        ("a", "a", "run", 1),
        ("b", "b", "run", 1),
        ("b", "b", "run", 2),
        ("a", "a", "run", 2),
    ]
    assert line.timeouts == [600.0] * 3


def code(name):
    return codec.encode({"code": name})


BENT = {
    "not signed": lambda q, reply: q.message,
    "a refusal that is not signed": lambda q, reply: code("TOO_FEW_PATIENTS"),
    "more than a code": lambda q, reply: codec.encode({"code": "AGENT_LOST", "words": [1]}),
    "no text for a code": lambda q, reply: codec.encode({"code": ["AGENT_LOST"]}),
    "by another hospital": lambda q, reply: Answer.to(q, q.message).signed(KEYS["a"]),
    "by the hub": lambda q, reply: Answer.to(q, q.message).signed(COORDINATOR),
    "to another question": lambda q, reply: Answer.to(replace(q, n=7), b"x").signed(KEYS[q.site]),
    "in another run": lambda q, reply: Answer.to(replace(q, run="x"), b"x").signed(KEYS[q.site]),
    "to other words": lambda q, reply: Answer.to(replace(q, message=b"other"), b"x").signed(
        KEYS[q.site]
    ),
    "changed": lambda q, reply: reply[:-1] + b"!",
    "longer": lambda q, reply: reply + b"!",
    "cut": lambda q, reply: reply[:40],
    "the question itself": lambda q, reply: q.sealed(COORDINATOR),
    "nothing": lambda q, reply: b"",
}


@pytest.mark.parametrize("how", BENT)
def test_an_answer_that_its_hospital_has_not_signed_is_not_used(how):
    line = Recorder(bend=lambda q, reply: BENT[how](q, reply) if q.site == "b" else reply)
    with pytest.raises(Refused) as found:
        transport(line).ask(dict.fromkeys(SITES, b"?"))
    assert (found.value.code, found.value.site) == ("BAD_SIGNATURE", "b")


def test_only_that_there_is_no_answer_now_needs_no_signature():
    for name in ("AGENT_LOST", "CANNOT_WRITE", "RUN_LOST"):
        line = Recorder(bend=lambda q, reply, name=name: code(name) if q.site == "b" else reply)
        assert transport(line).ask(dict.fromkeys(SITES, b"?"))["b"] == code(name)


def test_a_lost_site_is_named_with_the_rule():
    with pytest.raises(Stopped) as found:
        transport(Recorder(silent=("c",))).ask(dict.fromkeys(SITES, b"?"))
    error = found.value
    assert (error.code, error.site) == ("SITE_LOST", "c")
    assert error.what == "c has not answered for 10 min"
    assert "A total of two beside a total of three would show c's own numbers" in error.rule
    with pytest.raises(Stopped) as found:
        transport(Recorder(silent=SITES)).ask(dict.fromkeys(SITES, b"?"))
    assert found.value.site == "a, b, c"


def test_a_silent_site_stops_a_run_within_two_seconds_of_the_deadline(network, paper):
    far = federation(paper, network.line, COORDINATOR, timeout=1.0)
    network.kill("c")
    begun = time.monotonic()
    try:
        with pytest.raises(Stopped) as found:
            far.total(PLAN)
        # the question, and once more the heads of the logs
        assert time.monotonic() - begun < 2 * (1.0 + 2.0)
    finally:
        network.start("c")
        network.wait_for(*SITES)
    assert (found.value.code, found.value.site) == ("SITE_LOST", "c")
