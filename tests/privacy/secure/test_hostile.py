"""A coordinator that cheats: what it tries, the code that it gets, and what it never learns."""

from __future__ import annotations

import random

import numpy as np
import pytest

from polyclinic.core import codec, ring
from polyclinic.privacy.secure import Identity, SecureSumError, site_rounds, verify_transcript
from polyclinic.privacy.secure.envelope import Place, refused, sign
from tests.privacy.secure import oracle
from tests.privacy.secure.attacker import Attacker
from tests.privacy.secure.world import RUN, World


def attacker(k=4, membership="survivors", **settings):
    return Attacker(World(k, membership=membership, **settings))


def signed_by(a, name, kind, body, identity=None, place=None):
    """A message as a colluding site would sign it."""
    key = identity or a.world.identities[name]
    return sign(key, name, kind, place or Place(RUN), body)


def with_advert(a, name, identity=None, **fields):
    body = {**a.adverts[name]["body"], **fields}
    return {**a.adverts, name: signed_by(a, name, "ADVERTISE", body, identity)}


def substituted_key():
    """The coordinator stands between two sites with keys of its own."""
    a = attacker()
    a.advertise()
    stranger = Identity.generate()
    other = Attacker(a.world)
    yield a.keys("s00", with_advert(a, "s01", stranger)), "BAD_SIGNATURE"
    yield a.keys("s00", with_advert(a, "s00", stranger)), "KEY_SUBSTITUTED"
    older = {**a.adverts, "s01": other.advertise()["s01"]}
    yield a.keys("s00", older), "KEY_SUBSTITUTED"


def dropped_key():
    """A site is shown fewer keys than the others."""
    a = attacker(5)
    a.advertise()
    fewer = {n: v for n, v in a.adverts.items() if n != "s04"}
    without = {n: v for n, v in a.adverts.items() if n != "s00"}
    yield a.keys("s00", without), "KEY_SUBSTITUTED"
    a.dealt = {n: a.keys(n, fewer if n == "s00" else None) for n in a.names}
    yield a.keys("s00"), "KEY_SUBSTITUTED"
    yield a.say("s01", "SHARES", {**a.delivery("s02"), "rows": {}}), "BAD_MESSAGE"
    sealed = a.delivery("s00")
    for part in ("sealed", "rows"):
        sealed[part] = {n: v for n, v in sealed[part].items() if n != "s04"}
    sealed["rows"] = {n: rows.copy() for n, rows in sealed["rows"].items()}
    yield a.say("s00", "SHARES", sealed), "SHARE_INVALID"


def equal_keys():
    """Two sites, or two indices, with one key."""
    a = attacker()
    a.advertise()
    masks = a.adverts["s02"]["body"]["masks"]
    yield a.keys("s00", with_advert(a, "s01", masks=masks)), "KEY_SUBSTITUTED"
    twice = masks.copy()
    twice[1] = twice[0]
    yield a.keys("s00", with_advert(a, "s02", masks=twice)), "KEY_SUBSTITUTED"
    exchange = a.adverts["s02"]["body"]["exchange"]
    yield a.keys("s00", with_advert(a, "s01", exchange=exchange)), "KEY_SUBSTITUTED"


def overlapping_unmask():
    """Self mask and key of one site, in one request or in two."""
    a = attacker(5).ready()
    _, all_sites = a.uploads()
    four = {n: d for n, d in all_sites.items() if n != "s04"}
    agrees = a.agrees(four)
    for lost in (["s04", "s00"], [*four, "s04"], list(four)):
        yield a.proof("s00", four, agrees, lost), "OVERLAPPING_UNMASK"
    a.proof("s00", four, agrees)
    yield a.proof("s00", all_sites, agrees), "OVERLAPPING_UNMASK"


def equivocation_between_sites():
    """Some sites are told one set, some another."""
    a = attacker().ready()
    _, all_sites = a.uploads()
    three = {n: d for n, d in all_sites.items() if n != "s00"}
    one = a.agrees(all_sites, ["s00", "s01"])
    two = a.agrees(three, ["s02", "s03"])
    yield a.agree("s01", three), "U2_EQUIVOCATION"
    yield a.proof("s00", all_sites, one), "BELOW_THRESHOLD"
    yield a.proof("s00", all_sites, {**one, **two}), "U2_EQUIVOCATION"
    yield a.proof("s02", three, {**two, "s01": one["s01"]}), "U2_EQUIVOCATION"
    yield a.proof("s01", three, two), "U2_EQUIVOCATION"


def equivocation_between_attempts():
    """The set of a round is asked for again without a site."""
    a = attacker().ready()
    a.opened()
    _, again = a.uploads(index=1, attempt=1)
    del again["s03"]
    yield a.agree("s00", again, index=1, attempt=1), "U2_EQUIVOCATION"


def second_plan():
    """Two vectors under one index."""
    a = attacker().ready()
    a.plan("s00")
    yield a.plan("s00", {"n": 1}), "INDEX_REUSED"
    yield a.plan("s00", size=3), "INDEX_REUSED"
    yield a.plan("s00", attempt=1), "INDEX_REUSED"
    yield a.plan("s00", round=1), "INDEX_REUSED"
    yield a.plan("s00", {"n": 1}, index=1, attempt=1), "INDEX_REUSED"


def replayed():
    """Messages of a round that is over, as they were or at another place."""
    a = attacker().ready()
    survivors, agrees = a.opened()
    yield a.plan("s00"), "INDEX_REUSED"
    yield a.plan("s00", round=1), "INDEX_REUSED"
    yield a.agree("s00", survivors), "DEADLINE"
    yield a.proof("s00", survivors, agrees), "DEADLINE"
    yield a.proof("s00", survivors, agrees, round=1), "BAD_MESSAGE"
    _, digests = a.uploads(index=1, round=1)
    a.agrees(digests, index=1, round=1)
    yield a.proof("s00", digests, agrees, index=1, round=1), "BAD_SIGNATURE"


def too_few_survivors():
    """A total of fewer sites than agreed, down to one."""
    a = attacker(6).ready()
    _, all_sites = a.uploads()
    for n in (1, 2, 3, 4):
        few = {name: all_sites[name] for name in a.names[:n]}
        yield a.agree("s00", few), "BELOW_THRESHOLD"
    agrees = a.agrees(all_sites)
    few = dict(list(agrees.items())[:4])
    yield a.proof("s00", all_sites, few), "BELOW_THRESHOLD"


def another_threshold():
    """The coordinator, or a site that it has won over, names another threshold."""
    a = attacker()
    a.advertise()
    yield a.keys("s00", with_advert(a, "s01", threshold="majority")), "BELOW_THRESHOLD"
    yield a.keys("s00", with_advert(a, "s01", threshold="1")), "BELOW_THRESHOLD"
    pair = {n: a.adverts[n] for n in ("s00", "s01")}
    yield a.keys("s00", pair), "BELOW_THRESHOLD"
    b = attacker().ready()
    yield b.plan("s00", threshold=1), "BAD_MESSAGE"


def forged_signature():
    """Signatures that are missing, of somebody else, or for something else."""
    a = attacker().ready()
    _, survivors = a.uploads()
    agrees = a.agrees(survivors)
    for value in (
        {**agrees["s01"], "signature": "0" * 128},
        {**agrees["s01"], "signature": agrees["s02"]["signature"]},
        signed_by(a, "s01", "AGREE", agrees["s01"]["body"], Identity.generate()),
        signed_by(a, "s01", "READY", agrees["s01"]["body"]),
        signed_by(a, "s01", "AGREE", agrees["s01"]["body"], place=Place(RUN, 1)),
        signed_by(a, "s01", "AGREE", agrees["s01"]["body"], place=Place("other")),
    ):
        yield a.proof("s00", survivors, {**agrees, "s01": value}), "BAD_SIGNATURE"


def another_version():
    """A version with fewer checks."""
    a = attacker().ready()
    _, survivors = a.uploads()
    agrees = a.agrees(survivors)
    for version in (0, 2):
        yield a.proof("s00", survivors, agrees, version=version), "VERSION_MISMATCH"
        older = {**agrees["s01"], "version": version}
        yield a.proof("s00", survivors, {**agrees, "s01": older}), "VERSION_MISMATCH"


def a_site_left_out():
    """A batch without one of the sites of the roster, before or after a total over all of them."""
    a = attacker(5, "fixed")
    for opened in (False, True):
        if opened:
            a.ready().opened()
        b = Attacker(a.world, a.names[:4])
        b.advertise()
        for name in b.names:
            yield b.keys(name), "MEMBERSHIP_CHANGED"
        yield b.plan("s00", round=1), "BAD_MESSAGE"
    c = Attacker(a.world, a.names[:3])
    c.advertise()
    yield c.keys("s00"), "BELOW_THRESHOLD"


def a_batch_from_before():
    """Keys without one site, which all have accepted while sites were allowed to drop out."""
    a = attacker(5)
    b = Attacker(a.world, a.names[:4]).ready()
    a.world.settings["membership"] = "fixed"
    a.world.sites = {name: a.world.site(name) for name in a.names}
    for name in b.names:
        yield b.plan(name), "MEMBERSHIP_CHANGED"


def shrinking_survivors():
    """A total over all sites, then one without a site: in the same batch, in another, in none that
    knows of the first one. The coordinator does not say that the first one is known."""
    a = attacker(5).ready()
    _, all_sites = a.uploads()
    agrees = a.agrees(all_sites)
    for name in a.names:
        a.proof(name, all_sites, agrees)
    _, fewer = a.uploads(index=1, round=1)
    del fewer["s04"]
    for name in fewer:
        yield a.agree(name, fewer, index=1, round=1), "MEMBERSHIP_CHANGED"
    b = Attacker(a.world, a.names[:4]).ready()
    for name in b.names:
        yield b.plan(name, round=2), "MEMBERSHIP_CHANGED"
        yield b.plan(name, round=0, attempt=1), "MEMBERSHIP_CHANGED"


def growing_survivors():
    """A total without a site, then one over all."""
    a = attacker(5).ready()
    _, fewer = a.uploads(a.names[:4])
    agrees = a.agrees(fewer)
    a.proof("s00", fewer, agrees)
    for name in a.names[1:4]:
        a.close(name, fewer)  # told of the total, though not asked for shares
    _, all_sites = a.uploads(index=1, round=1)
    for name in a.names[:4]:
        yield a.agree(name, all_sites, index=1, round=1), "MEMBERSHIP_CHANGED"


def a_batch_of_those_who_know_nothing():
    """Few honest sites that have not helped with the first total, and all colluding ones."""
    a = attacker(10).ready()
    _, all_sites = a.uploads()
    agrees = a.agrees(all_sites)
    for name in a.names[:7]:
        a.proof(name, all_sites, agrees)
    for size in (3, 6):
        b = Attacker(a.world, a.names[-size:])
        b.advertise()
        for name in b.names:
            yield b.keys(name), "BELOW_THRESHOLD"


def changed_membership():
    """Two totals that differ by a site."""
    a = attacker(5, "fixed").ready()
    a.opened()
    yield a.plan("s00", index=1, round=1, members=a.names[:4]), "MEMBERSHIP_CHANGED"
    _, survivors = a.uploads(index=1, round=1)
    del survivors["s04"]
    yield a.agree("s00", survivors, index=1, round=1), "MEMBERSHIP_CHANGED"
    more = {**survivors, "s04": "0" * 64, "s05": "0" * 64}
    yield a.agree("s00", more, index=1, round=1), "MEMBERSHIP_CHANGED"


def bad_shares():
    """Sealed shares that are changed, too long, of another batch or of nobody."""
    a = attacker().shared()
    older = Attacker(a.world).shared()

    def asked(part, **values):
        body = a.delivery("s00")
        return a.say("s00", "SHARES", {**body, part: {**body[part], **values}})

    good, rows = (a.delivery("s00")[part]["s01"] for part in ("sealed", "rows"))
    bit = good.copy()
    bit[5] ^= np.uint64(1)
    long = np.concatenate([good, np.zeros(100_000, np.uint64)])
    yield asked("sealed", s01=bit), "SHARE_INVALID"
    yield asked("sealed", s01=older.delivery("s00")["sealed"]["s01"]), "SHARE_INVALID"
    yield asked("sealed", s01=a.delivery("s02")["sealed"]["s01"]), "SHARE_INVALID"
    yield asked("rows", s01=rows ^ np.uint64(1)), "SHARE_INVALID"
    for wrong in (long, good[:-1], good.astype(np.float64), good.reshape(1, -1), "x", None):
        yield asked("sealed", s01=wrong), "BAD_MESSAGE"
    yield asked("rows", s01=rows[:-1]), "BAD_MESSAGE"
    yield asked("sealed", s00=good), "BAD_MESSAGE"
    yield a.plan("s00"), "BAD_MESSAGE"


BEHAVIOURS = [
    substituted_key,
    dropped_key,
    equal_keys,
    overlapping_unmask,
    equivocation_between_sites,
    equivocation_between_attempts,
    second_plan,
    replayed,
    too_few_survivors,
    another_threshold,
    forged_signature,
    another_version,
    a_site_left_out,
    a_batch_from_before,
    shrinking_survivors,
    growing_survivors,
    a_batch_of_those_who_know_nothing,
    changed_membership,
    bad_shares,
]


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_what_a_hostile_coordinator_tries_is_refused(behaviour):
    tried = [(answer if isinstance(answer, str) else "answered", c) for answer, c in behaviour()]
    assert tried
    assert [answer for answer, _ in tried] == [wanted for _, wanted in tried]


def test_a_plan_that_was_swapped_for_one_site_opens_nothing():
    """Its vector has other masks: what all the shares open is noise, and so is its difference."""
    a = attacker().ready()
    masked = {n: a.plan(n, {"n": 9} if n == "s01" else None) for n in a.names}
    survivors = {n: codec.digest(value["body"]) for n, value in masked.items()}
    agrees = a.agrees(survivors)
    unmask = {n: a.proof(n, survivors, agrees) for n in a.names}
    wire = wire_of(a, masked, unmask)
    seeds = [(-1, oracle.secret(wire, n, "seed")) for n in a.names]
    columns = zip(*(oracle_vector(v) for v in masked.values()), strict=True)
    found = oracle.plus([sum(c) for c in columns], seeds)
    wanted = [sum(ints) for ints in zip(*integers(a.world).values(), strict=True)]
    assert min(abs(oracle.signed(n)) for n in found[1:-2]) > 2**100
    assert max(map(abs, wanted)) < 2**80
    record = {"version": 1, "run": RUN, "round": 0, "attempt": 0, "batch": a.batch, "index": 0}
    record |= {"profile": "exact128", "size": a.world.size, "advertise": a.adverts}
    record |= {"masked": masked, "agree": agrees, "unmask": unmask}
    with pytest.raises(SecureSumError) as caught:
        verify_transcript(a.world.roster, codec.encode(record), plan={"n": 0}, run=RUN)
    assert (caught.value.code, caught.value.site) == ("SCHEMA_MISMATCH", "s01")


def integers(world):
    return {n: [oracle.encode(x) for x in v.tolist()] for n, v in world.values.items()}


def oracle_vector(value):
    rows = value["body"]["vector"]
    return [int(low) | int(high) << 64 for low, high in rows]


def wire_of(a, masked, unmask, plan=None):
    values = [oracle.parse(codec.encode(v)) for v in (a.adverts, masked, unmask)]
    body = oracle.parse(codec.encode(a.plan_body(plan)))
    return oracle.Wire(values[0], (RUN, 0, 0), body, *values[1:])


def both_shares(a, name):
    """Seed and key of a site from what `t` others hold of it in their journals."""
    held = {}
    for holder in [n for n in a.names if n != name]:
        row = a.world.sites[holder].records.row("secret", a.batch, 0).value
        held[a.names.index(holder) + 1] = [
            int.from_bytes(bytes.fromhex(text), "little") for text in row["shares"][name]
        ]
    return [
        oracle.interpolate({x: pair[kind] for x, pair in held.items()}).to_bytes(32, "little")
        for kind in (0, 1)
    ]


def test_both_shares_of_one_site_would_open_its_vector_and_are_never_given():
    a = attacker().ready()
    masked, survivors = a.uploads()
    private, seed = both_shares(a, "s02")
    wire = wire_of(a, masked, {})
    masks = [(-1, seed)]
    for peer, key in oracle.pair_keys(wire, "s02", private).items():
        masks.append((-1 if peer > "s02" else 1, key))
    opened = oracle.plus(oracle_vector(masked["s02"]), masks)
    assert [oracle.signed(n) for n in opened[1:-2]] == integers(a.world)["s02"]

    agrees = a.agrees(survivors)
    for name in a.names:
        a.proof(name, survivors, agrees)
    three = {n: d for n, d in survivors.items() if n != "s02"}
    for name in three:
        for lost in (None, ["s02"], []):
            for claimed in (three, survivors):
                code = a.proof(name, claimed, agrees, lost)
                if isinstance(code, str):
                    assert code in ("OVERLAPPING_UNMASK", "BAD_MESSAGE")
    assert a.shares()[0, "s02"] == {"seed": set(a.names)}


def test_two_vectors_under_one_index_would_open_one_and_never_leave():
    a = attacker().ready()
    rows = a.world.journals["s02"]._rows
    before = dict(rows)
    first = a.plan("s02")
    values = integers(a.world)["s02"]
    a.world.values["s02"] = np.zeros(a.world.size)
    assert oracle_vector(a.plan("s02")) == oracle_vector(first)

    rows.clear()
    rows.update(before)  # a site without its journal's memory
    second = a.plan("s02")
    pairs = zip(oracle_vector(first), oracle_vector(second), strict=True)
    opened = [x - y for x, y in pairs]
    assert [oracle.signed(n % oracle.RING) for n in opened[1:-2]] == values


class Wild:
    """Requests at random: any set, any signatures seen so far, any order, some attempts."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.a = attacker(self.rng.choice((3, 4, 4, 5))).ready()
        self.signed, self.sets = [], []
        self.attempt = 0
        self.uploads()

    def uploads(self):
        where = {"index": self.attempt, "attempt": self.attempt}
        masked = {n: self.a.plan(n, **where) for n in self.a.names}
        self.digests = {
            n: codec.digest(v["body"]) for n, v in masked.items() if not isinstance(v, str)
        }

    def where(self):
        attempt = self.rng.choice((self.attempt, self.attempt, self.rng.randint(0, self.attempt)))
        return {"index": attempt, "attempt": attempt}

    def chosen(self):
        if self.sets and self.rng.random() < 0.9:
            return self.rng.choice(self.sets)
        count = max(0, len(self.digests) - self.rng.choice((0, 1, 1, 2)))
        some = self.rng.sample(sorted(self.digests), count)
        self.sets.append({n: self.digests[n] for n in some})
        return self.sets[-1]

    def step(self):
        a, rng = self.a, self.rng
        name, survivors = rng.choice(a.names), self.chosen()
        what = rng.random()
        if what < 0.02 and self.attempt < 3:
            self.attempt += 1
            self.uploads()
        elif what < 0.5:
            value = a.agree(name, survivors, **self.where())
            self.signed += [] if isinstance(value, str) else [(survivors, name, value)]
        else:
            fitting = {n: v for s, n, v in self.signed if s == survivors or rng.random() < 0.05}
            lost = None if rng.random() < 0.9 else rng.sample(a.names, rng.randint(0, 2))
            a.proof(name, survivors, fitting, lost, **self.where())


def wildly(seeds, steps=100):
    """Kinds of shares that were given of each site, in many wild analyses."""
    for seed in range(seeds):
        wild = Wild(seed)
        for _ in range(steps):
            wild.step()
        assert not any(refused(v) == "SITE_FAILED" for *_, v in wild.a.said)
        yield from wild.a.shares().values()


def test_no_order_of_requests_gives_both_shares_of_a_site():
    found = list(wildly(25))
    assert all(len(kinds) == 1 for kinds in found)
    assert len(found) > 40
    assert any("mask" in kinds for kinds in found)


@pytest.mark.parametrize("guard", ["check_agreement", "_shares"])
def test_sites_without_a_guard_would_give_both(monkeypatch, guard):
    """Without the others' signatures, or with an answer that ignores the set."""

    def everything(self, ring, index, survivors, held):
        seed, mask = ({n: pair[kind] for n, pair in held.items()} for kind in (1, 0))
        return {"index": index, "seed": seed, "mask": mask}

    if guard == "_shares":
        monkeypatch.setattr(site_rounds.SiteRounds, "_shares", everything)
    else:
        monkeypatch.setattr(site_rounds, guard, lambda *args: None)
    assert any(len(kinds) == 2 for kinds in wildly(40))


def test_the_honest_way_gives_the_total():
    """The attacker's own steps, without a trick, open the sum and nothing else."""
    a = attacker().ready()
    masked, survivors = a.uploads()
    agrees = a.agrees(survivors)
    unmask = {n: a.proof(n, survivors, agrees) for n in a.names}
    found = oracle.total(wire_of(a, masked, unmask))
    words = sum(ring.encode(v)[:, 0].astype(object) for v in a.world.values.values())
    assert [n % 2**64 for n in found] == [int(w) % 2**64 for w in words]
