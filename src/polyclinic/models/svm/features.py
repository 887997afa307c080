"""Random Fourier features: a linear machine over them is close to one with an RBF kernel.

z(x) = sqrt(2 / D) cos(W u + b), u = (x - centre) / spread, W from N(0, 2 gamma), b from U(0, 2 pi);
then z(x)'z(x') is, on average over draws, exp(-gamma |u - u'|^2), with an error of 1 / sqrt(D).
Reference: Rahimi & Recht, "Random features for large-scale kernel machines", NIPS 2007.

Every site and the coordinator draw W and b from the seed: raw 64-bit words of Philox, a counter
that numpy keeps as it is, are turned into numbers here and rounded to a grid, so that they have the
same bytes everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]
GRID = 2.0**-24  # far above what the last digit of a logarithm differs by between machines
MOST = 10_000  # components


@dataclass(frozen=True)
class Features:
    """The draw of a kernel's features.

    gamma       width of the kernel over columns of spread 1; 0: 1 / number of columns
    components  number of features
    seed        of the draw
    """

    gamma: float = 0.0
    components: int = 100
    seed: int = 0

    def map(self, x: Floats, centre: Floats, spread: Floats) -> Floats:
        """Features of the rows `x` (n_rows, n_terms): (n_rows, components)."""
        directions, phases = _draw(self.seed, x.shape[1], self.components)
        gamma = self.gamma or 1.0 / max(x.shape[1], 1)
        slope = directions * (np.sqrt(2.0 * gamma) / spread[:, None])
        z = x @ slope
        z += phases - centre @ slope
        np.cos(z, out=z)
        z *= np.sqrt(2.0 / self.components)
        return np.asarray(z)


@lru_cache(maxsize=8)
def _draw(seed: int, columns: int, components: int) -> tuple[Floats, Floats]:
    """Directions of unit spread (columns, components), and phases (components,)."""
    words = np.random.Philox(key=seed).random_raw((columns + 1) * components)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    normal = np.rint(ndtri(uniform[components:]) / GRID) * GRID
    phases = np.rint(uniform[:components] * 2.0 * np.pi / GRID) * GRID
    return normal.reshape(columns, components), phases
