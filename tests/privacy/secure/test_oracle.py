"""Every byte that leaves, and every total, as a second implementation makes them."""

from __future__ import annotations

import math
import random
import struct
from fractions import Fraction

import numpy as np
import pytest

from polyclinic.core import codec, ring
from polyclinic.privacy.secure import mask
from polyclinic.privacy.secure.round import Round
from tests.privacy.secure import oracle
from tests.privacy.secure.world import World


class Watched(World):
    """A world that notes each site's secrets just before they are erased."""

    def __init__(self, *args, **settings):
        super().__init__(*args, membership="survivors", **settings)
        self.own = {}

    def deliver(self, name, message):
        value = codec.decode(message)
        if value["kind"] == "PLAN":
            place = value["body"]["batch"], value["body"]["index"]
            found = self.sites[name].records.row("secret", *place).value
            self.own[name] = [bytes.fromhex(text) for text in found["own"]]
        return super().deliver(name, message)


def payload(rng):
    """Arrays of one site's part of a GLM step as (scale, count, exponents of ten)."""
    p = rng.randint(2, 6)
    return [
        (0, 1, (0, 15)),  # patients
        (0, p, (-18, 15)),  # score, over all magnitudes at once
        (0, p * (p + 1) // 2, (-3, 15)),  # information, held exactly
        (-66, p, (-18, -4)),  # small numbers with a scale of their own, held exactly
    ]


def draw(rng, arrays):
    def number(low, high):
        if rng.random() < 0.05:
            return 0.0
        return rng.choice((-1, 1)) * rng.uniform(1, 9.99) * 10.0 ** rng.uniform(low, high - 1)

    return [[number(*span) for _ in range(count)] for _, count, span in arrays]


def words(arrays, values):
    return np.concatenate(
        [ring.encode(np.array(v), a[0]) for a, v in zip(arrays, values, strict=True)]
    )


def bits(x):
    return struct.pack("<d", x)


def held_exactly(x, scale):
    return (Fraction(x) * Fraction(2) ** (64 - scale)).denominator == 1


def check_uploads(wire, own, numbers):
    for site, answer in wire.masked.items():
        wanted = oracle.upload(wire, site, *own[site], numbers[site])
        assert answer["body"]["vector"].integers() == wanted


def integers(words):
    return [oracle.signed(int(low) | int(high) << 64) for low, high in words]


@pytest.mark.parametrize("k", [3, 4, 5, 6])
def test_fifty_payloads_are_those_of_python_integers_bit_by_bit(k):
    rng, world = random.Random(k), Watched(k, batch=8)
    exact = 0
    for round in range(50):
        arrays = payload(rng)
        values = {name: draw(rng, arrays) for name in world.names}
        world.contribute = lambda name, v=values, a=arrays: lambda plan: words(a, v[name])
        world.size = sum(count for _, count, _ in arrays)
        lost = {rng.choice(world.names)} if k > 3 and rng.random() < 0.6 else set()
        early = rng.random() < 0.5
        world.lost = {"PLAN": lost} if early else {"SURVIVORS": lost, "PROOF": lost}
        if lost and early:
            world.begin()  # a total without a site is the first one of its run
        world.sent = [entry for entry in world.sent if entry[0] == "BATCH"]
        opened = world.total(round)
        wire = oracle.read_wire(world.sent)
        columns = [(a[0], i, j) for i, a in enumerate(arrays) for j in range(a[1])]
        numbers = {
            name: [oracle.encode(v[i][j], scale) for scale, i, j in columns]
            for name, v in values.items()
        }
        check_uploads(wire, world.own, numbers)
        sums = [sum(column) for column in zip(*(numbers[n] for n in opened.sites), strict=True)]
        assert integers(opened.words) == oracle.total(wire) == sums
        assert set(opened.sites) == set(world.names) - (lost if early else set())
        exact += check_decoded(opened, columns, [values[n] for n in opened.sites])
        if lost and early:
            world.begin()
    assert exact > 600


def check_decoded(opened, columns, values):
    """Numbers held exactly give math.fsum bit by bit; the others are off by their rounding only."""
    exact = 0
    for at, (scale, i, j) in enumerate(columns):
        (found,) = ring.decode(opened.words[at : at + 1], scale)
        parts = [v[i][j] for v in values]
        if all(held_exactly(x, scale) for x in parts):
            assert bits(found) == bits(math.fsum(parts) + 0.0)
            exact += 1
        rounded = sum(oracle.encode(x, scale) for x in parts)
        assert bits(found) == bits(oracle.decode(rounded, scale))
        error = abs(Fraction(rounded, 2**64) * Fraction(2) ** scale - sum(map(Fraction, parts)))
        assert error <= len(parts) * Fraction(2) ** (scale - 65)
    return exact


def folded(original):
    """A key of which 28 bits are used."""
    return lambda key: original((int.from_bytes(key, "little") % 2**28).to_bytes(32, "little"))


def without_peers(original):
    """Self masks alone: they cancel as well."""
    return lambda self, private, own: {}


def without_plan(original):
    """Mask keys that two plans would share."""
    return lambda self: original(self)[:-3]


def doubled(original):
    """The self mask is the only one that differs between indices."""
    return lambda self, private, own: dict.fromkeys(original(self, private, own), bytes(32))


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (mask, "_stream", folded),
        (Round, "pair_keys", without_peers),
        (Round, "_about", without_plan),
        (Round, "pair_keys", doubled),
    ],
)
def test_weak_masks_that_still_cancel_are_seen(monkeypatch, owner, name, broken):
    """The total stays right, so only another implementation can tell."""
    world = Watched(3)
    monkeypatch.setattr(owner, name, broken(getattr(owner, name)))
    world.total()
    wire = oracle.read_wire(world.sent)
    numbers = {n: [oracle.encode(x) for x in v.tolist()] for n, v in world.values.items()}
    with pytest.raises(AssertionError):
        check_uploads(wire, world.own, numbers)


def test_the_oracle_reads_and_writes_the_same_canonical_bytes():
    world = World(3)
    world.total()
    assert all(oracle.canonical(oracle.parse(m)) == m for _, _, m, _ in world.sent)
