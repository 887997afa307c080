"""Networks over hospitals beside pooled training and each hospital alone: X-rays and stays.

PneumoniaMNIST dealt to five hospitals with label skew, and PhysioNet 2012 over its four kinds of
unit, trained by `pc.NeuralNetwork`. Every way has the same network, optimiser, step size and batch,
and is judged as it was after the round with the best AUROC on validation rows of all hospitals. A
round over hospitals is one pass; one of a hospital alone as many passes as there are hospitals, so
that all take about as many steps. Printed: AUROC on test rows of all hospitals, mean ± standard
deviation over the seeds; and whether federated averaging is within 0.01 of pooled training and
above every hospital alone. Settings were chosen by hand on the validation rows (`--on val`).

    scripts/bench hospitals [--seeds 0 1 2] [--part xrays stays] [--on test]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import polyclinic as pc
from polyclinic.models.neural.architectures import torch
from polyclinic.models.neural.strategy import Strategy

Ints = NDArray[np.int64]
NEAR = 0.01


@dataclass(frozen=True)
class Rows:
    """Items, outcomes, hospitals and parts ("train", "val", "test") of rows."""

    x: NDArray[np.float32]
    y: NDArray[np.float64]
    hospital: NDArray[Any]
    part: NDArray[Any]

    def of(self, part: str, hospital: str | None = None) -> Ints:
        return np.flatnonzero(
            (self.part == part) & ((self.hospital == hospital) | (hospital is None))
        )

    @property
    def hospitals(self) -> list[str]:
        return [str(name) for name in np.unique(self.hospital)]


@dataclass
class Rounds:
    """Weights and buffers after every round of a fit, as its store."""

    networks: list[tuple[Any, Any]] = field(default_factory=list)

    def load(self) -> None:
        """A fit begins anew."""

    def save(self, value: Mapping[str, Any]) -> None:
        state = value["state"]
        training = state["inner"] or state["done"][-1]
        if training.get("history"):
            self.networks.append((training["weights"], training["beside"]))


@dataclass(frozen=True)
class Trained:
    """A network as it was after a round."""

    network: pc.NeuralNetwork
    weights: Any
    beside: Any
    round: int = 0

    def risks(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        now = replace(self.network.predictor_, weights=self.weights, beside=self.beside)
        return now.predict(self.network.partition(x))


@dataclass(frozen=True)
class Proof:
    """A data set with its network.

    given    of every strategy
    rounds   at most
    """

    title: str
    rows: Rows
    architecture: str
    options: dict[str, Any]
    given: dict[str, Any]
    rounds: int

    def fit(self, strategy: Strategy, at: Ints, seed: int, hospitals: bool) -> Trained:
        rows, after = self.rows, Rounds()
        network = pc.NeuralNetwork(
            self.architecture,
            architecture_options=self.options,
            strategy=strategy,
            random_state=seed,
        )
        labels = rows.hospital[at] if hospitals else None
        network.fit(rows.x[at], rows.y[at], sites=labels, store=after)
        areas = [self.area(Trained(network, *one), "val") for one in after.networks]
        best = int(np.argmax(areas))
        return Trained(network, *after.networks[best], best + 1)

    def area(self, trained: Trained, on: str) -> float:
        at = self.rows.of(on)
        return float(roc_auc_score(self.rows.y[at], trained.risks(self.rows.x[at])))

    def pooled(self, seed: int) -> Trained:
        return self.fit(self.strategy(), self.rows.of("train"), seed, False)

    def alone(self, hospital: str, seed: int) -> Trained | None:
        """None where a hospital has one class only."""
        at = self.rows.of("train", hospital)
        if len(np.unique(self.rows.y[at])) < 2:
            return None
        passes = len(self.rows.hospitals)
        return self.fit(self.strategy(local_epochs=passes), at, seed, False)

    def federated(self, strategy: Strategy, seed: int) -> Trained:
        return self.fit(strategy, self.rows.of("train"), seed, True)

    def strategy(self, **more: Any) -> Strategy:
        return pc.FedAvg(self.rounds, **self.given, **more)

    def ways(self) -> dict[str, Callable[[int], Trained | None]]:
        return {
            "pooled": self.pooled,
            **{f"{name} alone": lambda s, n=name: self.alone(n, s) for name in self.rows.hospitals},
            "FedAvg": lambda s: self.federated(self.strategy(), s),
        }


def xrays(rows_each: int = 200, rounds: int = 12) -> Proof:
    """PneumoniaMNIST, `rows_each` of a hospital's images for training."""
    sites = pc.datasets.pneumonia_mnist()
    rows = _rows(sites, "xray", "pneumonia")
    part = np.concatenate([sites.local(name)["part"] for name in sites.names])
    keep = np.ones(len(part), dtype=bool)
    for name in sites.names:
        keep[np.flatnonzero((rows.hospital == name) & (part == "train"))[rows_each:]] = False
    found = Rows(rows.x[keep], rows.y[keep], rows.hospital[keep], part[keep])
    given = {"batch_size": 32, "lr": 0.001, "optimizer": "adam"}
    return Proof("PneumoniaMNIST, five hospitals", found, "cnn", {}, given, rounds)


def stays(rounds: int = 20, hidden: int = 16, share: float = 1.0) -> Proof:
    """PhysioNet 2012; 1,000 stays are for the test and 600 for validation, drawn by chance."""
    rows = _rows(pc.datasets.physionet_2012(series=True), "measured", "died")
    n = len(rows.y)
    part = np.repeat(["test", "val", "train"], [1000, 600, n - 1600])
    part = np.random.default_rng(0).permutation(part)
    keep = (part != "train") | (np.random.default_rng(1).random(n) < share)
    found = Rows(rows.x[keep], rows.y[keep], rows.hospital[keep], part[keep])
    given = {"batch_size": 32, "lr": 0.01, "optimizer": "adam"}
    return Proof("PhysioNet 2012, four units", found, "gru", {"hidden": hidden}, given, rounds)


def _rows(sites: pc.Sites, item: str, outcome: str) -> Rows:
    items, outcomes, names = [], [], []
    for name in sites.names:
        table = sites.table(name)
        at = table.columns[item]
        there = np.isfinite(at)
        items.append(table.media[item].read(at[there].astype(np.int64)))
        outcomes.append(table.columns[outcome][there])
        names.append(np.full(int(there.sum()), name))
    x, y, names_ = (np.concatenate(parts) for parts in (items, outcomes, names))
    return Rows(x, y, names_, np.full(len(y), "train"))


def run(proof: Proof, seeds: Sequence[int], on: str = "test") -> dict[str, list[float]]:
    """AUROCs by way and seed; none of a hospital with one class."""
    found: dict[str, list[float]] = {}
    print(f"\n{proof.title}: AUROC on {len(proof.rows.of(on))} {on} rows\n")
    print("| way | rows trained on | round | AUROC by seed | mean |\n|---|---|---|---|---|")
    for name, way in proof.ways().items():
        networks = [one for seed in seeds if (one := way(seed))]
        hospital = name.removesuffix(" alone") if name.endswith(" alone") else None
        at = proof.rows.of("train", hospital)
        rows = f"{len(at)}, {proof.rows.y[at].mean():.0%} events"
        if not networks:
            print(f"| {name} | {rows} | | one class | |")
            continue
        found[name] = [proof.area(network, on) for network in networks]
        rounds = ", ".join(str(network.round) for network in networks)
        mean, sd = np.mean(found[name]), np.std(found[name], ddof=min(1, len(seeds) - 1))
        areas = ", ".join(f"{area:.4f}" for area in found[name])
        print(f"| {name} | {rows} | {rounds} | {areas} | {mean:.4f} ± {sd:.4f} |", flush=True)
    return found


def holds(found: dict[str, list[float]]) -> tuple[float, float]:
    """How far federated averaging is from pooled training, and above the best hospital alone."""
    means = {name: float(np.mean(areas)) for name, areas in found.items()}
    best = max(area for name, area in means.items() if name.endswith(" alone"))
    return means["FedAvg"] - means["pooled"], means["FedAvg"] - best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", nargs="+", default=["xrays", "stays"])
    parser.add_argument("--on", default="test", choices=["val", "test"])
    args = parser.parse_args()
    torch().set_num_threads(1)
    for name, make in (("xrays", xrays), ("stays", stays)):
        if name not in args.part:
            continue
        start = time.perf_counter()
        found = run(make(), args.seeds, args.on)
        away, above = holds(found)
        print(f"\nFedAvg: {away:+.4f} from pooled, {above:+.4f} from the best hospital alone")
        print(f"the claim {'holds' if abs(away) <= NEAR and above > 0 else 'does not hold'}")
        print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
