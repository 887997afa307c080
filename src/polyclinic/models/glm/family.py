"""Exponential families with their links: per-row loss, its two derivatives, and constants.

Source: McCullagh & Nelder, *Generalized Linear Models* (1989), ch. 2. The loss is the negative
log-likelihood up to terms that do not depend on the coefficients (dispersion 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

Floats = NDArray[np.float64]
LINEAR_PREDICTOR_LIMIT = 700.0  # exp of more is infinite


class Family(Protocol):
    """One outcome per row, one linear predictor per row."""

    @property
    def name(self) -> str: ...
    @property
    def dispersion(self) -> bool:
        """True when a dispersion is estimated from the residuals."""
        ...

    def derivatives(self, eta: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        """Loss and its first and second derivative in `eta`; `eta` (n,) or (n, m), `y` alike."""
        ...

    def information(self, eta: Floats) -> Floats:
        """Expected second derivative of the loss."""
        ...

    def mean(self, eta: Floats) -> Floats: ...
    def invalid(self, y: Floats) -> NDArray[np.bool_]: ...
    def saturated(self, y: Floats) -> Floats:
        """Loss of the model that fits every row."""
        ...

    def constant(self, y: Floats) -> Floats:
        """What the loss leaves out of the negative log-likelihood at dispersion 1."""
        ...

    def variance(self, mean: Floats) -> Floats: ...
    def link(self, mean: float) -> float: ...


@dataclass(frozen=True)
class Gaussian:
    """A number, identity link."""

    name: str = "gaussian"
    dispersion: bool = True

    def derivatives(self, eta: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        residual = eta - y
        return 0.5 * residual * residual, residual, np.ones_like(residual)

    def information(self, eta: Floats) -> Floats:
        return np.ones_like(eta)

    def mean(self, eta: Floats) -> Floats:
        return eta

    def invalid(self, y: Floats) -> NDArray[np.bool_]:
        return ~np.isfinite(y)

    def saturated(self, y: Floats) -> Floats:
        return np.zeros_like(y)

    def constant(self, y: Floats) -> Floats:
        return np.full_like(y, 0.5 * np.log(2 * np.pi))

    def variance(self, mean: Floats) -> Floats:
        return np.ones_like(mean)

    def link(self, mean: float) -> float:
        return mean


@dataclass(frozen=True)
class Binomial:
    """0/1 outcome, logit link."""

    name: str = "binomial"
    dispersion: bool = False

    def derivatives(self, eta: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        e = np.abs(eta)
        np.negative(e, out=e)
        np.exp(e, out=e)
        far = e + 1.0
        np.divide(1.0, far, out=far)  # probability of the likelier outcome
        loss = np.log1p(e)
        e *= far  # and of the other one
        loss += np.maximum(eta, 0.0)
        loss -= y * eta
        first = np.where(eta >= 0, far, e)
        first -= y
        e *= far
        return loss, first, e

    def information(self, eta: Floats) -> Floats:
        return self.derivatives(eta, np.zeros_like(eta))[2]

    def mean(self, eta: Floats) -> Floats:
        e = np.exp(-np.abs(eta))
        return np.where(eta >= 0, 1.0, e) / (1.0 + e)

    def invalid(self, y: Floats) -> NDArray[np.bool_]:
        return np.asarray((y != 0) & (y != 1))

    def saturated(self, y: Floats) -> Floats:
        return np.zeros_like(y)

    def constant(self, y: Floats) -> Floats:
        return np.zeros_like(y)

    def variance(self, mean: Floats) -> Floats:
        return mean * (1.0 - mean)

    def link(self, mean: float) -> float:
        return float(np.log(mean / (1.0 - mean)))


@dataclass(frozen=True)
class Poisson:
    """Counts, log link."""

    name: str = "poisson"
    dispersion: bool = False

    def derivatives(self, eta: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        mean = np.exp(np.minimum(eta, LINEAR_PREDICTOR_LIMIT))
        return mean - y * eta, mean - y, mean

    def information(self, eta: Floats) -> Floats:
        return self.mean(eta)

    def mean(self, eta: Floats) -> Floats:
        return np.exp(eta)

    def invalid(self, y: Floats) -> NDArray[np.bool_]:
        return ~(np.isfinite(y) & (y >= 0))

    def saturated(self, y: Floats) -> Floats:
        return np.asarray(y - xlogy(y, y))

    def constant(self, y: Floats) -> Floats:
        return np.asarray(gammaln(y + 1.0))

    def variance(self, mean: Floats) -> Floats:
        return mean

    def link(self, mean: float) -> float:
        return float(np.log(mean))


@dataclass(frozen=True)
class Gamma:
    """Positive numbers, log link."""

    name: str = "gamma"
    dispersion: bool = True

    def derivatives(self, eta: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        ratio = y * np.exp(np.minimum(-eta, LINEAR_PREDICTOR_LIMIT))
        return ratio + eta, 1.0 - ratio, ratio

    def information(self, eta: Floats) -> Floats:
        return np.ones_like(eta)

    def mean(self, eta: Floats) -> Floats:
        return np.exp(eta)

    def invalid(self, y: Floats) -> NDArray[np.bool_]:
        return ~(np.isfinite(y) & (y > 0))

    def saturated(self, y: Floats) -> Floats:
        return 1.0 + np.log(y)

    def constant(self, y: Floats) -> Floats:
        return np.zeros_like(y)

    def variance(self, mean: Floats) -> Floats:
        return mean * mean

    def link(self, mean: float) -> float:
        return float(np.log(mean))


FAMILIES: dict[str, Family] = {
    family.name: family for family in (Gaussian(), Binomial(), Poisson(), Gamma())
}
MULTINOMIAL = "multinomial"
