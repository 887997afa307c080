"""Ensembles follow scikit-learn's conventions."""

from __future__ import annotations

import warnings

from sklearn.utils.estimator_checks import parametrize_with_checks

import polyclinic as pc

ALL = [
    pc.SelectBest(),
    pc.WeightedAverage(base="linear", weights="loss"),
    pc.Stacking(),
]
INNER = "inner folds are of rows, so a row of weight 2 is not two rows"


def failing(estimator):
    if isinstance(estimator, pc.Stacking):
        return {
            "check_sample_weight_equivalence_on_dense_data": INNER,
            "check_sample_weight_equivalence_on_sparse_data": INNER,
        }
    return {}


@parametrize_with_checks(ALL, expected_failed_checks=failing)
def test_scikit_learn_accepts_it(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its data are separated, collinear, or too few
        check(estimator)
