"""Which trees grow under differential privacy, and with what scale of the outcome."""

from __future__ import annotations

from dataclasses import replace

from polyclinic.core.errors import InputError
from polyclinic.models.learner import Asked
from polyclinic.models.trees.edges import searching
from polyclinic.models.trees.spec import Private, Spec


def with_noise(spec: Spec, asked: Asked, start: bool = False) -> Spec:
    """`spec` with the noise that is asked for; as it is where none is.

    start  whether its trees correct a start

    Raises
    ------
    InputError : NO_PRIVATE_VERSION; NO_RANGE for a number as outcome without a declared range.
    """
    if asked.privacy is None:
        return spec
    _check(spec)
    low, high = _span(spec, asked)
    centre, unit = 0.5 * (low + high), 0.5 * (high - low)
    if spec.loss == "logistic":
        centre, unit = 0.0, 1.0
    guaranteed = asked.privacy
    return replace(spec, private=Private(guaranteed.epsilon, guaranteed.delta, centre, unit, start))


def _check(spec: Spec) -> None:
    reasons = {
        f"the {spec.loss} loss": spec.loss not in ("squared", "logistic"),
        "an outcome of more than two classes": spec.classes > 2,
        "a sample weight": spec.design.weight is not None,
        "a class weight": spec.class_weight is not None,
        'bins = "quantiles"': searching(spec),
        "bootstrap": spec.bootstrap,
        "subsample": spec.rows_share < 1.0,
        "early_stopping_rounds": spec.validation > 0,
        "rows that are left out": bool(spec.rows),
    }
    for what, found in reasons.items():
        if found:
            raise InputError(
                f"{what} has no version under differential privacy",
                code="NO_PRIVATE_VERSION",
                rule="squared or logistic loss of all patients, each of weight 1",
                next="change the model (bootstrap = false in a forest), or fit it without "
                "DifferentialPrivacy",
            )


def _span(spec: Spec, asked: Asked) -> tuple[float, float]:
    if spec.classes:
        return 0.0, 1.0
    if asked.span is None or not asked.span[0] < asked.span[1]:
        raise InputError(
            f"{spec.design.response} has no range in the codebook",
            code="NO_RANGE",
            rule="noise is measured against the range that a column may have, never its values",
            next=f"give {spec.design.response} a range in the codebook",
        )
    return asked.span
