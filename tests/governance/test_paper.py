"""Papers of a study across hospitals: what is signed, by whom, and that nothing else is taken."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError
from polyclinic.data.codebook import Codebook
from polyclinic.governance.paper import APPROVED, REFUSED, Answer, Decision, Paper, Question
from polyclinic.governance.study_file import Session, Study
from polyclinic.privacy.secure import Identity

# Columns, levels and derived columns stand in an order that is not that of their names.
BOOK = Codebook.from_dict(
    {
        "format": 1,
        "name": "wards",
        "columns": {
            "sex": {"type": "binary", "levels": {"1": "male", "0": "female"}},
            "age": {"type": "integer", "unit": "a", "range": [18, 110], "missing": [0, -1, "x"]},
            "ward": {"type": "category", "levels": {"z": "last", "a": "first", "m": "mid"}},
        },
        "derived": {
            "old": {"type": "binary", "from": "age > 70", "levels": {"0": "no", "1": "yes"}},
            "elder": {"type": "binary", "from": "age > 60", "levels": {"0": "no", "1": "yes"}},
        },
        "site": {"west": {"map": {"age": {"column": "years"}}}},
    }
)
CONTENT = {
    "format": 1,
    "study": {"name": "wards", "purpose": "research"},
    "data": {"hub": "heart", "schema": "wards.toml"},
    "model": {"kind": "logistic", "formula": "old ~ sex + ward", "class_weight": {"1": 2.0}},
    "cohort": {"missing": {"age": "mean"}},
}
SESSION = {
    "format": 1,
    "study": {"name": "open"},
    "data": {"hub": "heart", "schema": "wards.toml"},
    "session": {"columns": ["age"], "algorithms": ["descriptive"]},
}


@pytest.fixture(scope="module")
def paper(identity):
    keys = {site: Identity.generate().public for site in ("west", "east")}
    return Paper(Study.model_validate(CONTENT), BOOK, keys, "heart", identity.public)


def code(function, *arguments):
    with pytest.raises(PolyclinicError) as found:
        function(*arguments)
    return found.value.code


def test_an_offer_arrives_as_it_was_signed(paper, identity):
    found = Paper.open(paper.signed(identity), identity.public)
    assert found == replace(paper, sites=found.sites) and dict(found.sites) == dict(paper.sites)
    assert found.hash == paper.hash and found.short_hash == f"{paper.hash[:4]} {paper.hash[4:8]}"
    assert found.codebook.content_hash == BOOK.content_hash
    assert list(found.codebook.columns) == ["sex", "age", "ward"]
    assert found.codebook.level_names("ward") == ("z", "a", "m")
    assert list(found.codebook.derived) == ["old", "elder"]
    session = replace(paper, study=Session.model_validate(SESSION))
    assert Paper.open(session.signed(identity), identity.public).study == session.study


def test_every_change_is_another_study(paper):
    reordered = {**BOOK.to_dict(), "columns": list(reversed(BOOK.to_dict()["columns"]))}
    more = {**CONTENT, "seed": 1}
    others = [
        replace(paper, hub="lungs"),
        replace(paper, coordinator=bytes(32)),
        replace(paper, sites={**paper.sites, "west": bytes([1] * 32)}),
        replace(paper, sites={"west": paper.sites["west"]}),
        replace(paper, codebook=Codebook.from_dict(reordered)),
        replace(paper, study=Study.model_validate(more)),
    ]
    assert len({one.hash for one in [paper, *others]}) == 7


def test_what_another_has_signed_is_refused(paper, identity, stranger):
    assert code(Paper.open, paper.signed(stranger), identity.public) == "BAD_SIGNATURE"
    decision = Decision("west", paper.hash, APPROVED)
    assert code(Decision.open, decision.signed(stranger), identity.public) == "BAD_SIGNATURE"
    question = Question("west", paper.hash, "r1", 1, b"x")
    assert code(Question.open, question.sealed(stranger), identity.public) == "BAD_SIGNATURE"


def test_one_kind_of_paper_is_never_another(paper, identity):
    signed = codec.decode(Decision("west", paper.hash, APPROVED).signed(identity))
    offer = codec.encode({"offer": signed["decision"], "signature": signed["signature"]})
    assert code(Paper.open, offer, identity.public) == "BAD_SIGNATURE"
    assert code(Decision.open, paper.signed(identity), identity.public) == "BAD_MESSAGE"


def test_decisions_are_one_of_two(identity):
    for verdict in (APPROVED, REFUSED):
        decision = Decision("west", "0" * 64, verdict, "because")
        assert Decision.open(decision.signed(identity), identity.public) == decision
    other = Decision("west", "0" * 64, "perhaps").signed(identity)
    assert code(Decision.open, other, identity.public) == "BAD_MESSAGE"


def test_an_envelope_holds_its_message_and_place(identity):
    for message in (b"", b"x", bytes(100_000)):
        question = Question("west", "0" * 64, "r1", 7, message)
        assert Question.open(question.sealed(identity), identity.public) == question


@pytest.mark.parametrize("kind", [Question, Answer])
def test_an_envelope_that_was_touched_is_refused(identity, kind):
    question = Question("west", "0" * 64, "r1", 7, b"what is the mean age")
    answer = Answer.to(question, b"forty or so")
    sealed = question.sealed(identity) if kind is Question else answer.signed(identity)
    rng = np.random.default_rng(1)
    for place in rng.integers(0, 8 * len(sealed), 500):
        bent = bytearray(sealed)
        bent[place // 8] ^= 1 << (place % 8)
        assert code(kind.open, bytes(bent), identity.public) in ("BAD_MESSAGE", "BAD_SIGNATURE")
    for cut in range(0, len(sealed), 7):
        assert code(kind.open, sealed[:cut], identity.public) in (
            "BAD_MESSAGE",
            "BAD_SIGNATURE",
        )
    huge = sealed[:4] + struct.pack("<I", 2**32 - 1) + sealed[8:]
    assert code(kind.open, huge, identity.public) == "BAD_MESSAGE"


@pytest.mark.parametrize("data", [b"", b"PCM1", codec.encode(None), codec.encode({"offer": 1})])
def test_bytes_of_another_form_are_refused(data, identity):
    for kind in (Paper, Decision, Question, Answer):
        assert code(kind.open, data, identity.public) == "BAD_MESSAGE"


def test_an_offer_that_is_signed_but_nonsense_is_refused(paper, identity):
    content = codec.decode(paper.signed(identity))["offer"]
    for name, value in (
        ("study", {}),
        ("codebook", {"name": 5}),
        ("sites", {"west": "zz"}),
        ("sites", {"west": "00"}),
        ("hub", 5),
        ("study", {**content["study"], "surprise": 1}),
    ):
        changed = {**content, name: value}
        signature = identity.sign(codec.encode(["polyclinic offer 1", changed])).hex()
        data = codec.encode({"offer": changed, "signature": signature})
        assert code(Paper.open, data, identity.public) in (
            "BAD_MESSAGE",
            "BAD_ROSTER",
            "WRONG_VALUE",
        )
