"""Whether sums over different cohorts, taken together, give away the sum of a few patients.

A cohort is a set of one data set's patients, as bits: patient i is bit i % 64 of word i // 64. Two
released cohorts that differ in fewer than k patients give those away by subtraction, and more than
two can by a linear combination. The audit looks at the Venn atoms, the groups of patients that lie
in the same cohorts: with a 0/1 row per cohort and a column per atom, the sum over an atom follows
from the cohorts' sums when the atom's unit vector lies in the row space. In the same way it looks
for combinations of the rows that leave two atoms of together fewer than k patients. Combinations
that leave three or more atoms are looked for between two cohorts only.

The rows are integers, so the rank is computed modulo a prime p of 50 bits and not in floating
point, where 0/1 matrices can be chosen to be as badly conditioned as one likes. The prime is random
and secret. An exposed atom is missed only if p divides one nonzero minor of the rows; for 500
cohorts that has at most 36 divisors of this size, of 1.6e13 primes: a chance below 3e-12. Two of
n atoms are taken for exposed without cause with a chance of about 500 n / p, 1e-7 for n = 100,000.

References: Denning, Denning and Schwartz 1979, "The tracker: a threat to statistical database
security", ACM TODS 4(1).
"""

from __future__ import annotations

import os
import secrets
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
Ints = NDArray[np.int64]

MOST = 4096  # cohorts; so many numbers below 2**50 add up below 2**63
_PRIME_BITS = 50  # a product over p is then known to one unit from its float64 value
_BLOCK = 512  # patients that share one fingerprint


def pack(mask: NDArray[np.bool_]) -> Bits:
    """The bits of a cohort given as one truth value per patient, (n_patients,)."""
    packed = np.packbits(np.asarray(mask, dtype=bool), bitorder="little")
    words = np.zeros(-(-packed.size // 8), dtype="<u8")
    words.view(np.uint8)[: packed.size] = packed
    return words.astype(np.uint64)


def unpack(words: Bits, n_patients: int) -> NDArray[np.bool_]:
    """One truth value per patient, (n_patients,)."""
    raw = words.astype("<u8").view(np.uint8)
    return np.unpackbits(raw, count=n_patients, bitorder="little").astype(bool)


def difference(a: Bits, many: Bits) -> Ints:
    """Number of patients who are in `a` or in a cohort of `many` but not in both, (n_cohorts,)."""
    apart: Ints = np.bitwise_count(many ^ a).sum(axis=1, dtype=np.int64)
    return apart


def too_close(new: Bits, released: Bits, k: int) -> bool:
    """Whether a released cohort, (n_cohorts, n_words), is nearly but not quite the new one."""
    apart = difference(new, released)
    return bool(((apart > 0) & (apart < k)).any())


@dataclass(frozen=True)
class Atoms:
    """The atoms of the cohorts added so far, and the inverse of a basis of their columns.

    Adding a cohort costs about r**2 + n operations for r independent cohorts of n patients.

    prime     the secret modulus
    weights   two secret random numbers modulo the prime per patient, (2, n)
    atom      number of each patient's atom, (n,)
    rows      the independent cohorts' bits
    sketch    per row and block of patients, the first weights' sum over those in the cohort
    totals    per row both weights' sums, (n_rows, 2)
    pivots    per row one patient; their columns are a basis, which more rows leave independent
    inverse   of the rows at the pivots, modulo the prime
    """

    prime: int
    weights: Ints
    atom: Ints
    rows: tuple[Bits, ...]
    sketch: Ints
    totals: Ints
    pivots: Ints
    inverse: Ints
    _known: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def none(n_words: int) -> Atoms:
        """No cohort yet: all patients are one atom.

        Data sets of the same patients may start from the same: what one has found out of its
        cohorts another one with the same cohorts need not find out again.
        """
        blocks = max(1, -(-n_words * 64 // _BLOCK))
        n = blocks * _BLOCK
        prime = _random_prime()
        weights = np.frombuffer(os.urandom(16 * n), dtype=np.uint64) % np.uint64(prime)
        return Atoms(
            prime,
            weights.astype(np.int64).reshape(2, n),
            np.zeros(n, dtype=np.int64),
            (),
            np.zeros((0, blocks), dtype=np.int64),
            np.zeros((0, 2), dtype=np.int64),
            np.zeros(0, dtype=np.int64),
            np.zeros((0, 0), dtype=np.int64),
        )

    def add(self, words: Bits) -> Atoms:
        """With one more cohort. One that follows from the others changes nothing."""
        before, kept = self._known.get("added", (None, None))
        last = kept() if kept is not None else None
        if last is not None and np.array_equal(before, words):
            found: Atoms = last
            return found
        found = self._with(words)
        if found is not self:
            self._known["added"] = words, weakref.ref(found)
        return found

    def _with(self, words: Bits) -> Atoms:
        p, inside = self.prime, unpack(words, self.atom.size)
        sketches = np.where(inside, self.weights, 0).reshape(2, -1, _BLOCK).sum(axis=2) % p
        sketch = sketches[0]
        mix = self._dot(inside[self.pivots].astype(np.int64), self.inverse)
        left = (sketch - self._dot(mix, self.sketch)) % p
        if not left.any():
            return self
        block = int(np.flatnonzero(left)[0])
        part = slice(block * _BLOCK, (block + 1) * _BLOCK)
        columns = self._columns(block)
        rest = (inside[part] - np.where(columns, mix[:, None], 0).sum(axis=0)) % p
        at = int(np.flatnonzero(rest)[0])
        split = 2 * self.atom + inside
        number = np.cumsum(np.bincount(split) > 0) - 1
        return Atoms(
            p,
            self.weights,
            number[split],
            (*self.rows, words),
            np.vstack([self.sketch, sketch]),
            np.vstack([self.totals, sketches.sum(axis=1) % p]),
            np.append(self.pivots, part.start + at),
            self._bordered(mix, columns[:, at], int(rest[at])),
        )

    def exposed(self, k: int) -> frozenset[tuple[int, ...]]:
        """What of fewer than k patients is given away: a patient of each atom, and their number.

        The weights, moved along the basis into the null space of the rows, are random vectors of
        it. An atom is exposed when each null vector is 0 there, and two are when each null vector
        has the same ratio there; one of the two then lies in the basis.
        """
        if k not in self._known:
            self._known[k] = self._exposed(k)
        found: frozenset[tuple[int, ...]] = self._known[k]
        return found

    def _exposed(self, k: int) -> frozenset[tuple[int, ...]]:
        size = np.bincount(self.atom)
        small = np.flatnonzero(size < k)
        first, second = self._null_vector(0)[small], self._null_vector(1)[small]
        some = np.empty(size.size, dtype=np.int64)
        some[self.atom[::-1]] = np.arange(self.atom.size)[::-1]
        found: set[tuple[int, ...]] = {
            (int(some[at]), int(size[at])) for at in small[(first == 0) & (second == 0)]
        }
        rest = first != 0
        small = small[rest]
        ratio = _times(second[rest], _inverses(first[rest], self.prime), self.prime)
        candidates = _among(ratio, ratio[_among(small, self.atom[self.pivots])])
        small, ratio = small[candidates], ratio[candidates]
        order = np.lexsort((size[small], ratio))
        small, ratio = small[order], ratio[order]
        both = size[small[:-1]] + size[small[1:]]
        for at in np.flatnonzero((ratio[:-1] == ratio[1:]) & (both < k)):
            patients = sorted(int(some[atom]) for atom in small[at : at + 2])
            found.add((*patients, int(both[at])))
        return frozenset(found)

    def _null_vector(self, which: int) -> Ints:
        """A random combination of atoms that every cohort's sum overlooks, (n_atoms,)."""
        weights = self.weights[which]
        low = np.bincount(self.atom, weights & 0xFFFFFFF).astype(np.int64)
        high = np.bincount(self.atom, weights >> 28).astype(np.int64) % self.prime
        vector = _times(high, np.array([1 << 28]), self.prime) + low
        vector[self.atom[self.pivots]] -= self._dot(self.totals[:, which], self.inverse.T)
        rest: Ints = vector % self.prime
        return rest

    def _dot(self, vector: Ints, matrix: Ints) -> Ints:
        total: Ints = _times(vector[:, None], matrix, self.prime).sum(axis=0) % self.prime
        return total

    def _columns(self, block: int) -> NDArray[np.bool_]:
        """The rows at one block's patients, (n_rows, _BLOCK)."""
        each = _BLOCK // 64
        out = np.zeros((len(self.rows), each), dtype="<u8")
        for line, row in zip(out, self.rows, strict=True):
            piece = row[block * each : (block + 1) * each]
            line[: piece.size] = piece
        return np.unpackbits(out.view(np.uint8), axis=1, bitorder="little").astype(bool)

    def _bordered(self, mix: Ints, column: NDArray[np.bool_], schur: int) -> Ints:
        """The inverse with one more row and column, from the Schur complement of the corner."""
        p, n = self.prime, len(self.rows)
        over = np.array([pow(schur, -1, p)], dtype=np.int64)
        right = self._dot(column.astype(np.int64), self.inverse.T)
        scaled = _times(mix, over, p)
        out = np.empty((n + 1, n + 1), dtype=np.int64)
        out[:n, :n] = (self.inverse + _times(right[:, None], scaled, p)) % p
        out[:n, n] = -_times(right, over, p) % p
        out[n, :n] = -scaled % p
        out[n, n] = over[0]
        return out


def _times(a: Ints, b: Ints, p: int) -> Ints:
    """a * b modulo p for arrays of numbers below p < 2**50."""
    quotient = (a.astype(np.float64) * b / p).astype(np.int64)
    rest = a * b - quotient * p  # both wrap modulo 2**64; the difference lies in (-p, 2p)
    rest += p * (rest < 0)
    rest -= p * (rest >= p)
    return rest


def _inverses(a: Ints, p: int) -> Ints:
    """1 / a modulo p for nonzero numbers; of each two only the product is inverted."""
    if a.size <= 1:
        return np.array([pow(int(x), -1, p) for x in a], dtype=np.int64)
    even, odd = a[: a.size // 2 * 2 : 2], a[1::2]
    both = _inverses(_times(even, odd, p), p)
    out = np.empty_like(a)
    out[: a.size // 2 * 2 : 2], out[1::2] = _times(both, odd, p), _times(both, even, p)
    if a.size % 2:
        out[-1] = pow(int(a[-1]), -1, p)
    return out


def _among(values: Ints, few: Ints) -> NDArray[np.bool_]:
    """Which values are among a few; faster than np.isin, which sorts them all."""
    if few.size == 0:
        return np.zeros(values.size, dtype=bool)
    ordered = np.sort(few)
    at = np.minimum(np.searchsorted(ordered, values), few.size - 1)
    same: NDArray[np.bool_] = ordered[at] == values
    return same


def _random_prime() -> int:
    while True:
        candidate = secrets.randbits(_PRIME_BITS) | (1 << (_PRIME_BITS - 1)) | 1
        if _is_prime(candidate):
            return candidate


def _is_prime(n: int) -> bool:
    """Miller and Rabin's test for odd n > 37; with these bases it is exact below 3e24."""
    twos = ((n - 1) & (1 - n)).bit_length() - 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        power = pow(base, (n - 1) >> twos, n)
        if power in (1, n - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % n
            if power == n - 1:
                break
        else:
            return False
    return True
