"""Which rows a local step is over: shuffled by a seed and the pass, the same at every resume.

The order does not depend on the site, so sites with the same rows train alike.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.neural.strategy import Strategy

Ints = NDArray[np.int64]


def batches(
    strategy: Strategy, rows: Ints, round: int, seed: int, many: int | None = None
) -> Iterator[Ints]:
    """The mini-batches of one round over `rows`; `many` of them, or as many as a round has."""
    size = strategy.batch_size or max(len(rows), 1)
    per_pass = max(1, -(-len(rows) // size))
    steps = steps_of(strategy, len(rows))
    first = round * steps
    held, order = -1, rows
    for step in range(first, first + (many or steps)):
        epoch, place = divmod(step, per_pass)
        if epoch != held:
            held, order = epoch, rows[_permutation(len(rows), seed, epoch)]
        yield order[place * size : (place + 1) * size]


def steps_of(strategy: Strategy, rows: int) -> int:
    """Local steps of a round at a site with so many rows."""
    size = strategy.batch_size or max(rows, 1)
    return strategy.local_steps or strategy.local_epochs * max(1, -(-rows // size))


def _permutation(n: int, seed: int, epoch: int) -> Ints:
    digest = hashlib.sha256(b"batches" + struct.pack("<qq", seed, epoch)).digest()
    draw = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "little")))
    return draw.permutation(n)
