"""From noisy gradients and Hessians to a solution and the covariance of its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One noisy round, scaled units.

    at        where it looked, (d,)
    gradient  (d,) with noise of variance `gradient_noise` in each entry
    hessian   (d, d), symmetric, with noise of variance `hessian_noise` on the diagonal and half of
              it beside the diagonal
    """

    at: Floats
    gradient: Floats
    hessian: Floats
    gradient_noise: float
    hessian_noise: float

    def to_data(self) -> dict[str, Any]:
        """As it is stored."""
        return dict(vars(self))

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Step:
        """What `to_data` gave."""
        return Step(**data)

    def kept(self, lead: int) -> Step:
        """Without the leading coordinate where `lead` is 0."""
        cut = 1 - lead
        return Step(
            self.at[cut:],
            self.gradient[cut:],
            self.hessian[cut:, cut:],
            self.gradient_noise,
            self.hessian_noise,
        )

    def constant(self, mean: float, curvature: float, wanted: float, weight: float) -> Step:
        """The same round at another constant mean, `wanted`, of which the curvature is `weight`.

        It looked at the constant `mean` with `curvature`. All that moves is linear in its sums.
        """
        shift, ratio = (wanted - mean) / curvature, weight / curvature
        return Step(
            self.at,
            self.gradient + shift * self.hessian[:, 0],
            ratio * self.hessian,
            self.gradient_noise + shift * shift * self.hessian_noise,
            ratio * ratio * self.hessian_noise,
        )


@dataclass(frozen=True)
class Joined:
    """The common solution of several rounds.

    solution  (d,); base the weighted mean of the points, where its step starts
    hessian   (d, d), lifted where it is below its noise; `lifted` says whether it was
    inverse   of the Hessian with the penalty
    noise     (d, d): covariance of the noise in the equation that was solved
    """

    solution: Floats
    base: Floats
    hessian: Floats
    inverse: Floats
    noise: Floats
    lifted: bool

    def shortened(self, longest: float) -> Floats:
        """The solution, at most `longest` away from the base."""
        step = self.solution - self.base
        return self.base + step * min(1.0, longest / max(float(np.linalg.norm(step)), 1e-300))


def join(steps: Sequence[Step], penalty: Floats) -> Joined:
    """Solve the rounds' equations together; `penalty` (d, d) is the matrix of the L2 penalty.

    Each round weighs as much as its error allows: the noise of its gradient, and the part of its
    way to the last point that a quadratic does not describe.
    """
    weights = _weights(steps)
    hessian = sum(
        (w * s.hessian for w, s in zip(weights, steps, strict=True)), np.zeros_like(penalty)
    )
    base = weights @ np.array([s.at for s in steps])
    level = math.sqrt(float(weights**2 @ [s.hessian_noise for s in steps]) * len(base))
    lifted, was_lifted = _lift(hessian, level)
    left = -penalty @ base
    for w, s in zip(weights, steps, strict=True):
        left += w * (0.5 * (s.hessian + hessian) @ (s.at - base) - s.gradient)
    inverse = np.linalg.inv(lifted + penalty)
    inverse = 0.5 * (inverse + inverse.T)
    solution = base + inverse @ left
    noise = _noise(steps, weights, solution, base)
    return Joined(solution, base, lifted, inverse, noise, was_lifted)


def _weights(steps: Sequence[Step]) -> Floats:
    last, found = steps[-1], []
    for step in steps:
        missed = 0.5 * (step.hessian - last.hessian) @ (last.at - step.at)
        error = float(missed @ missed) / len(missed)
        found.append(1.0 / (step.gradient_noise + error))
    weights = np.array(found)
    return np.asarray(weights / weights.sum())


def _lift(matrix: Floats, level: float) -> tuple[Floats, bool]:
    """Eigenvalues below `level` raised to it, and whether there were any."""
    values, vectors = np.linalg.eigh(matrix)
    if values[0] >= level:
        return matrix, False
    raised = (vectors * np.maximum(values, level)) @ vectors.T
    return np.asarray(0.5 * (raised + raised.T)), True


def _noise(steps: Sequence[Step], weights: Floats, solution: Floats, base: Floats) -> Floats:
    """A noisy Hessian E changes the equation by E u, of covariance (|u|^2 I + u u') var / 2."""
    one, total = np.eye(len(base)), np.zeros((len(base),) * 2)
    for w, s in zip(weights, steps, strict=True):
        u = 0.5 * ((solution - s.at) + (solution - base))
        hessian = 0.5 * s.hessian_noise * (u @ u * one + np.outer(u, u))
        total += w * w * (s.gradient_noise * one + hessian)
    return total
