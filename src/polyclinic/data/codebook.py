"""The codebook: what every column means, agreed by all hospitals; the only source of levels."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from polyclinic.core import codec
from polyclinic.core.errors import InputError
from polyclinic.data.expression import Expression, parse
from polyclinic.data.grid import Fit, Grid
from polyclinic.data.pairs import from_pairs
from polyclinic.data.toml import load_toml, validate
from polyclinic.data.units import conversion

UNBOUNDED = 2.0**20
Kind = Literal["number", "integer", "binary", "category", "date", "text", "image", "series"]
MEDIA = ("image", "series")
Range = Annotated[tuple[float, float], Field()]


Levels = Annotated[dict[str, str], BeforeValidator(from_pairs)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileFormat(_Part):
    """[file]: how a file is written."""

    header: bool = True
    missing: list[str] = [""]
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."


class SiteFormat(_Part):
    """[site.X.file]: what one site writes differently."""

    header: bool | None = None
    missing: list[str] | None = None
    delimiter: Annotated[str | None, Field(min_length=1, max_length=1)] = None
    decimal: Literal[".", ","] | None = None


class Patient(_Part):
    """[patient]: which rows belong to one patient; "row": each row is one."""

    id: str = "row"
    duplicates: Literal["warn", "error", "first"] = "warn"


class Column(_Part):
    """One column. Outside `range` is an error; outside `usual` a finding, the value is kept.

    shape     of an image or series, which only some models read; see `polyclinic.core.media`
    fit       how an image comes to its shape; None: it has it
    mean, sd  by channel: networks read (value - mean) / sd, of an image whose values `range` has
              brought to 0 to 1; those outside are cut to its ends
    series    where a series is written, its grid and its variables
    """

    type: Kind
    unit: str | None = None
    range: Range | None = None
    usual: Range | None = None
    levels: Levels | None = None
    missing: list[str | int | float] = []
    label: str = ""
    molar_mass: Annotated[float | None, Field(gt=0)] = None
    shape: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    fit: Fit | None = None
    mean: list[float] | None = None
    sd: list[Annotated[float, Field(gt=0)]] | None = None
    series: Grid | None = None

    @model_validator(mode="before")
    @classmethod
    def _shape_of_grid(cls, given: Any) -> Any:
        """A series has the shape of its grid."""
        if isinstance(given, dict) and isinstance(given.get("series"), (dict, Grid)):
            series = given["series"]
            grid = series if isinstance(series, Grid) else Grid.model_validate(series)
            return {"shape": list(grid.shape), **given, "series": grid}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Column:
        self._media_fit()
        if (self.type in ("binary", "category")) != (self.levels is not None):
            raise ValueError("binary and category columns have levels, and no others")
        if self.type == "binary" and len(self.levels or {}) != 2:
            raise ValueError("a binary column has two levels")
        for name in ("range", "usual"):
            pair = getattr(self, name)
            if pair is not None and not pair[0] < pair[1]:
                raise ValueError(f"{name} is [lower, upper]")
        return self

    def _media_fit(self) -> None:
        if (self.type in MEDIA) != (self.shape is not None):
            raise ValueError("images and series have a shape, and no others")
        if self.type == "image" and len(self.shape or ()) not in (3, 4):
            raise ValueError("an image is [channels, height, width], or with depth before height")
        if self.type == "series" and len(self.shape or ()) != 2:
            raise ValueError("a series is [steps, variables]")
        if self.series is not None and self.shape != self.series.shape:
            raise ValueError("the shape of a series is its length and its number of variables")
        if self.type != "image" and (self.mean or self.sd or self.fit):
            raise ValueError("only images have fit, mean and sd")
        channels = (self.shape or (1,))[0]
        for name in ("mean", "sd"):
            if getattr(self, name) is not None and len(getattr(self, name)) not in (1, channels):
                raise ValueError(f"{name} is one number, or one for each channel")
        if (self.series is not None) and self.type != "series":
            raise ValueError("only a series has a section of its own")


class Derived(_Part):
    """A column made from others by an expression."""

    type: Literal["number", "integer", "binary", "category"] = "binary"
    from_: Annotated[str, Field(alias="from")]
    levels: Levels | None = None
    unit: str | None = None
    range: Range | None = None
    usual: Range | None = None
    label: str = ""

    @field_validator("from_")
    @classmethod
    def _parses(cls, text: str) -> str:
        parse(text)
        return text

    @property
    def expression(self) -> Expression:
        return parse(self.from_)


class Target(_Part):
    """[target]: the column that studies usually explain."""

    column: str


class Mapped(_Part):
    """How one site writes a column: its name there, its unit, its codes (own code -> ours).

    file   of a series, beside the site's table
    variables, variable_units   of a series: the codebook's variable of an own name, and the own
           unit of a variable
    """

    column: str | None = None
    unit: str | None = None
    levels: dict[str, str | int | float] | None = None
    file: str | None = None
    variables: dict[str, str] | None = None
    variable_units: dict[str, str] | None = None


class SiteSection(_Part):
    """[site.X]: what is different at one site."""

    not_comparable: dict[str, str] = {}
    not_recorded: list[str] = []
    map: dict[str, Mapped] = {}
    file: SiteFormat = SiteFormat()


class Codebook(_Part):
    """The whole codebook. `load` reads it from TOML."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    format: Literal[1] = 1
    name: str
    title: str = ""
    source: str = ""
    file: FileFormat = FileFormat()
    patient: Patient = Patient()
    columns: Annotated[dict[str, Column], BeforeValidator(from_pairs)]
    derived: Annotated[dict[str, Derived], BeforeValidator(from_pairs)] = {}
    target: Target | None = None
    site: dict[str, SiteSection] = {}

    @model_validator(mode="after")
    def _names_exist(self) -> Codebook:
        known = {*self.columns, *self.derived}
        if twice := set(self.columns) & set(self.derived):
            raise ValueError(f"{sorted(twice)[0]} is both a column and derived")
        for name, derived in self.derived.items():
            for used in derived.expression.columns:
                if used not in self.columns:
                    raise ValueError(f"{name} is derived from {used}, which is no column")
        if self.target and self.target.column not in known:
            raise ValueError(f"the target {self.target.column} is no column")
        for site, section in self.site.items():
            named = {*section.not_comparable, *section.not_recorded, *section.map}
            for name in sorted(named - known):
                raise ValueError(f"[site.{site}] names {name}, which is no column")
            for name, mapped in section.map.items():
                self._map_fits(site, name, mapped)
        return self

    def _map_fits(self, site: str, name: str, mapped: Mapped) -> None:
        """A map of units or codes leads to the column's own unit or codes."""
        column, where = self.columns.get(name), f"[site.{site}.map] {name}"
        if column is None:
            raise ValueError(f"{where}: a derived column is not in a file")
        if mapped.levels is not None and column.levels is None:
            raise ValueError(f"{where}: {name} has no levels in [columns]")
        for level in (mapped.levels or {}).values():
            if str(level) != "missing" and str(level) not in (column.levels or {}):
                raise ValueError(
                    f"{where}: {level} is no level of {name}; levels: "
                    f'{", ".join(column.levels or ())} or "missing"'
                )
        pairs = [(mapped.unit, column.unit, column.molar_mass)] if mapped.unit is not None else []
        if mapped.variables or mapped.variable_units or mapped.file:
            pairs += _variables_fit(where, column, mapped)
        for own, ours, molar_mass in pairs:
            try:
                conversion(own, ours or "no unit", molar_mass)
            except InputError as error:
                raise ValueError(f"{where}: {error.what} ({error.rule})") from None

    @staticmethod
    def load(path: str | Path) -> Codebook:
        """Read a TOML codebook. Raises InputError; nothing is read from a hospital."""
        return load_toml(path, Codebook)

    @staticmethod
    def from_dict(content: Mapping[str, Any], where: str = "codebook") -> Codebook:
        return validate(content, Codebook, where)

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `from_dict` makes the same codebook, even with its keys sorted.

        Columns and levels are lists of pairs: their order has a meaning (the first level is the
        reference, and columns without a header are read in their order).
        """
        content = self.model_dump(by_alias=True, exclude_none=True)
        for part in ("columns", "derived"):
            for spec in content[part].values():
                if "levels" in spec:
                    spec["levels"] = [list(pair) for pair in spec["levels"].items()]
                if "series" in spec:
                    variables = spec["series"]["variables"]
                    spec["series"]["variables"] = [list(pair) for pair in variables.items()]
            content[part] = [list(pair) for pair in content[part].items()]
        return content

    @cached_property
    def content_hash(self) -> str:
        return codec.digest(self.to_dict())

    @property
    def usable(self) -> tuple[str, ...]:
        """Columns that a table holds: no text, no patient id."""
        stored = [
            name for name, c in self.columns.items() if c.type != "text" and name != self.patient.id
        ]
        return (*stored, *self.derived)

    def spec(self, name: str) -> Column | Derived:
        """The entry of a column. Raises UNKNOWN_COLUMN with the nearest name."""
        found = self.columns.get(name) or self.derived.get(name)
        if found is None or name not in self.usable:
            close = difflib.get_close_matches(name, self.usable, 1)
            if found is not None:
                raise InputError(
                    f"{name} is text or the patient id, and never leaves the file",
                    code="UNKNOWN_COLUMN",
                    rule="a formula uses coded columns",
                    next="use another column",
                )
            raise InputError(
                f"{name} is no column of the codebook {self.name}",
                code="UNKNOWN_COLUMN",
                rule=f"columns: {', '.join(self.usable)}",
                next=f'did you mean "{close[0]}"?' if close else "correct the name",
            )
        return found

    @property
    def media(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the columns of images and series."""
        return {name: one.shape for name, one in self.columns.items() if one.shape is not None}

    def level_names(self, name: str) -> tuple[str, ...]:
        """The level codes of a column as terms show them, in order; empty without levels."""
        return tuple(self.spec(name).levels or ())

    @property
    def codes(self) -> dict[str, tuple[str, ...]]:
        """Level codes of every column that has them."""
        return {name: self.level_names(name) for name in self.usable if self.spec(name).levels}

    def label(self, name: str) -> str:
        return self.spec(name).label or name

    def bound(self, name: str) -> float:
        """Largest magnitude that the codebook allows; 2**20 where it gives no range."""
        spec = self.spec(name)
        if spec.levels:
            return float(max(len(spec.levels) - 1, 1))
        if spec.range is None:
            return UNBOUNDED
        return max(abs(spec.range[0]), abs(spec.range[1])) or 1.0

    def file_of(self, site: str) -> FileFormat:
        """How the file of `site` is written."""
        section = self.site.get(site)
        own = section.file.model_dump(exclude_none=True) if section else {}
        return self.file.model_copy(update=own)

    def section(self, site: str) -> SiteSection:
        return self.site.get(site, SiteSection())

    def declared_ranges(self, columns: Iterable[str]) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of numbers: usual ranges where there are, else all."""
        found: dict[str, tuple[float, float]] = {}
        for column in columns:
            spec = self.spec(column)
            ends = spec.usual or spec.range
            if spec.type == "binary":
                found[column] = (0.0, 1.0)
            elif ends is not None:
                found[column] = (float(ends[0]), float(ends[1]))
        return found


def _variables_fit(
    where: str, column: Column, mapped: Mapped
) -> list[tuple[str, str | None, float | None]]:
    """Units of variables, own and agreed, with molar masses. Raises ValueError."""
    if column.series is None:
        raise ValueError(f"{where}: only a series has a file, variables and units")
    known = column.series.variables
    units = mapped.variable_units or {}
    for ours in (*(mapped.variables or {}).values(), *units):
        if ours not in known:
            raise ValueError(f"{where}: {ours} is no variable; variables: {', '.join(known)}")
    return [(own, known[n].unit, known[n].molar_mass) for n, own in units.items()]


def refuse_not_comparable(codebook: Codebook, sites: Sequence[str], columns: Sequence[str]) -> None:
    """Raise NOT_COMPARABLE when a column does not mean the same at one of the sites."""
    for site in sites:
        for column in columns:
            reason = codebook.section(site).not_comparable.get(column)
            if reason:
                raise InputError(
                    f"{site}, column {column}: {reason}",
                    code="NOT_COMPARABLE",
                    site=site,
                    rule="a column of a formula means the same at every hospital",
                    next="use a derived column that does, or leave the hospital out",
                )
