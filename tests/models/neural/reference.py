"""Strategies written out in numpy for logistic regression, from the papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from polyclinic.models.neural.batches import batches
from polyclinic.models.neural.strategy import Strategy

Floats = np.ndarray
Site = tuple[Floats, Floats]


def gradient(w: Floats, x: Floats, y: Floats) -> Floats:
    """Of the mean log loss; the intercept is last."""
    p = 1.0 / (1.0 + np.exp(-(x @ w[:-1] + w[-1])))
    return np.append(x.T @ (p - y), (p - y).sum()) / len(y)


def descend(
    w: Floats,
    site: Site,
    strategy: Strategy,
    round: int,
    seed: int,
    more: Callable[[Floats], Floats],
) -> tuple[Floats, int]:
    """Local steps from `w`; `more` is added to each gradient."""
    (x, y), lr = site, strategy.lr_at(round)
    steps = list(batches(strategy, np.arange(len(y)), round, seed))
    for rows in steps:
        w = w - lr * (gradient(w, x[rows], y[rows]) + more(w))
    return w, len(steps)


class Server:
    """What the coordinator does with the mean change of a round."""

    def __init__(self, strategy: Strategy, w: Floats) -> None:
        self.strategy, self.w = strategy, w
        self.mean, self.square = np.zeros_like(w), np.zeros_like(w)

    def step(self, t: int, d: Floats) -> None:
        one = self.strategy
        if one.name in ("fedadam", "fedyogi", "fedadagrad"):
            self.mean = one.beta1 * self.mean + (1 - one.beta1) * d
            if one.name == "fedadam":
                self.square = one.beta2 * self.square + (1 - one.beta2) * d**2
            elif one.name == "fedyogi":
                sign = np.sign(self.square - d**2)
                self.square = self.square - (1 - one.beta2) * d**2 * sign
            else:
                self.square = self.square + d**2
            d = self.mean / (np.sqrt(self.square) + one.tau)
            if one.bias_correction:
                b1, b2 = 1 - one.beta1 ** (t + 1), 1 - one.beta2 ** (t + 1)
                d = self.mean / b1 / (np.sqrt(self.square / b2) + one.tau)
        self.w = self.w + one.server_lr_at(t) * d


def trained(strategy: Strategy, sites: Sequence[Site], w: Floats, seed: int) -> Floats:
    """The common weights after all rounds in which every site trains."""
    n = np.array([len(y) for _, y in sites], dtype=float)
    server, controls = Server(strategy, w), np.zeros((len(sites), len(w)))
    for t in range(strategy.rounds):
        start, common = server.w, n @ controls / n.sum()
        changes = []
        for k, site in enumerate(sites):
            if strategy.name == "fedsgd":
                changes.append(-gradient(start, *site))
                continue
            mu = strategy.mu if strategy.name == "fedprox" else 0.0
            shift = common - controls[k]
            more = partial(_more, mu, start, shift)
            after, steps = descend(start, site, strategy, t, seed, more)
            changes.append(after - start)
            if strategy.name == "scaffold":
                controls[k] += (start - after) / (steps * strategy.lr_at(t)) - common
        server.step(t, n @ np.array(changes) / n.sum())
    return server.w


def _more(mu: float, start: Floats, shift: Floats, w: Floats) -> Floats:
    return mu * (w - start) + shift
