"""Results of real runs, for every kind of outcome."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest

import polyclinic as pc

FORMULA = "disease ~ age + sex + C(cp) + thalach + exang + oldpeak"


def results_of(model: Any, sites: Any, formula: str, **evaluate: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the data; the results carry them as text
        model.fit(sites, formula)
        model.evaluate(**evaluate)
    return model._results("A title", "a purpose")


@pytest.fixture(scope="session")
def heart_once(data_dir: Path) -> dict[str, Any]:
    return results_of(
        pc.LogisticRegression(),
        pc.datasets.heart_disease(),
        FORMULA,
        thresholds=(0.2, 0.5),
        subgroups=("sex",),
    )


@pytest.fixture
def heart(heart_once: dict[str, Any]) -> dict[str, Any]:
    """The four hospitals, golden model A; a copy that a test may change."""
    return copy.deepcopy(heart_once)


@pytest.fixture(scope="session")
def linear() -> dict[str, Any]:
    formula = "progression ~ age + sex + bmi + bp"
    return results_of(pc.LinearRegression(), pc.datasets.diabetes(), formula)


@pytest.fixture(scope="session")
def classes() -> dict[str, Any]:
    formula = "species ~ sepal_length + petal_length"
    free = pc.Policy(min_difference=0)  # a fold of so few rows differs from all by fewer than 5
    return results_of(pc.LogisticRegression(l2=1.0), pc.datasets.iris().with_policy(free), formula)


@pytest.fixture(scope="session")
def cancer() -> dict[str, Any]:
    """A yes/no outcome that needs no file."""
    sites = pc.datasets.breast_cancer()
    outcome = sites.codebook.target.column
    names = [c for c in sites.codebook.columns if c != outcome][:3]
    return results_of(pc.LogisticRegression(), sites, f"{outcome} ~ {' + '.join(names)}")
