"""Sums on a grid as the coordinator has them: risk sets, derivatives, hazards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Total
from polyclinic.models.glm.scale import unpack

Floats = NDArray[np.float64]
Derived = tuple[float, Floats, Floats]


@dataclass(frozen=True)
class Sums:
    """Of one candidate: events (K,), and r, r x, r x x' of those who leave, (K + 1, ...)."""

    deaths: Floats
    observed: Floats
    r: Floats
    rx: Floats
    rxx: Floats

    @staticmethod
    def of(total: Any, index: int = 0) -> Sums:
        """From what the sites give."""
        r, rx, rxx = (
            np.asarray(total[name][index]) if _has(total, name) else np.zeros(0)
            for name in ("r", "rx", "rxx")
        )
        deaths = np.asarray(total["deaths"], dtype=np.float64)[:-1]
        return Sums(deaths, np.asarray(total["observed"]), r, rx, rxx)

    def halved(self) -> Sums:
        """On a grid of every second edge."""

        def pairs(values: Floats) -> Floats:
            inner, last = values[:-1], values[-1:]
            if len(inner) % 2:
                inner = np.concatenate([inner, np.zeros_like(inner[:1])])
            return np.concatenate([inner[::2] + inner[1::2], last])

        deaths = pairs(np.append(self.deaths, 0.0))[:-1]
        more = (pairs(v) if len(v) else v for v in (self.r, self.rx, self.rxx))
        return Sums(deaths, self.observed, *more)

    def derivatives(self, theta: Floats, efron: bool) -> Derived:
        """Loss, gradient and Hessian at the coefficients of the sums."""
        p = len(theta)
        loss, gradient, hessian = -float(theta @ self.observed), -self.observed, np.zeros((p, p))
        ahead = [v[::-1].cumsum(axis=0)[::-1] if len(v) else v for v in (self.r, self.rx, self.rxx)]
        for k in np.flatnonzero(self.deaths).tolist():
            d, share, r = self._nodes(k, ahead[0][k], efron)
            loss += d * np.log(r).sum()
            if len(self.rx):  # of the mean at a node, (all - share * own) / r, over all nodes
                every, own = ahead[1][k], self.rx[k]
                gradient = gradient + d * (every * (1 / r).sum() - own * (share / r).sum())
            if len(self.rxx):
                second = ahead[2][k] * (1 / r).sum() - self.rxx[k] * (share / r).sum()
                mixed = np.outer(every, own)
                means = np.outer(every, every) * (1 / r**2).sum()
                means += np.outer(own, own) * ((share / r) ** 2).sum()
                means -= (mixed + mixed.T) * (share / r**2).sum()
                hessian += d * (unpack(second, p) - means)
        return float(loss), gradient, hessian

    def hazards(self, efron: bool) -> Floats:
        """Increments of the baseline's cumulative hazard at the edges, (K,)."""
        ahead = self.r[::-1].cumsum()[::-1]
        found = np.zeros(len(self.deaths))
        for k in np.flatnonzero(self.deaths).tolist():
            d, _, r = self._nodes(k, ahead[k], efron)
            found[k] = d * (1 / r).sum()
        return found

    def _nodes(self, k: int, ahead: float, efron: bool) -> tuple[float, Floats, Floats]:
        """Events of each step in which those of an interval happen, the share of those who leave in
        it that have left by then, and the sum of r over the others; (n,) each but the first."""
        nodes = max(1, round(self.deaths[k])) if efron else 1
        share = np.arange(nodes) / nodes
        return self.deaths[k] / nodes, share, ahead - share * self.r[k]


def _has(total: Any, name: str) -> bool:
    return name in (total.values if isinstance(total, Total) else total)
