"""Site and coordinator together: exact totals, losses, and attempts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from polyclinic.core import codec, ring
from polyclinic.core.errors import PolyclinicError
from polyclinic.privacy.secure import (
    SecureSumError,
    SiteRefused,
    decode_fast64,
    encode_fast64,
    verify_transcript,
)
from polyclinic.privacy.secure.envelope import Place
from polyclinic.privacy.secure.keyring import threshold_of
from polyclinic.privacy.secure.round import Round
from tests.privacy.secure.world import World, exact


@pytest.mark.parametrize("k", [3, 5, 20])
def test_the_total_is_that_of_python_integers(k):
    world = World(k, size=50)
    opened = world.total()
    assert ring.decode(opened.words).tolist() == exact(world.values.values())
    assert opened.sites == tuple(world.names)


def test_fast64_gives_the_same_words_as_a_plain_sum():
    world = World(5, size=9000)
    encoded = {name: encode_fast64(x / 1e3, 5, 6) for name, x in world.values.items()}
    world.contribute = lambda name: lambda plan: encoded[name]
    opened = world.total(profile="fast64")
    assert np.array_equal(opened.words, sum(encoded.values(), np.zeros(9000, np.uint64)))
    wanted = sum(world.values.values()) / 1e3
    assert np.abs(decode_fast64(opened.words, 5, 6) - wanted).max() < 1e-13


def test_rounds_share_a_batch_and_the_next_batch_follows():
    world = World(4, batch=2)
    totals = [world.total(r).words for r in range(5)]
    assert all(np.array_equal(words, totals[0]) for words in totals)
    assert len(world.messages("BATCH", "s00")) == 3
    vectors = [codec.decode(r)["body"]["vector"] for _, r in world.messages("PLAN", "s00")]
    assert len({v.tobytes() for v in vectors}) == 5


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.parametrize("threshold", ["two_thirds", "majority"])
def test_every_pattern_of_losses_is_exact_or_refused(k, threshold):
    needed = threshold_of(threshold, k)
    world = World(k, threshold=threshold, membership="survivors", batch=1)
    names, round = world.names, 0
    for early, late in itertools.product(subsets(names), repeat=2):
        if set(early) & set(late):
            continue
        world.lost = {"PLAN": set(early), "PROOF": set(late)}
        world.begin()
        kept = [n for n in names if n not in early]
        round += 1
        if len(kept) >= max(needed, 3) and len(kept) - len(late) >= needed:
            opened = world.total(round)
            assert ring.decode(opened.words).tolist() == exact(world.values[n] for n in kept)
            assert opened.sites == tuple(kept)
        else:
            with pytest.raises(SecureSumError) as caught:
                world.total(round)
            assert caught.value.code == "BELOW_THRESHOLD"


def subsets(names):
    return [c for n in range(len(names) + 1) for c in itertools.combinations(names, n)]


def test_a_site_lost_while_agreeing_is_still_in_the_total():
    world = World(5)
    world.lost = {"SURVIVORS": {"s01"}}
    opened = world.total()
    assert ring.decode(opened.words).tolist() == exact(world.values.values())


@pytest.mark.parametrize("kind", ["BATCH", "KEYS", "SHARES"])
def test_a_site_lost_during_set_up_is_named(kind):
    world = World(4)
    world.lost = {kind: {"s02"}}
    with pytest.raises(SecureSumError) as caught:
        world.total()
    assert (caught.value.code, caught.value.site) == ("SITE_LOST", "s02")
    world.lost = {}
    assert world.total(attempt=1).sites == tuple(world.names)


def test_fixed_membership_refuses_a_total_without_a_site_and_goes_on_when_it_is_back():
    world = World(5)
    world.lost = {"PLAN": {"s03"}}
    with pytest.raises(SecureSumError) as caught:
        world.total(0)
    assert (caught.value.code, caught.value.site) == ("MEMBERSHIP_CHANGED", "s03")
    world.lost = {}
    with pytest.raises(SecureSumError) as caught:
        world.total(0, attempt=1, sites=[n for n in world.names if n != "s03"])
    assert caught.value.code == "MEMBERSHIP_CHANGED"
    opened = world.total(0, attempt=2)
    assert ring.decode(opened.words).tolist() == exact(world.values.values())


def test_survivors_may_be_fewer_before_the_first_total_and_are_the_same_after_it():
    world = World(5, membership="survivors")
    world.lost = {"PLAN": {"s00", "s01"}}
    with pytest.raises(SecureSumError) as caught:
        world.total(0)
    assert caught.value.code == "BELOW_THRESHOLD"
    world.lost = {"PLAN": {"s04"}}
    fewer = tuple(world.names[:4])
    assert world.total(0, attempt=1).sites == fewer
    world.lost, world.sent = {}, []
    assert world.total(1).sites == fewer
    assert not any(name == "s04" for _, name, _, _ in world.sent)
    world.lost = {"PLAN": {"s03"}}
    with pytest.raises(SecureSumError) as caught:
        world.total(2)
    assert caught.value.code == "BELOW_THRESHOLD"
    with pytest.raises(SecureSumError) as caught:
        world.total(2, attempt=1, sites=["s00", "s01", "s02", "s04"])
    assert caught.value.code == "MEMBERSHIP_CHANGED"
    world.lost = {}
    assert world.total(2, attempt=2, sites=world.names).sites == fewer


def test_who_contributes_is_told_the_plan_and_the_sites_of_the_batch():
    world, seen = World(5, membership="survivors"), []

    def contribute(name):
        def vector(plan):
            seen.append((dict(plan), plan.members))
            return World.contribute(world, name)(plan)

        return vector

    world.contribute = contribute
    world.total(3, sites=world.names[1:])
    assert seen == [({"n": 3}, tuple(world.names[1:]))] * 4


def test_too_few_sites_of_the_roster_are_not_even_asked():
    world = World(10, membership="survivors")
    with pytest.raises(SecureSumError) as caught:
        world.total(sites=world.names[:6])
    assert caught.value.code == "BELOW_THRESHOLD"
    assert world.sent == []


def test_all_refusals_of_sites_are_told_with_their_codes_and_nothing_is_uploaded():
    world = World(4)

    def contribute(name):
        def refuse(plan):
            raise PolyclinicError("3 patients in Ward 9", code="TOO_FEW_PATIENTS")

        def fail(plan):
            raise RuntimeError("Ward 9")

        return {"s01": refuse, "s02": fail}.get(name, World.contribute(world, name))

    world.contribute = contribute
    with pytest.raises(SiteRefused) as caught:
        world.total()
    assert caught.value.refusals == {"s01": "TOO_FEW_PATIENTS", "s02": "SITE_FAILED"}
    assert caught.value.exit_code == 3
    assert not any(b"Ward" in (reply or b"") for *_, reply in world.sent)
    del world.contribute
    assert world.total(attempt=1).sites == tuple(world.names)


def test_the_order_of_sites_changes_nothing():
    world = World(5)
    one = world.total(0, sites=world.names).words
    two = world.total(1, sites=world.names[::-1]).words
    assert one.tobytes() == two.tobytes()
    assert len(world.messages("BATCH", "s00")) == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (lambda: ring.encode(np.zeros(5)), "SCHEMA_MISMATCH"),
        (lambda: np.zeros((4, 2)), "SCHEMA_MISMATCH"),
        (lambda: None, "SCHEMA_MISMATCH"),
        (lambda: ring.encode(np.full(4, np.nan)), "NONFINITE"),
        (lambda: ring.encode(np.full(4, 1e300)), "RANGE"),
    ],
)
def test_a_bad_vector_never_leaves_its_site(words, code):
    world = World(3)
    world.contribute = lambda name: lambda plan: words()
    with pytest.raises(SiteRefused) as caught:
        world.total()
    assert set(caught.value.refusals.values()) == {code}
    assert all(len(reply) < 80 for _, reply in world.messages("PLAN", "s00"))


def test_sites_that_were_asked_for_different_plans_cannot_be_opened():
    """Otherwise plans whose other vectors are known would open the vector of one site."""
    world = World(4)
    world.changes[("PLAN", "s01")] = ("request", lambda m: m["body"].update(plan={"n": 99}))
    with pytest.raises(SecureSumError) as caught:
        world.total()
    assert (caught.value.code, caught.value.site) == ("SCHEMA_MISMATCH", "s01")
    keyring = world.sites["s00"].keys.keyring(codec.decode(world.sent[-1][2])["body"]["batch"])
    private = bytes(range(32))
    one, two = (Round(keyring, Place("run"), 0, p * 64, "exact128", 4) for p in "ab")
    assert not set(one.pair_keys(private, "s00").values()) & set(
        two.pair_keys(private, "s00").values()
    )


def test_a_transcript_gives_the_same_total_to_anyone_with_the_roster():
    world = World(5, membership="survivors")
    world.lost = {"PLAN": {"s04"}}
    opened = world.total(3)
    words = verify_transcript(world.roster, opened.transcript, plan={"n": 3}, run="run", round=3)
    assert words.tobytes() == opened.words.tobytes()


def test_coordinator_refuses_what_makes_no_sense():
    world = World(3)
    for sites, code in [(["s00", "s01"], "BELOW_THRESHOLD"), (["s00", "s01", "x"], "BAD_MESSAGE")]:
        with pytest.raises(SecureSumError) as caught:
            world.total(sites=sites)
        assert caught.value.code == code
    assert world.sent == []
