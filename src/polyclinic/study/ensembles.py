"""Ensembles of the models that every site trains on its own rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import ClassifierTags, RegressorTags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from polyclinic.core.errors import InputError
from polyclinic.core.federation import Engine
from polyclinic.engines.embedded import Embedded
from polyclinic.models.ensembles.bases import explains
from polyclinic.models.ensembles.result import EnsembleResult
from polyclinic.study.arrays import Arrays
from polyclinic.study.learner import Learner

Floats = NDArray[np.float64]


def classifies(model: Ensemble) -> bool:
    """Whether there are risks."""
    return model._classifies


class Ensemble(Learner):
    """Base of the ensembles: a classifier or a regressor, as its base is.

    Attributes
    ----------
    models_ : by site, the predictor of its own model
    weights_ : by site, what its model weighs; of stacking its coefficient
    threshold_ : risk from which on the event is predicted; None: above one half
    """

    base: str = "logistic"
    threshold: Any = None

    @property
    def _classifies(self) -> bool:
        found = getattr(self, "result_", None)
        if found is not None:
            return bool(found.spec.classes)
        return bool(getattr(self, "_of_classes", explains(self.base) != "number"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        classes = explains(self.base) != "number"
        tags.estimator_type = "classifier" if classes else "regressor"
        tags.classifier_tags = ClassifierTags(multi_class=False) if classes else None
        tags.regressor_tags = None if classes else RegressorTags()
        tags.target_tags.required = True
        return tags

    def _fit_arrays(self, X: Any, y: Any, *args: Any, **more: Any) -> Any:
        self.__dict__.pop("result_", None)
        self._of_classes = explains(self.base) != "number"
        if explains(self.base) == "any" and y is not None:
            self._of_classes = not type_of_target(y).startswith("continuous")
        return super()._fit_arrays(X, y, *args, **more)

    def _fit_data(self, data: Any, *args: Any, **more: Any) -> Any:
        self.__dict__.pop("result_", None)
        outcome = data.design.response
        self._of_classes = bool(outcome and data.codebook.level_names(outcome))
        return super()._fit_data(data, *args, **more)

    def _outcome(self, y: NDArray[Any]) -> tuple[Floats, int]:
        if self._classifies and type_of_target(y) == "multiclass":
            raise ValueError(
                "Only binary classification is supported. The type of the target is multiclass."
            )
        values, classes = super()._outcome(y)
        if classes == 1:
            raise InputError(
                f"y: all {len(y)} rows are of one class",
                code="ONE_CLASS",
                rule="a classifier needs at least two outcome classes among the rows",
                next="look at the outcome",
            )
        return values, classes

    def _domain(self, arrays: Arrays, engine: Embedded) -> Engine:
        weight = arrays.rows.columns.get("w")
        if weight is not None and not np.any(weight > 0):
            raise InputError(
                "every row has weight zero",
                code="NO_WEIGHT",
                rule="at least one row has a weight above 0",
                next="look at the weights",
            )
        return arrays.each_site(engine)

    def _set(self) -> None:
        result = self.result_
        if not isinstance(result, EnsembleResult):
            raise TypeError("the result of another kind of model")
        base = result.spec.model
        arrays = result.models.arrays
        self.models_ = {site: base.predictor(found) for site, found in arrays.items()}
        self.weights_ = result.weights
        self.threshold_ = result.threshold

    @available_if(classifies)  # type: ignore[untyped-decorator]  # scikit-learn is untyped
    def predict_proba(self, X: Any) -> Floats:
        """Probability of each class, (n_rows, 2); of hard votes the share of them."""
        found = self.predictor_.predict(self.partition(X))
        return np.column_stack([1.0 - found, found])

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row by the threshold, or the expected number, (n_rows,)."""
        found = self.predictor_.predict(self.partition(X))
        if not self._classifies:
            return found
        above = found > 0.5 if self.threshold_ is None else found >= self.threshold_
        chosen: NDArray[Any] = self.classes_[above.astype(np.int64)]
        return chosen

    def save(self, path: str | Path) -> None:
        """Write the fitted model, as every learner does. Raises HOLDS_ROWS where it is rows."""
        check_is_fitted(self)
        if self.spec_.model.holds_rows:  # type: ignore[attr-defined]
            raise InputError(
                f"models of kind {self.base} consist of the rows that they were trained on",
                code="HOLDS_ROWS",
                rule="a saved model holds no rows",
                next="use another base, or fit again where the rows are",
            )
        super().save(path)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of right classes, or R2."""
        from sklearn.metrics import accuracy_score, r2_score

        measure = accuracy_score if self._classifies else r2_score
        return float(measure(y, self.predict(X), sample_weight=sample_weight))


class SelectBest(Ensemble):
    """The model, of those that every site trains alone, that predicts best at the other sites.

    Parameters
    ----------
    base : what every site trains: "logistic", "linear", another kind of model that predicts; over
        arrays also "knn" and "kernel-svm".
    base_options : its options by name: {"l2": 1.0}.
    metric : "auroc" or "log_loss", of a number "r2" or "mse"; None: the first.
    sampling : before a site trains: "under" drops patients of the larger class, "over" weights
        the smaller one up, None.
    threshold : "f1", "youden" or {"cost": [of a false alarm, of a missed event]}: the best over all
        sites decides in `predict`; None: one half.
    least : patients whose risks are taken together where models are scored; None: 5, or the next of
        10, 20, ... that every hospital's policy asks for.

    References
    ----------
    Roth et al., "NVIDIA FLARE: Federated Learning from Simulation to Real-World" (2022): cross-site
    evaluation.
    """

    _kind = "select-best"

    def __init__(
        self,
        *,
        base: str = "logistic",
        base_options: Mapping[str, Any] | None = None,
        metric: str | None = None,
        sampling: str | None = None,
        threshold: Any = None,
        least: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.base, self.base_options, self.metric = base, base_options, metric
        self.sampling, self.threshold, self.least = sampling, threshold, least
        self.random_state = random_state


class Voting(Ensemble):
    """The models that every site trains alone vote: with their risks, or with their decisions.

    Parameters
    ----------
    base, base_options, sampling, threshold, least : as in `SelectBest`.
    voting : "soft", the mean of the predictions; "hard", the share of models that predict the
        event.
    """

    _kind = "voting"

    def __init__(
        self,
        *,
        base: str = "logistic",
        base_options: Mapping[str, Any] | None = None,
        voting: str = "soft",
        sampling: str | None = None,
        threshold: Any = None,
        least: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.base, self.base_options, self.voting = base, base_options, voting
        self.sampling, self.threshold, self.least = sampling, threshold, least
        self.random_state = random_state


class WeightedAverage(Ensemble):
    """The weighted mean of what the models that every site trains alone predict.

    Parameters
    ----------
    base, base_options, sampling, threshold, least : as in `SelectBest`.
    weights : "size", rows that a model was fitted on; "loss", one over its loss (log loss, or mean
        squared error) at the other sites.
    """

    _kind = "weighted-average"

    def __init__(
        self,
        *,
        base: str = "logistic",
        base_options: Mapping[str, Any] | None = None,
        weights: str = "size",
        sampling: str | None = None,
        threshold: Any = None,
        least: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.base, self.base_options, self.weights = base, base_options, weights
        self.sampling, self.threshold, self.least = sampling, threshold, least
        self.random_state = random_state


class Stacking(Ensemble):
    """A regression over what the models that every site trains alone predict, fitted by sums.

    Parameters
    ----------
    base, base_options, sampling, threshold, least : as in `SelectBest`.
    folds : inner folds at a site: its own model's predictions are made without the patient.
    l2 : weight of 1/2 |coef|^2 beside the sum of losses of the regression.

    Attributes
    ----------
    coef_, intercept_, se_ : of the regression, one coefficient per site; se_ with the intercept's
        first.
    """

    _kind = "stacking"

    def __init__(
        self,
        *,
        base: str = "logistic",
        base_options: Mapping[str, Any] | None = None,
        folds: int = 5,
        l2: float = 0.0,
        sampling: str | None = None,
        threshold: Any = None,
        least: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.base, self.base_options = base, base_options
        self.folds, self.l2 = folds, l2
        self.sampling, self.threshold, self.least = sampling, threshold, least
        self.random_state = random_state

    def _set(self) -> None:
        super()._set()
        meta = self.result_.meta  # type: ignore[attr-defined]
        self.coef_, self.intercept_ = meta.coef[0, 1:], float(meta.coef[0, 0])
        self.se_ = np.sqrt(np.diag(meta.covariance))


ENSEMBLES: Sequence[type[Ensemble]] = (SelectBest, Voting, WeightedAverage, Stacking)
