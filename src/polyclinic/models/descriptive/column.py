"""What a statistic must know of a column before it looks at one: the codebook's part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["number", "integer", "date", "binary", "category"]


@dataclass(frozen=True)
class Column:
    """One named column of the partitions.

    levels        names of the levels of a binary or category column, in codebook order; the values
                  are positions in this list
    lower, upper  the agreed range, in the column's unit; absent: -bound to bound
    bound         largest magnitude that the codebook allows
    """

    name: str
    kind: Kind
    levels: tuple[str, ...] = ()
    lower: float | None = None
    upper: float | None = None
    bound: float = 2.0**20

    def __post_init__(self) -> None:
        if self.has_levels and not self.levels:
            raise ValueError(f"column {self.name} is {self.kind} and has no levels")

    @property
    def has_levels(self) -> bool:
        return self.kind in ("binary", "category")

    @property
    def is_whole(self) -> bool:
        """True where every value is a whole number."""
        return self.kind in ("integer", "date")

    @property
    def range(self) -> tuple[float, float]:
        lower = -self.bound if self.lower is None else self.lower
        upper = self.bound if self.upper is None else self.upper
        return float(lower), float(upper)

    def coded(self) -> dict[str, Any]:
        """Name and number of levels, as they stand in a plan."""
        return {"name": self.name, "levels": len(self.levels)}


def names(columns: Sequence[Column]) -> list[str]:
    """Their names, in order."""
    return [column.name for column in columns]
