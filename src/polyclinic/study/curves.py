"""Survival curves and log-rank tests over sites by a formula, or over arrays in one domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_consistent_length

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import InputError
from polyclinic.core.fit import Callback, Store, fit
from polyclinic.core.partition import Partition
from polyclinic.engines.embedded import Embedded
from polyclinic.models.learner import Asked, Column
from polyclinic.models.survival import CurveSpec
from polyclinic.models.survival.curves import Curved, Ranked
from polyclinic.report.words import p_value
from polyclinic.study.sites import Sites
from polyclinic.study.survival import SurvivalLearner, outcome_of_arrays
from polyclinic.study.ways import ways

Floats = NDArray[np.float64]


class _Curves(SurvivalLearner):
    """What the estimators of curves and tests share."""

    spec_: CurveSpec
    grid: Any
    least: int | None
    cause: int

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        event: Any = None,
        by: Any = None,
        sites: Any = None,
        engine: Embedded | None = None,
        callbacks: Sequence[Callback] = (),
        store: Store | None = None,
        privacy: Any = None,
        purpose: str = "",
    ) -> Self:
        """Over sites by a formula, or over arrays in one trust domain, there exactly.

        Parameters
        ----------
        X : `Sites`, or durations of arrays, (n_rows,).
        y : with `Sites` the formula, ``"Surv(days, died) ~ arm"``, or ``"~ 1"`` for all patients.
        event : (n_rows,) of arrays: how each ended, 0 for censored; None: all with the event.
        by : (n_rows,) group of every row of arrays.
        sites : (n_rows,) site of every row: strata of a log-rank test.
        sample_weight : None; curves count patients.
        engine, callbacks, store, privacy, purpose : as for every learner.
        """
        engine = engine or Embedded()
        if sample_weight is not None:
            raise InputError(
                "a curve has no weights",
                code="WRONG_VALUE",
                rule="curves and log-rank tests count patients",
                next="leave sample_weight out",
            )
        if isinstance(X, Sites):
            more = {"callbacks": callbacks, "store": store, "purpose": purpose}
            return super().fit(X, y, engine=engine, privacy=privacy, **more)  # type: ignore[arg-type]
        ways(X, y, privacy)
        duration, happened = outcome_of_arrays(X, event if event is not None else y, self.cause)
        spec, columns = self._of_arrays(duration, happened, by, sites)
        run = fit(
            spec.algorithm(), engine.domain(Partition(columns)), callbacks=callbacks, store=store
        )
        self._arrays, self._data, self.classes_or_none_ = None, None, None
        return self._finish(run, spec, engine)

    def _of_arrays(
        self, duration: Floats, happened: Floats, by: Any, sites: Any
    ) -> tuple[CurveSpec, dict[str, Floats]]:
        columns = {"y": duration, "event": happened}
        known = [Column("event", "category", tuple(map(str, range(int(happened.max()) + 1))))]
        terms: tuple[Term, ...] = ()
        for name, labels in (("by", by), ("site", sites)):
            if labels is not None:
                check_consistent_length(duration, labels)
                levels, codes = np.unique(labels, return_inverse=True)
                columns[name] = codes.astype(np.float64)
                known.append(Column(name, "category", tuple(map(str, levels))))
        if by is not None:
            factors = [Factor("level", "by", (float(k),)) for k in range(1, len(known[1].levels))]
            terms = tuple(Term(f"by[T.{f.args[0]:g}]", (f,), 1.0) for f in factors)
        bound = float(duration.max(initial=0.0)) or 1.0
        strata = ("site",) if sites is not None else ()
        design = Design(terms, "y", False, response_bound=bound, event="event", strata=strata)
        options: dict[str, Any] = {**self._options(), "least": 1}
        spec: CurveSpec = self.kind_.spec(Asked(design, options, 0, tuple(known)))
        if self.grid is None and spec.on_grid:  # exact: every time is an edge
            spec = replace(spec, edges=tuple(np.unique(duration).tolist()), exact=True)
        return spec, columns

    def _headline(self) -> str:
        found, codebook = self.result_, self.formula_data.codebook
        if not isinstance(found, (Curved, Ranked)):
            raise TypeError("no curves")
        by = f" by {codebook.label(found.spec.by)}" if found.spec.by else ""
        event = codebook.label(str(found.spec.design.event))
        if isinstance(found, Ranked):
            clear = "differ" if found.test["p"] < 0.05 else "do not differ clearly"
            return (
                f"Times to {event}{by} {clear} between the groups: log-rank test, "
                f"p {p_value(found.test['p'])}."
            )
        what = {"kaplan-meier": "Time to", "cumulative-incidence": "Cumulative incidence of"}
        return f"{what[found.spec.asked]} {event}{by}: {found.events:,} had the event."

    def table(self) -> pd.DataFrame:
        """The curves, one line per group and edge."""
        result = self.result_
        if not isinstance(result, Curved):
            raise TypeError("no curves")
        return pd.DataFrame(result.lines())


class KaplanMeier(_Curves):
    """Kaplan-Meier curves, by group, with Greenwood's intervals.

    Over sites times are taken on an agreed grid, and each site takes its steps together until at
    least `least` of its patients stand behind each; between `exact_low` and `exact_high` lies the
    curve of the times as they are. Arrays are exact.

    Parameters
    ----------
    cause : number of the event column's level that is the event; all others are censored.
    grid : ascending ends of time intervals. time_bins : so many equal ones instead.
    least : patients behind each step at a site; None: 5, or the next of 10, 20, ... that every
        hospital's policy asks for.
    horizon : end of the restricted mean; None: the last edge.
    confidence : of the intervals.

    Attributes
    ----------
    curves_ : by group, with times, survival, se, lower, upper, at_risk, events.
    """

    _kind = "kaplan-meier"

    def __init__(
        self,
        *,
        cause: int = 1,
        grid: Sequence[float] | None = None,
        time_bins: int = 40,
        least: int | None = None,
        horizon: float | None = None,
        confidence: float = 0.95,
    ) -> None:
        self.cause = cause
        self.grid = grid
        self.time_bins = time_bins
        self.least = least
        self.horizon = horizon
        self.confidence = confidence

    def _set(self) -> None:
        if isinstance(self.result_, Curved):
            self.curves_ = self.result_.curves

    def summary(self) -> pd.DataFrame:
        """Median and restricted mean by group, with intervals, and the distance from exact."""
        result = self.result_
        if not isinstance(result, Curved):
            raise TypeError("no curves")
        return pd.DataFrame(result.figures()).set_index("group")


class CumulativeIncidence(_Curves):
    """Probability of each of several ways to end, by group (Aalen and Johansen).

    The levels of the event column from 1 on are causes of their own; level 0 is censored. Over
    sites on a grid as `KaplanMeier`; `grid`, `time_bins`, `least`, `confidence` as there.

    Attributes
    ----------
    incidences_ : by group and cause, with times, incidence, se, lower, upper.
    """

    _kind = "cumulative-incidence"
    cause = 1

    def __init__(
        self,
        *,
        grid: Sequence[float] | None = None,
        time_bins: int = 40,
        least: int | None = None,
        confidence: float = 0.95,
    ) -> None:
        self.grid = grid
        self.time_bins = time_bins
        self.least = least
        self.confidence = confidence

    def _set(self) -> None:
        if isinstance(self.result_, Curved):
            self.incidences_ = self.result_.incidences


class LogRank(_Curves):
    """Log-rank test that the survival of groups is the same.

    Parameters
    ----------
    stratify : patients of one site are compared only, exactly; False: all, on the grid.
    cause, grid, time_bins, least : as in `KaplanMeier`.

    Attributes
    ----------
    statistic_, df_, p_value_ : of the test.
    """

    _kind = "log-rank"

    def __init__(
        self,
        *,
        stratify: bool = True,
        cause: int = 1,
        grid: Sequence[float] | None = None,
        time_bins: int = 40,
        least: int | None = None,
    ) -> None:
        self.stratify = stratify
        self.cause = cause
        self.grid = grid
        self.time_bins = time_bins
        self.least = least

    def _set(self) -> None:
        if isinstance(self.result_, Ranked):
            test: Mapping[str, float] = self.result_.test
            self.statistic_, self.df_, self.p_value_ = test["chi2"], test["df"], test["p"]
