"""What every learner's estimator shares: scikit-learn's conventions over sites or arrays.

A learner is a kind of model beside the regressions; `polyclinic.models.learner` says what it asks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from polyclinic.core.algorithm import Algorithm
from polyclinic.core.design import Design
from polyclinic.core.errors import DataWarning, InputError
from polyclinic.core.federation import Engine
from polyclinic.core.fit import Callback, Run, Store, fit
from polyclinic.core.groups import SMALLEST, group_size
from polyclinic.core.partition import Partition
from polyclinic.core.ring import RingError
from polyclinic.data.frames import native
from polyclinic.engines.embedded import About, Embedded
from polyclinic.engines.secure import SecureSums
from polyclinic.governance.asked import asked, check_outcome, no_noise
from polyclinic.models.learner import Asked, Column, Kind, Result, Spec, kind_of, last
from polyclinic.models.predictor import Predictor
from polyclinic.privacy.dp import DifferentialPrivacy
from polyclinic.study.arrays import Arrays, coded, from_arrays
from polyclinic.study.evaluate import Evaluated
from polyclinic.study.formula import FormulaData, from_formula
from polyclinic.study.shown import ShownLearner
from polyclinic.study.sites import Sites
from polyclinic.study.ways import ways

Floats = NDArray[np.float64]


class Learner(ShownLearner):
    """Base of the learners.

    A subclass names its `_kind`. Its constructor's parameters, but for `random_state`, are the
    options of that kind, with the same names and defaults.
    """

    _kind = ""
    _supervised = True
    _privacy: DifferentialPrivacy | None = None
    _arrays: Arrays | None
    _data: FormulaData | None
    _evaluated: Evaluated | None
    random_state: int | None = 0
    _needs_ends = (
        True  # whether the least and largest value of every column of arrays are asked for
    )

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        sites: Any = None,
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
        y : with `Sites` the formula; else the outcome, (n_rows,).
        sample_weight : (n_rows,), 0 or more. In a formula: ``weights(column)``.
        sites : (n_rows,) site of every row of arrays.
        engine : where to compute; None: this process.
        callbacks : called after every round with a `Round`.
        store : keeps the state after every round; one that holds a state resumes it.
        privacy : `SecureSum()`: only totals of all sites are ever seen;
            `DifferentialPrivacy(epsilon, delta)`, of trees and networks: noise hides every patient;
            or a list of both. None: secure sums where a site may not release alone.
        purpose : what it is for, for the sites' policies.

        Raises
        ------
        InputError : bad input, named. Refused : a site's gate refused.
        """
        engine = engine or Embedded()
        noise, sums = ways(X, y, privacy)
        if noise is not None and not self.kind_.private:
            raise no_noise(self.kind_)
        self._privacy = noise
        if not isinstance(X, Sites):
            return self._fit_arrays(X, y, sample_weight, sites, engine, callbacks, store)
        about = About(purpose=purpose)
        data = from_formula(
            X, y, engine, sums=sums, about=about, gaps=self.kind_.gaps, exact=noise is None
        )
        return self._fit_data(data, engine, callbacks, store)

    @property
    def kind_(self) -> Kind:
        """The kind of model, as hospitals know it."""
        return kind_of(self._kind)

    def _options(self) -> dict[str, Any]:
        """The parameters as options of the kind."""
        given = self.get_params(deep=False)
        return {name: value for name, value in given.items() if name != "random_state"}

    @property
    def _seed(self) -> int:
        """Seed of all draws; None is 0, so that a fit is the same again. Raises WRONG_VALUE."""
        seed: Any = 0 if self.random_state is None else self.random_state
        if (
            isinstance(seed, bool)
            or not isinstance(seed, (int, np.integer))
            or not 0 <= seed < 2**63
        ):
            raise InputError(
                f"random_state = {seed!r}",
                code="WRONG_VALUE",
                rule="a whole number of 0 or more",
                next="correct it",
            )
        return int(seed)

    def _fit_data(
        self,
        data: FormulaData,
        engine: Embedded,
        callbacks: Sequence[Callback] = (),
        store: Store | None = None,
    ) -> Self:
        """Fit over the rows of a formula."""
        if self.kind_.collected and isinstance(data.federation.summing, SecureSums):
            raise no_secure(self.kind_)
        self._arrays, self._data, self.classes_or_none_ = None, data, None
        names = data.codebook.level_names(data.design.response) if data.design.response else ()
        if names and self._classifies:
            self.classes_or_none_ = np.array(
                [int(n) for n in names] if all(n.isdigit() for n in names) else list(names)
            )
        sites = data.federation.sites
        question = asked(
            self.kind_,
            data.design,
            data.codebook,
            self._options(),
            sites=sites,
            seed=self._seed,
            least=group_size(max(SMALLEST, data.least)),
            privacy=self._privacy,
        )
        spec: Spec = self.kind_.spec(question)
        run = fit(
            self._algorithm(spec, engine),
            data.federation,
            seed=self._seed,
            callbacks=callbacks,
            store=store,
        )
        return self._finish(run, spec, engine)

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
        """Fit over arrays; `extra` are columns beside X, y and w, (n_rows,)."""
        # `from_arrays` and the first sums look for what is not finite
        checks: Any = {"dtype": [np.float64, np.float32], "ensure_all_finite": False}
        self.classes_or_none_ = None
        if self._supervised:
            x, outcome = validate_data(self, native(X), y, y_numeric=not self._classifies, **checks)
            values, classes = self._outcome(np.asarray(outcome))
        else:
            x = validate_data(self, native(X), **checks)
            values, classes = np.zeros(len(x)), 0
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(x.shape[1])])
        describe = partial(
            from_arrays,
            x,
            values,
            names,
            weight=sample_weight,
            labels=sites,
            gaps=self.kind_.gaps,
            extra=extra or {},
        )

        def attempt(quick: bool) -> tuple[Arrays, Spec, Run]:
            arrays = describe(quick=quick)
            question = Asked(
                self._array_design(arrays.design),
                self._options(),
                classes,
                (*arrays.columns(), *self._more_columns(sites)),
                self._array_sites(arrays),
                self._seed,
            )
            spec: Spec = self.kind_.spec(question)
            domain = self._domain(arrays, engine)
            algorithm = self._algorithm(spec, engine, arrays)
            run = fit(algorithm, domain, seed=self._seed, callbacks=callbacks, store=store)
            return arrays, spec, run

        try:
            arrays, spec, run = attempt(quick=not self._needs_ends)
        except RingError:  # NaN, or a column far larger than in the sample: look at every row
            if self._needs_ends:
                raise
            arrays, spec, run = attempt(quick=False)
        self._arrays, self._data = arrays, None
        return self._finish(run, spec, engine)

    def _algorithm(self, spec: Spec, engine: Embedded, arrays: Arrays | None = None) -> Algorithm:
        """What fits `spec`, where the engine or the arrays' sites matter to it."""
        return spec.algorithm()

    def _domain(self, arrays: Arrays, engine: Embedded) -> Engine:
        """Who answers for arrays; a learner for which sites matter takes `arrays.by_site()`."""
        return engine.domain(arrays.rows)

    def _array_sites(self, arrays: Arrays) -> tuple[str, ...]:
        """Names of the sites, where the model needs them."""
        return ()

    def _array_design(self, design: Design) -> Design:
        """The design of arrays, as the learner needs it."""
        return design

    def _more_columns(self, sites: Any) -> tuple[Column, ...]:
        """Columns of arrays beside the matrix that a learner's spec is to know."""
        return ()

    def _outcome(self, y: NDArray[Any]) -> tuple[Floats, int]:
        """Outcome as float64 and its number of classes, for arrays."""
        if not self._classifies:
            return y.astype(np.float64), 0
        self.classes_or_none_, codes = coded(y)
        check_outcome(self.kind_, len(self.classes_or_none_), "y")
        return codes, len(self.classes_or_none_)

    @property
    def _classifies(self) -> bool:
        return isinstance(self, ClassifierMixin)

    def _finish(self, run: Run, spec: Spec, engine: Embedded) -> Self:
        self.spec_, self.state_, self.rounds_ = spec, run.state, run.rounds
        self.result_: Result = last(run.model)
        self.n_iter_ = self.result_.rounds
        self._engine, self._evaluated = engine, None
        self._restore()
        for message in self.result_.warnings():
            warnings.warn(message, DataWarning, stacklevel=3)
        return self

    def _restore(self) -> None:
        """Set what follows from `result_`."""
        if self.classes_or_none_ is not None:
            self.classes_ = self.classes_or_none_
        self._set()

    def _set(self) -> None:
        """Set the learner's own attributes from `result_`."""

    @property
    def predictor_(self) -> Predictor:
        """What predicts with it. Raises NOTHING_TO_PREDICT."""
        check_is_fitted(self)
        found = self.result_.predictor()
        if found is None:
            raise InputError(
                f"a {self.kind_.title} predicts nothing",
                code="NOTHING_TO_PREDICT",
                rule="predictions need a model of an outcome",
                next="use a model that explains an outcome",
            )
        return found

    def partition(self, X: Any) -> Partition:
        """New rows as the model reads them."""
        check_is_fitted(self)
        if self._data is not None:
            return self._data.partition(X, gaps=self.kind_.gaps)
        finite: Any = "allow-nan" if self.kind_.gaps else True
        x = validate_data(self, native(X), reset=False, dtype=np.float64, ensure_all_finite=finite)
        return Partition({"X": x})

    def _on_matrix(self, X: Any, work: Callable[[Floats], Floats]) -> Floats:
        """`work` on the model matrix of new rows, (n_rows, n_terms)."""
        rows = self.partition(X)
        return work(self.spec_.design.matrix(rows.columns, rows.site))

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


class Classifier(ClassifierMixin, Learner):  # type: ignore[misc]  # scikit-learn is untyped
    """A learner of classes."""

    def predict_proba(self, X: Any) -> Floats:
        """Probability of each class, (n_rows, n_classes)."""
        found = self.predictor_.predict(self.partition(X))
        return found if found.ndim == 2 else np.column_stack([1.0 - found, found])

    def predict_log_proba(self, X: Any) -> Floats:
        """Log of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row, (n_rows,)."""
        probabilities = self.predict_proba(X)
        found: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return found


class Regressor(RegressorMixin, Learner):  # type: ignore[misc]
    """A learner of a number."""

    def predict(self, X: Any) -> Floats:
        """Expected outcome, (n_rows,)."""
        return self.predictor_.predict(self.partition(X))


def no_secure(kind: Kind) -> InputError:
    """The error of a kind for which hospitals answer by themselves."""
    return InputError(
        f"a {kind.title} cannot be fitted by secure sums",
        code="NOT_SECURE",
        rule="every hospital gives by name: " + "; ".join(kind.collected.values()),
        next='leave SecureSum out (secure_sums = "auto"), or fit one model over all hospitals',
    )
