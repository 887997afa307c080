"""Components and scales are scikit-learn's of the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from polyclinic.core.errors import InputError
from polyclinic.core.fit import fit
from polyclinic.models.simple import PCASpec, Scale, ScalerSpec
from tests.models.simple.rows import DATA, ENGINES, N, X, design, domain


@pytest.mark.parametrize("engine", ENGINES)
def test_components_equal_scikit_learn(engine):
    run = fit(PCASpec(design()).algorithm(), ENGINES[engine]())
    ours, theirs = run.model[-1], PCA().fit(X)
    np.testing.assert_allclose(ours.vectors, theirs.components_, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(ours.variance, theirs.explained_variance_, rtol=1e-12)
    np.testing.assert_allclose(ours.ratio, theirs.explained_variance_ratio_, rtol=1e-12)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(ours.inverse(ours.transform(X)), X, rtol=1e-12, atol=1e-12)
    assert len(run.rounds) == ours.rounds == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_scales_equal_scikit_learn(engine):
    ours = fit(ScalerSpec(design()).algorithm(), ENGINES[engine]()).model
    theirs = StandardScaler().fit(X)
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-13)
    np.testing.assert_allclose(ours.scale, theirs.scale_, rtol=1e-13)
    np.testing.assert_allclose(ours.inverse(ours.transform(X)), X, rtol=1e-12, atol=1e-13)


def test_whitened_components_of_scaled_terms():
    spec = PCASpec(design(), 2, True, Scale("sd"))
    ours = fit(spec.algorithm(), domain()).model[-1]
    z = StandardScaler().fit_transform(X)
    theirs = PCA(2, whiten=True).fit(z)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(z), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(ours.noise_variance, theirs.noise_variance_, rtol=1e-10)
    back = StandardScaler().fit(X).inverse_transform(theirs.inverse_transform(theirs.transform(z)))
    np.testing.assert_allclose(ours.inverse(ours.transform(X)), back, rtol=1e-9, atol=1e-10)
    assert PCASpec.from_data(spec.to_data()) == spec


@pytest.mark.parametrize("share", [0.2, 0.8, 0.95, 0.999])
def test_as_many_as_explain_a_share(share):
    ours = fit(PCASpec(design(), share).algorithm(), domain()).model[-1]
    assert ours.kept == PCA(share).fit(X).n_components_


def test_weights_count_rows_that_often():
    repeated = np.repeat(X, DATA["w"].astype(int), axis=0)
    what = design(weight="w", weight_bound=4.0)
    ours = fit(PCASpec(what).algorithm(), domain()).model[-1]
    np.testing.assert_allclose(ours.variance, PCA().fit(repeated).explained_variance_, rtol=1e-12)
    scale = fit(ScalerSpec(what).algorithm(), domain()).model
    theirs = StandardScaler().fit(X, sample_weight=DATA["w"])
    np.testing.assert_allclose(scale.variance, theirs.var_, rtol=1e-12)


def test_values_far_from_zero_keep_their_digits():
    rng = np.random.default_rng(0)
    data = {"a": 1e6 + rng.normal(size=N), "b": rng.normal(size=N), "c": 1e-6 * rng.normal(size=N)}
    x = np.column_stack([data[name] for name in "abc"])
    centred = x - np.mean(x, axis=0)
    exact = np.linalg.svd(centred / centred.std(axis=0), compute_uv=False) ** 2 / (N - 1)
    ours = fit(PCASpec(design(), scale=Scale("sd")).algorithm(), domain(data=data)).model[-1]
    np.testing.assert_allclose(ours.variance, exact, rtol=1e-9)


def test_a_constant_one_row_too_many_components_and_one_large_unit():
    data = {**DATA, "c": np.full(N, 3.0)}
    ours = fit(PCASpec(design(), scale=Scale("sd")).algorithm(), domain(data=data)).model[-1]
    assert ours.kept == 2 and np.all(ours.vectors[:2, 2] == 0)
    assert ours.warnings() == ["c is the same in all rows"]
    scale = fit(ScalerSpec(design()).algorithm(), domain(data=data)).model
    assert scale.scale[2] == 1.0 and np.all(scale.transform(X)[:, 2] == X[:, 2] - 3.0)
    one = {name: column[:1] for name, column in DATA.items()}
    with pytest.raises(InputError, match="one sample"):
        fit(PCASpec(design()).algorithm(), domain(data=one))
    with pytest.raises(InputError, match="WRONG_VALUE"):
        fit(PCASpec(design(), 4).algorithm(), domain())
    large = {**DATA, "a": 100.0 * DATA["a"]}
    ours = fit(PCASpec(design()).algorithm(), domain(data=large)).model[-1]
    assert "by its unit alone" in ours.warnings()[0]


def test_blocks_and_tables():
    ours = fit(PCASpec(design(), 2).algorithm(), domain()).model[-1]
    bars, table = ours.blocks()
    assert [bar["name"] for bar in bars["bars"]] == ["PC1", "PC2"]
    assert table["head"] == ["term", "PC1", "PC2"] and len(table["rows"]) == 3
    assert len(ours.tables()["variance"]) == 3 and len(ours.tables()["loadings"]) == 3
    scale = fit(ScalerSpec(design()).algorithm(), domain()).model
    assert [line["term"] for line in scale.tables()["terms"]] == ["a", "b", "c"]
    assert scale.blocks()[0]["rows"][0][0] == "a"
