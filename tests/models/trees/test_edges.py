"""Bins with as many rows each, found by sums over hospitals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.learner import Asked, Column, kind_of, last
from polyclinic.models.trees import Feature, Spec
from polyclinic.models.trees.bins import uniform_edges
from polyclinic.models.trees.edges import check_search, closed, search, with_edges
from polyclinic.models.trees.form import shapes
from polyclinic.models.trees.spec import EDGE_PLACES, places
from polyclinic.privacy.dp import DifferentialPrivacy
from polyclinic.privacy.policy import Policy
from polyclinic.study.formula import from_formula
from tests.models.trees.world import CUTS, hospitals, rows, spec

HIGH = 2000.0


def skewed(n: int = 1600) -> dict[str, np.ndarray]:
    """A laboratory value: nearly all patients in a hundredth of its range."""
    rng, found = np.random.default_rng(8), rows(n)
    z = rng.normal(size=n)
    found["a"] = np.minimum(np.exp(1.5 + z), HIGH)
    found["event"] = (rng.uniform(size=n) < 1 / (1 + np.exp(-1.5 * z))).astype(float)
    return found


def asked(edges: tuple[float, ...] = (), quantiles: int = 0) -> Spec:
    made = spec(rows(50), "event", names=("a",), classes=2, depth=3, leaf=20, cell=5)
    return replace(made, features=(Feature("a", edges, 0, True, (), quantiles, 0.0, HIGH),))


def test_quantile_bins_keep_what_ranges_of_a_skewed_column_lose() -> None:
    columns = skewed()
    train, test = (
        {k: v[part] for k, v in columns.items()} for part in (slice(1200), slice(1200, None))
    )
    areas = []
    for one in (asked(uniform_edges(0.0, HIGH, 16)), asked(quantiles=16)):
        found = last(fit(one.algorithm(), hospitals(train, Policy())).model)
        risks = found.predictor().predict(Partition(test))
        areas.append(roc_auc_score(test["event"], risks))
    assert areas[0] < 0.6 < 0.75 < areas[1]


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_edges_are_the_pooled_quantiles(sums: str) -> None:
    x = skewed()["a"]
    wanted = asked(quantiles=8)
    engine = hospitals({"a": x, "event": skewed()["event"]}, Policy(), sums, (0, 500, 900, 1600))
    answers = fit(search(wanted), engine).model
    found = with_edges(wanted, answers).features[0]
    truth = np.quantile(x, np.arange(1, 8) / 8)
    for edge, true, k in zip(found.edges, truth, range(1, 8), strict=True):
        answer = answers["all"]["a"][str(k / 8)]
        assert answer["lower"] <= true <= answer["upper"]
        assert abs(edge - answer["value"]) <= HIGH / EDGE_PLACES
        assert abs(np.mean(x < edge) - k / 8) < 0.02
    assert np.isin(np.float32(found.edges), places(found).astype(np.float32)).all()


def test_edges_of_real_patients(data_dir) -> None:
    hearts = pc.datasets.heart_disease()
    data = from_formula(hearts, "disease ~ age + thalach", pc.Embedded(), gaps=True)
    terms = [Column("age", "number", (), 18.0, 110.0), Column("thalach", "number", (), 40.0, 220.0)]
    question = Asked(data.design, {"bins": "quantiles", "max_bins": 4}, 2, tuple(terms))
    one = kind_of("tree").spec(question)
    answers = fit(search(one), data.federation).model["all"]
    found = with_edges(one, {"all": answers}).features
    parts = [
        pd.read_csv(path, header=None, na_values="?")
        for path in sorted((data_dir / "heart-disease").glob("processed.*.data"))
    ]
    frame = pd.concat(parts)[[0, 7]].dropna()
    for feature, column in zip(found, (0, 7), strict=True):
        step = (feature.high - feature.low) / EDGE_PLACES
        for edge, q in zip(feature.edges, (0.25, 0.5, 0.75), strict=True):
            answer, truth = answers[feature.name][str(q)], np.quantile(frame[column], q)
            assert answer["lower"] <= truth <= answer["upper"]  # as narrow as small cells allow
            assert abs(edge - answer["value"]) <= step
            below = [np.mean(frame[column] < edge + beside) for beside in (-1.0, 1.0)]
            assert below[0] - 0.02 < q < below[1] + 0.02


def test_no_edges_but_those_of_the_grid_and_not_more_than_asked() -> None:
    wanted = asked(quantiles=4)
    good = asked(tuple(map(float, np.float32(places(wanted.features[0])[[5, 90, 700]]))), 4)
    Spec.from_data(good.to_data())
    both = [closed({**one.to_data(), "design": 0}) for one in (wanted, good)]
    assert np.array_equal(both[0]["features"][0]["edges"], both[1]["features"][0]["edges"])
    for edges in ((*good.features[0].edges[:2], 1234.567), tuple(map(float, range(1, 6)))):
        with pytest.raises(InputError):
            asked(edges, 4)
    Feature("a", (1.5, 1234.567))  # agreed beforehand: any
    size = np.arange(3.0)
    for values in (
        {"by": None, "edges": {"a": size, "b": size}},
        {"by": None, "edges": {}},
        {"by": {"name": "event", "levels": 2}, "edges": {"a": size}},
        {"by": None, "edges": {"a": size}, "more": 1},
    ):
        with pytest.raises(ValueError, match="histograms"):
            check_search(wanted, Plan("descriptive.histogram", values))
    check_search(wanted, Plan("descriptive.histogram", {"by": None, "edges": {"a": size}}))


def test_a_constant_column_and_one_without_patients_have_no_edges() -> None:
    wanted = asked(quantiles=4)
    for value in (7.0, np.nan):
        columns = {"a": np.full(1200, value), "event": rows()["event"]}
        found = last(fit(wanted.algorithm(), hospitals(columns, Policy(), "clear", CUTS)).model)
        assert not np.any(found.trees.left >= 0)


def test_where_found_edges_have_no_place() -> None:
    column = (Column("a", "number", (), 0.0, HIGH),)
    question = Asked(asked().design, {"bins": "quantiles"}, 2, column)
    with pytest.raises(InputError) as caught:
        kind_of("tree").spec(replace(question, privacy=DifferentialPrivacy(1.0, 1e-6)))
    assert caught.value.code == "NO_PRIVATE_VERSION"
    with pytest.raises(InputError, match="ensemble"):
        shapes(kind_of("tree").spec(question))
