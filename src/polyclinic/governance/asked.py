"""What a study asks of a learner: made alike by the coordinator and by every hospital."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.core.groups import SMALLEST
from polyclinic.data.codebook import Codebook
from polyclinic.models.learner import Asked, Column, Kind
from polyclinic.privacy.dp import DifferentialPrivacy


def asked(
    kind: Kind,
    design: Design,
    codebook: Codebook,
    options: Mapping[str, Any],
    *,
    sites: tuple[str, ...] = (),
    seed: int = 0,
    least: int = SMALLEST,
    privacy: DifferentialPrivacy | None = None,
) -> Asked:
    """What a formula over hospitals asks; `least` is what their policies ask for.

    Raises
    ------
    InputError : NO_PRIVATE_VERSION of this kind for `privacy`; ONE_CLASS, WRONG_VALUE for an
        outcome that this kind of model does not explain; BAD_FORMULA where there is none.
    """
    if privacy is not None and not kind.private:
        raise no_noise(kind)
    outcome = design.response
    if kind.predicts and not outcome:
        raise InputError(
            f"a {kind.title} needs an outcome",
            code="BAD_FORMULA",
            rule='its formula reads "outcome ~ term + term"',
            next="name the outcome",
        )
    check_fits(kind, design)
    classes = len(codebook.level_names(outcome)) if outcome else 0
    if outcome:
        check_outcome(kind, classes, outcome)
    extra = {outcome, design.offset, design.weight}
    columns = tuple(_column(codebook, name) for name in design.columns if name not in extra)
    span = codebook.declared_ranges([outcome]).get(outcome) if outcome else None
    more: Any = {"least": least, "span": span, "privacy": privacy}
    more["output"] = codebook.media.get(outcome, ())
    return Asked(design, dict(options), classes, columns, sites, seed, **more)


def no_noise(kind: Kind) -> InputError:
    """The error of a kind without a version under differential privacy."""
    return InputError(
        f"a {kind.title} has no version under differential privacy",
        code="NO_PRIVATE_VERSION",
        rule="noise is added by steps that bound every patient's part",
        next="use exact or secure sums, a regression, or trees",
    )


def check_fits(kind: Kind | None, design: Design) -> None:
    """Raises BAD_FORMULA for Surv( ) in a model of no survival (None: a regression), and for
    images or series in a model that reads none."""
    if design.media and not (kind and kind.media):
        raise InputError(
            f"{', '.join(design.media)}: a {kind.title if kind else 'regression'} reads no images "
            "or series",
            code="BAD_FORMULA",
            rule="columns of images and series are read by neural networks",
            next="use a neural network, or leave the column out",
        )
    explained = kind is not None and (kind.explains == "survival" or kind.survival)
    if design.event is not None and not explained:
        title = kind.title if kind else "regression"
        raise InputError(
            f"Surv({design.response}, {design.event}): a {title} explains no survival",
            code="BAD_FORMULA",
            rule="Surv(duration, event) is the outcome of survival models",
            next="use a Cox regression, a network with loss = 'cox', or another outcome",
        )


def check_outcome(kind: Kind, classes: int, outcome: str) -> None:
    """Raises WRONG_VALUE for an outcome with so many classes (0: a number) that does not fit;
    ONE_CLASS for one class where several are told apart."""
    if classes == 1 and kind.explains in ("classes", "binary"):
        raise InputError(
            f"{outcome}: all rows are of one class",
            code="ONE_CLASS",
            rule="a classifier needs at least two outcome classes among the rows",
            next="look at the cohort and at the outcome's definition",
        )
    wrong = {
        "classes": "a category or binary outcome" if classes < 2 else "",
        "binary": "an outcome with two classes" if classes != 2 else "",
        "number": "a number as outcome" if classes else "",
    }.get(kind.explains, "")
    if wrong:
        raise InputError(
            f"{outcome}: a {kind.title} needs {wrong}",
            code="WRONG_VALUE",
            rule="the kind of the model fits the outcome's type in the codebook",
            next="use another kind of model, or another outcome",
        )


def _column(codebook: Codebook, name: str) -> Column:
    spec, label = codebook.spec(name), codebook.label(name)
    if name in codebook.media:
        kind: Literal["image", "series"] = "image" if spec.type == "image" else "series"
        return Column(name, kind, label=label, shape=codebook.media[name])
    if levels := codebook.level_names(name):
        coded: Literal["binary", "category"] = "binary" if spec.type == "binary" else "category"
        return Column(name, coded, levels, 0.0, float(len(levels) - 1), label)
    bound = codebook.bound(name)
    low, high = codebook.declared_ranges([name]).get(name, (-bound, bound))
    return Column(name, "number", (), low, high, label)
