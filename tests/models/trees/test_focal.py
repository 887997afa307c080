"""The focal loss of trees: slopes, the logistic loss as its end, odd rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xgboost

from polyclinic.core.errors import InputError
from polyclinic.models.trees import losses
from polyclinic.models.trees.export import booster_of
from tests.models.trees import world

BOOSTED = {"classes": 2, "trees": 8, "depth": 3, "rate": 0.3, "hessian": 1.0, "l2": 1.0}


def boosted(loss, **more):
    columns = world.rows()
    return columns, world.spec(columns, "event", loss=loss, **{**BOOSTED, **more})


@pytest.mark.parametrize("focus", [0.0, 0.5, 2.0, 10.0])
def test_derivatives_are_the_slopes_of_the_loss(focus):
    margin = np.tile(np.linspace(-12, 12, 97), 2)[:, None]
    target = np.repeat([0.0, 1.0], 97)[:, None]

    def loss(at):
        return losses.losses(at, target, "focal", focus)

    first, second = losses.focal(margin, target, focus)
    slope = (loss(margin + 1e-5) - loss(margin - 1e-5)) / 2e-5
    np.testing.assert_allclose(first[:, 0], slope, atol=1e-8)
    ahead, back = (losses.focal(margin + step, target, focus)[0] for step in (1e-5, -1e-5))
    curvature = (ahead - back) / 2e-5
    q = 1 / (1 + np.exp(-np.where(target > 0, margin, -margin)))
    least = (1 - q) ** focus * q * (1 - q)
    np.testing.assert_allclose(second, np.maximum(curvature, least), atol=1e-8)
    assert np.all(second > 0)
    asked = boosted("focal", focus=focus)[1]
    weight = asked.design.weight_bound
    assert second.max() * weight <= 2.0**asked.hessian_exponent
    assert np.abs(first).max() * weight <= 2.0**asked.gradient_exponent


def test_without_focus_it_is_the_logistic_loss():
    columns, asked = boosted("focal")
    plain = world.alone(replace(asked, loss="logistic"), columns)
    margins = [
        fit.predictor().margin(columns)
        for fit in (plain, world.alone(asked, columns), world.alone(replace(asked, focus=2.0),
                                                                    columns))
    ]  # fmt: skip
    np.testing.assert_allclose(margins[1], margins[0], atol=1e-7)
    assert np.abs(margins[2] - margins[0]).max() > 0.05


def test_trees_are_those_of_xgboost_with_these_derivatives():
    columns, asked = boosted("focal", focus=2.0)
    found = world.alone(asked, columns)
    x, target = world.as_numbers(asked, columns), columns["event"][:, None]
    data = xgboost.DMatrix(x, columns["event"], base_margin=np.full(len(x), found.base[0]))
    options = {"tree_method": "hist", "max_bin": 512, "nthread": 1, "max_depth": 3, "eta": 0.3,
               "lambda": 1.0, "min_child_weight": 1.0, "base_score": 0.5,
               "objective": "binary:logistic"}  # fmt: skip

    def slopes(margin, rows):
        g, h = losses.focal(np.asarray(margin, float).reshape(-1, 1), target, 2.0)
        return g[:, 0], h[:, 0]

    booster = xgboost.train(options, data, asked.trees, obj=slopes)
    reference = booster.predict(data, output_margin=True)
    np.testing.assert_allclose(
        found.predictor().margin(columns)[:, 0], reference, rtol=2e-5, atol=5e-6
    )
    raw = np.column_stack([columns[name] for name in ("a", "b", "d")])
    theirs = booster_of(found).predict(xgboost.DMatrix(raw, feature_names=["a", "b", "d"]))
    np.testing.assert_allclose(found.predictor().expected(columns), theirs, atol=1e-6)


def test_a_badly_predicted_row_moves_as_under_the_logistic_loss():
    margin, target = np.array([[-40.0], [-800.0], [800.0]]), np.ones((3, 1))
    first, second = losses.focal(margin, target, 2.0)
    np.testing.assert_allclose(first[:, 0], [-1.0, -1.0, 0.0], atol=1e-12)
    assert np.all(np.isfinite(second)) and np.all(second > 0)


@pytest.mark.parametrize("event", [np.ones(60), np.zeros(60), np.r_[1.0, np.zeros(59)]])
def test_one_class_and_one_row_of_a_class(event):
    columns = {name: column[:60] for name, column in world.rows().items()} | {"event": event}
    asked = world.spec(columns, "event", loss="focal", focus=2.0, **BOOSTED)
    risk = world.alone(asked, columns).predictor().expected(columns)
    assert np.all(np.isfinite(risk)) and abs(risk.mean() - event.mean()) < 0.15  # no calibration


def test_a_focus_that_cannot_be():
    with pytest.raises(InputError, match="focus"):
        boosted("focal", focus=11.0)
