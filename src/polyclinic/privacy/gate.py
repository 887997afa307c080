"""The gate: everything that leaves a site passes here, and a `Release` is made nowhere else.

It checks what the site's own task declares and what the site's own rows show, never what a message
claims. What it does not let out it answers with a code; the words are for the site's own log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import ring
from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.contribution import Evidence, Release, Sum, words_shape
from polyclinic.core.errors import Refused
from polyclinic.core.exposure import Exposure
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.privacy import disclosure
from polyclinic.privacy.disclosure import EVERYONE, Selection, Totals
from polyclinic.privacy.noisy import noise_of
from polyclinic.privacy.policy import Closed, Policy
from polyclinic.privacy.suppress import cover

MIN_SECURE = 3  # of two sites each knows the other's part of a sum
NOTHING = Exposure()
Rounding = Callable[[Leaf, NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Audience:
    """Who can see a release.

    sites   sites that take part
    secure  True: only the sum over all of them can be seen
    others  what the others make up for, under secure sums; None: not asked
    threshold   sites that open a secure sum: their noise alone has to be enough
    """

    sites: int = 1
    secure: bool = False
    others: Totals | None = None
    threshold: int = 1


@dataclass(frozen=True)
class Gate:
    """One site's border."""

    site: str
    policy: Policy = Policy()

    def admit(self, plan: Plan, audience: Audience = Audience()) -> None:
        """What can be refused before anything is computed.

        Raises
        ------
        Refused : ALGORITHM_NOT_ALLOWED, COLLECT_NOT_ALLOWED, TOO_FEW_SITES, ALONE_NOT_ALLOWED,
            NOISE_REQUIRED, and of a site without a policy in force POLICY_... with the reason.
        """
        policy = self.policy
        if isinstance(policy, Closed):
            raise self.refuse(plan, policy.code, policy.reason)
        if not policy.allows(plan.task, plan.version):
            raise self.refuse(plan, "ALGORITHM_NOT_ALLOWED")
        if plan.combine == "collect" and not policy.allows_collect(plan.task):
            raise self.refuse(plan, "COLLECT_NOT_ALLOWED")
        if not audience.secure and not policy.release_alone:
            raise self.refuse(plan, "ALONE_NOT_ALLOWED")
        if not policy.exact and noise_of(plan) is None:
            raise self.refuse(plan, "NOISE_REQUIRED")
        if audience.sites < max(policy.min_sites, MIN_SECURE if audience.secure else 1):
            raise self.refuse(plan, "TOO_FEW_SITES")

    def check_patients(
        self, plan: Plan, patients: int, audience: Audience, selection: Selection
    ) -> None:
        """Refuse too few patients before anything is computed from them, so that no failure on
        the way tells about one of them.

        Raises
        ------
        Refused : TOO_FEW_PATIENTS, SUBSET_TOO_SMALL, TOO_FEW_SITES.
        """
        if not self._is_judged(plan):
            return
        policy, others = self.policy, audience.others if audience.secure else None
        self._check_outside(plan, selection)
        found = disclosure.patients(policy, patients, others, selection)
        if found:
            raise self.refuse(plan, found[0].code, found[0].note)
        # Where the others have nobody to ask about, the total is this site's own sum.
        several = others is not None and others.sites >= MIN_SECURE
        if audience.secure and not policy.release_alone and not several:
            raise self.refuse(plan, "TOO_FEW_SITES", "too few hospitals have such patients")

    def check_shown(self, plan: Plan, shown: bool, audience: Audience) -> None:
        """Refuse a total of sums that only some of the sites have shown before by themselves.

        Raises
        ------
        Refused : SEEN_ALONE.
        """
        others = audience.others
        all_shown = others is not None and others.shown >= audience.sites
        some_shown = shown or (others is not None and others.shown > 0)
        if audience.secure and some_shown and not all_shown:
            raise self.refuse(plan, "SEEN_ALONE", "the sum was shown by itself before")

    def check_columns(self, plan: Plan, columns: Iterable[str]) -> None:
        """Refuse a plan that names one of the site's columns that its purpose may not read.

        Every word of the plan's data counts, so no task can read a column that was not looked at.
        """
        allowed = self.policy.allows_column
        named = plan.words & set(columns)
        for column in sorted(named):
            if not allowed(column, plan.purpose):
                raise self.refuse(plan, "COLUMN_NOT_ALLOWED", column)

    def release(
        self,
        plan: Plan,
        leaves: Sequence[Leaf],
        sum: Sum,
        exposure: Exposure = NOTHING,
        audience: Audience = Audience(),
        selection: Selection = EVERYONE,
        rounding: Rounding | None = None,
        left_out: NDArray[np.bool_] | None = None,
    ) -> Release:
        """Let `sum` out, with small cells hidden where the leaf says so.

        Parameters
        ----------
        rounding : of a leaf, after all that is kept back was zeroed; None: as it is.
        left_out : candidates that do not leave, whatever their weights are.

        Raises
        ------
        Refused : a code of `core.codes`, with the reason for the site's own people.
        """
        self.admit(plan, audience)
        self._check_schema(plan, leaves, sum)
        self._judge(plan, sum.evidence, exposure, audience, selection)
        others = self._others(exposure, audience)
        isolated = disclosure.isolating(self.policy, exposure, others)
        whole = all(leaf.support != "weights" for leaf in leaves)  # no part can be left out
        if isolated.any() and (whole or (audience.secure and audience.others is None)):
            raise self.refuse(plan, "EFFECTIVE_SIZE", "few patients carry the weights")
        if left_out is not None and left_out.any():
            isolated = isolated | left_out
        words, hidden = {}, {}
        for leaf in leaves:
            array = sum.words[leaf.name]
            if leaf.support == "weights":
                array = _without(leaf, array, isolated)
            small = self._small_cells(plan, leaf, sum.evidence, exposure)
            if leaf.small == "hide":
                hidden[leaf.name] = small.astype(np.int64)
            elif small.any():
                raise self.refuse(plan, "CELL_TOO_SMALL", leaf.name)
            if small.any():
                array = array.copy()
                array[small] = 0
            words[leaf.name] = array if rounding is None else rounding(leaf, array)
        noise = noise_of(plan)
        if noise is not None:
            words = noise.added(leaves, words, audience.threshold if audience.secure else 1)
        return Release(self.site, plan.round_hash, words, hidden)

    def shows_nothing(self, exposure: Exposure) -> bool:
        """Whether each of a plan's candidates would be left out of this site's own answer."""
        isolated = disclosure.isolating(self.policy, exposure)
        return isolated.ndim > 0 and isolated.size > 0 and bool(isolated.all())

    def withheld(self, plan: Plan, leaves: Sequence[Leaf]) -> Release | None:
        """Every entry hidden, where all leaves can be; None where one cannot."""
        if any(leaf.small != "hide" for leaf in leaves):
            return None
        shapes = {leaf.name: words_shape(leaf) for leaf in leaves}
        words = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
        hidden = {leaf.name: np.ones(leaf.size, dtype=np.int64) for leaf in leaves}
        return Release(self.site, plan.round_hash, words, hidden)

    def again(self, plan: Plan, words: Mapping[str, Any], hidden: Mapping[str, Any]) -> Release:
        """What was released before for the same content, as the answer to `plan`."""
        return Release(self.site, plan.round_hash, words, hidden)

    def share(
        self,
        plan: Plan,
        exposure: Exposure,
        evidence: Evidence,
        slots: Sequence[str],
        selection: Selection,
        shown: bool,
        left_out: NDArray[np.bool_] | None = None,
    ) -> Release:
        """What this site adds to the totals on which others may lean; safe by itself.

        shown     True: the site has released the same sums by itself before
        left_out  candidates of which nothing is shared

        Raises
        ------
        Refused : NOISE_REQUIRED where the plan asks for noise, which these totals have not;
            SUBSET_TOO_SMALL where no other site can make up for it.
        """
        if noise_of(plan) is not None or not self.policy.exact:
            raise self.refuse(plan, "NOISE_REQUIRED")
        self._check_outside(plan, selection)
        if selection.outside and evidence.patients < self.policy.min_patients:
            raise self.refuse(plan, "SUBSET_TOO_SMALL", f"{evidence.patients} patients")
        vector = disclosure.share(
            self.policy, exposure, evidence, slots, selection, shown, left_out
        )
        return Release(self.site, plan.round_hash, {"share": ring.encode(vector)}, {})

    def _is_judged(self, plan: Plan) -> bool:
        """False where noise of a limited budget hides every patient, and so any few of them."""
        return noise_of(plan) is None or self.policy.budget is None

    def _others(self, exposure: Exposure, audience: Audience) -> Totals | None:
        """Totals count only where no sum of this site alone can be seen."""
        return audience.others if audience.secure and not exposure.alone else None

    def _judge(
        self,
        plan: Plan,
        evidence: Evidence,
        exposure: Exposure,
        audience: Audience,
        selection: Selection,
    ) -> None:
        policy = self.policy
        if not self._is_judged(plan):
            return
        if exposure.alone and not policy.release_alone:
            raise self.refuse(plan, "ALONE_NOT_ALLOWED", "a term of the model is this site alone")
        self._check_outside(plan, selection)
        self._check_update(plan, exposure, audience)
        found = disclosure.judge(
            policy,
            exposure,
            evidence,
            self._others(exposure, audience),
            selection,
            not audience.secure or exposure.alone,
        )
        if found:
            raise self.refuse(plan, found[0].code, "; ".join(one.note for one in found))

    def _check_outside(self, plan: Plan, selection: Selection) -> None:
        if 0 < selection.outside < self.policy.min_subset:
            note = f"the condition leaves out {selection.outside} patients; ask for all or fewer"
            raise self.refuse(plan, "SUBSET_TOO_SMALL", note)

    def _check_update(self, plan: Plan, exposure: Exposure, audience: Audience) -> None:
        """An update of a model is seen in a total with those of two more sites, of patients too."""
        if not exposure.updates or self.policy.updates_alone:
            return
        if not audience.secure:
            raise self.refuse(plan, "UPDATE_ALONE", f"{exposure.updates} numbers of a network")
        if audience.others is None or audience.others.sites < MIN_SECURE:
            raise self.refuse(plan, "TOO_FEW_SITES", "an update needs two more hospitals' patients")

    def _check_schema(self, plan: Plan, leaves: Sequence[Leaf], sum: Sum) -> None:
        fits = set(sum.words) == {leaf.name for leaf in leaves} and all(
            (sum.words[leaf.name].shape, sum.words[leaf.name].dtype) == words_shape(leaf)
            for leaf in leaves
        )
        if not fits:
            raise self.refuse(plan, "SCHEMA_MISMATCH")

    def _small_cells(
        self, plan: Plan, leaf: Leaf, evidence: Evidence, exposure: Exposure
    ) -> NDArray[np.bool_]:
        if leaf.support != "cells":
            return np.zeros(leaf.size, dtype=bool)
        behind = evidence.cells.get(leaf.name)
        if behind is None or behind.size != leaf.size:
            if evidence.patients == 0:
                return np.zeros(leaf.size, dtype=bool)
            raise self.refuse(plan, "SCHEMA_MISMATCH")
        small = (behind > 0) & (behind < self.policy.min_patients)
        if leaf.name in exposure.cells:
            small = small | disclosure.dominated(self.policy, exposure.cells[leaf.name])
        if leaf.small == "hide" and leaf.closed:
            shape, least = leaf.shape, self.policy.min_patients
            small = cover(behind.reshape(shape), small.reshape(shape), leaf.closed, least)
        return np.asarray(small).ravel()

    def refuse(self, plan: Plan, code: str, note: str = "") -> Refused:
        """The error for a rule of `core.codes`; the note is for the site's own people."""
        return Refused(
            f"{self.site} refused to release {plan.step or plan.task}"
            + (f": {note}" if note else ""),
            code=code,
            rule=RULES[code],
            next=NEXT.get(code, ""),
            site=self.site,
            step=plan.step,
        )


def _without(leaf: Leaf, array: NDArray[Any], isolated: NDArray[np.bool_]) -> NDArray[Any]:
    """The candidates that would show single patients zeroed; a flag says so."""
    if not isolated.any():
        return array
    array = array.reshape(len(isolated), -1).copy()
    array[isolated] = 1 if leaf.kind == "flag" else 0
    return array.reshape(words_shape(leaf)[0])
