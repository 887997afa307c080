"""Descriptive statistics over the hospitals of `Sites`, all by sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polyclinic.data.codebook import Codebook
from polyclinic.models.descriptive import Column, TableOne

if TYPE_CHECKING:
    from polyclinic.study.formula import FormulaData
    from polyclinic.study.sites import Sites


def describe_columns(codebook: Codebook, names: Sequence[str]) -> tuple[Column, ...]:
    """What the statistics need to know of columns, from the codebook alone."""
    return tuple(describe_column(codebook, name) for name in names)


def describe_column(codebook: Codebook, name: str) -> Column:
    spec = codebook.spec(name)
    lower, upper = spec.range or (None, None)
    return Column(name, spec.type, codebook.level_names(name), lower, upper, codebook.bound(name))


def table_one_algorithm(sites: Sites, data: FormulaData) -> TableOne:
    """Table 1 of the formula's columns, by the outcome where it has levels."""
    outcome = data.design.response
    names = [name for name in data.cohort.columns if name != outcome]
    by = describe_column(data.codebook, outcome) if data.codebook.level_names(outcome) else None
    return TableOne(describe_columns(data.codebook, names), by)
