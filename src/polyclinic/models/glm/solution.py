"""Where a solver ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Optimum:
    """A solver's last point, in standard units.

    curvature  Hessian of the loss there, or None when the solver never asked for it
    active     mask of coefficients that the data can tell apart
    end        converged | max_rounds | separated | no_descent | stopped
    step       size of the next step in standard errors, None when not known
    events     of rounds that overlap: number of the round, rows from, up to, and how many rounds
               were added between the question about them and this one
    """

    theta: Floats
    loss: float | None
    curvature: Floats | None
    active: NDArray[np.bool_] | None
    rounds: int
    end: str
    step: float | None
    events: tuple[tuple[int, int, int, int], ...] = ()
