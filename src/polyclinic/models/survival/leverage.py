"""How much of the information on one coefficient a single patient holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.glm.scale import unpack

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def leverage(x: Floats, weight: Floats, hessians: Floats | None, key: Ints | None) -> float:
    """Of all rows of a site, under the first of the candidates; 0 where no Hessian is asked for."""
    if hessians is None or not np.all(np.isfinite(weight)) or not weight.sum() > 0:
        return 0.0
    return leverage_of(x - (weight @ x) / weight.sum(), weight, hessians[0], key)


def leverage_of(x: Floats, weight: Floats, packed: Floats, key: Ints | None) -> float:
    """Largest leverage of a patient.

    x       columns less their weighted mean over the site, (n, p)
    weight  part in the curvature, (n,)
    packed  the site's Hessian
    """
    hessian = unpack(packed, x.shape[1])
    scale = np.sqrt(np.maximum(np.diag(hessian), 1e-300))
    inverse = np.linalg.pinv(hessian / np.outer(scale, scale), rcond=1e-12, hermitian=True)
    x = x / scale
    h = np.einsum("ij,ij->i", x @ inverse, x) * weight
    if key is not None and len(h):
        h = np.add.reduceat(h, np.flatnonzero(np.diff(key, prepend=key[0] - 1)))
    return float(min(h.max(initial=0.0), 1.0))
