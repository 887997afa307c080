"""k-means: scikit-learn's where rows go one by one, as good where groups of patients stay together.

"As good" was measured: on heart disease (672 patients of three hospitals, 8 columns), breast cancer
and diabetes, for 2 to 8 clusters, the inertia of all rows is at most 5 % above the best of ten
starts of scikit-learn's k-means++ over pooled rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import calinski_harabasz_score
from threadpoolctl import threadpool_limits

from polyclinic.core.design import Design, Term
from polyclinic.core.errors import InputError, PolyclinicError, Refused
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.simple import KMeansSpec, Scale
from polyclinic.models.simple.nearest import Scaled, nearest
from polyclinic.models.simple.seeds import _lloyd, _plus_plus
from polyclinic.privacy.policy import Policy
from tests.models.simple.rows import DATA, ENGINES, TERMS, N, X, design, domain, part, sites

SPEC = KMeansSpec(design(), 3, group=1)
GROUPED = replace(SPEC, group=5)


def found(spec, engine):
    return fit(spec.algorithm(), engine).model[-1]


def scikit(k, x, **more):
    """scikit-learn's; its threads would wait for each other on a busy machine."""
    with threadpool_limits(limits=1):
        return KMeans(k, **{"n_init": 10, "random_state": 0, **more}).fit(x)


def true_inertia(result, x):
    return float(np.square(result._scaled(x) - result.scaled[result.label(x)]).sum())


def apart():
    """Three clusters that are far from each other, also at every hospital."""
    rng = np.random.default_rng(0)
    centre = np.array([[0, 0, 0], [40, 0, 5], [0, 60, 5]])[rng.integers(0, 3, N)]
    x = centre + rng.normal(size=(N, 3))
    return {name: x[:, j] for j, name in enumerate("abc")}, x


@pytest.mark.parametrize("partitions", [1, 3])
def test_from_given_centres_it_is_scikit_learns(partitions):
    start = X[[3, 200, 450]]
    spec = replace(SPEC, init=tuple(map(tuple, start.tolist())), tol=0.0)
    ours = found(spec, domain(partitions))
    theirs = scikit(3, X, init=start, n_init=1, tol=0.0)
    np.testing.assert_allclose(ours.centres, theirs.cluster_centers_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-10)
    assert (ours.label(X) == theirs.labels_).all() and ours.converged
    assert ours.sizes.tolist() == np.bincount(theirs.labels_).tolist()
    np.testing.assert_allclose(ours.distances(X), theirs.transform(X), rtol=1e-9, atol=1e-9)
    index = calinski_harabasz_score(X, theirs.labels_)
    np.testing.assert_allclose(ours.calinski_harabasz, index, rtol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_clusters_that_are_apart_are_found_whole_however_rows_are_split(engine):
    data, x = apart()
    makers = {"domain": lambda: domain(data=data), "domain in 3": lambda: domain(3, data)}
    makers |= {"sites": lambda: sites(data=data), "sites in 3": lambda: sites(3, data)}
    makers["secure"] = lambda: sites(data=data, sums="secure")
    spec = SPEC if engine.startswith("domain") else GROUPED
    ours, theirs = found(spec, makers[engine]()), scikit(3, x)
    order = np.argsort(ours.centres[:, 0] - ours.centres[:, 1])
    wanted = theirs.cluster_centers_
    wanted = wanted[np.argsort(wanted[:, 0] - wanted[:, 1])]
    np.testing.assert_allclose(ours.centres[order], wanted, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-10)
    index = calinski_harabasz_score(x, theirs.labels_)
    np.testing.assert_allclose(ours.calinski_harabasz, index, rtol=1e-9)


def test_the_number_of_partitions_changes_no_digit_that_matters():
    one, seven = found(GROUPED, sites(1)), found(GROUPED, sites(7))
    np.testing.assert_allclose(one.centres, seven.centres, rtol=1e-12, atol=1e-14)
    assert one.sizes.tolist() == seven.sizes.tolist()
    one, seven = found(SPEC, domain(1)), found(SPEC, domain(7))
    np.testing.assert_allclose(one.centres, seven.centres, rtol=1e-11)
    assert one.sizes.tolist() == seven.sizes.tolist()


@pytest.mark.parametrize(("load", "k"), [(load_breast_cancer, 5), (load_diabetes, 8)])
def test_as_good_as_scikit_learn_on_real_data(load, k):
    x = load().data
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    best = scikit(k, x).inertia_
    dealt = np.random.default_rng(0).permutation(len(x))  # the files are in an order
    names = [f"x{j}" for j in range(x.shape[1])]
    data = {name: x[dealt, j] for j, name in enumerate(names)}
    what = Design(tuple(_value(name) for name in names), "")
    alone = found(KMeansSpec(what, k, group=1), domain(data=data))
    assert true_inertia(alone, x) <= 1.03 * best
    policy = Policy(patients_per_coefficient=0.0)
    grouped = found(KMeansSpec(what, k), sites(data=data, policy=policy))
    assert true_inertia(grouped, x) <= 1.05 * best
    assert grouped.sizes.sum() == len(x) and grouped.sizes.min() >= 5


def _value(name):
    from polyclinic.core.design import Factor

    return Term(name, (Factor("value", name),), 64.0)


def test_batches_come_near_the_optimum_and_are_the_same_however_rows_are_split():
    best = scikit(3, X).inertia_
    spec = replace(SPEC, batch=0.3, tol=1e-3, seed=5)
    one, three = found(spec, domain(1)), found(spec, domain(3))
    np.testing.assert_allclose(one.centres, three.centres, rtol=1e-11)
    assert one.rounds == three.rounds and true_inertia(one, X) < 1.1 * best
    assert not np.allclose(one.centres, found(replace(spec, seed=6), domain(1)).centres)
    grouped = found(replace(GROUPED, batch=0.5, max_iter=8), sites())
    assert true_inertia(grouped, X) < 1.15 * best and grouped.sizes.sum() == N


def test_scales():
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    by_sd = found(replace(SPEC, scale=Scale("sd")), domain())
    zed = found(SPEC, domain(data={name: z[:, j] for j, name in enumerate("abc")}))
    np.testing.assert_allclose(by_sd.scaled, zed.scaled + z.mean(axis=0), rtol=1e-8, atol=1e-8)
    ranged = found(replace(SPEC, scale=Scale("range", (16.0, 32.0, 2.0))), domain())
    np.testing.assert_allclose(ranged.scale, [16.0, 32.0, 2.0])
    assert KMeansSpec.from_data(by_sd.spec.to_data()) == by_sd.spec
    large = {**DATA, "b": 100.0 * DATA["b"]}
    assert "by its unit alone" in found(SPEC, domain(data=large)).warnings()[-1]


def test_rows_of_a_patient_stay_together():
    key = np.repeat(np.arange(N // 2), 2)
    whole = Partition({name: column for name, column in DATA.items()}, key, "s")
    import polyclinic as pc

    engine = pc.Embedded().federation({"s": lambda cohort: whole}, {"s": Policy()})
    result = found(GROUPED, engine)
    assert result.sizes.sum() == N and result.patients == N // 2
    assert np.all(result.sizes % 2 == 0)


def test_weights_count_rows_of_arrays_that_often():
    repeated = np.repeat(X, DATA["w"].astype(int), axis=0)
    start = tuple(map(tuple, X[[3, 200, 450]].tolist()))
    terms = tuple(Term(name, (), 16.0) for name in TERMS)
    asked = Design(terms, "", weight="w", weight_bound=4.0)
    spec = KMeansSpec(asked, 3, group=1, init=start, tol=0.0)
    theirs = scikit(3, repeated, init=np.array(start), n_init=1, tol=0.0)
    ours = found(spec, domain(data={"X": X, "w": DATA["w"]}))
    np.testing.assert_allclose(ours.centres, theirs.cluster_centers_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-10)


def test_degenerate_rows():
    one = found(replace(SPEC, n_clusters=1), domain())
    np.testing.assert_allclose(one.centres[0], X.mean(axis=0), rtol=1e-11)
    assert one.calinski_harabasz is None and one.explained == pytest.approx(0.0, abs=1e-12)
    few = {name: column[:2] for name, column in DATA.items()}
    with pytest.raises(InputError, match="3 clusters of 2 rows"):
        found(SPEC, domain(data=few))
    row = {name: column[:1] for name, column in DATA.items()}
    assert found(replace(SPEC, n_clusters=1), domain(data=row)).inertia == 0.0
    same = {name: np.full(N, 2.0) for name in "abc"}
    result = found(SPEC, domain(data=same))
    assert result.inertia == 0.0 and result.sizes.sum() == N
    assert any("no row is in cluster" in text for text in result.warnings())
    constant = {**DATA, "c": np.full(N, 0.1)}
    assert "c is the same in all rows" in found(SPEC, domain(data=constant)).warnings()
    broken = {**DATA, "a": np.where(np.arange(N) == 5, np.nan, DATA["a"])}
    with pytest.raises(PolyclinicError, match=r"NONFINITE|finite"):
        found(SPEC, domain(data=broken))
    two = found(replace(SPEC, max_iter=1), domain())
    assert not two.converged and "still moved" in two.warnings()[-1]


def test_an_empty_cluster_is_put_where_it_is_needed():
    start = (*map(tuple, X[[3, 200]].tolist()), (1e3, 1e3, 1e3))
    given = found(replace(SPEC, init=start), domain())
    assert given.sizes[2] == 0  # who gives centres keeps them
    algorithm = SPEC.algorithm()
    from polyclinic.models.simple.kmeans import _placed

    cells = fit(algorithm, domain()).state["done"][2]
    assert cells  # the sums of cells are kept
    from polyclinic.models.simple.seeds import Cells

    known = Cells(np.eye(2), np.ones(3), np.array([[0.0, 0], [1, 0], [9, 9]]), np.zeros((3, 2)))
    moved = _placed(np.array([[0.0, 0.0], [50.0, 50.0]]), np.array([1]), known)
    assert moved.tolist() == [[0.0, 0.0], [9.0, 9.0]]


def test_more_clusters_than_groups():
    small = {name: column[:60] for name, column in DATA.items()}
    small["c"] = small["a"] * small["b"]
    result = found(replace(GROUPED, n_clusters=12), sites(data=small, sums="secure"))
    assert result.sizes.sum() == 60 and set(result.sizes[result.sizes > 0] >= 5) == {True}


def test_a_hospital_that_wants_more_patients_behind_a_number():
    strict = Policy(min_patients=10)
    with pytest.raises(Refused, match="CELL_TOO_SMALL"):
        found(replace(GROUPED, n_clusters=40), sites(policy=strict))
    result = found(replace(GROUPED, n_clusters=40, group=10), sites(policy=strict))
    assert result.sizes.sum() == N and result.sizes[result.sizes > 0].min() >= 10


def test_ties_go_to_the_first_and_starts_are_good():
    x = np.array([[0.5], [1.5], [1.0]])
    assert nearest(Scaled.of(x), np.array([[0.0], [1.0], [2.0]])).tolist() == [0, 1, 1]
    far = 1e8 + x
    assert nearest(Scaled.of(far), 1e8 + np.array([[0.0], [1.0], [2.0]])).tolist() == [0, 1, 1]
    _, y = apart()
    draw = np.random.default_rng(0)
    _, inertia = _lloyd(y, np.ones(N), _plus_plus(y, np.ones(N), 3, draw))
    assert inertia == pytest.approx(scikit(3, y).inertia_, rel=1e-10)


def test_blocks_and_tables():
    result = found(GROUPED, sites())
    table, said = result.blocks()
    assert [row[0] for row in table["rows"]] == ["rows", "a", "b", "c"]
    assert "at least 5 patients" in table["note"] and "Calinski" in said["text"]
    lines = result.tables()["clusters"]
    assert [line["rows"] for line in lines] == result.sizes.tolist()
    assert lines[0]["a"] == pytest.approx(result.centres[0, 0])
    assert part().n_rows == N
