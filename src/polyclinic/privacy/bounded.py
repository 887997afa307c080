"""Sums over patients in which no patient counts for more than a declared amount.

Each patient's rows are added up, the patient's vector is shortened to norm `clip_norm` where it is
longer, rounded to a multiple of `quantum`, and the multiples are added as integers.
Integers make the bound hold to the last bit: in floating-point sums one patient can move the
rounding of all others (Casacuberta et al., "Widespread Underestimation of Sensitivity in
Differentially Private Libraries", CCS 2022). The sums are float64 without rounding, also after
they are added up over partitions and sites in the ring (at scale 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.ring import Floats

SMALLEST_CLIP, LARGEST_CLIP = 2.0**-30, 2.0**40
MOST_PATIENTS = 2**23  # of one call: times 2**30 quanta, a sum stays an exact float64
_QUANTUM_BITS = 30

Ordinals = NDArray[np.int64]


@dataclass(frozen=True)
class Bounded:
    """A bounded sum, and two counts for the site's own eyes.

    total     sum over patients, the shape of one row
    patients  how many patients it is about
    clipped   how many of them were shortened: a count of the data, not for release as it is
    """

    total: Floats
    patients: int
    clipped: int


@dataclass(frozen=True)
class BoundedSum:
    """A sum over patients, each of norm `clip_norm` at most (2**-30 to 2**40).

    norm  "l2": the root of the sum of squares; "l1": the sum of absolute values
    """

    clip_norm: float
    norm: Literal["l2", "l1"] = "l2"

    def __post_init__(self) -> None:
        if not SMALLEST_CLIP <= self.clip_norm <= LARGEST_CLIP:
            raise InputError(
                f"clip_norm = {self.clip_norm} is not between 2**-30 and 2**40",
                code="BAD_PRIVACY",
                rule="one patient's part of a sum is bounded by a positive number",
                next="scale the columns so that a patient's part is about 1, and write clip_norm=1",
            )

    @property
    def sensitivity(self) -> float:
        """Largest change of the sum, in its norm, when one patient is added or removed."""
        return self.clip_norm

    @property
    def quantum(self) -> float:
        """The power of two that all sums are multiples of: about clip_norm * 2**-30."""
        return math.ldexp(1.0, math.frexp(self.clip_norm)[1] - _QUANTUM_BITS)

    def of(self, rows: NDArray[Any], patients: Ordinals | None = None) -> Bounded:
        """The bounded sum of `rows` (n_rows, ...).

        patients  ordinal of each row's patient (n_rows,), in any order; None: one row per patient

        Raises
        ------
        InputError : NONFINITE for NaN or infinity, also in a patient's own sum of rows.
        PolyclinicError : SCHEMA_MISMATCH when rows and patients differ in length, RANGE for more
            than 2**23 patients.
        """
        array = np.asarray(rows, dtype=np.float64)
        vectors = _per_patient(array.reshape(len(array), math.prod(array.shape[1:])), patients)
        if len(vectors) > MOST_PATIENTS:
            raise PolyclinicError(
                "too many patients in one partition",
                code="RANGE",
                rule=f"a bounded sum is exact for at most {MOST_PATIENTS} patients at once",
                next="use more workers, or smaller chunks",
            )
        if not np.isfinite(vectors).all():
            raise InputError(
                "a patient's part of a sum is not finite",
                code="NONFINITE",
                rule="NaN and infinity have no bounded part",
                next="run the quality check at the hospital: polyclinic check",
            )
        quanta, clipped = self._clip(vectors)
        total = quanta.sum(axis=0) * self.quantum
        return Bounded(total.reshape(array.shape[1:]), len(vectors), clipped)

    def _clip(self, vectors: Floats) -> tuple[NDArray[np.int64], int]:
        """Each patient's vector in quanta, of norm clip_norm at most, and how many were longer."""
        largest = np.abs(vectors).max(axis=1, initial=0.0)
        unit = vectors / np.where(largest > 0, largest, 1.0)[:, None]  # squares do not overflow
        norm = np.abs(unit).sum(axis=1)
        if self.norm == "l2":
            norm = np.sqrt(np.einsum("ij,ij->i", unit, unit))
        with np.errstate(over="ignore"):
            longer = largest * norm > self.clip_norm
        short = vectors.copy()
        short[longer] = unit[longer] * (self.clip_norm / norm[longer])[:, None]
        quanta = np.rint(short / self.quantum).astype(np.int64)
        power = 2 if self.norm == "l2" else 1
        limit = math.floor(Fraction(self.clip_norm / self.quantum) ** power)
        # Rounding may have left a vector too long; the sum of squares is near 2**60 at most.
        while (over := (np.abs(quanta) ** power).sum(axis=1) > limit).any():
            quanta[over] -= np.sign(quanta[over])
        return quanta, int(np.count_nonzero(longer))


def _per_patient(rows: Floats, patients: Ordinals | None) -> Floats:
    """Each patient's sum of rows. It depends on no other patient's rows, to the last bit."""
    if patients is None:
        return rows
    if np.shape(patients) != (len(rows),):
        raise _mismatch("each row has one patient")
    ordinals, where = np.unique(patients, return_inverse=True)
    if len(ordinals) == len(rows):
        return rows
    order = np.argsort(where, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(where, minlength=len(ordinals)))])
    grouped = csr_array((np.ones(len(rows)), order, ends), shape=(len(ordinals), len(rows)))
    with np.errstate(over="ignore", invalid="ignore"):
        summed: Floats = grouped @ rows
    return summed


def _mismatch(what: str) -> PolyclinicError:
    return PolyclinicError(
        what, code="SCHEMA_MISMATCH", rule="every row of a bounded sum belongs to one patient"
    )
