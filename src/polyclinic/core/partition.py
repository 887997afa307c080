"""Rows that one worker holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.media import Media

CHUNK_ROWS = 65_536


class Rows(Protocol):
    """What a gate reads of a site's rows, wherever they are; see `Partition`."""

    @property
    def columns(self) -> Iterable[str]: ...
    @property
    def n_patients(self) -> int: ...
    @property
    def outside(self) -> int: ...
    @property
    def population(self) -> int: ...


def cuts(n_rows: int, edge: Callable[[int], int], parts: int, rows: int = CHUNK_ROWS) -> list[int]:
    """Where chunks of `rows` rows begin, counted from the start of each of `parts` equal parts, and
    where the last one ends; `edge` moves a cut that would split a patient."""
    ends = sorted({edge(n_rows * i // parts) for i in range(parts + 1)})
    inside = {edge(row) for a, b in pairwise(ends) for row in range(a, b, rows)}
    return sorted(inside | {n_rows}) if n_rows else [0, 0]


@dataclass(frozen=True)
class Partition:
    """Some rows of one site, all rows of a patient together.

    columns  float64 arrays, one per column, (n_rows,), NaN = missing; or, for arrays in one trust
             domain, ``"X"`` (n_rows, n_features) with ``"y"`` and the like beside it
    key      int64 (n_rows,): ordinal of the row's patient at the site. It does not depend on how
             rows are split, so folds and samples drawn from it do not either. None: counted on
             from `first`
    person   int64 (n_rows,): ordinal of the row's patient among all the site's patients, whatever
             the cohort; None: the same as `keys`
    outside  the site's patients that the cohort's condition leaves out
    population   the site's patients in all; 0: those of these rows
    media    images or series by name of the column that holds their positions
    cache    pure function of (plan, rows); may vanish at any time
    device   where networks compute over these rows, see `polyclinic.core.device`
    """

    columns: Mapping[str, NDArray[np.float64]]
    key: NDArray[np.int64] | None = None
    site: str = ""
    first: int = 0
    person: NDArray[np.int64] | None = None
    outside: int = 0
    population: int = 0
    media: Mapping[str, Media] = field(default_factory=dict, compare=False)
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    device: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.key is not None and np.any(self.key[1:] < self.key[:-1]):
            # Else a cut could split a patient, and one patient would count as several.
            raise ValueError("all rows of a patient stand together, in ascending order of key")

    @property
    def n_rows(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def keys(self) -> NDArray[np.int64]:
        if self.key is None:
            return np.arange(self.first, self.first + self.n_rows, dtype=np.int64)
        return self.key

    @property
    def persons(self) -> NDArray[np.int64]:
        return self.keys if self.person is None else self.person

    @property
    def n_patients(self) -> int:
        return self.n_rows if self.key is None else self.patients()

    def patients(self, rows: NDArray[np.bool_] | None = None) -> int:
        """Number of patients behind `rows` (all rows when None)."""
        if self.key is None:
            return self.n_rows if rows is None else int(np.count_nonzero(rows))
        key = self.key if rows is None else self.key[rows]
        return int(np.count_nonzero(np.diff(key))) + 1 if len(key) else 0

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        found = self.cache.get(name)
        if found is None:
            found = self.cache[name] = make()
        return found

    def slice(self, start: int, stop: int) -> Partition:
        """Rows start..stop as views of the same memory, with a cache of their own."""
        return Partition(
            {name: values[start:stop] for name, values in self.columns.items()},
            None if self.key is None else self.key[start:stop],
            self.site,
            self.first + start,
            None if self.person is None else self.person[start:stop],
            self.outside,
            self.population,
            self.media,
            device=self.device,
        )

    def split(self, parts: int) -> list[Partition]:
        """Contiguous parts of near-equal size; a patient's rows stay together."""
        cuts = [self.n_rows * i // parts for i in range(parts + 1)]
        return self._cut(cuts)

    def chunks(self, rows: int = CHUNK_ROWS) -> list[Partition]:
        """Parts of `rows` rows counted from the start: the unit of floating-point addition."""
        return self._cut([*range(0, self.n_rows, rows), self.n_rows])

    def _cut(self, cuts: list[int]) -> list[Partition]:
        edges = sorted({self.edge(cut) for cut in cuts})
        return [self.slice(a, b) for a, b in pairwise(edges)]

    def edge(self, row: int) -> int:
        """The end of the patient's rows that a cut before `row` would split, else `row`."""
        if self.key is None or row <= 0 or row >= self.n_rows or self.key[row] != self.key[row - 1]:
            return row
        later = np.flatnonzero(self.key[row:] != self.key[row])
        return row + int(later[0]) if len(later) else self.n_rows
