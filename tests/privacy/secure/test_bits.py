"""Masks hide with all of their 256 bits, and no key hides twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from polyclinic.core import codec
from polyclinic.privacy.secure import MemoryJournal, SecureSite, SQLiteJournal, mask
from polyclinic.privacy.secure.envelope import Place, request
from polyclinic.privacy.secure.keyring import Keyring
from polyclinic.privacy.secure.round import Round
from tests.privacy.secure.world import RUN, World, code

WORDS = 32
CLAMPED = {0, 1, 2, 254, 255}  # bits of a private key that X25519 sets itself (RFC 7748)


def flipped(data, bit):
    return (int.from_bytes(data, "little") ^ 1 << bit).to_bytes(len(data), "little")


def changed(a, b):
    """Share of bits in which two byte strings differ."""
    x = np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)
    return np.unpackbits(x).mean()


class Uploads:
    """One site that is asked for the same vector again and again, with other secrets each time.

    Its journal is set back before each upload, so that nothing else differs.
    """

    def __init__(self):
        self.world = World(3, size=WORDS)
        plans = []

        def ask(messages):
            if codec.decode(messages["s01"])["kind"] == "PLAN":
                plans.append(messages["s01"])
                raise KeyboardInterrupt
            return World.ask(self.world, messages)

        self.world.ask = ask
        with pytest.raises(KeyboardInterrupt):
            self.world.total()
        self.plan = plans[0]
        self.before = dict(self.world.journals["s01"]._rows)
        self.batch = codec.decode(self.plan)["body"]["batch"]
        row = self.world.sites["s01"].records.row("secret", self.batch, 0)
        self.key = next(k for k in self.before if k.endswith(f'"secret","{self.batch}",0]'))
        self.row = row.value
        self.own = [bytes.fromhex(text) for text in self.row["own"]]

    def vector(self, private, seed):
        own = [private.hex(), seed.hex()]
        rows = {**self.before, self.key: codec.encode({**self.row, "own": own})}
        self.world.journals["s01"]._rows = rows
        reply = codec.decode(self.world.deliver("s01", self.plan))
        return reply["body"]["vector"].tobytes()


def test_each_bit_of_a_sites_secrets_changes_all_of_its_upload():
    uploads = Uploads()
    private, seed = uploads.own
    first = uploads.vector(private, seed)
    assert uploads.vector(private, seed) == first
    seen = {first}
    for bit in range(256):
        for own in ((flipped(private, bit), seed), (private, flipped(seed, bit))):
            other = uploads.vector(*own)
            if own[1] == seed and bit in CLAMPED:
                assert other == first
                continue
            assert 0.42 < changed(first, other) < 0.58
            seen.add(other)
    assert len(seen) == 1 + 256 + 256 - len(CLAMPED)


def test_a_folded_seed_would_be_seen(monkeypatch):
    stream = mask._stream
    monkeypatch.setattr(mask, "_stream", lambda key: stream(key[:4] + bytes(28)))
    uploads = Uploads()
    private, seed = uploads.own
    assert uploads.vector(private, flipped(seed, 200)) == uploads.vector(private, seed)


def test_each_bit_of_what_keys_are_derived_from_changes_the_key():
    ours, theirs = mask.new_key(), mask.public_of(mask.new_key())
    salt = bytes(range(32))
    agreement = mask.Agreement(ours)
    keys = {agreement.key(theirs, salt, ["mask", 0])}
    for bit in range(255):  # bit 255 of a public key means nothing in X25519
        keys.add(agreement.key(flipped(theirs, bit), salt, ["mask", 0]))
    for bit in range(256):
        keys.add(agreement.key(theirs, flipped(salt, bit), ["mask", 0]))
    for number in range(1, 257):
        keys.add(agreement.key(theirs, salt, ["mask", number]))
    assert len(keys) == 1 + 255 + 256 + 256


def test_the_same_vector_looks_random_in_every_round():
    """Chi-square over bytes, and over bytes of differences between rounds and between sites."""
    world = World(3, size=1200, batch=8)
    for name in world.names:
        world.values[name] = np.zeros(1200)
    for round in range(8):
        world.total(round)
    vectors = {
        name: [codec.decode(r)["body"]["vector"] for _, r in world.messages("PLAN", name)]
        for name in world.names
    }
    s00, s01, s02 = vectors.values()
    for rows in (
        [*s00, *s01, *s02],
        [a - b for v in vectors.values() for a, b in itertools.pairwise(v)],
        [a + b for a, b in zip(s00, s01, strict=True)],
        [a - b for a, b in zip(s01, s02, strict=True)],
    ):
        assert random_bytes(b"".join(row.tobytes() for row in rows))
    totals = [a + b + c for a, b, c in zip(s00, s01, s02, strict=True)]
    assert random_bytes(b"".join(row.tobytes() for row in totals))


def random_bytes(data):
    """Whether all byte values are alike often: chi-square within 7 deviations of its mean."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    chi = ((counts - expected) ** 2).sum() / expected
    return abs(chi - 255) < 7 * np.sqrt(2 * 255)


def test_chi_square_finds_what_is_not_masked(monkeypatch):
    apply = mask.apply

    def half(words, plus, minus):
        apply(words[: len(words) // 2], plus, minus)

    monkeypatch.setattr(mask, "apply", half)
    world = World(3, size=1200)
    world.total()
    (reply,) = (codec.decode(r)["body"]["vector"] for _, r in world.messages("PLAN", "s00"))
    assert not random_bytes(reply.tobytes())


class Restarting:
    """Sites over journals in files, which stop and start again all the time."""

    def __init__(self, folder, k=3):
        self.world = World(k)
        self.folder, self.open = folder, []
        self.restart()

    def restart(self):
        for journal in self.open:
            journal.close()
        self.open = [SQLiteJournal(self.folder / name) for name in self.world.names]
        self.world.journals = dict(zip(self.world.names, self.open, strict=True))
        self.world.sites = {name: self.world.site(name) for name in self.world.names}


@pytest.mark.slow
def test_no_key_stands_twice_in_ten_thousand_rounds(tmp_path):
    """157 batches of 64 indices; all sites are restarted every 20 batches."""
    consortium = Restarting(tmp_path)
    world, seen, streams = consortium.world, set(), set()
    keys = used = 0
    for number in range(157):
        if number % 20 == 19:
            consortium.restart()
        batch = number.to_bytes(16, "big").hex()
        ask = request("BATCH", Place(RUN), {"batch": batch, "count": 64})
        answers = {name: world.deliver(name, ask) for name in world.names}
        assert world.deliver("s00", ask) == answers["s00"]
        adverts = {name: codec.decode(reply) for name, reply in answers.items()}
        ring = Keyring.open(world.roster, RUN, batch, "two_thirds", adverts)
        for name in world.names:
            public = [ring.exchange[name], *ring.masks[name], *ring.seeds[name]]
            seen.update(public)
            keys += len(public)
        for index in range(64):
            found = world.sites["s00"].keys.secret(batch, index).value
            private, seed = (bytes.fromhex(text) for text in found["own"])
            about = Round(ring, Place(RUN, 64 * number + index), index, "", "exact128", 1)
            used_here = [seed, *about.pair_keys(private, "s00").values()]
            streams.update(used_here)
            used += len(used_here)
    assert len(seen) == keys == 157 * 3 * 129
    assert len(streams) == used == 157 * 64 * 3


def test_no_stream_is_used_twice_however_often_a_site_restarts(tmp_path, monkeypatch):
    """Rounds, attempts that fail and repeated requests; every stream that masks is noted."""
    consortium = Restarting(tmp_path)
    world, apply, used = consortium.world, mask.apply, []

    def noted(words, plus, minus):
        used.append((*plus, *minus))
        apply(words, plus, minus)

    monkeypatch.setattr(mask, "apply", noted)
    requests = {}
    for round in range(12):
        if round % 3 == 2:
            consortium.restart()
        world.sent.clear()
        coordinator_masks = len(used) + 3
        world.total(round)
        del used[coordinator_masks:]  # the coordinator's own use removes the masks again
        requests.update({n: [*requests.get(n, []), m] for k, n, m, _ in world.sent if k == "PLAN"})
        for name, asked in requests.items():
            other = SecureSite(
                name, world.identities[name], world.roster, world.journals[name], run=RUN
            )
            for message in asked[-2:]:
                assert code(other.receive(message, world.contribute(name))) == "INDEX_REUSED"
    by_site = [used[at::3] for at in range(3)]
    for rows in by_site:
        keys = [key for row in rows for key in row]
        assert len(rows) == 12
        assert len(set(keys)) == len(keys) == 36


def test_a_journal_that_forgets_would_use_a_stream_twice():
    """What the test above rests upon: keys do come from the journal, and only it forbids a use."""
    uploads = Uploads()
    private, seed = uploads.own
    assert uploads.vector(private, seed) == uploads.vector(private, seed)
    assert isinstance(uploads.world.journals["s01"], MemoryJournal)
    changed_plan = codec.decode(uploads.plan)
    changed_plan["body"]["plan"] = {"n": 9}
    again = uploads.world.deliver("s01", codec.encode(changed_plan))
    assert code(again) == "INDEX_REUSED"
