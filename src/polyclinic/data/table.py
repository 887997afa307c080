"""One hospital's rows as the codebook defines them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.media import Media
from polyclinic.data.codebook import Codebook


@dataclass(frozen=True)
class Table:
    """Columns in the codebook's units; stays at its site.

    columns  float64, (n_rows,), NaN = missing. Numbers in the agreed unit; binary 0/1; a category
             the position of its level; dates as days since 1970-01-01; of images and series their
             position in `media`. No text, no id.
    patient  int64, (n_rows,): number of the row's patient in order of first appearance
    """

    site: str
    columns: Mapping[str, NDArray[np.float64]]
    patient: NDArray[np.int64]
    codebook: Codebook
    media: Mapping[str, Media] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return len(self.patient)

    @property
    def n_patients(self) -> int:
        return int(self.patient.max()) + 1 if len(self.patient) else 0

    @cached_property
    def fingerprint(self) -> str:
        """Name of the content: changed data are other data."""
        hash = hashlib.sha256()
        for name in sorted(self.columns):
            hash.update(name.encode() + b"\0")
            hash.update(np.ascontiguousarray(self.columns[name]).data)
        hash.update(np.ascontiguousarray(self.patient).data)
        for name in sorted(self.media):
            hash.update(f"{name}:{self.media[name].fingerprint}".encode() + b"\0")
        return hash.hexdigest()[:16]
