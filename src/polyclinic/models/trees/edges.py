"""Edges of bins with as many rows each, found by summed histograms before any tree.

The search is that of `polyclinic.models.descriptive.quantiles`: what leaves a site are histograms,
whose small cells the gate hides, and no bin is cut that holds fewer than twice `cell` values. An
edge that is found is moved to the nearest place of a grid over the column's range, the only places
at which hospitals take one. They compare edges with earlier ones like cohorts; see cells.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from polyclinic.core.algorithm import Stages
from polyclinic.core.plan import Plan
from polyclinic.models.descriptive.column import Column
from polyclinic.models.descriptive.quantiles import Quantiles
from polyclinic.models.trees.bins import as_edges
from polyclinic.models.trees.spec import EDGE_PLACES, Feature, Spec, feature_of, places


def searching(spec: Spec) -> bool:
    """Whether edges are to be found."""
    return any(one.quantiles for one in spec.features)


def binning(spec: Spec) -> Stages:
    """The search for edges, then the trees."""
    from polyclinic.models.trees.grow import Growing

    return Stages((lambda done: search(spec), lambda done: Growing(with_edges(spec, done[0]))))


def search(spec: Spec) -> Quantiles:
    """The search for all columns together: one set of edges for the cohort, whatever fold grows."""
    columns = tuple(
        Column(one.name, "number", (), one.low, one.high) for one in spec.features if one.quantiles
    )
    most = max(one.quantiles for one in spec.features)
    q = tuple(float(k) / most for k in range(1, most))
    return Quantiles(columns, q, tolerance=1.0 / EDGE_PLACES, least=max(spec.cell, 1))


def with_edges(spec: Spec, found: Mapping[str, Any]) -> Spec:
    """The spec with what the search found."""
    features = tuple(
        _with(one, found["all"][one.name]) if one.quantiles else one for one in spec.features
    )
    return replace(spec, features=features)


def _with(feature: Feature, answers: Mapping[str, Any]) -> Feature:
    inner = [one for name, one in answers.items() if name not in ("low", "high")]
    values = np.array([one["value"] for one in inner if one is not None], dtype=np.float64)
    grid = places(feature)
    step = (feature.high - feature.low) / EDGE_PLACES
    at = np.rint((values - feature.low) / step).astype(np.int64)
    inside = at[(at > 0) & (at < EDGE_PLACES)]
    return replace(feature, edges=as_edges(grid[inside - 1]))


def closed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a spec without the edges that were found, as a study fixes it.

    Raises
    ------
    InputError : WRONG_VALUE for edges that no search finds.
    """
    features = []
    for one in data["features"]:
        found = feature_of(one).quantiles > 0
        features.append({**one, "edges": np.zeros(0)} if found else one)
    return {**data, "features": features}


def check_search(spec: Spec, plan: Plan) -> None:
    """Raises ValueError for histograms that the search does not ask for."""
    asked = {one.name for one in spec.features if one.quantiles}
    if set(plan.values) != {"by", "edges"} or plan.values["by"] is not None:
        raise ValueError("histograms of groups")
    if set(plan.values["edges"]) != asked:
        raise ValueError("histograms of other columns")
