"""XGBoost predicts the same with the exported trees, and its Shapley values add up."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost

from polyclinic.models.trees.export import booster_of, xgboost_columns
from polyclinic.models.trees.words import to_svg, to_text
from tests.models.trees import world

MODELS = {
    "tree of classes": ("kind", {"classes": 3, "depth": 4}),
    "tree of a number": ("number", {"depth": 3}),
    "forest": ("event", {"classes": 2, "forest": True, "bootstrap": True, "trees": 9, "depth": 5,
                         "node_columns": 2}),
    "logistic": ("event", {"loss": "logistic", "classes": 2, "trees": 15, "rate": 0.3, "l2": 1.0}),
    "softmax": ("kind", {"loss": "softmax", "classes": 3, "trees": 6, "rate": 0.3, "l2": 1.0}),
    "poisson": ("count", {"loss": "poisson", "trees": 15, "rate": 0.3, "l2": 1.0}),
    "no tree": ("event", {"loss": "logistic", "classes": 2, "trees": 0}),
}  # fmt: skip


@pytest.mark.parametrize("gaps", [0.0, 0.2])
@pytest.mark.parametrize("name", MODELS)
def test_xgboost_predicts_the_same(name, gaps):
    outcome, options = MODELS[name]
    columns = world.rows(gaps=gaps)
    names = ("a", "b", "c", "d")
    asked = world.spec(columns, outcome, names=names, **options)
    found = world.alone(asked, columns)
    new = world.rows(seed=9, gaps=0.3)  # gaps and values that no row had
    new["c"][:3] = (6.0, -2.0, 1.5)
    for j, feature in enumerate(asked.features[:2]):
        new[names[j]][: len(feature.edges)] = feature.edges  # right at the edges
    x = xgboost_columns(np.column_stack([new[name] for name in names]), asked)
    data = xgboost.DMatrix(
        x,
        feature_names=list(names),
        feature_types=["float", "float", "c", "float"],
        enable_categorical=True,
    )
    booster = booster_of(found)
    ours = found.predictor().expected(new)
    theirs = np.clip(booster.predict(data), 0, 1) if asked.classes else booster.predict(data)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-6)
    parts = booster.predict(data, pred_contribs=True)
    margin = booster.predict(data, output_margin=True)
    np.testing.assert_allclose(parts.sum(axis=-1), margin, atol=2e-5)
    if found.trees.trees:
        split = {f"{names[f]}" for f in found.trees.feature[found.trees.left >= 0]}
        assert set(booster.get_score(importance_type="weight")) == split


def test_words_and_drawing_name_columns_and_levels():
    columns = world.rows(gaps=0.2)
    asked = world.spec(columns, "event", names=("a", "c"), classes=2, depth=3)
    found = world.alone(asked, columns)
    text, drawing = to_text(found), to_svg(found)
    assert "a < " in text and "c in {" in text and "or missing" in text
    assert text.count("probability") == int(np.sum(found.trees.left < 0))
    assert drawing.startswith("<svg") and drawing.count("<rect") == len(found.trees.left)
    assert "a &lt; " in drawing and "a < " not in drawing
