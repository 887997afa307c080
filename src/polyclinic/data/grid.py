"""What the codebook says of a series: where it is written, its variables and its time grid."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from polyclinic.core.errors import InputError
from polyclinic.data.pairs import from_pairs
from polyclinic.data.units import conversion

Fit = Literal["resize", "nearest", "crop"]
Join = Literal["mean", "last", "first", "min", "max", "sum"]
Ends = Annotated[tuple[float, float], Field()]
_STEP = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*$")
_TIMES = ("hh:mm", "timestamp")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Variable(_Part):
    """One variable of a series.

    join     how several values of one step become one
    aliases  other names that long tables have for it
    mean, sd what networks read is (value - mean) / sd; without them the middle of `usual` (or of
             `range`) becomes 0 and its ends -1 and 1; without any the value itself
    """

    unit: str | None = None
    range: Ends | None = None
    usual: Ends | None = None
    join: Join = "mean"
    aliases: list[str] = []
    molar_mass: Annotated[float | None, Field(gt=0)] = None
    mean: float | None = None
    sd: Annotated[float | None, Field(gt=0)] = None
    label: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Variable:
        for name in ("range", "usual"):
            pair = getattr(self, name)
            if pair is not None and not pair[0] < pair[1]:
                raise ValueError(f"{name} is [lower, upper]")
        if (self.mean is None) != (self.sd is None):
            raise ValueError("mean and sd stand together")
        return self

    @property
    def scale(self) -> tuple[float, float]:
        """What is taken off a value, and by what it is divided."""
        if self.mean is not None and self.sd is not None:
            return self.mean, self.sd
        ends = self.usual or self.range
        return (0.0, 1.0) if ends is None else ((ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2)


class Grid(_Part):
    """[columns.X.series]: a long table with a row per measurement, and the agreed time grid.

    step, length  "1 h" and 48: step i holds times from i to i + 1 hours
    file          the long table, beside the site's table; "": the column's name with .csv
    key           column of the site's table that names the patient in the long one; "": the
                  codebook's patient id
    patient, time, variable, value   columns of the long table; `unit`: one that holds each value's
                  unit, "": none
    clock         what a time is: a unit ("h", "min", "d") of numbers since the start, "hh:mm"
                  since the start, or "timestamp"
    start         column of the site's table with the timestamp that is time 0
    outside       values outside a variable's range: "error", or "drop"
    unknown       other variables: "drop" them, or "error"
    """

    step: str
    length: Annotated[int, Field(gt=0, le=100_000)]
    variables: Annotated[dict[str, Variable], BeforeValidator(from_pairs), Field(min_length=1)]
    file: str = ""
    key: str = ""
    patient: str = "patient"
    time: str = "time"
    variable: str = "variable"
    value: str = "value"
    unit: str = ""
    clock: str = "h"
    start: str = ""
    outside: Literal["error", "drop"] = "error"
    unknown: Literal["error", "drop"] = "drop"

    @field_validator("step")
    @classmethod
    def _is_step(cls, text: str) -> str:
        if _hours(text) <= 0:
            raise ValueError("a step is longer than nothing")
        return text

    @model_validator(mode="after")
    def _consistent(self) -> Grid:
        if self.clock not in _TIMES:
            _hours(f"1 {self.clock}")
        if (self.clock == "timestamp") != bool(self.start):
            raise ValueError('clock = "timestamp" has a start, and no other has one')
        names: dict[str, str] = {}
        for name, variable in self.variables.items():
            for own in (name, *variable.aliases):
                if names.setdefault(own, name) != name:
                    raise ValueError(f"{own} is the name of two variables")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        return self.length, len(self.variables)

    @property
    def hours(self) -> float:
        """Length of a step."""
        return _hours(self.step)

    @property
    def clock_hours(self) -> float:
        """Hours of one unit of the clock."""
        return 1.0 if self.clock in _TIMES else _hours(f"1 {self.clock}")

    def names(self) -> dict[str, str]:
        """The variable of every name that a long table may have for it."""
        return {
            own: name
            for name, variable in self.variables.items()
            for own in (name, *variable.aliases)
        }


def _hours(text: str) -> float:
    """Hours of "15 min", "1 h", "1 d". Raises ValueError."""
    found = _STEP.match(text)
    if found is None:
        raise ValueError(f'{text!r} is no length of time; "1 h" is one')
    try:
        return float(found[1]) * conversion(found[2], "h")[0]
    except InputError as error:
        raise ValueError(f"{error.what}; units: a, mo, wk, d, h, min, s") from None
