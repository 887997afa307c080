"""The gate: everything that leaves a site passes here, and a `Release` is made nowhere else.

Today it enforces one rule, a minimum number of patients behind every number. It checks what the
site's own task declares, never what a message claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.contribution import Evidence, Release, Sum, words_shape
from polyclinic.core.errors import Refused
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.privacy.policy import Policy


@dataclass(frozen=True)
class Gate:
    """One site's border."""

    site: str
    policy: Policy = Policy()

    def release(self, plan: Plan, leaves: Sequence[Leaf], sum: Sum) -> Release:
        """Let `sum` out, with small cells hidden where the leaf says so.

        Raises
        ------
        Refused : TOO_FEW_PATIENTS, CELL_TOO_SMALL, COLLECT_NOT_ALLOWED, SCHEMA_MISMATCH.
        """
        if plan.combine == "collect" and not self.policy.allows_collect(plan.task):
            raise self._refuse(plan, "COLLECT_NOT_ALLOWED")
        if set(sum.words) != {leaf.name for leaf in leaves}:
            raise self._refuse(plan, "SCHEMA_MISMATCH")
        if 0 < sum.evidence.patients < self.policy.min_patients:
            raise self._refuse(plan, "TOO_FEW_PATIENTS")
        words, hidden = {}, {}
        for leaf in leaves:
            array = sum.words[leaf.name]
            if (array.shape, array.dtype) != words_shape(leaf):
                raise self._refuse(plan, "SCHEMA_MISMATCH")
            small = self._small_cells(plan, leaf, sum.evidence)
            if leaf.small == "hide":
                hidden[leaf.name] = small.astype(np.int64)
            elif small.any():
                raise self._refuse(plan, "CELL_TOO_SMALL")
            if small.any():
                array = array.copy()
                array[small] = 0
            words[leaf.name] = array
        return Release(self.site, plan.round_hash, words, hidden)

    def _small_cells(self, plan: Plan, leaf: Leaf, evidence: Evidence) -> NDArray[np.bool_]:
        if leaf.support == "patients":
            return np.zeros(leaf.size, dtype=bool)
        behind = evidence.cells.get(leaf.name)
        if behind is None or behind.size != leaf.size:
            if evidence.patients == 0:
                return np.zeros(leaf.size, dtype=bool)
            raise self._refuse(plan, "SCHEMA_MISMATCH")
        flat = behind.ravel()
        return (flat > 0) & (flat < self.policy.min_patients)

    def _refuse(self, plan: Plan, code: str) -> Refused:
        return Refused(
            f"{self.site} refused to release {plan.step or plan.task}",
            code=code,
            rule=RULES[code],
            next=NEXT.get(code, ""),
            site=self.site,
            step=plan.step,
        )
