"""Three unequal hospitals in memory, and one thread for torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.federation import Domains, Inline
from polyclinic.core.partition import Partition
from polyclinic.models.neural.strategy import Strategy

SIZES = {"a": 14, "b": 25, "c": 41}


@dataclass(frozen=True)
class Rows:
    """Rows of three hospitals."""

    x: np.ndarray
    y: np.ndarray
    labels: np.ndarray

    def at(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        mine = self.labels == name
        return self.x[mine].astype(np.float32).astype(float), self.y[mine].astype(float)

    @property
    def sites(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self.at(name) for name in sorted(set(self.labels))]

    def domain(self) -> Domains:
        """One trust domain of the three."""
        parts = {
            n: Partition({"X": x, "y": y}, site=n)
            for n, (x, y) in zip("abc", self.sites, strict=True)
        }
        return Domains({name: Inline(part) for name, part in parts.items()})

    def fit(self, strategy: Strategy | None, **more: Any) -> Any:
        options = {
            "scale": "none",
            **{k: more.pop(k) for k in ("scale", "validation") if k in more},
        }
        model = pc.NeuralNetwork("linear", strategy=strategy, random_state=3, **options)
        return model.fit(self.x, self.y, sites=self.labels, **more)


@pytest.fixture(scope="session")
def rows() -> Rows:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    draw = np.random.default_rng(7)
    labels = np.repeat(list(SIZES), list(SIZES.values()))
    x = draw.normal(size=(len(labels), 3)) + (labels == "c")[:, None]
    chance = 1 / (1 + np.exp(-(x @ [1.5, -1.0, 0.5] - 0.3)))
    return Rows(x, (draw.uniform(size=len(labels)) < chance).astype(int), labels)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
