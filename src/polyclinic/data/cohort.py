"""Which rows a study is about: fixed once, as data that travels in every plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.partition import Partition
from polyclinic.data.expression import parse
from polyclinic.data.read import presence
from polyclinic.data.table import Table

RULES = ("drop", "mean", "error", "keep")


def rules_of(missing: str | Mapping[str, str], complete: Iterable[str]) -> dict[str, str]:
    """The rules of a study by column; `complete` columns take no gaps, whatever the default is."""
    rules = {"default": missing} if isinstance(missing, str) else dict(missing)
    if rules.get("default") in ("mean", "keep"):
        rules = {**dict.fromkeys(complete, "drop"), **rules}
    return rules


@dataclass(frozen=True)
class Cohort:
    """Rows that fulfil `where` and are complete in those `columns` whose rule is "drop".

    missing  rule per column, with "default": drop the row, fill with the pooled mean, error, or
             keep the row with its gap (only some models take gaps)
    """

    where: str | None = None
    columns: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=lambda: {"default": "drop"})

    def __post_init__(self) -> None:
        if self.where is not None:
            parse(self.where)
        for column, rule in self.missing.items():
            if rule not in RULES:
                raise InputError(
                    f'missing: "{rule}" for {column}',
                    code="WRONG_VALUE",
                    rule=f"rules: {', '.join(RULES)}",
                    next="correct the rule",
                )

    def rule(self, column: str) -> str:
        return self.missing.get(column, self.missing.get("default", "drop"))

    def with_rule(self, rule: str) -> tuple[str, ...]:
        """The cohort's columns that have `rule`."""
        return tuple(column for column in self.columns if self.rule(column) == rule)

    @property
    def described(self) -> tuple[str, ...]:
        """The columns of Table 1. Where gaps are kept, each column has other patients: a few that
        are missing would show theirs, and the gate would refuse."""
        return tuple(column for column in self.columns if self.rule(column) != "keep")

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that decide which rows are selected."""
        used = parse(self.where).columns if self.where is not None else ()
        ruled = (*self.with_rule("drop"), *self.with_rule("error"))
        return tuple(dict.fromkeys((*ruled, *used)))

    def inside(self, table: Table) -> NDArray[np.bool_]:
        """Which rows fulfil the condition."""
        return self._masks(table)[0]

    def to_data(self) -> dict[str, Any]:
        return {"where": self.where, "columns": list(self.columns), "missing": dict(self.missing)}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Cohort:
        return Cohort(data["where"], tuple(data["columns"]), dict(data["missing"]))

    def rows(self, table: Table) -> NDArray[np.int64]:
        """Positions of the selected rows.

        Raises
        ------
        InputError : UNKNOWN_COLUMN; MISSING_VALUES where a column's rule is "error".
        """
        inside, complete = self._masks(table)
        for column in self.with_rule("error"):
            gaps = int(np.count_nonzero(np.isnan(table.columns[column]) & inside))
            if gaps:
                rows = "1 row has" if gaps == 1 else f"{gaps} rows have"
                raise InputError(
                    f"{table.site}, column {column}: {rows} no value",
                    code="MISSING_VALUES",
                    site=table.site,
                    rule=f'missing = "error" for {column}',
                    next='use "drop" or "mean", or complete the data',
                )
        return np.flatnonzero(inside & complete)

    def left_out(self, table: Table) -> dict[str, int]:
        """Patients without a selected row, by reason: "condition" or "missing"."""
        inside, complete = self._masks(table)
        kept = np.unique(table.patient[inside & complete])
        meant = np.unique(table.patient[inside])
        return {"condition": table.n_patients - len(meant), "missing": len(meant) - len(kept)}

    def _masks(self, table: Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        for column in self.columns:
            table.codebook.spec(column)
        inside = np.ones(table.n_rows, dtype=bool)
        if self.where is not None:
            value = parse(self.where).evaluate(
                presence(table.columns, table.codebook), table.codebook.codes
            )
            inside = value == 1.0
        complete = np.ones(table.n_rows, dtype=bool)
        for column in self.with_rule("drop"):
            complete &= ~np.isnan(table.columns[column])
        return inside, complete


def rows_of(table: Table, cohort: Cohort | None) -> Partition:
    """The rows of a site that `cohort` selects, a patient's rows side by side."""
    chosen = np.arange(table.n_rows) if cohort is None else cohort.rows(table)
    patient = table.patient[chosen]
    if np.any(np.diff(patient) < 0):
        order = np.argsort(patient, kind="stable")
        chosen, patient = chosen[order], patient[order]
    key = np.cumsum(np.diff(patient, prepend=-1) != 0, dtype=np.int64) - 1
    single = len(key) == 0 or key[-1] == len(key) - 1
    whole = len(chosen) == table.n_rows and bool(np.all(np.diff(chosen) == 1))
    columns = {name: values if whole else values[chosen] for name, values in table.columns.items()}
    return Partition(
        columns,
        None if single else key,
        table.site,
        person=patient,
        outside=0 if cohort is None else cohort.left_out(table)["condition"],
        population=table.n_patients,
        media=table.media,
    )
