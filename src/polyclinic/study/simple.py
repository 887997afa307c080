"""Estimators of naive Bayes, clusters, principal components and scales."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, OneToOneFeatureMixin
from sklearn.base import TransformerMixin as _Transformer
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from polyclinic.core.design import Design
from polyclinic.core.federation import Engine
from polyclinic.core.fit import Callback, Store
from polyclinic.core.partition import CHUNK_ROWS
from polyclinic.engines.embedded import Embedded
from polyclinic.study.arrays import Arrays
from polyclinic.study.learner import Classifier, Learner
from polyclinic.study.sites import Sites

Floats = NDArray[np.float64]


class GaussianNB(Classifier):
    """Gaussian naive Bayes, equal to the one of the pooled rows.

    Parameters
    ----------
    priors : (n_classes,) probability of each class beforehand; None: its part of the rows.
    var_smoothing : part of the largest variance of a term that is added to all variances.

    After `fit`: `theta_` means and `var_` variances (n_classes, n_terms), `class_prior_`,
    `class_count_` (weights), `epsilon_`, as in scikit-learn.
    """

    _kind = "gaussian-nb"

    def __init__(self, *, priors: Any = None, var_smoothing: float = 1e-9) -> None:
        self.priors, self.var_smoothing = priors, var_smoothing

    def _set(self) -> None:
        result: Any = self.result_
        self.theta_, self.var_, self.epsilon_ = result.mean, result.variance, result.epsilon
        self.class_prior_, self.class_count_ = result.priors, result.moments.weight[1:]

    def predict_joint_log_proba(self, X: Any) -> Floats:
        """Log of prior times density, (n_rows, n_classes)."""
        found: Any = self.predictor_
        return self._on_matrix(X, found.joint)


class _Unsupervised(Learner):
    """A learner without outcome: its formula reads ``"~ term + term"``."""

    _supervised = False

    def _found(self) -> Any:
        """What the fit found. Raises NotFittedError."""
        check_is_fitted(self)
        return self.result_

    def _array_design(self, design: Design) -> Design:
        return replace(design, response="", response_bound=1.0)


class StandardScaler(OneToOneFeatureMixin, _Transformer, _Unsupervised):  # type: ignore[misc]
    """Means and standard deviations over all rows, taken off and divided by.

    Parameters
    ----------
    with_mean, with_std : what is done.

    After `fit`: `mean_`, `var_`, `scale_` (n_terms,), as in scikit-learn.
    """

    _kind = "scaler"

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean, self.with_std = with_mean, with_std

    def _set(self) -> None:
        result: Any = self.result_
        self.mean_, self.var_, self.scale_ = result.mean, result.variance, result.scale

    def transform(self, X: Any) -> Floats:
        """The scaled terms of rows, (n_rows, n_terms)."""
        return self._on_matrix(X, self._found().transform)

    def inverse_transform(self, X: Any) -> Floats:
        """Terms (n_rows, n_terms) in their own units."""
        found: Floats = self._found().inverse(np.asarray(X, dtype=np.float64))
        return found


class PCA(ClassNamePrefixFeaturesOutMixin, _Transformer, _Unsupervised):  # type: ignore[misc]
    """Principal components, equal to those of the pooled rows.

    Parameters
    ----------
    n_components : how many; below 1 the share of variance that they explain; None: all
        that have variance.
    whiten : scores have variance 1.
    scale : what terms are divided by first: None, "sd" (pooled standard deviations), or "range"
        (the widths that the codebook declares).

    After `fit`: `components_` (n_components, n_terms) with the entry of largest magnitude positive,
    `explained_variance_`, `explained_variance_ratio_`, `singular_values_`, `mean_`,
    `noise_variance_`, `n_components_`, as in scikit-learn.
    """

    _kind = "pca"

    def __init__(
        self, n_components: float | None = None, *, whiten: bool = False, scale: str | None = None
    ) -> None:
        self.n_components, self.whiten, self.scale = n_components, whiten, scale

    def _set(self) -> None:
        result = self._found()
        kept = result.kept
        self.components_, self.mean_ = result.vectors[:kept], result.mean
        self.explained_variance_ = result.variance[:kept]
        self.explained_variance_ratio_ = result.ratio[:kept]
        weight = float(result.moments.weight[0])
        self.singular_values_ = np.sqrt(self.explained_variance_ * (weight - 1.0))
        self.noise_variance_, self.n_components_ = result.noise_variance, kept
        self.n_samples_ = result.n

    @property
    def _n_features_out(self) -> int:
        return int(self.n_components_)

    def transform(self, X: Any) -> Floats:
        """Scores of rows, (n_rows, n_components)."""
        return self._on_matrix(X, self._found().transform)

    def inverse_transform(self, X: Any) -> Floats:
        """Terms of which `X` (n_rows, n_components) are the scores, as near as these come."""
        found: Floats = self._found().inverse(np.asarray(X, dtype=np.float64))
        return found


class KMeans(ClassNamePrefixFeaturesOutMixin, ClusterMixin, _Transformer, _Unsupervised):  # type: ignore[misc]
    """k-means clusters by Lloyd's rounds.

    Parameters
    ----------
    n_clusters : how many.
    init : (n_clusters, n_terms) first centres; None: found from sums over cells of space.
    n_init : starts that are tried where these centres are found.
    max_iter : rounds at most.
    tol : a move of all centres, squared, beside the mean variance of a term, that ends it.
    batch : part of the rows that a round looks at; None: all.
    group_size : patients of a hospital that are put into clusters together at least, so that no two
        sums differ in fewer; None: 5 over hospitals, 1 for arrays.
    scale : what terms are divided by first: None, "sd" (pooled standard deviations), or "range"
        (the widths that the codebook declares).
    random_state : seed of the starts and of the batches.

    After `fit`: `cluster_centers_` (n_clusters, n_terms) in the terms' own units, `sizes_` (rows of
    each), `inertia_` of the scaled terms, `calinski_harabasz_`; for arrays also `labels_`.
    """

    _kind = "kmeans"

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = None,
        n_init: int = 10,
        max_iter: int = 100,
        tol: float = 1e-4,
        batch: float | None = None,
        group_size: int | None = None,
        scale: str | None = None,
        random_state: int = 0,
    ) -> None:
        self.n_clusters, self.init, self.n_init = n_clusters, init, n_init
        self.max_iter, self.tol, self.batch = max_iter, tol, batch
        self.group_size, self.scale, self.random_state = group_size, scale, random_state

    def _set(self) -> None:
        result = self._found()
        self.cluster_centers_, self.sizes_ = result.centres, result.sizes
        self.inertia_, self.calinski_harabasz_ = result.inertia, result.calinski_harabasz
        if self._arrays is not None:
            rows = self._arrays.rows
            x = self.spec_.design.matrix(rows.columns, rows.site)
            chunks = (x[at : at + CHUNK_ROWS] for at in range(0, len(x), CHUNK_ROWS))
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                self.labels_ = np.concatenate(list(pool.map(result.label, chunks)))

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Number of the nearest centre of each row, (n_rows,)."""
        return self._on_matrix(X, self._found().label).astype(np.int64)

    def transform(self, X: Any) -> Floats:
        """Distance from each centre, of the scaled terms, (n_rows, n_clusters)."""
        return self._on_matrix(X, self._found().distances)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the sum of squared distances of rows from their nearest centre."""
        least = self.transform(X).min(axis=1) ** 2
        weight = np.ones(len(least)) if sample_weight is None else np.asarray(sample_weight)
        return -float(weight @ least)


class Screening(Learner):
    """Tests of each column beside an outcome, one by one.

    Parameters
    ----------
    bins : parts that a number is cut into for the mutual information.

    After `fit`: `table_` with test, statistic, p, q (adjusted for the number of columns), effect
    and mutual information per column; `pvalues_`, `qvalues_` (n_columns,), NaN where there is no
    test.
    """

    _kind = "screening"
    _discrete = False

    def __init__(self, *, bins: int = 4) -> None:
        self.bins = bins

    def fit(  # type: ignore[override]  # rows without weights
        self,
        X: Any,
        y: Any = None,
        *,
        sites: Any = None,
        engine: Embedded | None = None,
        callbacks: Sequence[Callback] = (),
        store: Store | None = None,
        privacy: Any = None,
        purpose: str = "",
    ) -> Self:
        """Fit over sites by a formula, or over arrays in one trust domain, as any learner.

        The outcome of arrays are classes unless it holds fractions.
        """
        self._discrete = not isinstance(X, Sites) and type_of_target(y) != "continuous"
        more = {"callbacks": callbacks, "store": store, "privacy": privacy, "purpose": purpose}
        return super().fit(X, y, sites=sites, engine=engine, **more)

    @property
    def _classifies(self) -> bool:
        return self._discrete

    def _domain(self, arrays: Arrays, engine: Embedded) -> Engine:
        rows, names = arrays.rows, arrays.design.names
        columns = {name: rows.columns["X"][:, j] for j, name in enumerate(names)}
        outcome = arrays.design.response
        named = replace(rows, columns={**columns, outcome: rows.columns[outcome]}, cache={})
        return engine.domain(named)

    def _set(self) -> None:
        table = pd.DataFrame(self.result_.tables()["screening"]).set_index("column")
        self.table_ = table
        self.pvalues_, self.qvalues_ = (table[name].to_numpy(dtype=float) for name in "pq")


ESTIMATORS: Sequence[type[Learner]] = (GaussianNB, KMeans, PCA, Screening, StandardScaler)
