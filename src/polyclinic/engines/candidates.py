"""Candidates of a plan whose sums are over patients of their own.

A loss that is zero beyond its margin leaves patients out of a sum altogether, and coefficients
choose them. Each such group is a cohort: it has enough patients, and differs in none or enough of
them from every other group whose sums are out, those of the same plan included. A candidate of
which this is not so does not leave; the others of its plan do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import Refused
from polyclinic.core.exposure import Exposure, Members
from polyclinic.privacy import cohorts
from polyclinic.privacy.policy import Policy

Bools = NDArray[np.bool_]


def left_out(
    exposure: Exposure, population: int, policy: Policy, check: Callable[[Members], None]
) -> Bools | None:
    """Candidates that do not leave, (m,); None: their sums are over all patients.

    check  raises Refused for patients that are too close to what was released before
    """
    own = [one for one in exposure.members if one.candidate is not None]
    if not own or exposure.weights is None:
        return None
    out = np.zeros(len(exposure.weights.total), dtype=bool)
    kept = [_bits(one, population) for one in exposure.members if one.candidate is None]
    for k in range(len(out)):
        groups = [one for one in own if one.candidate == k]
        bits = [_bits(one, population) for one in groups]
        out[k] = any(
            0 < len(one.patients) < policy.min_patients or _close(bits[i], kept + bits[:i], policy)
            for i, one in enumerate(groups)
        ) or not all(_passes(check, one) for one in groups)
        kept += [] if out[k] else bits
    return out


def shown(members: Sequence[Members], out: Bools | None) -> list[Members]:
    """The members behind what leaves."""
    return [
        one for one in members if one.candidate is None or out is None or not out[one.candidate]
    ]


def _bits(members: Members, population: int) -> cohorts.Bits:
    mask = np.zeros(population, dtype=bool)
    mask[members.patients] = True
    return cohorts.pack(mask)


def _close(bits: cohorts.Bits, others: list[cohorts.Bits], policy: Policy) -> bool:
    k = policy.min_difference
    some = bool(bits.any()) and bool(others) and k > 1
    return some and cohorts.too_close(bits, np.vstack(others), k)


def _passes(check: Callable[[Members], None], members: Members) -> bool:
    try:
        check(members)
    except Refused:
        return False
    return True
