"""Updates as whole numbers, so that their sum is the same in any order, secure or not.

A number is held in steps of 2**-FRACTION; 64 sites with at most LARGEST each fit into 63 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import Refused

FRACTION = 28
STEPS = 2.0**FRACTION
LARGEST = 2.0**28


def whole(values: Any) -> NDArray[np.int64]:
    """The steps of numbers. Raises Refused (LOSS_EXPLODED) for what is not finite or too large."""
    array = np.asarray(values, dtype=np.float64)
    if not (array.min(initial=0.0) > -LARGEST and array.max(initial=0.0) < LARGEST):  # NaN is not
        raise Refused(
            f"an update times its rows is not below {LARGEST:.3g} here",
            code="LOSS_EXPLODED",
            rule="only finite numbers leave a site",
            next="lower the learning rate, or scale the columns",
        )
    steps = np.asarray(array * STEPS)
    return np.rint(steps, out=steps).astype(np.int64)


def number(steps: Any) -> NDArray[np.float64]:
    """The numbers of summed steps; of a leaf that is no whole number they are there already."""
    array = np.asarray(steps)
    if array.dtype.kind == "f":
        return array
    return np.asarray(np.multiply(array, 1 / STEPS, dtype=np.float64))  # a power of 2: exact
