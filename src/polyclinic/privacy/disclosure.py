"""The rules of disclosure control: which sums would show too much of a patient.

Rules of saturation count the patients behind what becomes visible. Where a site's sum can be seen
alone these are its own; under secure sums they are all sites' patients, so there a site may lean on
the others: on totals of what was safe at each of them (`Totals`), which it recomputes itself from
signed messages rather than believe. What one site cannot excuse is never excused.

References: A. Hundepool et al., *Statistical Disclosure Control* (2012), ch. 4 and 5; dsBase
(DataSHIELD) disclosure settings; ACRO `default.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Evidence
from polyclinic.core.exposure import Exposing, Exposure, Shares
from polyclinic.core.plan import Plan
from polyclinic.privacy.policy import Policy

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
MANY = "*"
LEAD = 3  # numbers of a share before its slots: patients, whether they are enough, whether shown
LARGEST = 2.0**50  # of a number that others can lean on; the ring holds it
SHARED = frozenset(
    (
        "TOO_FEW_PATIENTS",
        "SUBSET_TOO_SMALL",
        "LEVEL_TOO_SMALL",
        "TOO_MANY_LEVELS",
        "SATURATED",
        "EFFECTIVE_SIZE",
        "SEEN_ALONE",
        "TOO_FEW_SITES",
    )
)  # rules that under secure sums count all sites
# What only a sum that is seen alone can break.
ALONE = SHARED | {"LEVERAGE", "ALONE_NOT_ALLOWED", "SEEN_TOGETHER", "UPDATE_ALONE"}


@dataclass(frozen=True)
class Finding:
    """A rule that a contribution breaks.

    code     what may cross the border
    note     what the site's own people read: column, level, what can be changed
    """

    code: str
    note: str


@dataclass(frozen=True)
class Selection:
    """How the patients asked about stand to all of the site's.

    outside  patients whom the condition of the cohort leaves out
    subset   True: some of the site's patients are not among those asked about
    """

    outside: int = 0
    subset: bool = False


EVERYONE = Selection()


@dataclass(frozen=True)
class Totals:
    """Sums over all sites of what was safe at each, as `share` gives it.

    sites     that have enough patients for a sum of their own
    shown     sites that have released the same sums before, each by itself
    """

    patients: float
    sites: int
    shown: int
    slots: Mapping[str, float]
    columns: Mapping[str, Floats]
    weights: Floats
    squares: Floats


def share(
    policy: Policy,
    exposure: Exposure,
    evidence: Evidence,
    slots: Sequence[str],
    selection: Selection = EVERYONE,
    shown: bool = False,
    left_out: Bools | None = None,
) -> Floats:
    """What a site adds to `Totals`, as one vector: only numbers that are safe by themselves.

    Patients and levels are whole multiples of the minimum, so no small count can be seen in them;
    but of `Exposure.joint` only what is above the minimum is not seen.

    shown     True: the site has released the same sums by itself before
    left_out  candidates of which nothing is shared
    """
    k = max(policy.min_patients, 1)
    counts = levels_of(policy, exposure, evidence.patients)
    least = max(k, policy.min_subset) if selection.subset else k
    enough = evidence.patients >= least
    kept = ~_crowded_out(policy, exposure)
    kept = kept if left_out is None else kept & ~left_out
    whole = [evidence.patients // k * k, enough, shown]
    joint = exposure.joint
    whole += [min(joint[s], k) if s in joint else counts.get(s, 0) // k * k for s in slots]
    parts = [np.asarray(whole, dtype=np.float64)]
    for name, one in exposure.columns.items():
        good = _enough(policy, counts, name) & ~dominated(policy, one) & (one.total < LARGEST)
        good = good & enough & kept
        parts.append(np.atleast_1d(np.where(good, one.total, 0.0)))
    if exposure.weights is not None:
        good = _solid(policy, exposure.weights) & (exposure.weights.squares < LARGEST) & enough
        good = good & kept
        for sums in (exposure.weights.total, exposure.weights.squares):
            parts.append(np.atleast_1d(np.where(good, sums, 0.0)))
    return np.concatenate(parts)


def share_size(task: Exposing, plan: Plan) -> int:
    """Entries of the vector that `share` gives for a plan."""
    columns, candidates = task.candidates(plan)
    return LEAD + len(task.slots(plan)) + len(columns) * candidates + 2 * candidates


def totals(vector: Floats, slots: Sequence[str], columns: Sequence[str]) -> Totals:
    """The inverse of `share`, for the sum over sites."""
    m = (len(vector) - LEAD - len(slots)) // (len(columns) + 2)
    at = LEAD + len(slots)
    by_column = vector[at : at + m * len(columns)].reshape(len(columns), m)
    weights, squares = vector[at + m * len(columns) :].reshape(2, m)
    return Totals(
        float(vector[0]),
        int(vector[1]),
        int(vector[2]),
        dict(zip(slots, vector[LEAD:at], strict=True)),
        dict(zip(columns, by_column, strict=True)),
        weights,
        squares,
    )


def judge(
    policy: Policy,
    exposure: Exposure,
    evidence: Evidence,
    others: Totals | None = None,
    selection: Selection = EVERYONE,
    alone: bool = True,
) -> list[Finding]:
    """Rules that a contribution breaks as a whole; `others` excuses what the others make up for.

    alone  True: the site's own sum is seen
    """
    found = patients(policy, evidence.patients, others, selection)
    found += _saturated(policy, exposure, evidence, others)
    found += _levels(policy, exposure, evidence.patients, others)
    if alone and exposure.leverage > policy.max_leverage:
        note = f"one patient has a leverage of {exposure.leverage:.2f}; use fewer columns"
        found.append(Finding("LEVERAGE", note))
    one = exposure.weights is not None and np.ndim(exposure.weights.total) == 0
    if one and isolating(policy, exposure, others).any():
        found.append(Finding("EFFECTIVE_SIZE", "one patient or two make up nearly all of a sum"))
    return found


def isolating(policy: Policy, exposure: Exposure, others: Totals | None = None) -> Bools:
    """Candidates whose weights leave too few patients in the sums, (m,).

    Without a first axis the weights are those of all sums, which then cannot leave (`judge`).
    """
    if exposure.weights is None:
        return np.zeros(0, dtype=bool)
    bad = ~_solid(policy, exposure.weights, others) | _crowded_out(policy, exposure)
    for name, one in exposure.columns.items():
        mine = others.columns.get(name) if others else None
        bad |= dominated(policy, one, mine)
    return np.asarray(bad)


def _crowded_out(policy: Policy, exposure: Exposure) -> Bools:
    """Candidates whose sums tell when a few patients left: no other site makes up for that."""
    if exposure.crowd is None:
        return np.zeros((), dtype=bool)
    return np.asarray(exposure.crowd < policy.min_patients)


def levels_of(policy: Policy, exposure: Exposure, patients: int) -> dict[str, int]:
    """Patients per level and per value, by name.

    A column in which fewer than the minimum are off its most usual value has no more values than
    the minimum; columns with more values are not judged value by value. Nor is a column of
    which so few `patients` have all different values: there their number is what is too small.
    """
    found = {**exposure.slots, **exposure.joint}
    few = max(policy.min_patients, 2)
    for column, counts in exposure.values.items():
        if patients <= few and _all_different(counts):
            continue
        if MANY not in counts and len(counts) <= few:
            found |= {f"{column} = {value}": count for value, count in counts.items()}
    return found


def _all_different(counts: Mapping[str, int]) -> bool:
    return max(counts.values(), default=0) == 1 and not {*map(float, counts)} <= {0.0, 1.0}


def patients(
    policy: Policy, own: int, others: Totals | None, selection: Selection
) -> list[Finding]:
    """Rules about the number of patients asked about."""
    n = own if others is None else max(own, others.patients)
    # Where a condition leaves most out, one code stands for a few and for none: else asking for
    # ever fewer would tell when the last one has gone. Others make up for some, never for that.
    narrow = selection.outside > 0 and own < policy.min_patients
    few = selection.subset and n < policy.min_subset and (n > 0 or selection.outside > 0)
    if policy.min_subset and (narrow or few):
        return [Finding("SUBSET_TOO_SMALL", f"{own} patients in the cohort")]
    if 0 < n < policy.min_patients:
        return [Finding("TOO_FEW_PATIENTS", f"{own} patients in all")]
    return []


def _saturated(
    policy: Policy, exposure: Exposure, evidence: Evidence, others: Totals | None
) -> list[Finding]:
    n = evidence.patients if others is None else max(evidence.patients, others.patients)
    p = exposure.coefficients
    found = []
    if 0 < n * policy.max_level_density < exposure.levels:
        note = f"a column of {exposure.levels} levels for {n:.0f} patients; merge levels"
        found.append(Finding("TOO_MANY_LEVELS", note))
    if p and 0 < n < p * policy.patients_per_coefficient:
        note = f"{p} coefficients for {n:.0f} patients; use fewer columns or more patients"
        found.append(Finding("SATURATED", note))
    elif p and 0 < n < p + policy.min_residual:
        found.append(Finding("SATURATED", f"{p} coefficients leave {n - p:.0f} degrees of freedom"))
    return found


def _levels(policy: Policy, exposure: Exposure, own: int, others: Totals | None) -> list[Finding]:
    found = []
    if exposure.levels > policy.max_levels:
        found.append(Finding("TOO_MANY_LEVELS", f"a column of {exposure.levels} levels"))
    for name, count in levels_of(policy, exposure, own).items():
        excused = others is not None and others.slots.get(name, 0.0) >= policy.min_patients
        if 0 < count < policy.min_patients and not excused:
            note = f"{_named(name)}: {count} patients; merge levels in the codebook or leave it out"
            found.append(Finding("LEVEL_TOO_SMALL", note))
    return found


def _named(level: str) -> str:
    """The level in words without a patient's value: only whether a column is 0 or 1 is no value."""
    column, _, value = level.rpartition(" = ")
    known = not column or column == "outcome" or value in ("0", "1", "0.0", "1.0")
    return level if known else f"a value of {column}"


def _enough(policy: Policy, counts: Mapping[str, int], name: str) -> bool:
    """Whether no level of the column is small; its residuals go by the name behind a bracket."""
    name = name.partition(") ")[2] if name.startswith("(") and ") " in name else name
    small = [counts.get(f"{name} = {value}", 0) for value in (0, 1)]
    return not any(0 < count < policy.min_patients for count in small)


def _solid(policy: Policy, shares: Shares, others: Totals | None = None) -> Bools:
    """True where no patient or two stand out in the weights."""
    total, squares = shares.total, shares.squares
    if others is not None:
        own = np.asarray(_solid(policy, shares))
        total = total + np.where(own, others.weights - shares.total, others.weights)
        squares = squares + np.where(own, others.squares - shares.squares, others.squares)
    nothing = shares.first == 0
    top = np.where(nothing, 1.0, np.maximum(total, shares.first))
    with np.errstate(over="ignore", invalid="ignore"):
        effective = (total / top) ** 2 / np.maximum(squares / top / top, 1e-300)
        good = (
            (effective >= policy.min_effective)
            & (shares.first <= policy.max_share * total)
            & (shares.first + shares.second <= policy.max_two_shares * total)
        )
    return np.asarray(nothing | good)


def dominated(policy: Policy, shares: Shares, others: Floats | None = None) -> Bools:
    """True where two patients make up nearly all of a sum."""
    total = shares.total
    if others is not None:
        own = ~np.asarray(dominated(policy, shares))
        total = np.where(own, np.maximum(others, total), total + others)
    two = shares.first + shares.second
    with np.errstate(over="ignore", invalid="ignore"):
        bad = (two > policy.max_column_share * total) | (
            total - two < policy.min_remainder * shares.first
        )
    return np.asarray((bad | ~np.isfinite(total)) & (shares.first > 0))
