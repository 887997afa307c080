"""Neural networks that users fit, and the strategies by which they are trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from polyclinic.core.errors import InputError
from polyclinic.core.federation import Engine
from polyclinic.core.fit import Callback, Store, fit
from polyclinic.core.partition import Partition
from polyclinic.engines.embedded import Embedded
from polyclinic.models.learner import Asked, Column
from polyclinic.models.neural.inputs import ITEMS
from polyclinic.models.neural.losses import LOSSES
from polyclinic.models.neural.network import network_of
from polyclinic.models.neural.result import NeuralFit
from polyclinic.models.neural.strategy import Strategy
from polyclinic.study.arrays import Arrays, from_arrays
from polyclinic.study.learner import Learner

Floats = NDArray[np.float64]


def _classes(model: Any) -> bool:
    return bool(model._classifies)


class NeuralNetwork(Learner):
    """A neural network that hospitals train together, with PyTorch (``polyclinic[torch]``).

    Parameters
    ----------
    architecture : name of an installed one: "linear", "mlp" and those of the page on networks.
    architecture_options : its options by name, for example ``{"hidden": (64, 32)}``.
    loss : "cross_entropy" tells classes apart; "squared" explains a number.
    loss_options : its options by name.
    strategy : how it is trained: `FedAvg`, `FedSGD` and their siblings; None: `FedAvg()`.
    scale : of a table's columns: "pooled" (mean 0, standard deviation 1 over all hospitals),
        "range" (of the codebook), or "none".
    class_weight : None, "balanced" (from summed label counts), or a weight per class, as a dict or
        in the order of the classes.
    validation : share of the patients on whom the loss is watched; they are not trained on.
    noise : how a fit with `privacy=DifferentialPrivacy(...)` is made: ``{"unit": "patient", "clip":
        1.0, "rate": 0.1}`` draws every patient with probability `rate` in each local step and
        shortens his gradient to norm `clip`; unit "hospital" shortens a hospital's whole update.
    augment : what is done to images while they are trained on, by name with options:
        ``{"flip": {"axes": ["width"]}, "crop": {"pixels": 2}, "rotation": {"degrees": 10},
        "noise": {"sd": 0.05}}``.
    random_state : seed of first weights, batches, dropout and `augment`.

    Attributes
    ----------
    history_ : loss by round; classes_ : of an outcome with classes; n_iter_ : rounds.

    Reference: McMahan et al. (2017), "Communication-efficient learning of deep networks from
    decentralized data".
    """

    _kind = "neural"
    result_: NeuralFit

    def __init__(
        self,
        architecture: str = "mlp",
        *,
        architecture_options: Mapping[str, Any] | None = None,
        loss: str = "cross_entropy",
        loss_options: Mapping[str, Any] | None = None,
        strategy: Strategy | Mapping[str, Any] | None = None,
        scale: str = "pooled",
        class_weight: Any = None,
        validation: float = 0.0,
        noise: Mapping[str, Any] | None = None,
        augment: Mapping[str, Any] | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.architecture = architecture
        self.architecture_options = architecture_options
        self.loss = loss
        self.loss_options = loss_options
        self.strategy = strategy
        self.scale = scale
        self.class_weight = class_weight
        self.validation = validation
        self.noise = noise
        self.augment = augment
        self.random_state = random_state

    @property
    def _classifies(self) -> bool:
        known = LOSSES.get(self.loss)
        return known is None or known.explains == "classes"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if self._classifies:
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        else:
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        return tags

    def _options(self) -> dict[str, Any]:
        """The parameters as options of the kind; weights in the order of the classes."""
        options = super()._options()
        given = options["class_weight"]
        if isinstance(given, Mapping) and self.classes_or_none_ is not None:
            names = self.classes_or_none_.tolist()
            options["class_weight"] = [float(given.get(name, 1.0)) for name in names]
        return options

    def _fit_arrays(self, X: Any, y: Any, sample_weight: Any, sites: Any, *more: Any) -> Any:
        """Arrays: rows of a table (n, features), images (n, channels, height, width), or series
        (n, steps, variables)."""
        if np.ndim(X) <= 2:
            return super()._fit_arrays(X, y, sample_weight, sites, *more)
        return self._fit_items(np.asarray(X), np.asarray(y), sample_weight, sites, *more)

    def _fit_items(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        sample_weight: Any,
        sites: Any,
        engine: Embedded,
        callbacks: Sequence[Callback],
        store: Store | None,
    ) -> Self:
        """Images or series in memory, in one trust domain."""
        if len(x) != len(y):
            raise InputError(
                f"X has {len(x)} items for {len(y)} outcomes",
                code="WRONG_LENGTH",
                rule="one outcome per item",
            )
        self.classes_or_none_ = None
        values, classes = self._outcome(y)
        nothing = np.zeros((len(x), 0))
        arrays = from_arrays(nothing, values, [], weight=sample_weight, labels=sites)
        columns = {n: v for n, v in arrays.rows.columns.items() if n != "X"} | {ITEMS: x}
        arrays = replace(arrays, rows=replace(arrays.rows, columns=columns))
        kind: Any = "series" if x.ndim == 3 else "image"
        question = Asked(
            arrays.design,
            self._options(),
            classes,
            (Column(ITEMS, kind, shape=x.shape[1:]),),
            self._array_sites(arrays),
            self._seed,
        )
        spec = self.kind_.spec(question)
        domain = self._domain(arrays, engine)
        run = fit(spec.algorithm(), domain, seed=self._seed, callbacks=callbacks, store=store)
        self._arrays, self._data = arrays, None
        self.n_features_in_ = int(np.prod(x.shape[1:]))
        return self._finish(run, spec, engine)

    def _domain(self, arrays: Arrays, engine: Embedded) -> Engine:
        """Every label trains by itself; their rows are never put together."""
        return engine.domain(arrays.rows) if arrays.labels is None else arrays.each_site(engine)

    def _array_sites(self, arrays: Arrays) -> tuple[str, ...]:
        """Every label has its turn."""
        return () if arrays.labels is None else tuple(part.site for part in arrays.parts())

    def partition(self, X: Any) -> Partition:
        """New rows as the network reads them."""
        if getattr(self, "_data", None) is None and np.ndim(X) > 2:
            check_is_fitted(self)
            return Partition({ITEMS: np.asarray(X)})
        return super().partition(X)

    @available_if(_classes)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Floats:
        """Probability of each class, (n_rows, n_classes)."""
        found = self.predictor_.predict(self.partition(X))
        return found if found.ndim == 2 else np.column_stack([1.0 - found, found])

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class, or the expected number, of each row, (n_rows,)."""
        if self._classifies:
            found: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
            return found
        return self.predictor_.predict(self.partition(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy, or R2 of a number."""
        measure = accuracy_score if self._classifies else r2_score
        return float(measure(y, self.predict(X), sample_weight=sample_weight))

    @property
    def history_(self) -> pd.DataFrame:
        """Loss by round."""
        check_is_fitted(self)
        return pd.DataFrame(self.result_.tables()["history"])

    def to_torch(self) -> Any:
        """The trained network, a torch.nn.Module of its own; `Architecture.build` says what it
        reads."""
        check_is_fitted(self)
        made = network_of(self.result_.spec).load(self.result_.weights, self.result_.beside)
        return copy.deepcopy(made.module).eval()
