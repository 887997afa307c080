"""The generalised linear models that users fit: linear, logistic, Poisson and gamma."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from polyclinic.core.errors import InputError
from polyclinic.models.glm.family import FAMILIES, MULTINOMIAL
from polyclinic.models.glm.predictor import class_probabilities
from polyclinic.study.arrays import coded
from polyclinic.study.estimator import Regression
from polyclinic.study.formula import FormulaData

Floats = NDArray[np.float64]


class LinearRegression(RegressorMixin, Regression):  # type: ignore[misc]
    """Least squares with standard errors; equal to the pooled fit.

    Minimises ``1/2 sum (y - f(x))^2 + l1 |coef|_1 + l2/2 |coef|^2``; intervals use the t
    distribution. Parameters as in `LogisticRegression`.

    References
    ----------
    McCullagh & Nelder, *Generalized Linear Models* (1989), ch. 3.
    """

    _family = "gaussian"
    _small_sample = True

    def predict(self, X: Any) -> Floats:
        """Expected outcome, (n_rows,)."""
        return self._linear(X)[:, 0]


class _LogLink(RegressorMixin, Regression):  # type: ignore[misc]
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags

    def predict(self, X: Any) -> Floats:
        """Expected outcome, (n_rows,)."""
        return FAMILIES[self._family].mean(self._linear(X)[:, 0])

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the deviance explained (D2), as in scikit-learn's regressors of this family."""
        check_is_fitted(self)
        family = FAMILIES[self._family]
        y = np.asarray(y, dtype=np.float64)
        w = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
        eta = np.log(self.predict(X))
        null = np.full_like(y, np.log(np.average(y, weights=w)))
        best = w @ family.saturated(y)
        loss = w @ family.derivatives(eta, y)[0] - best
        return float(1.0 - loss / (w @ family.derivatives(null, y)[0] - best))


class PoissonRegression(_LogLink):
    """Counts with a log link; an exposure goes in as ``offset(log of exposure)``.

    Parameters as in `LogisticRegression`. Equal to the pooled fit, with standard errors.
    """

    _family = "poisson"


class GammaRegression(_LogLink):
    """Positive, skewed numbers (costs, lengths of stay) with a log link.

    Parameters as in `LogisticRegression`. The dispersion is Pearson's chi-square over the residual
    degrees of freedom; standard errors use the expected information.
    """

    _family = "gamma"


class LogisticRegression(ClassifierMixin, Regression):  # type: ignore[misc]
    """Logistic regression, binary or multinomial, with standard errors; equal to the pooled fit.

    Minimises ``sum of losses + l1 |coef|_1 + l2/2 |coef|^2`` over the rows of all sites.

    Parameters
    ----------
    l2 : weight of 1/2 |coef|^2 beside the sum of losses (scikit-learn's 1/C); intercept free.
    l1 : weight of |coef|_1; with both, an elastic net. No standard errors with l1 > 0.
    fit_intercept : False for a model through the origin.
    site_effects : one intercept per site (the first site is the reference).
    solver : "newton", "lbfgs", "gd" (full-batch gradient descent) or "sgd" (mini-batches).
    max_rounds : a bound on passes over the data; None: 25, 500, 5000, 500 for the four solvers.
    tolerance : stop when a step would move the standard errors by no more than this share
        (newton), or a coefficient by no more than this many standard errors (the others).
    solver_options : "step", "batch", "decay" of gd and sgd, "warm_rows" of newton; "compress" of
        gd and sgd: "int8" or "float16", gradients leave sites rounded and what is lost later;
        "staleness" of sgd over arrays on a cluster: rounds by which a worker may be ahead of the
        slowest, so that the result depends on who was faster.
    random_state : seed of everything random (samples of rows).
    class_weight : None, "balanced" (from summed label counts), or {class: weight}.

    Attributes
    ----------
    coef_ : (1, n_terms), or (n_classes, n_terms) for more than two classes
    intercept_ : (1,) or (n_classes,)
    classes_ : (n_classes,)
    n_iter_ : rounds
    events_ : of sgd with staleness, which rows were computed at coefficients of which age
    result_ : the `GLMFit`: covariance, deviance, aic, pseudo_r2

    References
    ----------
    McCullagh & Nelder, *Generalized Linear Models* (1989), ch. 4 and 5.
    """

    _family = "binomial"

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
        class_weight: Any = None,
    ) -> None:
        super().__init__(
            l2=l2,
            l1=l1,
            fit_intercept=fit_intercept,
            site_effects=site_effects,
            solver=solver,
            max_rounds=max_rounds,
            tolerance=tolerance,
            solver_options=solver_options,
            random_state=random_state,
        )
        self.class_weight = class_weight

    def _outcome(self, y: NDArray[Any]) -> tuple[Floats, str, int]:
        if y.dtype == np.float64 and bool(((y == 0.0) | (y == 1.0)).all()) and 0 < y.sum() < len(y):
            self.classes_ = np.array([0.0, 1.0])
            return y, *self._family_of(2)  # as it is, without a copy
        self.classes_, codes = coded(y)
        return codes, *self._family_of(len(self.classes_))

    def _outcome_of_column(self, data: FormulaData) -> tuple[str, int]:
        names = data.codebook.level_names(data.design.response)
        self.classes_ = np.array(
            [int(n) for n in names] if all(n.isdigit() for n in names) else list(names)
        )
        return self._family_of(len(names))

    def _family_of(self, classes: int) -> tuple[str, int]:
        if classes < 2:
            raise InputError(
                "the outcome has one class only",
                code="ONE_CLASS",
                rule="a classifier needs at least two outcome classes",
                next="look at the cohort and at the outcome's definition",
            )
        return ("binomial", 2) if classes == 2 else (MULTINOMIAL, classes)

    def _class_weight(self) -> Any:
        wanted = self.class_weight
        if wanted is None or wanted == "balanced":
            return wanted
        return tuple(float(wanted.get(label, 1.0)) for label in self.classes_)

    def _set_coef(self) -> None:
        coef, lead = self.result_.coef, int(self._design.intercept)
        if len(self.classes_) > 2:
            coef = coef if self.result_.scale.spec.symmetric else np.vstack([0 * coef[:1], coef])
            coef = coef - (0 if self.result_.scale.spec.symmetric else coef.mean(axis=0))
        self.coef_ = coef[:, lead:]
        self.intercept_ = coef[:, 0] if lead else np.zeros(len(coef))

    def _names(self) -> list[str]:
        names = super()._names()
        q = self.result_.scale.spec.predictors
        if q == 1:
            return names
        return [f"{label}: {name}" for label in self.classes_[-q:] for name in names]

    def decision_function(self, X: Any) -> Floats:
        """Log-odds, (n_rows,); for more than two classes one score per class, summing to 0."""
        eta = self._linear(X)
        if len(self.classes_) == 2:
            return eta[:, 0]
        full = np.hstack([np.zeros((len(eta), 1)), eta])
        return np.asarray(full - full.mean(axis=1, keepdims=True))

    def predict_proba(self, X: Any) -> Floats:
        """Probability of each class, (n_rows, n_classes)."""
        return class_probabilities(self._linear(X))

    def predict_log_proba(self, X: Any) -> Floats:
        """Log of `predict_proba`."""
        return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row, (n_rows,)."""
        best = self.predict_proba(X).argmax(axis=1)
        found: NDArray[Any] = self.classes_[best]
        return found
