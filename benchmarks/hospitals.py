"""Networks over hospitals beside pooled training and each hospital alone: X-rays and stays.

PneumoniaMNIST dealt to five hospitals with label skew (`pc.partition`, Dirichlet, another dealing
for each seed), and PhysioNet 2012 over its four kinds of unit, trained by `pc.NeuralNetwork`. In
one seed every way has the same rows for training and for the test, the same network with the same
first weights, and the same algorithm: so many steps of Adam of falling size, each along the mean
gradient of `batch` rows. Where rows are in one place, pooled or at a hospital alone, they are drawn
from all rows there; over hospitals it is the coordinator's step, along the mean of an equal share
of the batch from each, weighted by the hospitals' sizes, which is the pooled gradient on average.
A hospital alone takes as many steps as pooled training, over its own rows. Nothing is chosen by the
results of a way: settings and passes are fixed, of all ways alike, and the last network counts.

Settings were settled by pooled training on rows for training alone: of X-rays on parts of the
published training images, of stays on parts of seed 9's rows for training (test rows of others).

Another seed is another dealing (X-rays) or another fifth of the stays as test rows, and other first
weights. Printed: AUROC on all test rows by seed, a hospital of one class counting as 0.5; federated
training less pooled training, and less the best hospital alone of the seed, as mean ± standard
deviation of the paired differences with a 95 % interval by Student's t.

    scripts/bench hospitals [--seeds 1 2 3 4 5] [--part xrays stays] [--keep FILE]

`--keep` writes what a way gave as soon as it is found, and goes on from there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

import polyclinic as pc
from polyclinic.models.neural.architectures import torch

Ints = NDArray[np.int64]
NEAR = 0.01
FOLDS = 5
MEAN, SD = np.float32(0.57), np.float32(0.17)  # of X-rays, as a codebook's `mean` and `sd`
POOLED, OVER = "pooled", "federated"
# Of `pc.FedAdam`: torch.optim.Adam at the coordinator, along the mean gradient of the hospitals.
ADAM = {"local_steps": 1, "lr": 1.0, "beta2": 0.999, "tau": 1e-8, "bias_correction": True}


@dataclass(frozen=True)
class Rows:
    """Items, outcomes, hospitals and parts ("train", "test", or another that is not read) of rows.

    hospital   of test rows any name: they are of all hospitals
    """

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
        return [str(name) for name in np.unique(self.hospital[self.part == "train"])]

    def shares(self) -> dict[str, tuple[int, float]]:
        """Rows for training of each hospital, and the share of them with the event."""
        own = {name: self.y[self.of("train", name)] for name in self.hospitals}
        return {name: (len(y), float(y.mean())) for name, y in own.items()}


@dataclass(frozen=True)
class Proof:
    """A data set with its network and how it is trained.

    split    a seed's rows
    passes   times as many rows as all hospitals have for training are read, by each way
    batch    rows of a step, over hospitals an equal share of each
    lr       of the first step; that of the last is 0
    """

    title: str
    split: Callable[[int], Rows]
    architecture: str
    options: Mapping[str, Any]
    passes: int
    batch: int
    lr: float

    def ways(self, rows: Rows, seed: int) -> dict[str, Callable[[], pc.NeuralNetwork | None]]:
        """Training of every way on the rows of a seed."""
        return {
            POOLED: lambda: self.pooled(rows, seed),
            **{f"{h} alone": lambda h=h: self.alone(rows, h, seed) for h in rows.hospitals},
            OVER: lambda: self.over_hospitals(rows, seed),
        }

    def pooled(self, rows: Rows, seed: int) -> pc.NeuralNetwork:
        return self._fit(rows, rows.of("train"), seed)

    def alone(self, rows: Rows, hospital: str, seed: int) -> pc.NeuralNetwork | None:
        """None where a hospital has one class only: there is nothing to learn."""
        at = rows.of("train", hospital)
        return self._fit(rows, at, seed) if len(np.unique(rows.y[at])) > 1 else None

    def over_hospitals(self, rows: Rows, seed: int) -> pc.NeuralNetwork:
        at = rows.of("train")
        return self._fit(rows, at, seed, rows.hospital[at])

    def area(self, rows: Rows, network: pc.NeuralNetwork | None) -> float:
        """AUROC on test rows."""
        if network is None:
            return 0.5
        at = rows.of("test")
        return float(roc_auc_score(rows.y[at], network.predict_proba(rows.x[at])[:, 1]))

    def steps(self, rows: Rows) -> int:
        """Of every way."""
        return round(self.passes * len(rows.of("train")) / self.batch)

    def _fit(
        self, rows: Rows, at: Ints, seed: int, labels: NDArray[Any] | None = None
    ) -> pc.NeuralNetwork:
        each = self.batch if labels is None else self.batch // len(np.unique(labels))
        strategy = pc.FedAdam(
            self.steps(rows),
            batch_size=each,
            server_lr=self.lr,
            server_schedule="cosine",
            **ADAM,
        )
        network = pc.NeuralNetwork(
            self.architecture,
            architecture_options=dict(self.options),
            strategy=strategy,
            random_state=seed,
        )
        return network.fit(rows.x[at], rows.y[at], sites=labels)


def xrays(alpha: float = 0.5, hospitals: int = 5, passes: int = 5) -> Proof:
    """PneumoniaMNIST: all published training images dealt by the seed, the published test images.

    alpha, hospitals   as of `pc.partition`
    """
    rows = _rows(pc.datasets.pneumonia_mnist(), "xray", "pneumonia", "part")
    rows = replace(rows, x=(rows.x - MEAN) / SD)
    train = rows.of("train")

    def split(seed: int) -> Rows:
        dealt = pc.partition(
            train, hospitals, "dirichlet", by=rows.y[train], alpha=alpha, random_state=seed
        )
        names = np.full(len(rows.y), "", dtype=dealt.dtype)
        names[train] = dealt
        return replace(rows, hospital=names)

    title = f"PneumoniaMNIST, {hospitals} hospitals, Dirichlet {alpha:g}"
    return Proof(title, split, "cnn", {"dropout": 0.3}, passes, 12 * hospitals, 0.001)


def stays(passes: int = 6, hidden: int = 32) -> Proof:
    """PhysioNet 2012; seeds 0 to 4 are the fifths of a cross-validation, 5 to 9 of another one."""
    rows = _rows(pc.datasets.physionet_2012(series=True), "measured", "died")

    def split(seed: int) -> Rows:
        return replace(rows, part=folded(rows, seed))

    options = {"hidden": hidden, "dropout": 0.3}
    return Proof("PhysioNet 2012, four units", split, "gru", options, passes, 32, 0.01)


def folded(rows: Rows, seed: int) -> NDArray[Any]:
    """Parts of rows: a fifth for the test, with its share of every hospital's rows and events."""
    repeat, fold = divmod(seed, FOLDS)
    draw = np.random.default_rng(repeat)
    part = np.full(len(rows.y), "train")
    for name in np.unique(rows.hospital):
        for outcome in (0, 1):
            at = draw.permutation(np.flatnonzero((rows.hospital == name) & (rows.y == outcome)))
            part[at[np.arange(len(at)) % FOLDS == fold]] = "test"
    return part


def _rows(sites: pc.Sites, item: str, outcome: str, part: str = "") -> Rows:
    """All rows; their part is "train" where no column says it."""
    items, outcomes, names, parts = [], [], [], []
    for name in sites.names:
        table = sites.table(name)
        at = table.columns[item]
        there = np.isfinite(at)
        items.append(table.media[item].read(at[there].astype(np.int64)))
        outcomes.append(table.columns[outcome][there])
        names.append(np.full(int(there.sum()), name))
        said = sites.local(name)[part].to_numpy(str) if part else np.full(len(at), "train")
        parts.append(said[there])
    x, y, names_, parts_ = (np.concatenate(one) for one in (items, outcomes, names, parts))
    return Rows(x, y, names_, parts_)


@dataclass
class Found:
    """AUROC on test rows of every way, by seed."""

    by_seed: dict[int, dict[str, float]] = field(default_factory=dict)

    def of(self, way: str) -> NDArray[np.float64]:
        return np.array([areas[way] for areas in self.by_seed.values()])

    @property
    def best_alone(self) -> NDArray[np.float64]:
        """Of the best hospital alone in each seed, on these test rows."""
        each = self.by_seed.values()
        return np.array([max(v for k, v in areas.items() if _alone(k)) for areas in each])

    @property
    def less_pooled(self) -> Difference:
        return Difference(self.of(OVER) - self.of(POOLED))

    @property
    def less_best(self) -> Difference:
        return Difference(self.of(OVER) - self.best_alone)


@dataclass(frozen=True)
class Difference:
    """Paired differences by seed, (n_seeds,)."""

    values: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def sd(self) -> float:
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, by Student's t."""
        n = len(self.values)
        half = stats.t.ppf(0.975, n - 1) * self.sd / n**0.5 if n > 1 else float("nan")
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.mean:+.4f} ± {self.sd:.4f}, 95 % interval {low:+.4f} to {high:+.4f}"


def _alone(way: str) -> bool:
    return way.endswith(" alone")


def run(proof: Proof, seeds: Sequence[int], keep: Path | None = None) -> Found:
    """Every way in every seed, printed as it is found.

    keep   what ways gave; those that stand there are not trained again
    """
    found, kept = Found(), _Kept(proof, keep)
    print(f"\n{proof.title}: {proof.passes} passes; AUROC on test rows\n")
    for seed in seeds:
        rows = proof.split(seed)
        sizes = [f"{name} {n} ({share:.1%})" for name, (n, share) in rows.shares().items()]
        print(f"seed {seed}: {len(rows.of('test'))} test rows; {', '.join(sizes)}")
        found.by_seed[seed] = areas = {}
        for way, train in proof.ways(rows, seed).items():
            area = kept.area(seed, way)
            if area is None:
                area = proof.area(rows, train())
                kept.add(seed, way, area)
            areas[way] = area
            print(f"  {way} {area:.4f}", flush=True)
    return found


class _Kept:
    """A file of what the ways of a proof gave, a line each; without a path nothing is kept."""

    def __init__(self, proof: Proof, path: Path | None) -> None:
        self.path = path
        self.of = {name: value for name, value in vars(proof).items() if name != "split"}

    def area(self, seed: int, way: str) -> float | None:
        if self.path is None or not self.path.exists():
            return None
        lines = map(json.loads, self.path.read_text().splitlines())
        mark = {"of": self.of, "seed": seed, "way": way}
        return next((one["area"] for one in lines if one == {**one, **mark}), None)

    def add(self, seed: int, way: str, area: float) -> None:
        if self.path is not None:
            with self.path.open("a") as out:
                line = {"of": self.of, "seed": seed, "way": way, "area": area}
                out.write(json.dumps(line) + "\n")


def summary(found: Found) -> str:
    """The table by seed, and the differences."""
    best, over, pooled = found.best_alone, found.of(OVER), found.of(POOLED)
    lines = ["| seed | pooled | best hospital alone | federated |", "|---|---|---|---|"]
    for seed, *cells in zip(found.by_seed, pooled, best, over, strict=True):
        lines.append(f"| {seed} | {' | '.join(f'{one:.4f}' for one in cells)} |")
    means = [f"{one.mean():.4f} ± {Difference(one).sd:.4f}" for one in (pooled, best, over)]
    lines.append(f"| mean ± SD | {' | '.join(means)} |")
    above = int((found.less_best.values > 0).sum())
    return "\n".join(
        [
            *lines,
            "",
            f"federated less pooled: {found.less_pooled}",
            f"federated less the best hospital alone of the seed: {found.less_best}",
            f"within {NEAR} of pooled on average: {_yes(abs(found.less_pooled.mean) <= NEAR)}; "
            f"above every hospital alone in {above} of {len(over)} seeds",
        ]
    )


def _yes(said: bool) -> str:
    return "yes" if said else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--part", nargs="+", default=["xrays", "stays"])
    parser.add_argument("--alpha", type=float, default=0.5, help="label skew of X-rays")
    parser.add_argument(
        "--keep", type=Path, help="file of results, a line for each way in each seed"
    )
    args = parser.parse_args()
    torch().set_num_threads(1)
    for name, make in (("xrays", lambda: xrays(args.alpha)), ("stays", stays)):
        if name not in args.part:
            continue
        start = time.perf_counter()
        found = run(make(), args.seeds, args.keep)
        print(f"\n{summary(found)}\n{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
