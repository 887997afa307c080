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
    strategy: Strategy,
    rows: Ints,
    round: int,
    seed: int,
    many: int | None = None,
    classes: Ints | None = None,
) -> Iterator[Ints]:
    """The mini-batches of one round over `rows`; `many` of them, or as many as a round has. With
    `classes` of these rows balanced ones."""
    size = strategy.batch_size or max(len(rows), 1)
    per_pass = max(1, -(-len(rows) // size))
    steps = steps_of(strategy, len(rows))
    first = round * steps
    held, order = -1, rows
    for step in range(first, first + (many or steps)):
        epoch, place = divmod(step, per_pass)
        if epoch != held:
            held, order = epoch, rows[_order(len(rows), seed, epoch, classes)]
        yield order[place * size : (place + 1) * size]


def steps_of(strategy: Strategy, rows: int, site: str = "") -> int:
    """Local steps of a round at a site with so many rows."""
    own = dict(strategy.site_steps).get(site)
    if own is not None:
        return own
    size = strategy.batch_size or max(rows, 1)
    return strategy.local_steps or strategy.local_epochs * max(1, -(-rows // size))


def repeats(classes: Ints) -> NDArray[np.float64]:
    """How often each row is met in a balanced pass on average, (n_rows,)."""
    _, place, counts = np.unique(classes, return_inverse=True, return_counts=True)
    return len(classes) / (len(counts) * counts[place].astype(np.float64))


def _order(n: int, seed: int, epoch: int, classes: Ints | None) -> Ints:
    """All rows once; or as many, of every class in turn, those of a rare one again and again."""
    if classes is None or not n:
        return _permutation(n, seed, epoch)
    turns = []
    names = np.unique(classes)
    for name in names:
        own = np.flatnonzero(classes == name)
        own = own[_permutation(len(own), seed, epoch, int(name))]
        turns.append(np.resize(own, -(-n // len(names))))
    return np.stack(turns, axis=1).ravel()[:n]


def _permutation(n: int, seed: int, epoch: int, part: int | None = None) -> Ints:
    more = b"" if part is None else struct.pack("<q", part)
    digest = hashlib.sha256(b"batches" + struct.pack("<qq", seed, epoch) + more).digest()
    draw = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "little")))
    return draw.permutation(n)
