from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from scipy import stats

from polyclinic.core.sampling import uniform

KEYS = np.arange(100_000, dtype=np.int64)


def splitmix64(state: int) -> int:
    """The finaliser of Steele, Lea & Flood (2014), in Python's integers."""
    z = state & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def test_is_splitmix64():
    """Streams of one seed differ by the golden gamma, so differences of states are known."""
    start = int.from_bytes(hashlib.sha256(struct.pack("<qq", 5, 2) + b"a").digest()[:8], "little")
    expected = [(splitmix64(k * 0x9E3779B97F4A7C15 + start) >> 11) * 2.0**-53 for k in range(50)]
    assert uniform(KEYS[:50], 5, 2, "a").tolist() == expected


PLACES = [(0, 0, ""), (1, 0, ""), (0, 1, ""), (0, 0, "b")]


@pytest.mark.parametrize("place", PLACES)
def test_is_uniform(place):
    drawn = uniform(KEYS, *place)
    assert stats.kstest(drawn, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02


def test_seed_round_and_site_draw_different_numbers():
    drawn = [uniform(KEYS, *place) for place in PLACES]
    for i, one in enumerate(drawn):
        for two in drawn[:i]:
            assert abs(np.corrcoef(one, two)[0, 1]) < 0.02


def test_negative_numbers_are_keys_too():
    assert len(set(uniform(np.array([-2, -1, 0, 1]), -1, 0).tolist())) == 4
