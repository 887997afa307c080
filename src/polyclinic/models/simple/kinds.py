"""Kinds of this family: what a study may set, and what else a plan may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from polyclinic.core.design import Design, Term
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.descriptive import Column as Described
from polyclinic.models.learner import Asked, Check, Column, Kind, check_options
from polyclinic.models.simple import bayes, kmeans, kmeans_grouped, kmeans_tasks, pca, scaler
from polyclinic.models.simple.bayes import GaussianNBSpec
from polyclinic.models.simple.kmeans import KMeansSpec
from polyclinic.models.simple.moments import MAX_ROUNDS, check_forms, check_state, is_array
from polyclinic.models.simple.pca import PCASpec
from polyclinic.models.simple.products import check_products
from polyclinic.models.simple.scale import SCALES, Scale
from polyclinic.models.simple.scaler import ScalerSpec
from polyclinic.models.simple.screening import ROUNDS, ScreeningSpec
from polyclinic.models.simple.screening_tasks import check_tables
from polyclinic.models.simple.screening_tasks import task as tables

MOST_BINS = 20
GROUP = 5  # patients of a hospital that stay together, where nobody says another number
MOST_CLUSTERS, MOST_ITER, MOST_INIT = 100, 10_000, 1000


def _is_whole(low: int, high: int) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return isinstance(value, Integral) and not _is_bool(value) and low <= int(value) <= high

    return check


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return isinstance(value, Real) and not _is_bool(value) and low <= float(value) <= high

    return check


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _terms(asked: Asked, kind: str, outcome: bool = False) -> Design:
    """The design. Raises BAD_FORMULA without terms, or with an outcome where none is explained."""
    if asked.design.response and not outcome:
        raise InputError(
            f"{kind} of an outcome",
            code="BAD_FORMULA",
            rule='the formula reads "~ term + term"',
            next="leave the outcome out",
        )
    if not asked.design.terms:
        raise InputError(
            f"{kind} of no column",
            code="BAD_FORMULA",
            rule="a formula names a column at least",
            next="name the columns",
        )
    return asked.design


def _scale(by: str | None, terms: Sequence[Term], columns: Sequence[Column]) -> Scale:
    """With the widths of the ranges that the codebook declares, for "range"."""
    if by != "range":
        return Scale(by or "none")
    width = {column.name: column.high - column.low for column in columns}
    found = []
    for term in terms:
        factors = term.factors
        plain = not factors or (len(factors) == 1 and factors[0].kind == "value")
        name = factors[0].column if factors else term.name
        found.append(width.get(name, 0.0) if plain else term.bound)
    return Scale("range", tuple(float(one) if one > 0 else 1.0 for one in found))


_SCALED = _or_none(lambda by: isinstance(by, str) and by in SCALES)


def _bayes(asked: Asked) -> GaussianNBSpec:
    known = {"var_smoothing": _is_number(0.0, 1e6), "priors": lambda value: True}
    rule = "var_smoothing is a number of 0 or more"
    check_options(asked.options, known, rule)
    priors = asked.options.get("priors")
    if priors is not None:
        given = list(np.ravel(priors))
        numbers = all(isinstance(one, (int, float, np.number)) and one >= 0 for one in given)
        if not numbers or len(given) != asked.classes or not np.isclose(sum(given), 1.0):
            raise InputError(
                f"{len(given)} priors for {asked.classes} classes",
                code="WRONG_VALUE",
                rule="priors are a probability per class, 0 or more, and add up to 1",
                next="correct them",
            )
        priors = tuple(float(one) / float(sum(given)) for one in given)
    smoothing = float(asked.options.get("var_smoothing", 1e-9))
    design = _terms(asked, "naive Bayes", outcome=True)
    check_forms(design)
    return GaussianNBSpec(design, asked.classes, smoothing, priors, dict(asked.rows))


def _check_bayes(spec: GaussianNBSpec, data: Mapping[str, Any]) -> None:
    """Raises ValueError for what cannot be a fitted model."""
    if set(data) != {"kind", "design", "priors", "mean", "variance"}:
        raise ValueError("a naive Bayes has other fields")
    shape = (spec.classes, len(spec.design.terms))
    if not is_array(data["priors"], shape[:1], "f") or np.any(data["priors"] < 0):
        raise ValueError("priors are probabilities")
    if not all(is_array(data[name], shape, "f") for name in ("mean", "variance")):
        raise ValueError("means and variances are a finite number per class and term")
    if np.any(data["variance"] < 0):
        raise ValueError("variances are 0 or more")


def _pca(asked: Asked) -> PCASpec:
    known = {
        "n_components": _or_none(lambda n: _is_whole(1, 100_000)(n) or _is_share(n)),
        "whiten": _is_bool,
        "scale": _SCALED,
    }
    rule = (
        "n_components is a number of components, a share of variance between 0 and 1, or left out; "
        'whiten is true or false; scale is "none", "sd" or "range"'
    )
    check_options(asked.options, known, rule)
    given, design = asked.options, _terms(asked, "principal components")
    wanted = given.get("n_components")
    if wanted is not None:
        wanted = float(wanted) if _is_share(wanted) else int(wanted)
    scale = _scale(given.get("scale"), design.terms, asked.columns)
    return PCASpec(design, wanted, bool(given.get("whiten", False)), scale, dict(asked.rows))


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1


def _scaler(asked: Asked) -> ScalerSpec:
    known = {"with_mean": _is_bool, "with_std": _is_bool}
    check_options(asked.options, known, "with_mean and with_std are true or false")
    mean, std = (bool(asked.options.get(name, True)) for name in known)
    return ScalerSpec(_terms(asked, "means and spreads"), mean, std, dict(asked.rows))


def _kmeans(asked: Asked) -> KMeansSpec:
    known = {
        "n_clusters": _is_whole(1, MOST_CLUSTERS),
        "n_init": _is_whole(1, MOST_INIT),
        "max_iter": _is_whole(1, MOST_ITER),
        "tol": _is_number(0.0, 1e6),
        "batch": _or_none(lambda x: _is_number(0.0, 1.0)(x) and x > 0),
        "group_size": _or_none(_is_whole(1, 10_000)),
        "scale": _SCALED,
        "init": lambda value: True,
    }
    rule = (
        f"n_clusters is 1 to {MOST_CLUSTERS}, n_init 1 to {MOST_INIT}, max_iter 1 to {MOST_ITER}, "
        "tol 0 or more, batch a share above 0 and up to 1, group_size 1 or more, "
        'scale "none", "sd" or "range"'
    )
    check_options(asked.options, known, rule)
    given, design = asked.options, _terms(asked, "clusters")
    kmeans_tasks.check_terms(design)
    group = given.get("group_size") or (1 if design.is_array else GROUP)
    clusters = int(given.get("n_clusters", 8))
    return KMeansSpec(
        design,
        clusters,
        int(given.get("n_init", 10)),
        int(given.get("max_iter", 100)),
        float(given.get("tol", 1e-4)),
        int(asked.seed),
        float(given.get("batch") or 0.0),
        int(group),
        _scale(given.get("scale"), design.terms, asked.columns),
        _init(given.get("init"), (clusters, len(design.terms))),
        dict(asked.rows),
    )


def _init(given: Any, shape: tuple[int, int]) -> tuple[tuple[float, ...], ...]:
    """First centres. Raises WRONG_VALUE for another shape."""
    if given is None:
        return ()
    try:
        centres = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        centres = np.zeros(0)
    if centres.shape != shape or not np.all(np.isfinite(centres)):
        raise InputError(
            "init is not a table of centres",
            code="WRONG_VALUE",
            rule=f"init is {shape[0]} rows of {shape[1]} numbers: a centre per cluster",
            next="correct it, or leave it out",
        )
    return tuple(tuple(centre) for centre in centres.tolist())


def _screening(asked: Asked) -> ScreeningSpec:
    check_options(asked.options, {"bins": _is_whole(2, MOST_BINS)}, f"bins is 2 to {MOST_BINS}")
    design = asked.design
    if not design.response or design.weight or design.offset or not asked.columns:
        raise InputError(
            "screening needs an outcome and columns, without weights and offsets",
            code="BAD_FORMULA",
            rule='its formula reads "outcome ~ column + column"',
            next="correct the formula",
        )
    bounds = {f.column: t.bound for t in design.terms for f in t.factors if f.kind == "value"}
    bounds |= {term.name: term.bound for term in design.terms if not term.factors}
    columns = tuple(_described(column, bounds.get(column.name)) for column in asked.columns)
    bins = int(asked.options.get("bins", 4))
    return ScreeningSpec(design, columns, asked.classes, bins, dict(asked.rows))


def _described(column: Column, bound: float | None) -> Described:
    bound = bound or max(abs(column.low), abs(column.high), 1.0)
    if column.kind == "image" or column.kind == "series":  # mypy narrows this
        raise ValueError("a statistic of images or series")
    if column.kind == "number":
        return Described(column.name, "number", (), float(column.low), float(column.high), bound)
    return Described(column.name, column.kind, column.levels, bound=float(bound))


def _moments(groups: Callable[[Any], int]) -> Check:
    def check(spec: Any, plan: Plan) -> None:
        check_state(plan, groups(spec))

    return check


def _of_plan(check: Callable[[Plan], None]) -> Check:
    return lambda spec, plan: check(plan)


def _check_tables(spec: ScreeningSpec, plan: Plan) -> None:
    check_tables(spec.wanted(), plan)


_ONE = _moments(lambda spec: 1)
kinds = [
    Kind(
        "gaussian-nb",
        "Gaussian naive Bayes",
        "classes",
        _bayes,
        GaussianNBSpec.from_data,
        lambda spec: MAX_ROUNDS,
        {bayes.TASK.name: _moments(lambda spec: 1 + spec.classes)},
        predictor=_check_bayes,
    ),
    Kind(
        "pca",
        "principal component analysis",
        "nothing",
        _pca,
        PCASpec.from_data,
        lambda spec: MAX_ROUNDS + 1,
        {pca.MOMENTS.name: _ONE, pca.PRODUCTS.name: _of_plan(check_products)},
    ),
    Kind(
        "scaler",
        "table of means and spreads",
        "nothing",
        _scaler,
        ScalerSpec.from_data,
        lambda spec: MAX_ROUNDS,
        {scaler.TASK.name: _ONE},
    ),
    Kind(
        "kmeans",
        "k-means clustering",
        "nothing",
        _kmeans,
        KMeansSpec.from_data,
        lambda spec: MAX_ROUNDS + 1 + kmeans_tasks.DEEPEST + spec.max_iter + 1,
        {
            kmeans.MOMENTS.name: _ONE,
            kmeans.PRODUCTS.name: _of_plan(check_products),
            **{
                task.name: _of_plan(kmeans_tasks.check_cells)
                for task in (kmeans_tasks.cells, kmeans_grouped.cells)
            },
            **{
                task.name: _of_plan(kmeans_tasks.check_clusters)
                for task in (kmeans_tasks.clusters, kmeans_grouped.clusters)
            },
        },
        pooled=False,
    ),
    Kind(
        "screening",
        "screening of columns, one by one",
        "nothing",
        _screening,
        ScreeningSpec.from_data,
        lambda spec: ROUNDS,
        {tables.name: _check_tables},
    ),
]
