"""Neural networks that users fit, and the strategies by which they are trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import ClassifierTags, RegressorTags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from polyclinic.core.algorithm import Algorithm
from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.core.federation import Engine
from polyclinic.core.fit import Callback, Store, fit
from polyclinic.core.partition import Partition
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.secure import SecureSums
from polyclinic.engines.workers import single_threaded_blas
from polyclinic.evaluation.masks import NAME as MASKS
from polyclinic.evaluation.pairs import TASKS as PAIRS
from polyclinic.models.learner import Asked, Column, Kind
from polyclinic.models.neural.algorithm import neural
from polyclinic.models.neural.architectures import torch
from polyclinic.models.neural.arrivals import Clock, Event, arrivals_of, times
from polyclinic.models.neural.inputs import INSIDE, ITEMS
from polyclinic.models.neural.losses import LOSSES
from polyclinic.models.neural.network import network_of
from polyclinic.models.neural.result import NeuralFit
from polyclinic.models.neural.strategy import Strategy
from polyclinic.models.neural.virtual import Virtual
from polyclinic.study.arrays import Arrays, from_arrays
from polyclinic.study.formula import FormulaData
from polyclinic.study.items import (
    check_length,
    concordance,
    dice,
    dimensions,
    items,
    masks,
    outcome_of_survival,
    wrong_shape,
)
from polyclinic.study.learner import Learner

if TYPE_CHECKING:
    from polyclinic.study.evaluate import Judged

Floats = NDArray[np.float64]


def _no_secure() -> InputError:
    return InputError(
        "FedBuff cannot be fitted by secure sums",
        code="NOT_SECURE",
        rule="every hospital gives by name: by how much its own training moved the network",
        next="leave SecureSum out, or take a strategy in rounds: FedAvg, FedProx, Scaffold",
    )


def _probable(model: Any) -> bool:
    return model._explains in ("classes", "mask")


class NeuralNetwork(Learner):
    """A neural network that hospitals train together, with PyTorch (``polyclinic[torch]``).

    Parameters
    ----------
    architecture : name of an installed one: "linear", "mlp" and those of the page on networks.
    architecture_options : its options by name, for example ``{"hidden": (64, 32)}``.
    loss : of classes "cross_entropy", or "focal" where one is rare; of a number "squared", of a
        count "poisson"; of a duration "cox", the outcome is ``Surv(days, died)``; of a mask "dice"
        or "dice_cross_entropy".
    loss_options : its options by name: of "focal" ``gamma`` and ``alpha``, of "cox" ``cause``.
    strategy : how it is trained: `FedAvg`, `FedSGD` and their siblings; None: `FedAvg()`.
    scale : of a table's columns: "pooled" (mean 0, standard deviation 1 over all hospitals),
        "range" (of the codebook), or "none".
    class_weight : None, "balanced" (from summed label counts), or a weight per class, as a dict or
        in the order of the classes.
    sampling : "shuffled", or "balanced": each hospital's batches hold its classes alike often.
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
    history_ : loss by round; events_ : of `FedBuff` who answered when; classes_ : of an outcome
    with classes; n_iter_ : rounds.

    Reference: McMahan et al. (2017), "Communication-efficient learning of deep networks from
    decentralized data".
    """

    _kind = "neural"
    _clock: Clock | None = None
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
        sampling: str = "shuffled",
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
        self.sampling = sampling
        self.validation = validation
        self.noise = noise
        self.augment = augment
        self.random_state = random_state

    @property
    def _explains(self) -> str:
        known = LOSSES.get(self.loss)
        return "classes" if known is None else known.explains

    @property
    def _classifies(self) -> bool:
        return self._explains == "classes"

    @property
    def _cause(self) -> int:
        return int((self.loss_options or {}).get("cause", 1))

    @property
    def kind_(self) -> Kind:
        """The kind of model; of durations and masks other things are judged."""
        kind = super().kind_
        if self._explains == "survival":
            return replace(kind, explains="survival", held_out=PAIRS)
        if self._explains == "mask":
            return replace(kind, explains="nothing", held_out=(MASKS, MASKS))
        return kind

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if self._classifies:
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        elif self._explains == "number":
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
            tags.target_tags.positive_only = self.loss == "poisson"
        return tags

    def _options(self) -> dict[str, Any]:
        """The parameters as options of the kind; weights in the order of the classes."""
        options = super()._options()
        given = options["class_weight"]
        if isinstance(given, Mapping) and self.classes_or_none_ is not None:
            names = self.classes_or_none_.tolist()
            options["class_weight"] = [float(given.get(name, 1.0)) for name in names]
        return options

    def _fit_arrays(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        sites: Any,
        engine: Embedded,
        callbacks: Sequence[Callback],
        store: Store | None,
        extra: Mapping[str, Any] | None = None,
    ) -> Self:
        """Arrays: rows of a table (n, features), images (n, channels, height, width), or series
        (n, steps, variables)."""
        self._extra: dict[str, Any] = dict(extra or {})
        if self._explains == "survival":
            y, event = outcome_of_survival(y, self._cause)
            self._extra = {"event": event}
        run = engine, callbacks, store
        if dimensions(X) > 2:
            return self._fit_items(items(X), np.asarray(y), sample_weight, sites, *run)
        if self._explains == "mask":
            raise wrong_shape("X", np.shape(X)[1:], "(channels, height, width)")
        return super()._fit_arrays(X, y, sample_weight, sites, *run, self._extra)

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
        check_length(x, y)
        self.classes_or_none_ = None
        found, more = masks(y, x.shape[1:]) if self._explains == "mask" else (None, {})
        values, classes = self._outcome(y) if found is None else (np.zeros(len(x)), 0)
        nothing = np.zeros((len(x), 0))
        arrays = from_arrays(
            nothing, values, [], weight=sample_weight, labels=sites, extra=self._extra
        )
        columns = {n: v for n, v in arrays.rows.columns.items() if n != "X"} | {ITEMS: x, **more}
        arrays = replace(arrays, rows=replace(arrays.rows, columns=columns))
        kind: Any = "series" if x.ndim == 3 else "image"
        question = Asked(
            self._array_design(arrays.design),
            self._options(),
            classes,
            (Column(ITEMS, kind, shape=x.shape[1:]),),
            self._array_sites(arrays),
            self._seed,
            output=found or (),
        )
        spec = self.kind_.spec(question)
        domain = self._domain(arrays, engine)
        algorithm = self._algorithm(spec, engine, arrays)
        run = fit(algorithm, domain, seed=self._seed, callbacks=callbacks, store=store)
        self._arrays, self._data = arrays, None
        self.n_features_in_ = int(np.prod(x.shape[1:]))
        return self._finish(run, spec, engine)

    def _fit_data(
        self,
        data: FormulaData,
        engine: Embedded,
        callbacks: Sequence[Callback] = (),
        store: Store | None = None,
    ) -> Self:
        """Fit over hospitals. Raises NOT_SECURE for FedBuff by secure sums."""
        one = self.strategy
        name = one.get("name") if isinstance(one, Mapping) else getattr(one, "name", "")
        if name == "fedbuff" and isinstance(data.federation.summing, SecureSums):
            raise _no_secure()
        return super()._fit_data(data, engine, callbacks, store)

    def _algorithm(self, spec: Any, engine: Embedded, arrays: Arrays | None = None) -> Algorithm:
        """Answers may come in an order that the engine says."""
        rows = None
        if arrays is not None:
            rows = arrays.sizes
        found = arrivals_of(engine.arrivals, spec, rows)
        self._clock = found if isinstance(found, Clock) else None
        return neural(spec, found)

    def _array_design(self, design: Design) -> Design:
        return replace(design, event="event") if "event" in self._extra else design

    def _domain(self, arrays: Arrays, engine: Embedded) -> Engine:
        """Every label trains by itself; their rows are never put together."""
        if arrays.labels is None:
            return engine.domain(arrays.rows)
        workers = engine.workers(arrays.rows)
        return Virtual(engine.placed(arrays.rows), arrays.labels, workers, single_threaded_blas)

    def _array_sites(self, arrays: Arrays) -> tuple[str, ...]:
        """Every label has its turn."""
        return () if arrays.labels is None else arrays.names

    def partition(self, X: Any) -> Partition:
        """New rows as the network reads them."""
        check_is_fitted(self)
        wanted = self.result_.spec.shapes.get(ITEMS)
        if wanted is None:
            return self._engine.placed(super().partition(X))
        found = items(X)
        if found.shape[1:] != wanted:
            raise wrong_shape("X", found.shape[1:], str(wanted))
        return self._engine.placed(Partition({ITEMS: found}))

    @available_if(_probable)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Floats:
        """Probability of each class, (n_rows, n_classes); of masks of each pixel, as the masks."""
        found = self.predictor_.predict(self.partition(X))
        one = self._classifies and found.ndim == 1
        return np.column_stack([1.0 - found, found]) if one else found

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class, the expected number, or the log of the relative hazard, of each
        row, (n_rows,); or masks, True inside, (n_rows, channels, height, width)."""
        if self._classifies:
            likely = self.predict_proba(X).argmax(axis=1)
            return np.asarray(self.classes_[likely])
        if self._explains == "mask":
            return np.asarray(self.predict_proba(X) > INSIDE)
        return self.predictor_.predict(self.partition(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of classes, R2 of a number (of a count the share of its deviance that is
        explained), Harrell's concordance of durations, or the mean Dice of masks."""
        from sklearn.metrics import accuracy_score, d2_tweedie_score, r2_score

        found = self.predict(X)
        if self._explains == "survival":
            duration, event = outcome_of_survival(y, self._cause)
            return concordance(duration, event == self._cause, found)
        if self._explains == "mask":
            return dice(np.asarray(y), found, sample_weight)
        if self.loss == "poisson":
            return float(d2_tweedie_score(y, found, sample_weight=sample_weight, power=1))
        measure = accuracy_score if self._classifies else r2_score
        return float(measure(y, found, sample_weight=sample_weight))

    def explain(self, X: Any, method: str = "integrated_gradients", **options: Any) -> Floats:
        """What in each of your own rows the answer rests on: maps of the shape of `X`; see
        `polyclinic.study.explain.explain`."""
        from polyclinic.study.explain import explain

        return explain(self, X, method, **options)

    def judged(self) -> Judged:
        """The network as it is evaluated."""
        if self._explains in ("survival", "mask"):
            from polyclinic.study.evaluate import Judged

            _ = self.formula_data
            kind: Any = self._explains
            return Judged(self.spec_, kind, self.predictor_.to_data())
        return super().judged()

    @property
    def history_(self) -> pd.DataFrame:
        """Loss by round; its `time` where the engine has a clock: a round waits for the slowest."""
        check_is_fitted(self)
        found = pd.DataFrame(self.result_.tables()["history"])
        if self._clock is not None and "time" not in found:
            found["time"] = times(self.result_.spec, self._clock, len(found))
        return found

    @property
    def events_(self) -> tuple[Event, ...]:
        """Of FedBuff the answers in their order: site, version that it trained, code of a loss or
        ""; as an engine's `arrivals` they are replayed."""
        check_is_fitted(self)
        return self.result_.events

    def to_torch(self) -> Any:
        """The trained network, a torch.nn.Module of its own; `Architecture.build` says what it
        reads."""
        check_is_fitted(self)
        made = network_of(self.result_.spec).load(self.result_.weights, self.result_.beside)
        # Others write weights as they lie in memory.
        whole = copy.deepcopy(made.module).to(memory_format=torch().contiguous_format)
        return whole.eval()
