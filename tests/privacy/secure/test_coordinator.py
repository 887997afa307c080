"""The coordinator names the site at fault, and opens nothing that is not exact."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core import codec
from polyclinic.privacy.secure import SecureSumError, mask, sharing
from polyclinic.privacy.secure.envelope import Place, sign
from polyclinic.privacy.secure.keyring import Secrets
from tests.privacy.secure.world import RUN, World


def failing(world, **more):
    with pytest.raises(SecureSumError) as caught:
        world.total(**more)
    return caught.value.code, caught.value.site


def resign(world, name, edit):
    """An edit by the site itself: the body is changed and signed again."""

    def change(value):
        edit(value["body"])
        place = Place(RUN, value["round"], value["attempt"])
        return sign(world.identities[name], name, value["kind"], place, value["body"])

    return ("reply", change)


def unsigned(value):
    value["signature"] = "0" * 128


@pytest.mark.parametrize("kind", ["BATCH", "KEYS", "SHARES", "PLAN", "SURVIVORS", "PROOF"])
def test_an_answer_without_the_sites_signature_is_named(kind):
    world = World(4)
    world.changes[kind, "s02"] = ("reply", unsigned)
    assert failing(world) == ("BAD_SIGNATURE", "s02")
    world.changes.clear()
    assert world.total(attempt=1).sites == tuple(world.names)


@pytest.mark.parametrize("kind", ["BATCH", "KEYS", "SHARES", "PLAN", "SURVIVORS", "PROOF"])
@pytest.mark.parametrize("data", [b"", b"PCM1", codec.encode([1]), codec.encode({"version": 1})])
def test_an_answer_that_is_none_is_named(kind, data):
    world = World(3)
    deliver = world.deliver

    def answer(name, message):
        asked = codec.decode(message)["kind"]
        return data if (asked, name) == (kind, "s01") else deliver(name, message)

    world.deliver = answer
    assert failing(world) == ("BAD_MESSAGE", "s01")


def test_an_answer_longer_than_its_schema_is_not_read():
    world = World(3)
    long = codec.encode({"x": "y" * 10_000})
    deliver = world.deliver
    world.deliver = lambda name, m: long if name == "s01" else deliver(name, m)
    assert failing(world) == ("SCHEMA_MISMATCH", "s01")


def test_a_share_that_was_not_dealt_names_who_gave_it():
    world = World(4)

    def other(body):
        body["seed"]["s01"] = body["seed"]["s03"]

    world.changes["PROOF", "s02"] = resign(world, "s02", other)
    assert failing(world) == ("SHARE_INVALID", "s02")


def test_shares_of_another_secret_name_who_dealt_them(monkeypatch):
    world = World(4)
    deal = sharing.deal

    def false(keyring, own):
        shares = deal(keyring, own)
        if mask.public_of(own.exchange) == keyring.exchange["s01"]:
            shares[0][0] = shares[1][0]
        return shares

    monkeypatch.setattr(sharing, "deal", false)
    assert failing(world) == ("SHARE_INVALID", "s01")


def test_a_site_that_deals_another_seed_than_it_uses_is_named(monkeypatch):
    world = World(4)
    deal = sharing.deal

    def false(keyring, own):
        if mask.public_of(own.exchange) == keyring.exchange["s01"]:
            own = Secrets(own.exchange, own.masks, own.seeds[::-1])
        return deal(keyring, own)

    monkeypatch.setattr(sharing, "deal", false)
    assert failing(world) == ("SHARE_INVALID", "s01")


def test_shares_that_are_not_those_of_their_digests_are_refused_by_who_gets_them(monkeypatch):
    world = World(3)
    table = sharing.digests
    monkeypatch.setattr(sharing, "digests", lambda shares: table(shares)[::-1].copy())
    assert failing(world)[0] == "SHARE_INVALID"
    assert not world.messages("PLAN", "s00")


def test_a_vector_that_was_masked_wrongly_is_found():
    world = World(4)

    def off(body):
        body["vector"][0, 0] += 1

    world.changes["PLAN", "s01"] = resign(world, "s01", off)
    # The site itself notices that its own vector is not the one it has sent.
    assert failing(world) == ("U2_EQUIVOCATION", "s01")


def test_a_mask_with_the_wrong_sign_is_found(monkeypatch):
    world = World(4)
    apply, calls = mask.apply, []

    def swapped(words, plus, minus):
        calls.append(words)
        apply(words, minus, plus) if len(calls) == 2 else apply(words, plus, minus)

    monkeypatch.setattr(mask, "apply", swapped)
    assert failing(world)[0] == "CANARY_MISMATCH"


def test_a_total_beyond_the_guard_is_not_given_out():
    world = World(3, size=1)

    def huge(plan):
        words = np.zeros((1, 2), dtype=np.uint64)
        words[0, 1] = 2**61
        return words

    world.contribute = lambda name: huge
    assert failing(world)[0] == "GUARD"


def test_an_agreement_on_something_else_is_named():
    world = World(4)

    def another(body):
        body["survivors"] = "0" * 64

    world.changes["SURVIVORS", "s03"] = resign(world, "s03", another)
    assert failing(world) == ("U2_EQUIVOCATION", "s03")


@pytest.mark.parametrize("settings", [{"threshold": "half"}, {"batch": 0}, {"run": ""}])
def test_settings_outside_the_allowed_are_refused(settings):
    world = World(3)
    with pytest.raises(ValueError, match=r"settings|characters"):
        type(world.coordinator)(world.roster, **{"run": RUN, **settings})


def test_more_hospitals_than_a_secure_sum_takes_are_said_before_anything_is_asked():
    world = World(65)
    world.deliver = None  # nobody is asked
    with pytest.raises(SecureSumError, match="65 hospitals are too many") as caught:
        world.total()
    assert caught.value.code == "TOO_MANY_SITES" and "region" in caught.value.next
