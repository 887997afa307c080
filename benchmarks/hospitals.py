"""Networks over hospitals beside pooled training and each hospital alone: X-rays and stays.

PneumoniaMNIST dealt to five hospitals with label skew, and PhysioNet 2012 over its four kinds of
unit, trained by `pc.NeuralNetwork`. In one seed every way has the same rows for training, for
validation and for the test, the same network with the same first weights, the same step sizes of
Adam, and reads as many rows: `passes` times those that all hospitals have for training, so a
hospital alone takes as many steps as pooled training. Where rows are in one place a step is over 32
of them; over hospitals it is the coordinator's, along the mean gradient of 8 rows of each. Each way
takes, of the step sizes and of all passes, the network with the best AUROC on the validation rows
of all hospitals; nothing is chosen on test rows. Another seed is another draw of training rows
(X-rays) or another fifth of the stays as test rows, and other first weights. Printed: AUROC on test
rows of all hospitals, by seed and as mean ± standard deviation over the seeds, the paired
differences, and whether federated training is within 0.01 of pooled training and above every
hospital alone.

Each hospital trains on 800 of its 924 to 975 published training images. With 200 of each (and
`FedAvg`) one hospital alone was above pooled training, too: images of the others added nothing on
these test rows, wherever they lay. The training over hospitals was settled on the validation rows
of seed 9; of stays these are test rows of other seeds.

    scripts/bench hospitals [--seeds 1 2 3] [--part xrays stays]
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
Settings = tuple[dict[str, Any], ...]
NEAR = 0.01
FOLDS, VALIDATION = 5, 0.2
BATCH, EACH = 32, 8  # rows of a step in one place, and of each hospital in a step over hospitals
# Of `pc.FedAdam`: torch.optim.Adam at the coordinator, along the mean gradient of the hospitals.
ADAM = {"local_steps": 1, "lr": 1.0, "beta2": 0.999, "tau": 1e-8, "bias_correction": True}


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
class Passes:
    """Weights and buffers after every pass of a fit, as its store.

    after  rounds at which a pass ends
    """

    after: Sequence[int]
    networks: list[tuple[Any, Any]] = field(default_factory=list)

    def load(self) -> None:
        """A fit begins anew."""

    def save(self, value: Mapping[str, Any]) -> None:
        state = value["state"]
        training = state["inner"] or state["done"][-1]
        if training.get("history") and training["round"] in self.after:
            self.networks.append((training["weights"], training["beside"]))


@dataclass(frozen=True)
class Trained:
    """A network as it was after a pass, and its AUROC on validation rows."""

    network: pc.NeuralNetwork
    weights: Any
    beside: Any
    setting: Mapping[str, Any]
    passes: int
    val: float = 0.0

    def area(self, rows: Rows, part: str) -> float:
        now = replace(self.network.predictor_, weights=self.weights, beside=self.beside)
        at = rows.of(part)
        return float(roc_auc_score(rows.y[at], now.predict(self.network.partition(rows.x[at]))))


@dataclass(frozen=True)
class Proof:
    """A data set with its network and the settings that each way may take.

    split     a seed's rows
    passes    times as many rows as all hospitals have for training are read, by each way
    single    settings of `pc.FedAvg` where all rows are in one place: pooled, or one hospital's
    strategy, federated   class and settings of the training over hospitals
    """

    title: str
    split: Callable[[int], Rows]
    architecture: str
    options: dict[str, Any]
    passes: int
    single: Settings
    strategy: Callable[..., Strategy]
    federated: Settings

    def pooled(self, rows: Rows, seed: int) -> Trained:
        return self._best(rows, rows.of("train"), seed, False)

    def alone(self, rows: Rows, hospital: str, seed: int) -> Trained | None:
        """None where a hospital has one class only."""
        at = rows.of("train", hospital)
        return self._best(rows, at, seed, False) if len(np.unique(rows.y[at])) > 1 else None

    def over_hospitals(self, rows: Rows, seed: int) -> Trained:
        return self._best(rows, rows.of("train"), seed, True)

    def _best(self, rows: Rows, at: Ints, seed: int, hospitals: bool) -> Trained:
        """Of all settings and passes that with the best AUROC on validation rows."""
        settings = self.federated if hospitals else self.single
        found = [one for given in settings for one in self._fit(rows, at, seed, given, hospitals)]
        return max(found, key=lambda one: one.val)

    def _fit(
        self, rows: Rows, at: Ints, seed: int, given: dict[str, Any], hospitals: bool
    ) -> list[Trained]:
        """The network after each pass."""
        make = self.strategy if hospitals else pc.FedAvg
        sites, read = len(rows.hospitals) if hospitals else 1, len(rows.of("train"))
        after = [rounds_of(given, len(at), sites, k * read) for k in range(1, self.passes + 1)]
        store = Passes(after)
        network = pc.NeuralNetwork(
            self.architecture,
            architecture_options=self.options,
            strategy=make(after[-1], **given),
            random_state=seed,
        )
        labels = rows.hospital[at] if hospitals else None
        network.fit(rows.x[at], rows.y[at], sites=labels, store=store)
        found = [Trained(network, *one, given, i) for i, one in enumerate(store.networks, 1)]
        return [replace(one, val=one.area(rows, "val")) for one in found]


def rounds_of(given: Mapping[str, Any], rows: int, sites: int, read: int) -> int:
    """The rounds in which `sites` that have `rows` together read `read` of them."""
    one = rows
    if "local_steps" in given:
        one = sites * given["local_steps"] * given["batch_size"]
    return max(round(read / one), 1)


def settings(*sizes: float) -> tuple[Settings, Settings]:
    """Adam with these step sizes: in one place, and over hospitals."""
    single = tuple({"batch_size": BATCH, "lr": lr, "optimizer": "adam"} for lr in sizes)
    return single, tuple({"batch_size": EACH, "server_lr": lr, **ADAM} for lr in sizes)


def xrays(rows_each: int = 800, passes: int = 6) -> Proof:
    """PneumoniaMNIST and its published parts; `rows_each` of a hospital's images for training,
    drawn by the seed."""
    sites = pc.datasets.pneumonia_mnist()
    rows = _rows(sites, "xray", "pneumonia")
    part = np.concatenate([sites.local(name)["part"] for name in sites.names])

    def split(seed: int) -> Rows:
        draw, keep = np.random.default_rng(seed), part != "train"
        for name in rows.hospitals:
            own = np.flatnonzero((rows.hospital == name) & (part == "train"))
            keep[draw.permutation(own)[:rows_each]] = True
        return Rows(rows.x[keep], rows.y[keep], rows.hospital[keep], part[keep])

    single, over = settings(0.001)
    title = "PneumoniaMNIST, five hospitals"
    return Proof(title, split, "cnn", {"dropout": 0.3}, passes, single, pc.FedAdam, over)


def stays(passes: int = 12, hidden: int = 32) -> Proof:
    """PhysioNet 2012; seeds 0 to 4 are the fifths of a cross-validation, 5 to 9 of another one."""
    rows = _rows(pc.datasets.physionet_2012(series=True), "measured", "died")

    def split(seed: int) -> Rows:
        return replace(rows, part=folded(rows, seed))

    single, over = settings(0.003, 0.01)
    options = {"hidden": hidden, "dropout": 0.3}
    title = "PhysioNet 2012, four units"
    return Proof(title, split, "gru", options, passes, single, pc.FedAdam, over)


def folded(rows: Rows, seed: int) -> NDArray[Any]:
    """Parts of rows: a fifth for the test, a fifth of the others for validation, each with its
    share of every hospital's rows and events."""
    repeat, fold = divmod(seed, FOLDS)
    draw = np.random.default_rng(repeat)
    part = np.full(len(rows.y), "train")
    for name in rows.hospitals:
        for outcome in (0, 1):
            at = draw.permutation(np.flatnonzero((rows.hospital == name) & (rows.y == outcome)))
            tested = np.arange(len(at)) % FOLDS == fold
            part[at[tested]] = "test"
            rest = np.random.default_rng([seed, outcome]).permutation(at[~tested])
            part[rest[: round(len(rest) * VALIDATION)]] = "val"
    return part


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


@dataclass
class Found:
    """What each way took in each seed, and its AUROC on test rows; no way of one class.

    federated  name of the way over hospitals
    """

    federated: str
    areas: dict[str, list[float]] = field(default_factory=dict)
    taken: dict[str, list[Trained]] = field(default_factory=dict)

    def add(self, way: str, one: Trained | None, rows: Rows) -> str:
        """The cell of a table."""
        if one is None:
            return "one class"
        area = one.area(rows, "test")
        self.areas.setdefault(way, []).append(area)
        self.taken.setdefault(way, []).append(one)
        return f"{area:.4f}"

    def less(self, way: str) -> NDArray[np.float64]:
        """AUROC of federated training less that of `way`, by seed."""
        return np.asarray(self.areas[self.federated]) - np.asarray(self.areas[way])

    @property
    def alone(self) -> list[str]:
        return [way for way in self.areas if way.endswith(" alone")]

    @property
    def near(self) -> bool:
        """Whether the mean difference from pooled training is small."""
        return bool(abs(self.less("pooled").mean()) <= NEAR)

    @property
    def above(self) -> bool:
        """Whether federated training is above each hospital alone, on average."""
        return all(self.less(way).mean() > 0 for way in self.alone)

    @property
    def above_in(self) -> int:
        """In how many seeds it is above the best hospital alone of that seed."""
        return int((np.min([self.less(way) for way in self.alone], axis=0) > 0).sum())


def run(proof: Proof, seeds: Sequence[int]) -> Found:
    """Every way in every seed, printed as it is found."""
    name = proof.strategy(1).__repr__().split("(")[0]
    found, first = Found(name), proof.split(seeds[0])
    names = first.hospitals
    ways: dict[str, Callable[[Rows, int], Trained | None]] = {
        "pooled": proof.pooled,
        **{f"{h} alone": lambda rows, s, h=h: proof.alone(rows, h, s) for h in names},
        name: proof.over_hospitals,
    }
    sizes = [len(first.of(part)) for part in ("train", "val", "test")]
    print(f"\n{proof.title}: AUROC on test rows; {proof.passes} passes over the training rows")
    print(f"rows for training, validation and test: {sizes}\n")
    print(f"| seed | {' | '.join(ways)} |\n|{'---|' * (len(ways) + 1)}")
    for seed in seeds:
        rows = proof.split(seed)
        print(f"| {seed} |", end="", flush=True)
        for way, train in ways.items():
            print(f" {found.add(way, train(rows, seed), rows)} |", end="", flush=True)
        print()
    _line("mean ± SD", ways, found, lambda way: found.areas[way], "{:.4f}")
    _line(f"{name} less it", ways, found, found.less, "{:+.4f}")
    print("\n| way | taken: setting and pass, by seed |\n|---|---|")
    for way, ones in found.taken.items():
        print(f"| {way} | {', '.join(_taken(proof, way == name, one) for one in ones)} |")
    return found


def _line(
    title: str,
    ways: Mapping[str, Any],
    found: Found,
    values: Callable[[str], Sequence[float] | NDArray[np.float64]],
    form: str,
) -> None:
    cells = []
    for way in ways:
        of = values(way) if way in found.areas else []
        sd = np.std(of, ddof=1) if len(of) > 1 else 0.0
        cells.append(f"{form.format(np.mean(of))} ± {sd:.4f}" if len(of) else "")
    print(f"| {title} | {' | '.join(cells)} |")


def _taken(proof: Proof, federated: bool, one: Trained) -> str:
    """What of its setting differs from the other settings, and the pass."""
    settings = proof.federated if federated else proof.single
    differs = [k for k, v in one.setting.items() if any(other.get(k) != v for other in settings)]
    return " ".join([*(f"{k} {one.setting[k]:g}" for k in differs), f"@ {one.passes}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--part", nargs="+", default=["xrays", "stays"])
    args = parser.parse_args()
    torch().set_num_threads(1)
    for name, make in (("xrays", xrays), ("stays", stays)):
        if name not in args.part:
            continue
        start = time.perf_counter()
        found = run(make(), args.seeds)
        print(f"\nwithin {NEAR} of pooled training: {'yes' if found.near else 'no'}")
        print(f"above every hospital alone on average: {'yes' if found.above else 'no'}; ", end="")
        print(f"above the best of the seed in {found.above_in} of {len(args.seeds)} seeds")
        print(f"{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
