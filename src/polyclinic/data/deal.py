"""Rows dealt to made-up hospitals, for experiments: every row to exactly one, always alike.

"iid"        by chance
"column"     by the value of a column
"dirichlet"  with label skew: each hospital has its own mix of the labels, drawn from a Dirichlet
             distribution around the mix of all rows; small `alpha`, great skew (Hsu, Qi and Brown
             2019, "Measuring the effects of non-identical data distribution for federated visual
             classification")
"quantity"   of different size: shares drawn from a Dirichlet distribution (Li, Diao, Chen and He
             2022, "Federated learning on non-IID data silos: an experimental study")
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.core.errors import InputError

Ints = NDArray[np.int64]
HOW = ("iid", "column", "dirichlet", "quantity")


def deal(
    n: int,
    hospitals: int,
    how: str,
    *,
    by: Any = None,
    alpha: float = 0.5,
    min_rows: int = 1,
    seed: int = 0,
) -> Ints:
    """Number of the hospital of each of `n` rows, (n,).

    by        the column's values, or the labels, (n,); for "column" and "dirichlet"
    min_rows  that a hospital has at least

    Raises
    ------
    InputError : WRONG_VALUE.
    """
    if how not in HOW:
        raise _wrong(f"how = {how!r}", f"how is one of {', '.join(HOW)}", "use one of them")
    labels = None if by is None else pd.factorize(np.asarray(by), sort=True)[0]
    labelled = labels is not None and len(labels) == n and bool((labels >= 0).all())
    if how in ("column", "dirichlet") and not labelled:
        raise _wrong(f'how = "{how}"', "by holds a label of every row", "give by=")
    if how == "column":
        return _enough(np.asarray(labels, dtype=np.int64), min_rows)
    if not 1 <= hospitals <= n // max(min_rows, 1) or not alpha > 0:
        raise _wrong(
            f"{hospitals} hospitals with {min_rows} of {n} rows each, alpha = {alpha:g}",
            "every hospital has at least min_rows rows; alpha is above 0",
            "ask for fewer hospitals or rows",
        )
    draw = np.random.default_rng(seed)
    if how == "dirichlet":
        return _skewed(np.asarray(labels, dtype=np.int64), hospitals, alpha, draw)
    sizes = _even(n, hospitals)
    if how == "quantity":
        free = n - hospitals * min_rows
        shares = draw.dirichlet(np.full(hospitals, alpha))
        sizes = min_rows + np.diff(np.round(np.cumsum([0.0, *shares]) * free)).astype(np.int64)
        sizes[-1] += n - sizes.sum()
    found = np.repeat(np.arange(hospitals, dtype=np.int64), sizes)
    return draw.permutation(found)


def _skewed(labels: Ints, hospitals: int, alpha: float, draw: np.random.Generator) -> Ints:
    """Hospitals of equal size, one after the other: each draws its mix, then rows by it; of labels
    that have run out none is left to draw, and the others' shares grow."""
    n, classes = len(labels), int(labels.max()) + 1
    waiting = [draw.permutation(np.flatnonzero(labels == c)).tolist() for c in range(classes)]
    prior = np.bincount(labels, minlength=classes) / n
    found = np.full(n, -1, dtype=np.int64)
    for hospital, size in enumerate(_even(n, hospitals)):
        mix = draw.dirichlet(np.maximum(alpha * prior, 1e-9))
        need = int(size)
        while need:
            left = np.array([len(rows) for rows in waiting])
            open_mix = np.where(left > 0, np.maximum(mix, 1e-12), 0.0)
            wanted = draw.multinomial(need, open_mix / open_mix.sum())
            for c, count in enumerate(np.minimum(wanted, left).tolist()):
                found[[waiting[c].pop() for _ in range(count)]] = hospital
                need -= count
    return found


def _even(n: int, hospitals: int) -> Ints:
    return np.diff(np.arange(hospitals + 1, dtype=np.int64) * n // hospitals)


def _enough(found: Ints, min_rows: int) -> Ints:
    if len(found) and np.bincount(found).min() < min_rows:
        raise _wrong(
            "a value of the column has too few rows",
            f"every hospital has at least min_rows = {min_rows} rows",
            "lower min_rows, or join values",
        )
    return found


def _wrong(what: str, rule: str, then: str) -> InputError:
    return InputError(what, code="WRONG_VALUE", rule=rule, next=then)
