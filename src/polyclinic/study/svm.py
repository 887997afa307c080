"""Support vector machines that users fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.metaestimators import available_if

from polyclinic.core.errors import InputError
from polyclinic.models.svm import SVMFit, SVMPredictor
from polyclinic.study.learner import Classifier, Learner, Regressor

Floats = NDArray[np.float64]


class _Machine(Learner):
    """What machines of classes and of numbers share."""

    _needs_ends = False

    def _set(self) -> None:
        found = cast(SVMFit, self.result_)
        lead = int(self.spec_.design.intercept)
        self.coef_ = found.coef[:, lead:]
        self.intercept_ = found.coef[:, 0] if lead else np.zeros(len(found.coef))
        self.objective_, self.gap_ = found.objective, found.gap

    def _decision(self, X: Any) -> Floats:
        """Decision values, (n_rows, n_machines)."""
        return self._on_matrix(X, cast(SVMPredictor, self.predictor_).decision)


def _asked(model: Any) -> bool:
    """Whether there are probabilities, which need not agree with the decisions."""
    return bool(model.probability)


class _Classes(Classifier, _Machine):
    """What machines of classes share."""

    class_weight: Any
    probability: bool

    def _options(self) -> dict[str, Any]:
        """The parameters as options of the kind; weights in the order of the classes."""
        options = super()._options()
        if getattr(self, "_data", None) is not None:  # hospitals evaluate by probabilities
            del options["probability"]
        given = options["class_weight"]
        if isinstance(given, Mapping) and self.classes_or_none_ is not None:
            names = self.classes_or_none_.tolist()
            if unknown := [name for name in given if name not in names]:
                raise InputError(
                    f"class_weight: no class {unknown[0]!r}",
                    code="WRONG_VALUE",
                    rule=f"classes: {', '.join(map(str, names))}",
                    next="correct the name",
                )
            options["class_weight"] = [float(given.get(name, 1.0)) for name in names]
        return options

    def _fit_arrays(self, *args: Any, **more: Any) -> Any:
        """Over arrays the curve is fitted only where probabilities are asked for."""
        self._data = None
        return super()._fit_arrays(*args, **more)

    def _outcome(self, y: NDArray[Any]) -> tuple[Floats, int]:
        """Codes of the classes and their number. Raises ONE_CLASS."""
        if len(y) and not np.any(y != y[0]):
            raise InputError(
                f"y: all {len(y)} rows are of one class",
                code="ONE_CLASS",
                rule="a classifier needs at least two outcome classes among the rows",
                next="look at the outcome's definition",
            )
        return super()._outcome(y)

    def decision_function(self, X: Any) -> Floats:
        """Distance from the boundary in units of the margin, above 0 on the side of the class:
        (n_rows,), or (n_rows, n_classes) for more than two classes."""
        found = self._decision(X)
        return found[:, 0] if found.shape[1] == 1 else found

    @available_if(_asked)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Floats:
        """Probability of each class, (n_rows, n_classes), by a curve over the decision values."""
        return super().predict_proba(X)

    @available_if(_asked)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Floats:
        """Log of `predict_proba`."""
        return super().predict_log_proba(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """The class on whose side a row lies furthest, (n_rows,)."""
        found = self._decision(X)
        place = (found[:, 0] > 0).astype(int) if found.shape[1] == 1 else found.argmax(axis=1)
        return np.asarray(self.classes_[place])


class LinearSVC(_Classes):
    """Linear support vector machine; equal to the fit of the pooled rows.

    Minimises ``1/2 |w|^2 + C sum of losses`` of ``1 - y f(x)`` where that is above 0, its square or
    itself; several classes each against the others. Probabilities are a curve over the decision
    values (Platt).

    Parameters
    ----------
    C : weight of the losses.
    loss : "squared_hinge" or "hinge".
    fit_intercept : False for a boundary through the origin.
    intercept_scaling : None: the intercept is free. A number s: ``1/2 (intercept / s)^2`` is added,
        as scikit-learn's LinearSVC does with its default of 1.
    class_weight : None, "balanced" (from summed label counts), or a weight per class, as a dict or
        in the order of the classes. Of several classes it is the weight of a class in its own
        machine, as in liblinear.
    probability : whether there is `predict_proba`. Its curve need not agree with the decisions.
    tol : stop when the objective is within this share of its optimum; the dual shows it.
    max_iter : a bound on rounds, not a target.
    random_state : seed of the sample on which a fit over very many rows starts.

    Attributes
    ----------
    coef_ : (1, n_terms), or (n_classes, n_terms) for more than two classes
    intercept_ : (1,) or (n_classes,)
    classes_ : (n_classes,)
    objective_, gap_ : what was minimised, and how far above its optimum it is at most, relative

    References
    ----------
    Cortes & Vapnik, "Support-vector networks", Machine Learning 20 (1995).
    """

    _kind = "linear-svc"

    def __init__(
        self,
        *,
        C: float = 1.0,
        loss: str = "squared_hinge",
        fit_intercept: bool = True,
        intercept_scaling: float | None = None,
        class_weight: Any = None,
        probability: bool = False,
        tol: float = 1e-9,
        max_iter: int = 300,
        random_state: int = 0,
    ) -> None:
        self.C, self.loss, self.fit_intercept = C, loss, fit_intercept
        self.intercept_scaling, self.class_weight = intercept_scaling, class_weight
        self.probability = probability
        self.tol, self.max_iter, self.random_state = tol, max_iter, random_state


class LinearSVR(Regressor, _Machine):
    """Linear support vector regression; equal to the fit of the pooled rows.

    Minimises ``1/2 |w|^2 + C sum of losses`` of ``|y - f(x)| - epsilon`` where that is above 0, its
    square or itself. Parameters and attributes as in `LinearSVC`.

    Parameters
    ----------
    epsilon : width of the tube in which an error costs nothing, in units of the outcome.
    loss : "squared_epsilon_insensitive" or "epsilon_insensitive".

    References
    ----------
    Smola & Schoelkopf, "A tutorial on support vector regression", Statistics and Computing 14
    (2004).
    """

    _kind = "linear-svr"

    def __init__(
        self,
        *,
        epsilon: float = 0.0,
        C: float = 1.0,
        loss: str = "squared_epsilon_insensitive",
        fit_intercept: bool = True,
        intercept_scaling: float | None = None,
        tol: float = 1e-9,
        max_iter: int = 300,
        random_state: int = 0,
    ) -> None:
        self.epsilon, self.C, self.loss, self.fit_intercept = epsilon, C, loss, fit_intercept
        self.intercept_scaling = intercept_scaling
        self.tol, self.max_iter, self.random_state = tol, max_iter, random_state

    def _set(self) -> None:
        super()._set()
        self.coef_ = self.coef_[0]


class SVC(_Classes):
    """Support vector machine with an RBF kernel, by random Fourier features.

    A linear machine over `n_components` random features, drawn alike everywhere from the seed, is
    close to one with the kernel ``exp(-gamma |u - u'|^2)`` over columns of spread 1: its kernel is
    off by about 1 / sqrt(n_components). No support vector leaves a hospital. Other parameters and
    attributes as in `LinearSVC`; `loss` is "hinge" unless said otherwise, and `coef_` has a column
    per feature.

    Parameters
    ----------
    kernel : "rbf".
    gamma : width of the kernel; "scale": 1 / number of columns.
    n_components : number of features; hospitals want 10 patients for each.
    random_state : seed of the features, too.

    References
    ----------
    Rahimi & Recht, "Random features for large-scale kernel machines", NIPS 2007.
    """

    _kind = "svc"

    def __init__(
        self,
        *,
        kernel: str = "rbf",
        gamma: float | str = "scale",
        n_components: int = 100,
        C: float = 1.0,
        loss: str = "hinge",
        fit_intercept: bool = True,
        intercept_scaling: float | None = None,
        class_weight: Any = None,
        probability: bool = False,
        tol: float = 1e-9,
        max_iter: int = 300,
        random_state: int = 0,
    ) -> None:
        self.kernel, self.gamma, self.n_components = kernel, gamma, n_components
        self.C, self.loss, self.fit_intercept = C, loss, fit_intercept
        self.intercept_scaling, self.class_weight = intercept_scaling, class_weight
        self.probability = probability
        self.tol, self.max_iter, self.random_state = tol, max_iter, random_state
