"""Screening gives the tests of scikit-learn and scipy over the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency, false_discovery_control
from sklearn.feature_selection import f_classif, f_regression
from sklearn.metrics import mutual_info_score

from polyclinic.core.fit import fit
from polyclinic.models.descriptive import Column
from polyclinic.models.simple import ScreeningSpec
from tests.models.simple.rows import DATA, N, design, domain, sites

COLUMNS = (
    Column("a", "number", (), -16.0, 16.0, 16.0),
    Column("b", "number", (), -16.0, 16.0, 16.0),
    Column("c", "category", ("x", "y", "z")),
)
CLASSES = ScreeningSpec(design("kind"), COLUMNS, 3)
NUMBER = ScreeningSpec(design("a", response_bound=16.0), COLUMNS[1:], 0)
ENGINES = {
    "domain": domain,
    "domain in 3": lambda: domain(3),
    "sites in 3": lambda: sites(3),
    "secure": lambda: sites(sums="secure"),
}


def lines(spec, engine):
    return {one.column: one for one in fit(spec.algorithm(), engine).model.found}


def cut(x, bins):
    from scipy.stats import norm

    edges = x.mean() + x.std(ddof=1) * norm.ppf(np.arange(1, bins) / bins)
    return np.searchsorted(edges, x, side="right")


@pytest.mark.parametrize("engine", ENGINES)
def test_classes(engine):
    found = lines(CLASSES, ENGINES[engine]())
    x = np.column_stack([DATA["a"], DATA["b"]])
    f, p = f_classif(x, DATA["kind"])
    for j, name in enumerate("ab"):
        np.testing.assert_allclose(found[name].statistic, f[j], rtol=1e-10)
        np.testing.assert_allclose(found[name].p, p[j], rtol=1e-9, atol=1e-300)
        if name == "a" and not engine.startswith("domain"):
            assert found[name].information is None  # a part of it with few patients of a class
            continue
        wanted = mutual_info_score(cut(DATA[name], 4), DATA["kind"])
        np.testing.assert_allclose(found[name].information, wanted, rtol=1e-10)
    table = pd.crosstab(DATA["c"], DATA["kind"])
    theirs = chi2_contingency(table, correction=False)
    np.testing.assert_allclose(found["c"].statistic, theirs.statistic, rtol=1e-12)
    np.testing.assert_allclose(found["c"].p, theirs.pvalue, rtol=1e-12)
    np.testing.assert_allclose(found["c"].effect, np.sqrt(theirs.statistic / N / 2), rtol=1e-12)
    wanted = mutual_info_score(DATA["c"], DATA["kind"])
    np.testing.assert_allclose(found["c"].information, wanted, rtol=1e-10)
    adjusted = false_discovery_control([found[name].p for name in "abc"])
    np.testing.assert_allclose([found[name].q for name in "abc"], adjusted, rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_number(engine):
    found = lines(NUMBER, ENGINES[engine]())
    f, p = f_regression(DATA["b"][:, None], DATA["a"])
    np.testing.assert_allclose(found["b"].statistic, f[0], rtol=1e-9)
    np.testing.assert_allclose(found["b"].p, p[0], rtol=1e-9)
    r = np.corrcoef(DATA["a"], DATA["b"])[0, 1]
    np.testing.assert_allclose(found["b"].effect, r, rtol=1e-10)
    f, p = f_classif(DATA["a"][:, None], DATA["c"])  # the outcome by level
    np.testing.assert_allclose(found["c"].statistic, f[0], rtol=1e-9)
    np.testing.assert_allclose(found["c"].p, p[0], rtol=1e-9)
    thirds = cut(DATA["a"], 3)
    wanted = mutual_info_score(cut(DATA["b"], 4), thirds)
    np.testing.assert_allclose(found["b"].information, wanted, rtol=1e-10)
    np.testing.assert_allclose(
        found["c"].information, mutual_info_score(DATA["c"], thirds), rtol=1e-10
    )


def test_what_is_hidden_is_not_tested():
    rare = np.where(np.arange(N) < 3, 2.0, DATA["c"] % 2)
    found = lines(CLASSES, sites(data={**DATA, "c": rare}))
    assert found["c"].p is None and found["c"].note == "a hospital hid a part of too few patients"
    assert found["c"].q is None and found["a"].q is not None
    kind = np.where((DATA["kind"] == 2) & (np.arange(N) > 2), 0.0, DATA["kind"])
    found = lines(CLASSES, sites(data={**DATA, "kind": kind}))
    assert {one.note for one in found.values()} == {"a hospital hid a part of too few patients"}
    result = fit(CLASSES.algorithm(), sites(data={**DATA, "c": rare})).model
    assert result.warnings() == ["c is not tested: a hospital hid a part of too few patients"]


def test_degenerate_rows():
    same = lines(CLASSES, domain(data={**DATA, "a": np.full(N, 2.0)}))
    assert same["a"].p is None and same["a"].note == "it is the same in all rows"
    same = lines(NUMBER, domain(data={**DATA, "a": np.full(N, 2.0)}))
    assert same["b"].p is None and same["c"].p is None
    one = {name: column[:1] for name, column in DATA.items()}
    assert all(line.p is None for line in lines(CLASSES, domain(data=one)).values())
    gaps = {**DATA, "b": np.where(np.arange(N) % 7 == 0, np.nan, DATA["b"])}
    known = ~np.isnan(gaps["b"])
    f, _ = f_classif(DATA["b"][known, None], DATA["kind"][known])
    np.testing.assert_allclose(lines(CLASSES, domain(data=gaps))["b"].statistic, f[0], rtol=1e-10)
    single = lines(CLASSES, domain(data={**DATA, "kind": np.zeros(N)}))
    assert all(line.p is None for line in single.values())


def test_blocks_and_data():
    result = fit(CLASSES.algorithm(), sites()).model
    (table,) = result.blocks()
    first = table["rows"][0]
    assert first[0] == "a" and first[3] == "< 0.001"
    assert [line["column"] for line in result.tables()["screening"]] == ["a", "b", "c"]
    assert ScreeningSpec.from_data(CLASSES.to_data()) == CLASSES
    assert replace(CLASSES, bins=8) != CLASSES
