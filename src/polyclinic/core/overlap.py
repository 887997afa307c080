"""Rounds that begin before the ones before them are summed, inside one trust domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from polyclinic.core.contribution import Sum
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan

Ages = tuple[tuple[int, int, int], ...]  # see `Total`


class Overlap(Protocol):
    """Rounds of a domain that may begin before the ones before them are summed.

    next   the sum of the first of these plans, which follow each other by `round`, and `Total.ages`
    close  what is begun is not needed
    """

    def next(self, plans: Sequence[Plan]) -> tuple[Sum, Ages]: ...
    def close(self) -> None: ...


def across_borders() -> InputError:
    """The error for rounds that would overlap over hospitals."""
    return InputError(
        "staleness over hospitals",
        code="WRONG_VALUE",
        rule="a hospital's gate judges the answer to one question, of all its rows at the same "
        "coefficients; who is late with a part of it is a matter inside the hospital",
        next="leave staleness out; networks train over hospitals that do not wait for each other "
        "with pc.FedBuff; arrays of one trust domain: fit(X, y, engine=pc.cluster(workers=2))",
    )


def nobody_waits() -> InputError:
    """The error for rounds that would overlap where one process computes all of them."""
    return InputError(
        "staleness without workers",
        code="WRONG_VALUE",
        rule="rounds overlap where workers wait for each other; in one process nobody does",
        next="engine=pc.cluster(workers=2), or leave staleness out; to go through an earlier fit "
        "again, pc.Embedded(arrivals=model.events_)",
    )
