"""What a site allows, as a value: an engine passes it on and cannot change it.

The numbers' defaults are those of the disclosure control of DataSHIELD and ACRO, or stricter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from numbers import Integral, Real
from typing import Any, Literal

from polyclinic.core.errors import InputError
from polyclinic.privacy.budget import Budget

EVERYTHING: tuple[str, ...] = ("*",)
THRESHOLDS = ("two_thirds", "majority")

_Range = tuple[str, Callable[[float], bool]]
_WHOLE: _Range = "a whole number of 0 or more", lambda number: 0 <= number <= sys.float_info.max
_NUMBER: _Range = "a finite number of 0 or more", _WHOLE[1]
_SHARE: _Range = "a number between 0 and 1", lambda number: 0 <= number <= 1
_RANGES: dict[str, _Range] = {
    "max_share": _SHARE,
    "max_two_shares": _SHARE,
    "max_column_share": _SHARE,
    "max_leverage": _SHARE,
    "delta": ("a number above 0 and below 1", lambda number: 0 < number < 1),
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A site's rules. Names may hold ``*``; an empty tuple allows nothing.

    algorithms       steps that may run: ``"glm.*"``, or with their version ``"glm.scores@1"``
    columns          columns that may be read, by the purpose that the study states
    collect          steps that may answer for this site alone, by name
    release_alone    False: no sum of this site may be seen on its own, only secure sums
    updates_alone    True: what training changed in a network may be seen on its own, from which an
                     image it was trained on can be found
    min_sites        sites that must take part
    min_patients     patients behind every number, cell and level
    min_subset       patients in a cohort and, when it has one, in its complement
    min_difference   patients by which two cohorts differ, when they differ at all
    max_cohorts      different cohorts that the sums of one column are about
    min_node         patients in a leaf node of a tree
    patients_per_coefficient   a model of p coefficients needs p times as many patients
    min_residual     a model of p coefficients needs p and so many more patients
    min_effective    effective number of patients behind a weighted sum, (sum w)^2 / sum w^2
    max_share        largest part of one patient in the weights of a sum
    max_two_shares   largest part of two patients together in the weights of a sum
    max_column_share   largest part of two patients together in the sum of a column
    min_remainder    in a column's sum, what all but two patients hold, as a part of the largest
    max_leverage     largest leverage of a patient in a model matrix
    max_levels       levels that a column may have
    max_level_density   levels of a column per patient
    exact            False: no sums without noise
    epsilon          budget of a data set: what its noisy releases cost together; None: no bound
    delta            the delta at which that epsilon is meant
    threshold        sites that open a secure sum: "two_thirds", or "majority" (semi-honest)

    Raises
    ------
    InputError : WRONG_VALUE, with the rule's name.
    """

    algorithms: tuple[str, ...] = EVERYTHING
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"*": EVERYTHING})
    collect: tuple[str, ...] = EVERYTHING
    release_alone: bool = True
    updates_alone: bool = False
    min_sites: int = 1
    min_patients: int = 5
    min_subset: int = 10
    min_difference: int = 5
    max_cohorts: int = 500
    min_node: int = 10
    patients_per_coefficient: float = 10.0
    min_residual: int = 10
    min_effective: float = 10.0
    max_share: float = 0.5
    max_two_shares: float = 0.9
    max_column_share: float = 0.9
    min_remainder: float = 0.1
    max_leverage: float = 0.5
    max_levels: int = 40
    max_level_density: float = 0.1
    exact: bool = True
    epsilon: float | None = 10.0
    delta: float = 1e-6
    threshold: Literal["two_thirds", "majority"] = "two_thirds"

    def __post_init__(self) -> None:
        for one in fields(Policy):
            checked = _checked(one.name, str(one.type), getattr(self, one.name))
            object.__setattr__(self, one.name, checked)

    @property
    def budget(self) -> Budget | None:
        """What the noisy releases of a data set may cost together; None: any."""
        return None if self.epsilon is None else Budget(self.epsilon, self.delta)

    def allows(self, task: str, version: int) -> bool:
        """May this step run here?"""
        return _matches(task, self.algorithms) or _matches(f"{task}@{version}", self.algorithms)

    def allows_collect(self, task: str) -> bool:
        """May this step answer for this site alone?"""
        return _matches(task, self.collect)

    def allows_column(self, column: str, purpose: str) -> bool:
        """May this column be read for this purpose?"""
        return any(
            fnmatchcase(purpose, wanted) and _matches(column, columns)
            for wanted, columns in self.columns.items()
        )


@dataclass(frozen=True, kw_only=True)
class Closed(Policy):
    """Of a site without a policy in force: it refuses every plan, and says why.

    code     POLICY_UNSIGNED, POLICY_CHANGED or POLICY_UNREADABLE: what the asker is told
    reason   the file and what is wrong with it, for the site's own people
    """

    algorithms: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    collect: tuple[str, ...] = ()
    release_alone: bool = False
    code: str = "POLICY_UNSIGNED"
    reason: str = "there is no policy"


def open_policy(min_patients: int = 1) -> Policy:
    """No rule but a minimum of patients: for data that are free, and for tests of sums."""
    return Policy(
        updates_alone=True,
        min_patients=min_patients,
        min_subset=0,
        min_difference=0,
        max_cohorts=10**9,
        min_node=1,
        patients_per_coefficient=0.0,
        min_residual=0,
        min_effective=0.0,
        max_share=1.0,
        max_two_shares=1.0,
        max_column_share=1.0,
        min_remainder=0.0,
        max_leverage=1.0,
        max_levels=10**9,
        max_level_density=float(10**9),
        epsilon=None,
    )


def _matches(name: str, allowed: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in allowed)


def _checked(name: str, kind: str, value: Any) -> Any:
    """`value` as the rule `name` holds it, or the reason why it cannot."""
    if name == "columns":
        return _columns(value)
    if kind.startswith("tuple"):
        return _names(name, value)
    if name == "threshold":
        if isinstance(value, str) and value in THRESHOLDS:
            return value
        raise _wrong(name, value, f"one of {', '.join(THRESHOLDS)}")
    if kind == "bool":
        if isinstance(value, bool):
            return value
        raise _wrong(name, value, "true or false")
    if name == "epsilon" and value is None:
        return None
    return _number(name, kind, value)


def _number(name: str, kind: str, value: Any) -> int | float:
    """A number of its kind and in its range, which NaN never is."""
    wanted = Integral if kind == "int" else Real
    words, fits = _RANGES.get(name, _WHOLE if kind == "int" else _NUMBER)
    right = isinstance(value, wanted) and not isinstance(value, bool)
    if not right or not fits(value):
        raise _wrong(name, value, words)
    return int(value) if kind == "int" else float(value)


def _names(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise _wrong(name, value, 'a tuple of names, for example ("glm.*",); an empty one: nothing')


def _columns(value: Any) -> dict[str, tuple[str, ...]]:
    if isinstance(value, Mapping) and all(isinstance(purpose, str) for purpose in value):
        return {purpose: _names(f"columns[{purpose!r}]", names) for purpose, names in value.items()}
    raise _wrong("columns", value, 'names by purpose, for example {"*": ("age", "sex")}')


def _wrong(name: str, value: Any, rule: str) -> InputError:
    shown = repr(value)
    return InputError(
        f"policy: {name} = {shown if len(shown) <= 60 else shown[:57] + '...'}",
        code="WRONG_VALUE",
        rule=f"{name} is {rule}",
        next=f"correct {name}",
    )
