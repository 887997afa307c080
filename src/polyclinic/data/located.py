"""Where the selected rows of a scan are, put together from a survey of each of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError

Ints = NDArray[np.int64]
NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Survey:
    """One part: its rows, those selected, and those inside the cohort's condition.

    runs      keyed hash of the patient of each run of rows, or None where a row is a patient
    selected, inside   of each run
    """

    rows: int
    n_selected: int
    n_inside: int
    runs: NDArray[np.uint64] | None = None
    selected: Ints = field(default_factory=lambda: NONE)
    inside: Ints = field(default_factory=lambda: NONE)

    @staticmethod
    def of_rows(rows: int, selected: int, inside: int) -> Survey:
        return Survey(rows, selected, inside)

    @staticmethod
    def of_patients(
        patients: NDArray[np.uint64], chosen: Ints, inside: NDArray[np.bool_]
    ) -> Survey:
        run = run_of(patients)
        count = int(run[-1]) + 1 if len(run) else 0
        return Survey(
            len(patients),
            len(chosen),
            int(np.count_nonzero(inside)),
            patients[np.flatnonzero(np.diff(run, prepend=-1))],
            np.bincount(run[chosen], minlength=count).astype(np.int64),
            np.bincount(run[inside], minlength=count).astype(np.int64),
        )

    def to_data(self) -> dict[str, Any]:
        """As a worker sends it."""
        return dict(vars(self))

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Survey:
        return Survey(**data)


def run_of(patients: NDArray[np.uint64]) -> Ints:
    """Number of the run of equal values that each row is in."""
    changes = patients[1:] != patients[:-1]
    lead = np.zeros(min(1, len(patients)), dtype=np.int64)
    return np.concatenate([lead, np.cumsum(changes, dtype=np.int64)])


@dataclass(frozen=True)
class Located:
    """See the module.

    starts          of the selected rows of each part among all of them, and their end
    person, key     ordinal of the first patient of each part, and of its first selected patient
    ends            where each selected patient's rows end; empty where a row is a patient
    single          whether no patient has two selected rows
    """

    starts: Ints
    person: Ints
    key: Ints
    ends: Ints
    single: bool
    n_patients: int
    outside: int
    population: int

    @property
    def n_rows(self) -> int:
        return int(self.starts[-1])

    def parts(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The parts that hold selected rows `first` to `stop`, and which of theirs these are."""
        lead = int(np.searchsorted(self.starts, first, side="right")) - 1
        for group in range(max(lead, 0), len(self.starts) - 1):
            begin, end = int(self.starts[group]), int(self.starts[group + 1])
            if begin >= stop:
                return
            if end > first and end > begin:
                yield group, max(first - begin, 0), min(stop, end) - begin

    def ordinals(
        self, group: int, patients: NDArray[np.uint64] | None, chosen: Ints, rows: int
    ) -> tuple[Ints, Ints]:
        """Patient of each row of a part among all patients, and of each selected one among the
        selected patients."""
        run = np.arange(rows, dtype=np.int64) if patients is None else run_of(patients)
        own = run[chosen]
        key = np.cumsum(np.diff(own, prepend=own[:1]) != 0, dtype=np.int64)
        return run + self.person[group], key + self.key[group]

    def edge(self, row: int) -> int:
        """The end of the patient's rows that a cut before `row` would split, else `row`."""
        if row <= 0 or row >= self.n_rows or not len(self.ends):
            return row
        return int(self.ends[np.searchsorted(self.ends, row)])

    def to_data(self) -> dict[str, Any]:
        """As workers get it: without what only the cuts need."""
        return {**vars(self), "ends": NONE}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Located:
        return Located(**data)


def located(surveys: Sequence[Survey], site: str) -> Located:
    """Put surveys together, in the order of the parts. Raises InputError PATIENT_SPLIT."""
    starts = np.concatenate([[0], np.cumsum([one.n_selected for one in surveys])]).astype(np.int64)
    if all(one.runs is None for one in surveys):
        rows, inside = (sum(getattr(s, n) for s in surveys) for n in ("rows", "n_inside"))
        person = np.cumsum([0, *(one.rows for one in surveys[:-1])]).astype(np.int64)
        return Located(
            starts, person, starts[:-1], NONE, True, int(starts[-1]), rows - inside, rows
        )
    runs = np.concatenate([_runs(one) for one in surveys])
    selected = np.concatenate([one.selected for one in surveys])
    inside = np.concatenate([one.inside for one in surveys])
    patient = run_of(runs)
    population = int(patient[-1]) + 1 if len(patient) else 0
    split = population - len(np.unique(runs))
    if split:
        raise InputError(
            f"{site}: the rows of {split} patients do not stand together",
            code="PATIENT_SPLIT",
            site=site,
            rule="in files that are read in parts all rows of a patient stand side by side",
            next="write the files in the order of the patient id, for example with duckdb: "
            "COPY (SELECT * FROM 'in/*.parquet' ORDER BY id) TO 'sorted.parquet'",
        )
    rows_of = np.bincount(patient, weights=selected, minlength=population).astype(np.int64)
    meant = np.bincount(patient, weights=inside, minlength=population) > 0
    before = np.concatenate([[0], np.cumsum(rows_of > 0)]).astype(np.int64)
    return Located(
        starts,
        *_firsts(surveys, patient, selected, before),
        np.cumsum(rows_of)[rows_of > 0],
        bool(np.all(rows_of <= 1)),
        int(before[-1]),
        population - int(np.count_nonzero(meant)),
        population,
    )


def _runs(survey: Survey) -> NDArray[np.uint64]:
    return np.zeros(0, dtype=np.uint64) if survey.runs is None else survey.runs


def _firsts(
    surveys: Sequence[Survey], patient: Ints, selected: Ints, before: Ints
) -> tuple[Ints, Ints]:
    """Per part the ordinal of its first patient, and of its first selected one."""
    person, key, at = [], [], 0
    for one in surveys:
        runs = len(_runs(one))
        mine = patient[at : at + runs]
        person.append(int(mine[0]) if runs else 0)
        chosen = mine[selected[at : at + runs] > 0]
        key.append(int(before[chosen[0]]) if len(chosen) else 0)
        at += runs
    return np.array(person, dtype=np.int64), np.array(key, dtype=np.int64)
