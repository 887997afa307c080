"""A site's own answer to a plan, before the gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Release, Sum
from polyclinic.core.errors import Refused
from polyclinic.core.exposure import Exposure, Members
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Rows
from polyclinic.core.plan import Plan
from polyclinic.engines import candidates
from polyclinic.engines.books import Memory


@dataclass(frozen=True)
class Computed:
    """See the module; `left_out` are candidates that do not pass the gate, and `memory` is what the
    site keeps for a later round."""

    plan: Plan
    leaves: tuple[Leaf, ...]
    sum: Sum
    exposure: Exposure
    rows: Rows
    left_out: NDArray[np.bool_] | None = None
    memory: Memory | None = None

    def shown(self, release: Release) -> list[Members]:
        """The patients behind what leaves."""
        some = candidates.shown(self.exposure.members, self.left_out)
        return [one for one in some if _is_shown(one, release)]

    def may_leave_out(self, error: Refused) -> bool:
        """Whether it is candidates of which there are too few or too many, taken together."""
        some = self.left_out is not None and not self.left_out.all()
        return some and error.code in ("COHORT_TOO_CLOSE", "TOO_MANY_COHORTS")


def _is_shown(members: Members, release: Release) -> bool:
    if members.cell is None:
        return True
    leaf, place = members.cell
    return not release.hidden[leaf][place]
