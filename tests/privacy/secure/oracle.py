"""The secure sum a second time: Python's own integers, and nothing of the package.

It reads the bytes on the wire as the coordinator sees them, and says what the total must be; given
a site's secrets too, it says what that site must upload.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

RING = 1 << 128
FIELD = (1 << 521) - 1
_BYTES = {"f8": 8, "i8": 8, "u8": 8, "b1": 1, "f4": 4}


@dataclass(frozen=True)
class Array:
    kind: str
    shape: tuple[int, ...]
    data: bytes

    def chunks(self, size):
        return [self.data[at : at + size] for at in range(0, len(self.data), size)]

    def integers(self):
        """Rows of 16 bytes as numbers modulo 2**128."""
        return [int.from_bytes(row, "little") for row in self.chunks(16)]


def parse(data):
    """The value in canonical bytes."""
    end = 12 + int.from_bytes(data[4:12], "little")
    rest = [data[end:]]

    def walk(value):
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, dict) and set(value) == {"$array"}:
            kind, shape = value["$array"]
            size = _BYTES[kind]
            for n in shape:
                size *= n
            head, rest[0] = rest[0][:size], rest[0][size:]
            return Array(kind, tuple(shape), head)
        if isinstance(value, dict):
            return {key: walk(value[key]) for key in sorted(value)}
        return value

    return walk(json.loads(data[12:end]))


def canonical(value):
    """The bytes that `parse` reads."""
    arrays = []

    def walk(value):
        if isinstance(value, Array):
            arrays.append(value.data)
            return {"$array": [value.kind, list(value.shape)]}
        if isinstance(value, dict):
            return {key: walk(value[key]) for key in sorted(value)}
        return [walk(item) for item in value] if isinstance(value, (list, tuple)) else value

    head = json.dumps(walk(value), sort_keys=True, separators=(",", ":")).encode()
    return b"".join([b"PCM1", len(head).to_bytes(8, "little"), head, *arrays])


def digest(value):
    return hashlib.sha256(canonical(value)).hexdigest()


def encode(x, scale=0):
    """The integer nearest to x * 2**(64 - scale), ties to even."""
    return round(Fraction(x) * Fraction(2) ** (64 - scale))


def decode(number, scale=0):
    """The nearest float64."""
    return float(Fraction(number) / Fraction(2) ** (64 - scale))


def signed(number):
    return number - RING if number >= RING // 2 else number


def stream(key, count):
    """`count` numbers modulo 2**128."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return Array("", (), cipher.update(bytes(16 * count))).integers()


@dataclass(frozen=True)
class Wire:
    """The messages of one round: answers by site, and the body and place of the plan."""

    adverts: dict
    place: tuple
    plan: dict
    masked: dict
    unmask: dict

    @property
    def transcript(self):
        return bytes.fromhex(digest(self.adverts))

    @property
    def members(self):
        return sorted(self.adverts)

    @property
    def about(self):
        """What one use of one index is about, as it enters every key."""
        run, round, attempt = self.place
        body = self.plan
        where = [run, body["batch"], body["index"], round, attempt]
        return [*where, digest(body["plan"]), body["profile"], body["size"]]

    def public(self, site):
        return self.adverts[site]["body"]["masks"].chunks(32)[self.plan["index"]]

    def commitment(self, site):
        return self.adverts[site]["body"]["seeds"].chunks(32)[self.plan["index"]].hex()

    @property
    def canary(self):
        data = _hkdf(self.transcript, b"", ["canary", *self.about])
        return [int.from_bytes(data[at : at + 16], "little") for at in (0, 16)]


def read_wire(sent):
    """The last round among messages (kind, site, request, answer)."""
    answers = {}
    for kind, site, request, reply in sent:
        if reply is not None:
            answers.setdefault(kind, {})[site] = (parse(request), parse(reply))
    asked = next(request for request, _ in answers["PLAN"].values())
    bodies = {kind: {s: r for s, (_, r) in found.items()} for kind, found in answers.items()}
    place = tuple(asked[name] for name in ("run", "round", "attempt"))
    return Wire(bodies["BATCH"], place, asked["body"], bodies["PLAN"], bodies.get("PROOF", {}))


def pair_keys(wire, site, private):
    """The key that `site` shares with each other member."""
    own = X25519PrivateKey.from_private_bytes(private)
    keys = {}
    for peer in wire.members:
        if peer != site:
            secret = own.exchange(X25519PublicKey.from_public_bytes(wire.public(peer)))
            info = ["mask", digest(wire.members), *wire.about, *sorted((site, peer))]
            keys[peer] = _hkdf(secret, wire.transcript, info)
    return keys


def upload(wire, site, private, seed, numbers):
    """What a site must send for `numbers`: y = x + own + later peers - earlier peers."""
    first, last = wire.canary
    y = [first, *numbers, 1 << 64, last]
    masks = [(1, seed)]
    masks += [(1 if site < p else -1, k) for p, k in pair_keys(wire, site, private).items()]
    return plus(y, masks)


def secret(wire, site, kind):
    """A secret from the shares of all who have given one: "seed" or "mask"."""
    points = {
        wire.members.index(holder) + 1: int.from_bytes(bytes.fromhex(held), "little")
        for holder, answer in wire.unmask.items()
        if (held := answer["body"][kind].get(site)) is not None
    }
    return interpolate(points).to_bytes(32, "little")


def interpolate(points):
    """The value at 0 of the polynomial through `points`."""
    found = 0
    for x, y in points.items():
        top, bottom = y, 1
        for other in points:
            if other != x:
                top, bottom = top * other % FIELD, bottom * (other - x) % FIELD
        found += top * pow(bottom, FIELD - 2, FIELD)
    return found % FIELD


def total(wire):
    """The payload of the survivors' sum, as signed integers."""
    count = wire.plan["size"] + 3
    numbers = [sum(column) for column in zip(*_vectors(wire), strict=True)]
    masks = []
    for site in wire.members:
        if site in wire.masked:
            seed = secret(wire, site, "seed")
            run, batch, index = wire.about[:3]
            assert digest(["b", run, batch, index, site, seed.hex()]) == wire.commitment(site)
            masks.append((-1, seed))
            continue
        private = secret(wire, site, "mask")
        keys = pair_keys(wire, site, private)
        masks += [(-1 if p < site else 1, keys[p]) for p in wire.masked]
    numbers = plus(numbers, masks)
    sites = len(wire.masked)
    assert len(numbers) == count
    assert [numbers[0], numbers[-1]] == [c * sites % RING for c in wire.canary]
    assert numbers[-2] == sites << 64
    return [signed(n) for n in numbers[1:-2]]


def _vectors(wire):
    return [answer["body"]["vector"].integers() for answer in wire.masked.values()]


def plus(numbers, masks):
    """`numbers` with the streams of (sign, key), modulo 2**128."""
    out = list(numbers)
    for sign, key in masks:
        out = [a + sign * b for a, b in zip(out, stream(key, len(out)), strict=True)]
    return [n % RING for n in out]


def _hkdf(secret, salt, info):
    return HKDF(SHA256(), 32, salt, canonical(info)).derive(secret)
