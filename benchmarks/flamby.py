"""FLamby's protocols: Fed-Heart-Disease beside its published table, and Fed-TCGA-BRCA.

Every strategy on seeds 42 to 46 over the sites of FLamby (Ogier du Terrail et al. 2022), trained by
`pc.NeuralNetwork` in one trust domain. Printed: accuracy (concordance) on each site's test rows and
on all of them, mean ± standard deviation over the seeds, beside the published numbers, and whether
each mean is within one published standard deviation (and how many numbers of single seeds are the
published ones). Mini-batches are drawn in the order in which PyTorch's loaders draw them from one
global generator, site after site, so that runs can be compared number by number.

    scripts/bench flamby [--seeds 42 43] [--only FedAvg ...] [--part heart best brca]
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

import polyclinic as pc
from polyclinic.models.neural import train as local
from polyclinic.models.neural.architectures import torch
from polyclinic.models.neural.losses import LOSSES, Loss
from polyclinic.models.neural.strategy import Strategy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scores = dict[str, float]  # by test set
DATA = Path(os.environ.get("POLYCLINIC_DATA", "data"))
SEEDS = (42, 43, 44, 45, 46)
POOLED = "Pooled Test"


@dataclass(frozen=True)
class Site:
    """Rows of one site: features as they are used there, outcome, and the same for all sites."""

    train: tuple[Floats, Floats]
    test: tuple[Floats, Floats]
    pooled_train: Floats
    pooled_test: Floats


class Loader:
    """Mini-batches as PyTorch's DataLoader(shuffle=True) gives them, from a generator for all.

    keeps  it is made before the generator is seeded, and goes on over rounds
    """

    def __init__(self, rows: int, size: int, source: Any, keeps: bool) -> None:
        self.rows, self.size, self.source, self.fresh = rows, size, source, keeps
        self.left: list[Ints] = []

    def take(self) -> Ints:
        if not self.left:
            if not self.fresh:
                self._draw()  # of the loader's workers, also where it has none
            self.fresh = False
            order = torch().randperm(self.rows, generator=seeded(self._draw())).numpy()
            self.left = [order[i : i + self.size] for i in range(0, self.rows, self.size)]
        return self.left.pop(0)

    def _draw(self) -> int:
        empty = torch().empty((), dtype=torch().int64)
        return int(empty.random_(generator=self.source))


def seeded(seed: int) -> Any:
    return torch().Generator().manual_seed(seed)


@contextmanager
def drawn_by(loaders: Sequence[Loader], steps: int) -> Iterator[None]:
    """Sites take their mini-batches from these loaders, one after the other in every round."""
    calls, plain = 0, local.batches

    def batches(strategy: Strategy, rows: Ints, *more: Any) -> Iterator[Ints]:
        nonlocal calls
        loader = loaders[calls % len(loaders)]
        calls += 1
        return iter([rows[loader.take()] for _ in range(steps)])

    local.batches = batches
    try:
        yield
    finally:
        local.batches = plain


@dataclass(frozen=True)
class Protocol:
    """One of FLamby's data sets with its settings.

    options  of the network; metric  of outcome and score; alone  of pooled and local training
    """

    sites: tuple[Site, ...]
    pooled_order: tuple[int, ...]
    options: Mapping[str, Any]
    metric: Any
    batch: int
    alone: Strategy
    strategies: Mapping[str, Strategy]
    cyclic: Strategy

    def fit(self, rows: Sequence[tuple[Floats, Floats]], strategy: Strategy, seed: int) -> Any:
        labels = np.repeat([f"s{k}" for k in range(len(rows))], [len(y) for _, y in rows])
        model = pc.NeuralNetwork(
            "linear", strategy=strategy, scale="none", random_state=seed, **self.options
        )
        x, y = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return model.fit(x, y, sites=labels)

    def federated(self, name: str, seed: int) -> Scores:
        """A strategy in which every site trains in every round."""
        strategy, source = self.strategies[name], seeded(seed)
        rows = [site.train for site in self.sites]
        loaders = [Loader(len(y), self.batch, source, True) for _, y in rows]
        with drawn_by(loaders, strategy.local_steps or 0):
            return self.score(self.fit(rows, strategy, seed).result_.weights)

    def copies(self, seed: int) -> Scores:
        """Cyclic as FLamby codes it: sites train copies of their own; that of site 0 is judged."""
        source, turn = seeded(seed), np.random.default_rng(seed)
        rows = [site.train for site in self.sites]
        loaders = [Loader(len(y), self.batch, source, True) for _, y in rows]
        steps, order, mine = self.cyclic.local_steps or 0, [], []
        for round in range(self.cyclic.rounds):
            if round % len(rows) == 0:
                order = turn.permutation(len(rows)).tolist()
            taken = [loaders[order[0]].take() for _ in range(steps)]
            if order.pop(0) == 0:
                mine += taken
        strategy = pc.FedAvg(1, lr=self.cyclic.lr, local_steps=max(len(mine), 1))
        with drawn_by([_Given(mine)], len(mine)):  # type: ignore[list-item]
            return self.score(self.fit(rows[:1], strategy, seed).result_.weights)

    def transfer(self, seed: int) -> Scores:
        """Cyclic weight transfer, as it is meant: each site goes on from the one before."""
        rows = [site.train for site in self.sites]
        return self.score(self.fit(rows, self.cyclic, seed).result_.weights)

    def by_itself(self, which: int | None, seed: int) -> Scores:
        """Training at one site, or on the pooled rows (None)."""
        if which is None:
            some = [self.sites[k] for k in self.pooled_order]
            x = np.concatenate([site.pooled_train for site in some])
            rows = (x, np.concatenate([site.train[1] for site in some]))
        else:
            rows = self.sites[which].train
        loader = Loader(len(rows[1]), self.batch, seeded(seed), False)
        steps = self.alone.local_epochs * -(-len(rows[1]) // self.batch)
        with drawn_by([loader], steps):
            return self.score(self.fit([rows], self.alone, seed).result_.weights)

    def score(self, w: NDArray[np.float32]) -> Scores:
        w = w.astype(np.float64)
        found = {
            f"client_test_{k}": self.metric(site.test[1], site.test[0] @ w[:-1] + w[-1])
            for k, site in enumerate(self.sites)
        }
        x = np.concatenate([site.pooled_test for site in self.sites])
        y = np.concatenate([site.test[1] for site in self.sites])
        return {POOLED: self.metric(y, x @ w[:-1] + w[-1]), **found}

    def run(self, only: Sequence[str], seeds: Sequence[int]) -> dict[str, list[Scores]]:
        """Scores of each method by seed."""
        ways = {
            "Pooled Training": lambda s: self.by_itself(None, s),
            **{f"Local {k}": lambda s, k=k: self.by_itself(k, s) for k in range(len(self.sites))},
            **{name: lambda s, name=name: self.federated(name, s) for name in self.strategies},
            "Cyclic": self.copies,
            "true Cyclic": self.transfer,
        }
        return {n: [way(s) for s in seeds] for n, way in ways.items() if not only or n in only}


class _Given:
    """Mini-batches that were drawn before."""

    def __init__(self, rows: list[Ints]) -> None:
        self.rows = iter(rows)

    def take(self) -> Ints:
        return next(self.rows)


def accuracy(y: Floats, score: Floats) -> float:
    return float(np.mean((score > 0) == (y == 1)))


def heart_rows() -> tuple[list[Floats], list[Floats]]:
    """Features and outcomes of the four sites."""
    names = "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal num"
    frames = [
        pd.read_csv(
            DATA / "heart-disease" / f"processed.{site}.data", names=names.split(), na_values="?"
        )
        .drop(columns=["slope", "ca", "thal"])
        .dropna()
        for site in ("cleveland", "hungarian", "switzerland", "va")
    ]
    for frame in frames:
        for column, levels in (("cp", (2, 3, 4)), ("restecg", (1, 2))):
            for level in levels:
                frame[f"{column}={level}"] = frame[column] == level
    used = [c for c in frames[0] if c not in ("cp", "restecg", "num")]
    xs = [frame[used].to_numpy(dtype=float) for frame in frames]
    return xs, [(frame["num"] > 0).to_numpy(dtype=float) for frame in frames]


def split(y: Floats) -> tuple[Ints, Ints]:
    """Rows for training and for the test."""
    counts = np.bincount(y.astype(int), minlength=2)
    several = y if counts[counts > 0].min() > 2 else None
    train, test = train_test_split(
        np.arange(len(y)), test_size=1 - 0.66, train_size=0.66, random_state=43, stratify=several
    )
    return np.sort(train), np.sort(test)  # as FLamby reads them: in the order of the file


def logistic(outputs: Any, target: Any, options: Mapping[str, Any]) -> Any:
    """Cross-entropy of a 0/1 number: training rows of the third site are all of one class, of which
    no classifier is made."""
    entropy = torch().nn.functional.binary_cross_entropy_with_logits
    return entropy(outputs[:, 0], target, reduction="none")


def heart() -> Protocol:
    """Fed-Heart-Disease: logistic regression, accuracy."""
    LOSSES.setdefault("logistic", Loss("number", logistic, lambda outputs: outputs[:, 0]))
    xs, ys = heart_rows()
    parts = [split(y) for y in ys]
    pooled = np.concatenate([x[train] for x, (train, _) in zip(xs, parts, strict=True)])
    sites = []
    for x, y, (train, test) in zip(xs, ys, parts, strict=True):
        own = x[train]
        sites.append(
            Site(
                (_scaled(own, own), y[train]),
                (_scaled(x[test], own), y[test]),
                _scaled(own, pooled),
                _scaled(x[test], pooled),
            )
        )
    given: dict[str, Any] = {"rounds": 15, "local_steps": 100, "batch_size": 4}
    moments = {"beta2": 0.999, "tau": 1e-8}
    return Protocol(
        tuple(sites),
        (0, 2, 1, 3),  # FLamby's order of the files
        {"loss": "logistic"},
        accuracy,
        4,
        pc.FedAvg(1, local_epochs=50, batch_size=4, lr=0.001, optimizer="adam"),
        {
            "FedAvg": pc.FedAvg(lr=0.001, **given),
            "FedProx": pc.FedProx(lr=0.001, mu=0.01, **given),
            "Scaffold": pc.Scaffold(lr=0.001, **given),
            "FedAdam": pc.FedAdam(lr=0.01, server_lr=0.01, **moments, **given),
            "FedAdagrad": pc.FedAdagrad(lr=0.003162, server_lr=0.316228, tau=1e-8, **given),
            "FedYogi": pc.FedYogi(lr=0.003162, server_lr=0.01, **moments, **given),
        },
        pc.Cyclic(lr=0.01, **given),
    )


def _scaled(x: Floats, by: Floats) -> Floats:
    return (x - by.mean(axis=0)) / (by.std(axis=0, ddof=1) + 1e-9)


def cox(outputs: Any, target: Any, options: Mapping[str, Any]) -> Any:
    """Of each row its event times (log of the risks that are not over before it, less its own).

    Beyond the target's sign, which says whether it was an event, stands the time.
    """
    score, order = outputs[:, 0], torch().argsort(target.abs(), descending=True, stable=True)
    later = torch().logcumsumexp(score[order], dim=0)
    return ((target[order] > 0).float() * (later - score[order]))[torch().argsort(order)]


def concordance(y: Floats, score: Floats) -> float:
    """Share of the pairs whose order of times is that of the scores; a higher score dies first."""
    time, event = np.abs(y), y > 0
    first = event[:, None] & (
        (time[:, None] < time[None]) | ((time[:, None] == time[None]) & ~event[None])
    )
    ahead = (score[:, None] > score[None]) + 0.5 * (score[:, None] == score[None])
    return float(ahead[first].mean())


def brca() -> Protocol:
    """Fed-TCGA-BRCA: linear Cox model, loss within the mini-batch, concordance."""
    LOSSES.setdefault("cox in batches", Loss("number", cox, lambda outputs: outputs[:, 0]))
    folder = DATA / "tcga-brca"
    rows = pd.read_csv(folder / "brca.csv").merge(pd.read_csv(folder / "train_test_split.csv"))
    names = [name for name in rows if name not in ("pid", "E", "T", "fold", "fold2")]
    x = rows[names].to_numpy(dtype=float)
    y = np.where(rows["E"] == 1, 1.0, -1.0) * (rows["T"].to_numpy() + 1.0)
    sites = []
    for k in range(6):
        train, test = (np.flatnonzero(rows["fold2"] == f"{fold}_{k}") for fold in ("train", "test"))
        sites.append(Site((x[train], y[train]), (x[test], y[test]), x[train], x[test]))
    given: dict[str, Any] = {"rounds": 5, "local_steps": 100, "batch_size": 8}
    moments = {"beta2": 0.999, "tau": 1e-8}
    return Protocol(
        tuple(sites),
        tuple(range(6)),
        {"loss": "cox in batches"},
        concordance,
        8,
        pc.FedAvg(1, local_epochs=30, batch_size=8, lr=0.1, optimizer="adam"),
        {
            "FedAvg": pc.FedAvg(lr=0.1, **given),
            "FedProx": pc.FedProx(lr=0.1, mu=0.1, **given),
            "Scaffold": pc.Scaffold(lr=0.01, **given),
            "FedAdam": pc.FedAdam(lr=0.01, server_lr=0.1, **moments, **given),
            "FedAdagrad": pc.FedAdagrad(lr=0.01, server_lr=1.0, tau=1e-8, **given),
            "FedYogi": pc.FedYogi(lr=0.01, server_lr=0.1, **moments, **given),
        },
        pc.Cyclic(lr=0.01, **given),
    )


def best(seeds: Sequence[int]) -> dict[str, list[Scores]]:
    """Fed-Heart-Disease with our own settings: scaled by the moments of all sites."""
    plain = heart()
    sites = tuple(
        replace(s, train=(s.pooled_train, s.train[1]), test=(s.pooled_test, s.test[1]))
        for s in plain.sites
    )
    ours, rows = replace(plain, sites=sites), [site.train for site in sites]
    x, y = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    glm = pc.LogisticRegression(l2=1.0).fit(x, y)
    w = np.append(np.ravel(glm.coef_), glm.intercept_)
    adam = pc.FedAdam(30, lr=0.05, server_lr=0.1, tau=1e-3, batch_size=16)
    scaffold = pc.Scaffold(15, lr=0.05, local_steps=50, batch_size=16)
    return {
        "LogisticRegression(l2=1)": [ours.score(w)],
        repr(adam): [ours.score(ours.fit(rows, adam, s).result_.weights) for s in seeds],
        repr(scaffold): [ours.score(ours.fit(rows, scaffold, s).result_.weights) for s in seeds],
    }


def published() -> dict[str, dict[int, Scores]]:
    """FLamby's numbers of Fed-Heart-Disease by method and seed."""
    found: dict[str, dict[int, Scores]] = {}
    for seed in SEEDS:
        path = DATA / "flamby-protocol" / "fed_heart_disease" / f"heart_seed{seed}.csv"
        with path.open(newline="") as lines:
            for line in csv.DictReader(lines):
                name = line["Method"].removesuffix("100")
                of_seed = found.setdefault(name, {}).setdefault(seed, {})
                of_seed[line["Test"]] = float(line["Metric"])
    return found


def _mean(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def show(title: str, found: Mapping[str, list[Scores]]) -> None:
    """A Markdown table of means and standard deviations."""
    tests = list(next(iter(found.values()))[0])
    print(f"\n{title}\n\n| method | {' | '.join(tests)} |\n|---|{'---|' * len(tests)}")
    for name, scores in found.items():
        cells = ["{:.4f} ± {:.4f}".format(*_mean([s[test] for s in scores])) for test in tests]
        print(f"| {name} | {' | '.join(cells)} |")


def beside(found: Mapping[str, list[Scores]], seeds: Sequence[int]) -> None:
    """The table, the published one, and how near they are."""
    theirs = published()
    known = {name: scores for name, scores in found.items() if name in theirs}
    show("Polyclinic", found)
    show("published", {n: [theirs[n][s] for s in seeds] for n in known})
    same = within = tests = 0
    for name, scores in known.items():
        for test in scores[0]:
            other = [theirs[name][s][test] for s in seeds]
            (mean, _), (wanted, sd) = _mean([s[test] for s in scores]), _mean(other)
            within, tests = within + (abs(mean - wanted) <= sd + 1e-12), tests + 1
            pairs = zip((s[test] for s in scores), other, strict=True)
            same += sum(abs(a - b) < 1e-9 for a, b in pairs)
    print(f"\nmeans within one published standard deviation: {within} of {tests}")
    print(f"numbers of single seeds that are the published ones: {same} of {tests * len(seeds)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), choices=SEEDS)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--part", nargs="+", default=["heart", "best", "brca"])
    args = parser.parse_args()
    torch().set_num_threads(1)
    if "heart" in args.part:
        beside(heart().run(args.only, args.seeds), args.seeds)
    if "best" in args.part:
        show("Fed-Heart-Disease, our settings", best(args.seeds))
    if "brca" in args.part:
        show("Fed-TCGA-BRCA, concordance", brca().run(args.only, args.seeds))


if __name__ == "__main__":
    main()
