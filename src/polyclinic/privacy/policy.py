"""What a site allows, as a value: an engine passes it on and cannot change it.

The numbers' defaults are those of the disclosure control of DataSHIELD and ACRO, or stricter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from polyclinic.core.errors import InputError
from polyclinic.privacy.budget import Budget

EVERYTHING: tuple[str, ...] = ("*",)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A site's rules. Names may hold ``*``; an empty tuple allows nothing.

    algorithms       steps that may run: ``"glm.*"``, or with their version ``"glm.scores@1"``
    columns          columns that may be read, by the purpose that the study states
    collect          steps that may answer for this site alone, by name
    release_alone    False: no sum of this site may be seen on its own, only secure sums
    min_sites        sites that must take part
    min_patients     patients behind every number, cell and level
    min_subset       patients in a cohort and, when it has one, in its complement
    min_difference   patients by which two cohorts differ, when they differ at all
    max_cohorts      different cohorts of one data set
    min_node         patients in a leaf node of a tree
    patients_per_coefficient, min_residual   a model of p coefficients needs p times the first, and
                     p plus the second, patients
    min_effective    effective number of patients behind a weighted sum, (sum w)^2 / sum w^2
    max_share, max_two_shares   largest parts of one patient and of two in the weights
    max_column_share, min_remainder   in the sum of a column two patients hold no more than this,
                     and the others together at least this part of the largest
    max_leverage     largest leverage of a patient in a model matrix
    max_levels, max_level_density   levels of a column, and levels per patient
    exact            False: no sums without noise
    epsilon, delta   budget of differential privacy per data set; epsilon None: any
    threshold        sites that open a secure sum: "two_thirds", or "majority" (semi-honest)
    when_lost        secure sum without a lost site: "abort", or "restart_without" it while nothing
                     of the analysis was released
    """

    algorithms: tuple[str, ...] = EVERYTHING
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"*": EVERYTHING})
    collect: tuple[str, ...] = EVERYTHING
    release_alone: bool = True
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
    epsilon: float | None = None
    delta: float = 1e-6
    threshold: Literal["two_thirds", "majority"] = "two_thirds"
    when_lost: Literal["abort", "restart_without"] = "abort"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
                raise InputError(
                    f"policy: {name} = {value}",
                    code="WRONG_VALUE",
                    rule="the numbers of a policy are 0 or more",
                    next="correct it",
                )

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


def open_policy(min_patients: int = 1) -> Policy:
    """No rule but a minimum of patients: for data that are free, and for tests of sums."""
    return Policy(
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
    )


def _matches(name: str, allowed: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in allowed)
