from __future__ import annotations

import pytest

from polyclinic.core import codec
from polyclinic.privacy.secure import Identity, Roster, SecureSumError, verify_transcript
from tests.privacy.secure.world import World

PLAN = {"n": 0}


@pytest.fixture(scope="module")
def world():
    return World(4, membership="survivors")


@pytest.fixture(scope="module")
def transcript(world):
    world.lost = {"PLAN": {"s02"}}
    return world.total().transcript


def verify(world, data, **more):
    settings = {"plan": PLAN, "run": "run", **more}
    return verify_transcript(settings.pop("roster", world.roster), data, **settings)


def test_it_is_of_one_plan_run_round_and_roster(world, transcript):
    assert verify(world, transcript, round=0).shape == (4, 2)
    other = Roster({name: Identity.generate().public for name in world.names})
    for more, code in [
        ({"plan": {"n": 1}}, "SCHEMA_MISMATCH"),
        ({"run": "other"}, "BAD_MESSAGE"),
        ({"round": 1}, "BAD_MESSAGE"),
        ({"threshold": "majority"}, "BELOW_THRESHOLD"),
        ({"roster": other}, "BAD_SIGNATURE"),
    ]:
        with pytest.raises(SecureSumError) as caught:
            verify(world, transcript, **more)
        assert caught.value.code == code


def flip(text):
    return ("1" if text[0] == "0" else "0") + text[1:]


def vector(value):
    value["masked"]["s00"]["body"]["vector"][1, 0] ^= 1


def seed(value):
    seeds = value["unmask"]["s00"]["body"]["seed"]
    seeds["s01"] = flip(seeds["s01"])


def drop_upload(value):
    del value["masked"]["s00"]


def drop_agreement(value):
    del value["agree"]["s00"]


def drop_shares(value):
    del value["unmask"]["s00"]


def commitment(value):
    value["advertise"]["s00"]["body"]["seeds"][0, 0] ^= 1


def other_round(value):
    value["round"] = 1


def other_index(value):
    value["index"] = 1


def huge(value):
    value["size"] = 2**31


def version(value):
    value["version"] = 2


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (vector, "BAD_SIGNATURE"),
        (seed, "BAD_SIGNATURE"),
        (drop_upload, "BELOW_THRESHOLD"),
        (drop_agreement, "BELOW_THRESHOLD"),
        (drop_shares, "BELOW_THRESHOLD"),
        (commitment, "BAD_SIGNATURE"),
        (other_round, "BAD_SIGNATURE"),
        (other_index, "SCHEMA_MISMATCH"),
        (huge, "SCHEMA_MISMATCH"),
        (version, "VERSION_MISMATCH"),
    ],
)
def test_whatever_is_changed_is_found(world, transcript, edit, code):
    value = codec.decode(transcript)
    edit(value)
    with pytest.raises(SecureSumError) as caught:
        verify(world, codec.encode(value))
    assert caught.value.code == code
