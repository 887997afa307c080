"""What every regression estimator shares: scikit-learn's conventions over sites or arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from polyclinic.core.algorithm import Algorithm
from polyclinic.core.design import Design
from polyclinic.core.errors import DataWarning, InputError
from polyclinic.core.fit import Callback, Run, Store, ask, fit
from polyclinic.core.ring import RingError
from polyclinic.data.frames import native
from polyclinic.engines.embedded import About, Embedded, Sums
from polyclinic.governance.asked import check_fits
from polyclinic.models.distributions import t_quantile, t_tail
from polyclinic.models.glm import GLMFit, GLMPredictor, Solver, Spec, glm
from polyclinic.models.glm.alone import predictor_of
from polyclinic.models.glm.robust import robust_covariance, scores_plan
from polyclinic.privacy.dp import DifferentialPrivacy
from polyclinic.study.arrays import Arrays, from_arrays
from polyclinic.study.faces import Shown
from polyclinic.study.formula import FormulaData, from_formula
from polyclinic.study.sites import Sites
from polyclinic.study.solver import solver_of
from polyclinic.study.ways import ways

if TYPE_CHECKING:
    from polyclinic.study.evaluate import Evaluated

Floats = NDArray[np.float64]
NOISE = (
    "the noise is larger than what the data say in some direction: there are no standard errors; "
    "use a larger epsilon, or fewer terms; or write in the codebook for each number "
    "usual = [low, high], between which nearly all patients lie: noise is measured against it"
)
HURRIED = (
    "workers did not wait for each other, so these numbers depend on who was faster, by up to {} "
    "rounds: the same ones come again with engine=pc.Embedded(arrivals=model.events_)"
)


class Regression(Shown):
    """Base of the generalised linear models. See `LogisticRegression` for what they share."""

    _arrays: Arrays | None
    _data: FormulaData | None
    _evaluated: Evaluated | None
    _privacy: DifferentialPrivacy | None = None
    _family = ""
    _small_sample = False  # True: t distribution instead of the normal one

    def __init__(
        self,
        *,
        l2: float = 0.0,
        l1: float = 0.0,
        fit_intercept: bool = True,
        site_effects: bool = False,
        solver: str = "newton",
        max_rounds: int | None = None,
        tolerance: float = 1e-10,
        solver_options: dict[str, Any] | None = None,
        random_state: int = 0,
    ) -> None:
        self.l2 = l2
        self.l1 = l1
        self.fit_intercept = fit_intercept
        self.site_effects = site_effects
        self.solver = solver
        self.max_rounds = max_rounds
        self.tolerance = tolerance
        self.solver_options = solver_options
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
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
        y : with `Sites` the formula, ``"disease ~ age + C(cp)"``; else the outcome, (n_rows,).
        sample_weight : (n_rows,), 0 or more; a weight of 2 counts as two rows. In a formula:
            ``weights(column)``.
        sites : (n_rows,) site of every row. It only partitions, unless `site_effects` is set or
            errors are clustered by site.
        offset : (n_rows,) known part of the linear predictor. In a formula: ``offset(column)``.
        engine : where to compute; None: this process.
        callbacks : called after every round with a `Round`.
        store : keeps the state after every round; one that holds a state resumes it.
        privacy : `SecureSum()`: only totals of all sites are ever seen;
            `DifferentialPrivacy(epsilon, delta)`: noise hides every patient; or a list of both.
            None: exact sums, secure ones where a site may not release alone.
        purpose : what it is for, for the sites' policies.

        Raises
        ------
        InputError : bad input, named. Refused : a site's gate refused.
        """
        engine = engine or Embedded()
        noise, sums = ways(X, y, privacy)
        self._solver(sums == "secure", noise is not None, isinstance(X, Sites))
        self._privacy = noise
        if isinstance(X, Sites):
            return self._fit_sites(X, y, engine, callbacks, store, sums, About(purpose=purpose))
        return self._fit_arrays(X, y, sample_weight, sites, offset, engine, callbacks, store)

    def _fit_sites(
        self,
        sites: Sites,
        formula: str,
        engine: Embedded,
        callbacks: Sequence[Callback],
        store: Store | None,
        sums: Sums,
        about: About,
    ) -> Self:
        data = from_formula(
            sites,
            formula,
            engine,
            site_effects=self.site_effects,
            intercept=self.fit_intercept,
            sums=sums,
            about=about,
            exact=self._privacy is None,
        )
        return self._fit_data(data, engine, callbacks, store)

    def _fit_data(
        self,
        data: FormulaData,
        engine: Embedded,
        callbacks: Sequence[Callback],
        store: Store | None,
    ) -> Self:
        if not data.design.response:
            raise InputError(
                f"formula {data.formula!r} has no outcome",
                code="BAD_FORMULA",
                rule='the formula of a regression reads "outcome ~ term + term"',
                next="name the outcome",
            )
        check_fits(None, data.design)
        family, classes = self._outcome_of_column(data)
        spec = self._spec(data.design, family, classes)
        algorithm: Algorithm = glm(spec)
        if self._privacy:
            from polyclinic.models.glm.private import private_glm  # its accountant is an extra

            sites = len(data.federation.sites)
            algorithm = private_glm(
                spec,
                self._privacy,
                sites,
                ranges=data.codebook.declared_ranges(data.design.columns),
            )
        run = fit(
            algorithm, data.federation, seed=self.random_state, callbacks=callbacks, store=store
        )
        self._arrays, self._data = None, data
        return self._finish(run, spec, engine)

    def _fit_arrays(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        sites: Any,
        offset: Any,
        engine: Embedded,
        callbacks: Sequence[Callback],
        store: Store | None,
    ) -> Self:
        x, outcome = validate_data(
            self,
            native(X),
            y,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            y_numeric=False,
            multi_output=False,
        )
        values, family, classes = self._outcome(np.asarray(outcome))
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(x.shape[1])])
        describe = partial(
            from_arrays,
            x,
            values,
            names,
            intercept=self.fit_intercept,
            weight=sample_weight,
            offset=offset,
            labels=sites,
            site_effects=self.site_effects,
        )

        def attempt(quick: bool) -> tuple[Arrays, Spec, Run]:
            arrays = describe(quick=quick)
            spec = self._spec(arrays.design, family, classes)
            domain = engine.domain(arrays.rows)
            run = fit(glm(spec), domain, seed=self.random_state, callbacks=callbacks, store=store)
            return arrays, spec, run

        try:
            arrays, spec, run = attempt(quick=True)
        except RingError:  # NaN, or a column far larger than in the sample: look at every row
            arrays, spec, run = attempt(quick=False)
        self._arrays, self._data = arrays, None
        return self._finish(run, spec, engine)

    def _outcome(self, y: NDArray[Any]) -> tuple[Floats, str, int]:
        """Outcome as float64, family, number of classes, for arrays."""
        if y.dtype.kind not in "fiub":
            y = y.astype(np.float64)
        return y.astype(np.float64), self._family, 0

    def _outcome_of_column(self, data: FormulaData) -> tuple[str, int]:
        """Family and number of classes, for a formula."""
        return self._family, 0

    def _class_weight(self) -> Any:
        return None

    def _spec(self, design: Design, family: str, classes: int) -> Spec:
        if self.l1 < 0 or self.l2 < 0:
            raise InputError(
                "a penalty is negative", code="NEGATIVE_PENALTY", rule="l1 and l2 are 0 or more"
            )
        return Spec(
            design,
            family,
            classes,
            float(self.l2),
            float(self.l1),
            self._class_weight(),
            solver=self._solver(),
        )

    def _solver(self, secure: bool = False, noise: bool = False, borders: bool = False) -> Solver:
        return solver_of(
            self.solver,
            self.max_rounds,
            self.tolerance,
            self.solver_options,
            secure=secure,
            noise=noise,
            borders=borders,
        )

    def _finish(self, run: Run, spec: Spec, engine: Embedded) -> Self:
        self.result_: GLMFit = run.model[-1]
        self.state_ = run.state
        self.rounds_ = run.rounds
        self.n_iter_ = self.result_.rounds
        self._engine, self._evaluated = engine, None
        self._set_coef()
        for message, category in self.warnings_():
            warnings.warn(message, category, stacklevel=3)
        return self

    def _set_coef(self) -> None:
        coef, lead = self.result_.coef, int(self._design.intercept)
        self.coef_: Floats = coef[0, lead:]
        self.intercept_: Any = float(coef[0, 0]) if lead else 0.0

    @property
    def _design(self) -> Design:
        return self.result_.scale.spec.design

    def warnings_(self) -> list[tuple[str, type[Warning]]]:
        """What a reader of the result should know, each with its warning class."""
        found: list[tuple[str, type[Warning]]] = []
        result, names = self.result_, self._names()
        width = result.scale.spec.width
        for j in np.flatnonzero(~result.active[:width]):
            found.append((_aliased(names[:width], int(j), result), DataWarning))
        if any(age for *_, age in result.events):
            found.append((HURRIED.format(self._latest), ConvergenceWarning))
        if result.end == "noise":
            found.append((NOISE, ConvergenceWarning))
        elif result.end == "separated":
            found.append((_separated(names, result), DataWarning))
        elif not result.converged:
            found.append(
                (
                    f"{self.solver} ended after {result.rounds} rounds ({result.end})"
                    + (
                        f", {result.distance:.2g} standard errors from the optimum"
                        if result.distance is not None
                        else ""
                    )
                    + "; raise max_rounds, or use another solver",
                    ConvergenceWarning,
                )
            )
        return found

    @property
    def events_(self) -> tuple[tuple[int, int, int, int], ...]:
        """Of `sgd` with `staleness`: number of the round, rows from, up to, and how many rounds
        were added between the question about them and this one; as an engine's `arrivals` they
        are replayed."""
        check_is_fitted(self)
        return self.result_.events

    @property
    def _latest(self) -> int:
        return max(age for *_, age in self.result_.events)

    def _names(self) -> list[str]:
        lead = ["Intercept"] if self._design.intercept else []
        return [*lead, *self._design.names]

    def summary(
        self, *, exponentiate: bool = False, robust: bool | str = False, level: float = 0.95
    ) -> pd.DataFrame:
        """Coefficients with standard errors, indexed by term.

        Parameters
        ----------
        exponentiate : odds, rate or mean ratios for coefficients; `se` stays on the log scale.
        robust : True for sandwich errors (HC0), "site" for clustered by site; one more round.
        level : of the intervals.

        Returns
        -------
        DataFrame with columns coef, se, z, p, lower, upper. Linear models use the t distribution.
        """
        check_is_fitted(self)
        covariance = self.covariance(robust)
        coef = np.where(
            np.isnan(np.diag(self.result_.covariance)) & ~self.result_.active,
            np.nan,
            self.result_.coef.ravel(),
        )
        se = np.sqrt(np.diag(covariance))
        df = float(self.result_.df_resid) if self._small_sample and not robust else np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            z = coef / se
        half = t_quantile(0.5 + level / 2, df) * se
        table = pd.DataFrame(
            {
                "coef": coef,
                "se": se,
                "z": z,
                "p": 2 * t_tail(np.abs(z), df),
                "lower": coef - half,
                "upper": coef + half,
            },
            index=pd.Index(self._names(), name="term"),
        )
        if exponentiate:
            table[["coef", "lower", "upper"]] = np.exp(table[["coef", "lower", "upper"]])
        return table

    def against_exact(self) -> pd.DataFrame:
        """What the noise costs: this fit beside the exact one, which the sites' gates may refuse.

        Returns
        -------
        DataFrame by term: coef, se, exact, exact_se, and shift, their distance in exact standard
        errors.

        Raises
        ------
        Refused : NOISE_REQUIRED where a site lets no exact sum out.
        """
        check_is_fitted(self)
        exact = clone(self)._fit_data(self.formula_data, self._engine, (), None).summary()
        table = self.summary()[["coef", "se"]]
        table["exact"], table["exact_se"] = exact["coef"], exact["se"]
        table["shift"] = (table["coef"] - table["exact"]) / table["exact_se"]
        return table

    def covariance(self, robust: bool | str = False) -> Floats:
        """Covariance of the coefficients, (n_coefficients, n_coefficients); see `summary`."""
        check_is_fitted(self)
        if not robust:
            return self.result_.covariance
        by = "site" if robust == "site" else "row"
        plan = scores_plan(self.result_, by)
        if self._data is not None:
            total, done = ask(self._data.federation, plan)
            self.rounds_ = (*self.rounds_, done)
        elif by == "site":
            total = self._training().by_site().total(plan)
        else:
            total = self._engine.domain(self._training().rows).total(plan)
        return robust_covariance(self.result_, total, by)

    def _training(self) -> Arrays:
        if self._arrays is None:
            raise InputError(
                "the rows that this model was fitted on are not here",
                code="NO_TRAINING_ROWS",
                rule="robust errors need one more round over the rows",
                next="ask for them before saving the model",
            )
        return self._arrays

    def _linear(self, X: Any) -> Floats:
        """Linear predictor of new rows, (n_rows, n_predictors)."""
        check_is_fitted(self)
        predictor = predictor_of(self.result_)
        if self._data is not None:
            return predictor.linear(self._data.partition(X))
        x = validate_data(self, native(X), reset=False, dtype=np.float64)
        extra = len(self._design.terms) - x.shape[1]
        lead = int(self._design.intercept)
        eta = x @ predictor.coef[:, lead : lead + x.shape[1]].T
        if extra and self.site_effects:
            raise InputError(
                "prediction with site effects needs a formula model",
                code="NO_SITES",
                rule="new rows carry no site",
            )
        return np.asarray(eta + predictor.coef[:, 0] if lead else eta)

    @property
    def formula_data(self) -> FormulaData:
        """The formula's data. Raises NO_FORMULA for a model fitted on arrays."""
        if self._data is None:
            raise InputError(
                "this model was fitted on arrays",
                code="NO_FORMULA",
                rule="this needs hospitals and a formula",
                next="fit(sites, formula); for arrays use scikit-learn's own tools",
            )
        return self._data

    def design_matrix(self, X: Any) -> pd.DataFrame:
        """The model matrix of new rows, without intercept, one column per term."""
        partition = self.formula_data.partition(X)
        matrix = self._design.matrix(partition.columns, partition.site)
        return pd.DataFrame(matrix, columns=list(self._design.names))

    @property
    def predictor_(self) -> GLMPredictor:
        return predictor_of(self.result_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "result_")

    def __getstate__(self) -> dict[str, Any]:
        """Rows never travel with a saved model."""
        state: dict[str, Any] = super().__getstate__()
        if "result_" in state:
            state = {**state, "_arrays": None}
            if state.get("_data") is not None:
                state["_data"] = state["_data"].without_rows()
        return state


def _aliased(names: Sequence[str], column: int, result: GLMFit) -> str:
    parts = result.made_up_of(column)
    others = [names[j] for j in parts]
    lead = int(result.scale.spec.design.intercept)
    if not parts and result.scale.moments.mean[column - lead] == 0:
        why = "it is 0 in every row"
    elif not parts or others == ["Intercept"]:
        why = "it is the same in every row"
    else:
        why = f"it is a combination of {', '.join(others)}"
    return f"{names[column]} says nothing that the other terms do not: {why}; left out of the fit"


def _separated(names: Sequence[str], result: GLMFit) -> str:
    se = np.sqrt(np.maximum(np.diag(result.inverse), 0.0))
    far = [names[int(j) % len(names)] for j in np.flatnonzero(se > 100.0)]
    return (
        f"the outcome is separated by {', '.join(dict.fromkeys(far)) or 'the terms together'}: "
        "no row contradicts a perfect prediction, so the coefficients have no finite optimum; "
        "their values and errors mean nothing. Merge levels, leave the term out, or set l2 > 0"
    )
