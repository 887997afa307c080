"""From sites and a formula to a design and the federation that answers for its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import EmptySite, InputError
from polyclinic.core.federation import Federation
from polyclinic.core.fit import Round, Store, fit
from polyclinic.core.groups import SMALLEST
from polyclinic.core.partition import Partition
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import Cohort
from polyclinic.data.formula import compile_formula, complete_columns, formula_columns
from polyclinic.data.read import table_from_frame
from polyclinic.engines.embedded import About, Embedded, Sums
from polyclinic.models.glm.means import ColumnMeans
from polyclinic.study.sites import Sites


@dataclass(frozen=True)
class FormulaData:
    """A formula over sites, ready to fit.

    fills    pooled means that stand in for missing values, by column
    present  how many values each of these means is of
    rounds   the rounds that found them
    sites    the hospitals, None in a saved model
    """

    formula: str
    design: Design
    codebook: Codebook
    cohort: Cohort
    federation: Federation
    fills: Mapping[str, float]
    present: Mapping[str, int]
    rounds: tuple[Round, ...] = ()
    sites: Sites | None = None

    @property
    def least(self) -> int:
        """The most patients that a hospital's policy asks to stand behind a number."""
        if self.sites is None:
            return SMALLEST
        return max(policy.min_patients for policy in self.sites.policies.values())

    def partition(self, frame: Any, gaps: bool = False) -> Partition:
        """New rows as the design needs them; frames are read by the codebook. With `gaps` missing
        values stay."""
        if isinstance(frame, Partition):
            return frame
        unknown = {self.design.response, self.design.event, *self.design.strata}
        needed = [c for c in self.design.columns if c not in unknown]
        table = table_from_frame(frame, self.codebook, "new rows", columns=needed)
        kept = needed if gaps else self.design.fills
        missing = [c for c in needed if c not in kept and np.isnan(table.columns[c]).any()]
        if missing:
            raise InputError(
                f"new rows: {', '.join(missing)} is missing in some",
                code="MISSING_VALUES",
                rule="a prediction needs every column of the formula",
                next='fill them, or fit with missing = "mean"',
            )
        return Partition(table.columns, site="new rows", media=table.media)

    def without_rows(self) -> FormulaData:
        return replace(self, federation=gone(self.federation.sites), sites=None)


class _Gone:
    """Transport of a saved model: its sites are not here."""

    def ask(self, messages: Mapping[str, bytes]) -> Mapping[str, codec.Bytes]:
        raise InputError(
            "the sites that this model was fitted on are not here",
            code="NO_TRAINING_ROWS",
            rule="a saved model holds no rows",
            next="connect to the sites and fit again",
        )

    apart = ask

    def session(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def outcome_classes(formula: str, codebook: Codebook) -> int:
    """Classes of a formula's outcome; 0: a number, or no outcome."""
    outcome = compile_formula(formula, codebook).response
    return len(codebook.level_names(outcome)) if outcome else 0


def on_other_sites(
    data: FormulaData,
    sites: Sites,
    engine: Embedded,
    sums: Sums = "auto",
    about: About = About(),
) -> FormulaData:
    """The same design over other hospitals; the constants that fill gaps stay the model's."""
    sites.refuse_not_comparable(data.cohort.columns)
    federation = sites.federation(engine, sites.fixed or data.cohort, sums=sums, about=about)
    return replace(data, federation=federation, cohort=sites.fixed or data.cohort, sites=sites)


def gone(sites: Sequence[str]) -> Federation:
    """The federation of a saved model: it knows the sites' names and reaches none."""
    return Federation(_Gone(), sites, None)


def from_formula(
    sites: Sites,
    formula: str,
    engine: Embedded,
    *,
    site_effects: bool = False,
    intercept: bool = True,
    store: Store | None = None,
    sums: Sums = "auto",
    about: About = About(),
    exact: bool = True,
    gaps: bool = False,
) -> FormulaData:
    """Compile `formula` against the sites' codebook and fix the rows that it is about.

    Without a cohort of its own, `sites` gives its rows that are complete in the formula's columns.
    With `exact` off no exact sum is asked for; only with `gaps` a cohort may keep missing values.

    Raises
    ------
    InputError : unknown column, level or function, or a column that the cohort does not complete;
        NO_PRIVATE_VERSION for missing values to be filled by exact means.
    EmptySite : a site would be left without a patient.
    """
    columns = formula_columns(formula, sites.codebook)
    cohort = sites.fixed or Cohort(where=None, columns=columns, missing={"default": "drop"})
    sites.refuse_not_comparable(columns)
    outside = [c for c in columns if c not in cohort.columns]
    if outside:
        raise InputError(
            f"{', '.join(outside)} is in the formula and not among the cohort's columns",
            code="COLUMN_NOT_IN_COHORT",
            rule="a cohort is fixed once and is complete in its columns",
            next=f"add it: sites.cohort(..., columns=[..., {outside[0]!r}])",
        )
    gaps_in = [
        c for c in complete_columns(formula, sites.codebook) if cohort.rule(c) in ("mean", "keep")
    ]
    if gaps_in:
        raise InputError(
            f"{', '.join(gaps_in)}: missing values are not left out",
            code="WRONG_VALUE",
            rule="an outcome, event, weight, offset or stratum is never filled or kept with gaps",
            next=f'missing = {{"default": "{cohort.rule(gaps_in[0])}", "{gaps_in[0]}": "drop"}}',
        )
    federation = sites.federation(engine, cohort, sums=sums, about=about)
    filled = tuple(c for c in cohort.with_rule("mean") if c in columns)
    if filled and not exact:
        raise InputError(
            f"{', '.join(filled)}: a mean in place of missing values is an exact sum",
            code="NO_PRIVATE_VERSION",
            rule="a fit under differential privacy asks for noisy sums only",
            next='missing = "drop", or fit without DifferentialPrivacy',
        )
    kept = tuple(c for c in cohort.with_rule("keep") if c in columns)
    if kept and not gaps:
        raise InputError(
            f"{', '.join(kept)}: missing values are kept",
            code="WRONG_VALUE",
            rule='missing = "keep" is for models that take gaps: trees, forests, boosting',
            next='missing = "drop" or "mean"',
        )
    means, rounds = pooled_means(federation, filled, sites.codebook, store)
    fills = {column: mean for column, (mean, _) in means.items()}
    design = compile_formula(formula, sites.codebook, fills=fills, indicators=tuple(fills))
    if not intercept:
        design = replace(design, intercept=False)
    if site_effects:
        design = with_site_effects(design, federation.sites)
    present = {column: count for column, (_, count) in means.items()}
    return FormulaData(
        formula, design, sites.codebook, cohort, federation, fills, present, rounds, sites
    )


def pooled_means(
    federation: Federation,
    columns: tuple[str, ...],
    codebook: Codebook,
    store: Store | None = None,
) -> tuple[dict[str, tuple[float, int]], tuple[Round, ...]]:
    """Mean and number of the present values over all sites, from one round of sums."""
    if not columns:
        return {}, ()
    bounds = {column: codebook.bound(column) for column in columns}
    run = fit(ColumnMeans(columns, bounds), federation, store=store)
    empty = [column for column, (mean, _) in run.model.items() if mean is None]
    if empty:
        raise EmptySite(
            f"{', '.join(empty)} has no value at any site",
            code="ALL_MISSING",
            rule="a mean needs at least one value",
            next="leave the column out of the formula",
        )
    return run.model, run.rounds


def with_site_effects(design: Design, sites: tuple[str, ...]) -> Design:
    """A 0/1 term per site but the first."""
    effects = tuple(Term(f"site[T.{site}]", (Factor("site", site),), 1.0) for site in sites[1:])
    return replace(design, terms=design.terms + effects)
