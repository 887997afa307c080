"""Descriptive statistics over the hospitals of `Sites`, all by sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from polyclinic.core.errors import InputError
from polyclinic.core.fit import fit
from polyclinic.data.codebook import Codebook
from polyclinic.models.descriptive import (
    Column,
    Correlation,
    CrossTable,
    Histogram,
    Moments,
    Quantiles,
    TableOne,
)
from polyclinic.models.descriptive.private import PrivateHistogram, PrivateMoments
from polyclinic.privacy.dp import DifferentialPrivacy, parse_privacy

if TYPE_CHECKING:
    from polyclinic.core.federation import Federation
    from polyclinic.data.cohort import Cohort
    from polyclinic.engines.embedded import Embedded, Sums
    from polyclinic.study.formula import FormulaData


def describe_columns(codebook: Codebook, names: Sequence[str]) -> tuple[Column, ...]:
    """What the statistics need to know of columns, from the codebook alone."""
    return tuple(describe_column(codebook, name) for name in names)


def describe_column(codebook: Codebook, name: str) -> Column:
    """What the statistics need to know of one column."""
    spec = codebook.spec(name)
    lower, upper = spec.range or (None, None)
    if spec.type == "text" or spec.type == "image" or spec.type == "series":  # mypy narrows this
        raise InputError(
            f"{name} is {spec.type}",
            code="UNKNOWN_COLUMN",
            rule="statistics are of numbers, dates and levels",
            next="leave it out",
        )
    return Column(name, spec.type, codebook.level_names(name), lower, upper, codebook.bound(name))


def table_one_algorithm(data: FormulaData, by_site: bool = True) -> TableOne:
    """Table 1 of the formula's columns, by the outcome where it has levels."""
    outcome = data.design.response
    left_out = {outcome, *data.codebook.media}
    names = [name for name in data.cohort.described if name not in left_out]
    grouped = bool(outcome) and bool(data.codebook.level_names(outcome))
    by = describe_column(data.codebook, outcome) if grouped else None
    return TableOne(describe_columns(data.codebook, names), by, by_site)


def _asked(privacy: Any) -> tuple[DifferentialPrivacy | None, Sums]:
    noise, secure = parse_privacy(privacy)
    return noise, "secure" if secure else "auto"


def _no_private(what: str) -> InputError:
    return InputError(
        f"{what} have no version under differential privacy",
        code="NO_PRIVATE_VERSION",
        rule="counts, means, variances and histograms of all rows have one",
        next="ask without groups, or without DifferentialPrivacy",
    )


class Described:
    """Descriptive statistics of `Sites`; every number passes the hospitals' gates."""

    if TYPE_CHECKING:
        codebook: Codebook
        fixed: Cohort | None

        def federation(
            self,
            engine: Embedded | None = None,
            cohort: Cohort | None = None,
            *,
            sums: Sums = "auto",
        ) -> Federation: ...
        def _columns_in_use(self) -> tuple[str, ...]: ...

    def _about(self, columns: Sequence[str] | None) -> tuple[Column, ...]:
        wanted = columns or (self.fixed.columns if self.fixed else self._columns_in_use())
        return describe_columns(self.codebook, wanted)

    def _summing(self, sums: Sums) -> Federation:
        return self.federation(sums=sums)

    def _by(self, name: str | None) -> Column | None:
        return None if name is None else describe_column(self.codebook, name)

    def describe(
        self,
        columns: Sequence[str] | None = None,
        by: str | None = None,
        privacy: Any = None,
    ) -> pd.DataFrame:
        """n, missing, mean, variance and sd per number column (and per level of `by`).

        With `privacy` a `DifferentialPrivacy`: n, mean, variance and sd with noise, and the
        standard deviation of the noise in n and mean; all of it is spent by the one call.
        """
        numbers = tuple(c for c in self._about(columns) if not c.has_levels)
        noise, sums = _asked(privacy)
        if noise is not None:
            if by is not None:
                raise _no_private("statistics by group")
            return pd.DataFrame(fit(PrivateMoments(numbers, noise), self._summing(sums)).model).T
        found = fit(Moments(numbers, self._by(by)), self._summing(sums)).model
        groups = {"all": found["all"], **found["by"]}
        lines = [
            {"group": group, "column": name, **figures}
            for group, part in groups.items()
            for name, figures in part.items()
        ]
        table = pd.DataFrame(lines)
        if by is None:
            return table.drop(columns="group").set_index("column")
        return table.set_index(["group", "column"])

    def correlation(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Pearson correlations over rows where both columns are present."""
        numbers = tuple(c for c in self._about(columns) if c.kind != "category")
        found = fit(Correlation(numbers), self.federation()).model
        return pd.DataFrame(found["correlation"], found["columns"], found["columns"])

    def covariance(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Covariances over rows where both columns are present."""
        numbers = tuple(c for c in self._about(columns) if c.kind != "category")
        found = fit(Correlation(numbers), self.federation()).model
        return pd.DataFrame(found["covariance"], found["columns"], found["columns"])

    def quantiles(
        self, columns: Sequence[str] | None = None, q: Sequence[float] = (0.25, 0.5, 0.75)
    ) -> pd.DataFrame:
        """Quantiles by histogram refinement; `lower` and `upper` bound where each surely lies.

        "low" and "high" stand for the 5th smallest and largest value: extremes are never shown.
        """
        numbers = tuple(c for c in self._about(columns) if not c.has_levels)
        found = fit(Quantiles(numbers, tuple(q)), self.federation()).model["all"]
        lines = [
            {"column": name, "q": at, **(value or {})}
            for name, part in found.items()
            for at, value in part.items()
        ]
        return pd.DataFrame(lines).set_index(["column", "q"])

    def histogram(self, column: str, bins: int = 20, privacy: Any = None) -> pd.DataFrame:
        """Rows per bin over the codebook's range; NaN where too few patients stand behind a bin.

        With `privacy` a `DifferentialPrivacy`: patients per bin with noise, and the 95 % interval
        (`n_lower`, `n_upper`) in which the true number lies.
        """
        about = describe_column(self.codebook, column)
        noise, sums = _asked(privacy)
        if noise is not None:
            noisy = fit(PrivateHistogram((about,), bins, noise), self._summing(sums)).model[column]
            edges = noisy["edges"]
            shown = {"n": noisy["counts"], "n_lower": noisy["lower"], "n_upper": noisy["upper"]}
            return pd.DataFrame({"lower": edges[:-1], "upper": edges[1:], **shown})
        found = fit(Histogram((about,), bins), self._summing(sums)).model[column]
        counts = np.where(np.asarray(found["hidden"]) > 0, np.nan, found["counts"])
        edges = found["edges"]
        return pd.DataFrame({"lower": edges[:-1], "upper": edges[1:], "n": counts})

    def crosstab(self, a: str, b: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Counts of two columns with levels, and Pearson's chi-square test.

        A hidden cell is NaN, and then no test is computed.
        """
        first, second = (describe_column(self.codebook, name) for name in (a, b))
        found = fit(CrossTable(first, second), self.federation()).model["overall"]
        counts = np.where(np.asarray(found["hidden"]) > 0, np.nan, found["counts"])
        rows, columns = (pd.Index(c.levels, name=c.name) for c in (first, second))
        return pd.DataFrame(counts, rows, columns), found["test"]

    def table_one(
        self,
        by: str | None = None,
        columns: Sequence[str] | None = None,
        show_sites: bool = True,
    ) -> pd.DataFrame:
        """Table 1: a column per hospital and one for all; small cells are not shown.

        With `by`, a column per level of `by` instead of per hospital. Without `show_sites` no
        hospital is asked for anything of its own.
        """
        from polyclinic.report.table_one import table_rows

        about = tuple(c for c in self._about(columns) if c.name != by)
        asked = TableOne(about, self._by(by), show_sites and by is None)
        table = fit(asked, self.federation()).model
        if by is not None:
            overall = table["overall"]
            table = {
                **table,
                "sites": {level: {"all": group} for level, group in overall["by"].items()},
            }
        labels = {c.name: self.codebook.label(c.name) for c in about}
        levels = {c.name: self.codebook.spec(c.name).levels or {} for c in about}
        heads, rows = table_rows(table, labels, levels)
        names = [("  " if row["level"] else "") + row["name"] for row in rows]
        return pd.DataFrame([row["cells"] for row in rows], index=names, columns=heads)
