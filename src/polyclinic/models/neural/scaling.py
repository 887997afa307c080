"""What is done to a table's columns before a network reads them."""

from __future__ import annotations

import numpy as np

from polyclinic.models.glm.spec import Moments
from polyclinic.models.neural.inputs import Scaling
from polyclinic.models.neural.spec import NeuralSpec


def scaling_by(spec: NeuralSpec, moments: Moments | None) -> Scaling:
    """By the pooled mean and standard deviation, by the declared range, or not at all."""
    e, width = spec.design.exponents, spec.table
    if spec.scale == "pooled" and moments is not None:
        spread = np.ldexp(np.where(moments.sd > 0, moments.sd, 1.0), e)
        return Scaling(np.ldexp(moments.mean, e), spread)
    if spec.scale == "range":
        return Scaling(np.zeros(width), np.array([term.bound for term in spec.design.terms]))
    return Scaling(np.zeros(width), np.ones(width))
