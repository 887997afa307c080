"""Messages that are almost right."""

from __future__ import annotations

import numpy as np

from polyclinic.core import codec
from polyclinic.privacy.secure.envelope import Place, sign

KINDS = ("BATCH", "KEYS", "SHARES", "PLAN", "SURVIVORS", "PROOF", "RESULT")
ODD = [
    *(None, True, -1, 0, 1, 64, 65, 2**31, 2**63, 2**64, 10**400, 0.5, -1e308),
    *("", "x", "s00", "\ud800", "A" * 5000, "0" * 32, "0" * 64, "f" * 132, "two_thirds"),
    *([], {}, [[]], ["s00"], [None], {"s00": 1}, {"": {}}, {"code": "RANGE"}),
    np.zeros(0),
    np.zeros((0, 2), np.uint64),
    np.full((5, 2), 2**64 - 1, np.uint64),
    np.array([np.nan, np.inf]),
    np.ones((1, 4), np.bool_),
    np.array(7, np.int64),
]


class Mutator:
    """Changes messages in ways that a seed decides. `identities` are those of sites that cheat."""

    def __init__(self, rng, identities):
        self.rng, self.identities = rng, identities
        self._values = {}

    def value(self, data):
        """The value of a good message; it is never changed in place."""
        if data not in self._values:
            self._values[data] = codec.decode(data)
        return self._values[data]

    def mutated(self, data, other):
        """`data` changed, with parts of `other`."""
        ways = (self.bits, self.cut, self.spliced, self.inserted, self.huge, self.deep)
        ways += (self.odd, self.odd, self.swapped, self.dropped, self.borrowed, self.kind)
        ways += (self.nudged, self.nudged)
        while True:
            changed = self.rng.choice(ways)(data, other)
            if changed is not None and changed != data:
                return changed

    def bits(self, data, other):
        out = bytearray(data)
        for _ in range(self.rng.randint(1, 8)):
            out[self.rng.randrange(len(out))] ^= 1 << self.rng.randrange(8)
        return bytes(out)

    def cut(self, data, other):
        at = self.rng.randrange(len(data))
        return data[:at] if self.rng.random() < 0.7 else data[at:]

    def spliced(self, data, other):
        return data[: self.rng.randrange(len(data))] + other[self.rng.randrange(len(other)) :]

    def inserted(self, data, other):
        at, n = self.rng.randrange(len(data)), self.rng.randint(1, 40)
        return data[:at] + self.rng.randbytes(n) + data[at + self.rng.choice((0, n)) :]

    def huge(self, data, other):
        """A length, a shape or a number that is declared much larger than what follows."""
        size = str(self.rng.choice((2**16, 2**31, 2**39, 2**40, 2**63, 10**30))).encode()
        length = int.from_bytes(data[4:12], "little")
        header, arrays = data[12 : 12 + length], data[12 + length :]
        if self.rng.random() < 0.2:
            return data[:4] + self.rng.randbytes(8) + data[12:]
        if self.rng.random() < 0.2 and b'"$array"' in header:
            header = header.replace(b",[", b",[" + size + b"," * self.rng.randint(0, 1), 1)
            return framed(header, arrays)
        digits = [i for i, c in enumerate(header) if 48 <= c < 58]
        at = self.rng.choice(digits)
        return framed(header[:at] + size + header[at + 1 :], arrays)

    def deep(self, data, other):
        """Lists in lists in place of a value."""
        length = int.from_bytes(data[4:12], "little")
        header, arrays = data[12 : 12 + length], data[12 + length :]
        depth = self.rng.choice((60, 62, 200, 470, 480, 490, 500, 900, 3000))
        nested = b"[" * depth + b"]" * depth
        at = header.find(b":", self.rng.randrange(len(header)))
        return framed(header[: at + 1] + nested + b"," + header[at + 1 :], arrays)

    def odd(self, data, other):
        """A strange value somewhere."""
        return self.at_path(data, lambda old: self.rng.choice(ODD))

    def swapped(self, data, other):
        value = self.value(data)
        a, b = self.path(value), self.path(value)
        x, y = get(value, a), get(value, b)
        try:
            return self.sealed(put(put(value, a, y), b, x), a)
        except (KeyError, TypeError, IndexError, AttributeError, codec.CodecError):
            return None

    def dropped(self, data, other):
        """A field less, or one more."""

        def change(old):
            if isinstance(old, dict) and old:
                left = dict(old)
                if self.rng.random() < 0.5:
                    del left[self.rng.choice(sorted(left))]
                else:
                    left[self.rng.choice(("more", "s00", "x", "code"))] = self.rng.choice(ODD)
                return left
            return old[1:] if isinstance(old, (str, list)) else None

        return self.at_path(data, change)

    def borrowed(self, data, other):
        """A part of another message."""
        source = self.value(other)
        return self.at_path(data, lambda old: get(source, self.path(source)))

    def nudged(self, data, other):
        """Another digit or another bit, in a value of the same form."""

        def change(old):
            if isinstance(old, str) and old:
                at = self.rng.randrange(len(old))
                return old[:at] + self.rng.choice("0123456789abcdef") + old[at + 1 :]
            if isinstance(old, np.ndarray) and old.dtype == np.uint64 and old.size:
                out = old.copy()
                bit = np.uint64(1 << self.rng.randrange(64))
                out.reshape(-1)[self.rng.randrange(old.size)] ^= bit
                return out
            return old + 1 if type(old) is int else None

        return self.at_path(data, change, leaf=True)

    def kind(self, data, other):
        value = {**self.value(data), "kind": self.rng.choice(KINDS)}
        if self.rng.random() < 0.3:
            value["round"], value["attempt"] = self.rng.randint(0, 3), self.rng.randint(0, 3)
        return codec.encode(value)

    def at_path(self, data, change, leaf=False):
        value = self.value(data)
        path = self.path(value, leaf)
        try:
            return self.sealed(put(value, path, change(get(value, path))), path)
        except codec.CodecError:
            return None

    def path(self, value, leaf=False):
        """A place in a value: fields of the envelope and of the body alike."""
        path = []
        while True:
            inner = keys_of(value)
            if not inner or (path and not leaf and self.rng.random() < 0.25):
                return path
            path.append("body" if "body" in inner and self.rng.random() < 0.7 else None)
            path[-1] = path[-1] or self.rng.choice(inner)
            value = value[path[-1]]

    def sealed(self, value, path):
        """Canonical bytes; in half of the cases with a good signature of who cheats."""
        if self.rng.random() < 0.5:
            for depth in range(len(path), -1, -1):
                try:
                    part = get(value, path[:depth])
                    value = put(value, path[:depth], self.signed(part))
                except (KeyError, TypeError, IndexError, AttributeError):
                    continue
        return codec.encode(value)

    def signed(self, part):
        sender = part["sender"]
        place = Place(part["run"], part["round"], part["attempt"])
        signed = sign(self.identities[sender], sender, part["kind"], place, part["body"])
        return {**part, "signature": signed["signature"]}


def framed(header, arrays):
    return codec.MAGIC + len(header).to_bytes(8, "little") + header + arrays


def keys_of(value):
    if isinstance(value, dict):
        return sorted(value)
    return list(range(len(value))) if isinstance(value, list) else []


def get(value, path):
    for key in path:
        value = value[key]
    return value


def put(value, path, new):
    """A copy of `value` with another part."""
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = put(value[path[0]], path[1:], new)
    return copied
