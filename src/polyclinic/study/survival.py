"""Cox regression over sites by a formula, or over arrays in one trust domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_consistent_length, validate_data

from polyclinic.core.errors import InputError
from polyclinic.core.federation import Domain, Inline
from polyclinic.core.fit import Callback, Store, ask, fit
from polyclinic.data.frames import native
from polyclinic.engines.embedded import Embedded
from polyclinic.models.learner import Asked, Column
from polyclinic.models.survival import CoxFit
from polyclinic.models.survival.concordance import concordance_of, pairs
from polyclinic.models.survival.cox import diagnosis_plan
from polyclinic.models.survival.predictor import CoxPredictor
from polyclinic.models.survival.spec import CoxSpec
from polyclinic.report.words import plural
from polyclinic.study.arrays import Arrays, from_arrays
from polyclinic.study.evaluate import Judged
from polyclinic.study.learner import Learner
from polyclinic.study.sites import Sites
from polyclinic.study.ways import ways

Floats = NDArray[np.float64]
MOST_EDGES = 1000  # of a baseline hazard of arrays: above, quantiles of the times


class SurvivalLearner(Learner):
    """What the survival estimators share."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.positive_only = True
        return tags

    def _options(self) -> dict[str, Any]:
        found = super()._options()
        grid = found["grid"]
        return {**found, "grid": None if grid is None else [float(edge) for edge in grid]}


class CoxRegression(SurvivalLearner):
    """Cox regression: hazard ratios of proportional hazards.

    Stratified by site, the coefficients equal those of the pooled rows with one baseline per site,
    and no event time leaves a hospital. With ``stratify=False`` all sites share one baseline on an
    agreed grid of times, which is near the exact fit; the result says how near. Arrays without
    `sites` are fitted exactly with one baseline.

    Parameters
    ----------
    ties : "efron" or "breslow".
    stratify : one baseline per site; False: one for all, on the grid.
    cause : number of the event column's level that is the event, from 0; all others are censored.
    l2, l1 : weights of 1/2 |coef|^2 and |coef|_1 beside minus the log partial likelihood.
    robust : "row": sandwich errors, a patient's rows together (Lin & Wei); "site": clustered by
        site; False: from the information.
    grid : ascending ends of time intervals, for a baseline hazard and for ``stratify=False``.
    time_bins : so many equal intervals up to the end of the duration's range instead; 0: none.
    least : patients whose times, or risks, are taken together at a site; None: 5, or the next of
        10, 20, ... that every hospital's policy asks for.
    diagnostics : also find the concordance, the tests of proportional hazards, and with a grid the
        baseline hazard.
    max_rounds, tolerance : of Newton's method.
    random_state : as in scikit-learn; nothing here is random.

    Attributes
    ----------
    coef_ : (n_terms,). hazard_ratio_ : their exponentials. result_ : a `CoxFit`.
    """

    _kind = "cox"
    result_: CoxFit

    def __init__(
        self,
        *,
        ties: str = "efron",
        stratify: bool = True,
        cause: int = 1,
        l2: float = 0.0,
        l1: float = 0.0,
        robust: str | bool = False,
        grid: Sequence[float] | None = None,
        time_bins: int = 0,
        least: int | None = None,
        diagnostics: bool = True,
        max_rounds: int = 25,
        tolerance: float = 1e-10,
        random_state: int = 0,
    ) -> None:
        self.ties = ties
        self.stratify = stratify
        self.cause = cause
        self.l2 = l2
        self.l1 = l1
        self.robust = robust
        self.grid = grid
        self.time_bins = time_bins
        self.least = least
        self.diagnostics = diagnostics
        self.max_rounds = max_rounds
        self.tolerance = tolerance
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        event: Any = None,
        sites: Any = None,
        offset: Any = None,
        engine: Embedded | None = None,
        callbacks: Sequence[Callback] = (),
        store: Store | None = None,
        privacy: Any = None,
        purpose: str = "",
    ) -> Self:
        """Fit over sites by a formula, or over arrays in one trust domain.

        Parameters
        ----------
        X : `Sites`, or array or frame of shape (n_rows, n_features).
        y : with `Sites` the formula, ``"Surv(days, died) ~ age + C(arm)"``; else durations,
            (n_rows,), 0 or more; or a structured array of events and durations.
        sample_weight : (n_rows,), 0 or more. In a formula: ``weights(column)``.
        event : (n_rows,) of arrays: `cause` where the event happened; None: it did in every row.
        sites : (n_rows,) site of every row: strata of arrays. In a formula: ``strata(column)``
            beside the hospitals.
        offset : (n_rows,) known part of the log hazard. In a formula: ``offset(column)``.
        engine, callbacks, store, privacy, purpose : as for every learner.
        """
        engine = engine or Embedded()
        if isinstance(X, Sites):
            more = {"callbacks": callbacks, "store": store, "purpose": purpose}
            return super().fit(X, y, engine=engine, privacy=privacy, **more)  # type: ignore[arg-type]
        ways(X, y, privacy)
        self.classes_or_none_ = None
        duration, happened = outcome_of_arrays(y, event, self.cause)
        x = validate_data(self, native(X), dtype=[np.float64, np.float32])
        check_consistent_length(x, duration)
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(x.shape[1])])
        labels, codes = (None, None) if sites is None else np.unique(sites, return_inverse=True)
        arrays = from_arrays(
            x,
            duration,
            names,
            intercept=False,
            weight=sample_weight,
            offset=offset,
            labels=sites,
            extra={"event": happened, "site": None if codes is None else codes.astype(float)},
        )
        spec = self._spec_of(arrays, labels)
        run = fit(
            spec.algorithm(),
            self._rows(arrays, spec, engine),
            seed=self._seed,
            callbacks=callbacks,
            store=store,
        )
        self._arrays, self._data = arrays, None
        return self._finish(run, spec, engine)

    def _spec_of(self, arrays: Arrays, labels: Any) -> CoxSpec:
        strata = labels is not None and self.stratify
        design = replace(arrays.design, event="event", strata=("site",) if strata else ())
        options = self._options()
        time = arrays.rows.columns["y"]
        wanted = self.diagnostics or not self.stratify
        if self.grid is None and not self.time_bins and wanted:
            options["grid"] = _edges(time[arrays.rows.columns["event"] == self.cause])
        columns: tuple[Column, ...] = ()
        if labels is not None:
            columns = (Column("site", "category", tuple(str(label) for label in labels)),)
        spec: CoxSpec = self.kind_.spec(Asked(design, {**options, "least": 1}, 0, columns))
        return spec

    def _rows(self, arrays: Arrays, spec: CoxSpec, engine: Embedded) -> Any:
        """Who answers: clusters by site need the labels as sites."""
        if spec.robust == "site":
            return arrays.by_site()
        return engine.domain(arrays.rows)

    def _set(self) -> None:
        self.coef_: Floats = self.result_.coef
        self.hazard_ratio_: Floats = np.exp(self.coef_)

    def summary(
        self, *, exponentiate: bool = False, robust: bool | str = False, level: float = 0.95
    ) -> pd.DataFrame:
        """Coefficients with standard errors, indexed by term.

        Parameters
        ----------
        exponentiate : hazard ratios for coefficients; `se` stays on the log scale.
        robust : True or "row" for sandwich errors, "site" for clustered by site; one more round
            unless the fit has asked for them. False: as the fit has them.
        level : of the intervals.

        Returns
        -------
        DataFrame with columns coef, se, z, p, lower, upper.
        """
        covariance = self.covariance(robust) if robust else None
        found = self.result_.summary(covariance, level)
        table = pd.DataFrame(found, index=pd.Index(self.result_.terms, name="term"))
        if exponentiate:
            names = ["coef", "lower", "upper"]
            table[names] = np.exp(table[names])
        return table

    def covariance(self, robust: bool | str = False) -> Floats:
        """Covariance of the coefficients, (n_terms, n_terms); see `summary`."""
        result = self.result_
        if not robust:
            return result.covariance
        by = "site" if robust == "site" else "row"
        plan = diagnosis_plan(result.scale, result.theta, "scores", by)  # type: ignore[arg-type]
        if self._data is not None:
            total, done = ask(self._data.federation, plan)
            self.rounds_ = (*self.rounds_, done)
        elif self._arrays is None:
            raise InputError(
                "the rows that this model was fitted on are not here",
                code="NO_TRAINING_ROWS",
                rule="a saved model holds no rows",
                next="fit again",
            )
        else:
            rows = self._arrays.by_site() if by == "site" else Domain(Inline(self._arrays.rows))
            total = rows.total(plan)
        return result.robust(result.meat_of(total.values))

    def _headline(self) -> str:
        found, codebook = self.result_, self.formula_data.codebook
        event = codebook.label(str(found.spec.design.event))
        return (
            f"Hazards of {event} in {found.patients:,} patients, {found.events:,} of them with the "
            f"event, by {plural(len(found.terms), 'term')}."
        )

    @property
    def evaluated_(self) -> bool:
        """Not on a grid: its steps of a fold would differ by a few patients from those of all."""
        return bool(self.stratify)

    def judged(self) -> Judged:
        """The model as it is evaluated. Raises NOTHING_TO_PREDICT for one on a grid."""
        if not self.evaluated_:
            raise InputError(
                "one baseline for all sites is not cross-validated",
                code="NOTHING_TO_PREDICT",
                rule="on a grid every fold would be another one that differs by a few patients",
                next="stratify by site",
            )
        return super().judged()

    @property
    def concordance_(self) -> dict[str, float] | None:
        """Harrell's C of pairs within sites: "c", its "se", and the number of "pairs"."""
        return self.result_.concordance

    def proportional_hazards(self) -> pd.DataFrame | None:
        """Tests that an effect does not change with time, by term and scale of time."""
        found = self.result_.proportional
        return None if found is None else pd.DataFrame(found).set_index("term")

    @property
    def baseline_(self) -> pd.DataFrame | None:
        """Cumulative baseline hazard at the grid's edges, all terms at 0."""
        found = self.result_.baseline
        if found is None:
            return None
        return pd.DataFrame({"cumulative_hazard": found[1]}, index=pd.Index(found[0], name="time"))

    def predict(self, X: Any) -> Floats:
        """Log of the relative hazard, (n_rows,): a larger one means an earlier event."""
        return self._cox.linear(self.partition(X))

    def predict_survival(self, X: Any) -> pd.DataFrame:
        """Probability of no event until each edge of the grid, a row per row of `X`.

        Raises
        ------
        InputError : GRID_NEEDED for a fit without a baseline hazard.
        """
        if not len(self._cox.times):
            raise InputError(
                "this fit has no baseline hazard",
                code="GRID_NEEDED",
                rule="a baseline hazard is found on an agreed grid of times",
                next="fit with time_bins= or grid=, and with diagnostics",
            )
        return pd.DataFrame(self._cox.survival(self.partition(X)), columns=self._cox.times)

    def score(self, X: Any, y: Any, sample_weight: Any = None, *, event: Any = None) -> float:
        """Harrell's concordance on arrays."""
        duration, happened = outcome_of_arrays(y, event, self.cause)
        return concordance_of(pairs(duration, happened == self.cause, self.predict(X)))["c"]

    @property
    def _cox(self) -> CoxPredictor:
        found = self.predictor_
        if not isinstance(found, CoxPredictor):
            raise TypeError("not a Cox regression")
        return found


def outcome_of_arrays(y: Any, event: Any, cause: int) -> tuple[Floats, Floats]:
    """Durations and ways to end of arrays, (n_rows,) each."""
    structured = getattr(getattr(y, "dtype", None), "names", None)
    if structured and len(structured) == 2:
        event, y = y[structured[0]], y[structured[1]]
    if y is None:
        raise ValueError(  # in scikit-learn's words
            "requires y to be passed, but the target y is None: the durations"
        )
    duration = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    duration = duration.ravel() if duration.ndim == 2 and duration.shape[1] == 1 else duration
    if duration.ndim != 1:
        raise ValueError("y should be a 1d array of durations")
    if event is None:
        return duration, np.full(len(duration), float(cause))
    happened = np.asarray(event)
    found = happened.astype(np.float64) * (cause if happened.dtype.kind == "b" else 1)
    check_consistent_length(duration, found)
    return duration, found


def _edges(time: Floats) -> list[float]:
    """Times of events, or quantiles of them where there are many."""
    found = np.unique(time)
    if len(found) > MOST_EDGES:
        found = np.unique(np.quantile(found, np.linspace(0, 1, MOST_EDGES), method="higher"))
    return [float(edge) for edge in found] or [1.0]
