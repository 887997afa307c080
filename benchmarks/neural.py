"""Networks of many clients in one process, beside plain loops, Flower and pfl-research.

Each contender runs in a process of its own over the same made-up rows: images of 28 x 28 in ten
classes. Printed per contender: seconds of a round (median, least in brackets), how many times as
long as Polyclinic's by the least, and seconds from the start of its process to the end of its first
round, imports, rows and all.

"softmax": 1000 clients of 60 rows, 100 a round, one pass in batches of 20. Flower's clients compute
by numpy in Ray's workers, pfl-research's by PyTorch. "10,000 clients": the same with ten times as
many, and memory beyond the rows at the peak. "cnn": ten clients of 200 rows, all in each round, two
convolutions, 1,199,882 weights, against the same in a plain loop of PyTorch.

    scripts/bench neural [--rounds 20] [--tasks softmax cnn ...] [--only polyclinic ...]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

BEGUN = time.time()

from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks import _neural_work as work  # noqa: E402
from benchmarks._environment import apart  # noqa: E402

FOLDER = Path(__file__).resolve().parent
TASKS = {"softmax": 1000, "10,000 clients": 10_000, "cnn": 10}  # with their clients
IMAGES, BATCH = 200, 20  # of a client of the convolutions
PEERS = {
    "Flower simulation": ("flower", ["flwr[simulation]==1.41.0"]),
    "pfl-research": ("pfl", ["pfl==0.6.0", "torch>=2.6"]),
}
Found = dict[str, Any]


def polyclinic(task: str, rounds: int) -> Found:
    from benchmarks.glm import peak_memory

    clients = TASKS[task]
    x, y = rows(task)
    labels = np.repeat(np.arange(clients), len(y) // clients)
    imported = time.time()
    import torch  # noqa: F401

    import polyclinic as pc

    found: Found = {"imports": time.time() - imported}
    ends: list[float] = []
    share = 1.0 if task == "cnn" else work.SHARE / clients
    strategy = pc.FedAvg(rounds=rounds + 1, lr=work.LR, batch_size=BATCH, clients=share)
    name = "cnn" if task == "cnn" else "linear"
    network = pc.NeuralNetwork(name, strategy=strategy, scale="none")
    images = x.reshape(-1, 1, 28, 28)
    begin = time.time()

    def told(done: Any) -> None:
        if done.task == "neural.train":
            ends.append(time.time())

    def run() -> None:
        network.fit(images, y, sites=labels, callbacks=[told])

    if task == "10,000 clients":
        before = peak_memory(reset=True)
        run()
        found["memory"] = peak_memory() - before
    else:
        run()
    seconds = np.diff(ends).tolist()
    start = ends[0] - begin - min(seconds)
    return {**found, "seconds": seconds, "first": ends[0] - BEGUN, "start": start}


def numpy_loop(task: str, rounds: int) -> Found:
    clients = TASKS[task]
    x, y = rows(task)
    draw = np.random.default_rng(1)
    weight = np.zeros((work.WIDTH, work.CLASSES), np.float32)
    bias = np.zeros(work.CLASSES, np.float32)

    def one() -> None:
        sums = [np.zeros_like(weight), np.zeros_like(bias)]
        for client in draw.permutation(clients)[: work.SHARE]:
            mine = slice(client * work.ROWS, (client + 1) * work.ROWS)
            order = draw.permutation(work.ROWS)
            for total, part in zip(
                sums, work.softmax(weight, bias, x[mine], y[mine], order), strict=True
            ):
                total += part
        weight[:], bias[:] = (total / work.SHARE for total in sums)

    return looped(one, rounds)


def torch_loop(task: str, rounds: int) -> Found:
    import torch

    clients = TASKS[task]
    x, y = (torch.from_numpy(one) for one in rows(task))
    x = x.reshape(-1, 1, 28, 28)
    each, share = len(y) // clients, min(work.SHARE, clients)
    nn, draw = torch.nn, np.random.default_rng(1)
    if task == "cnn":
        module = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 144, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip
    else:
        module = nn.Sequential(nn.Flatten(), nn.Linear(work.WIDTH, work.CLASSES))
    common = [p.detach().clone() for p in module.parameters()]

    def one() -> None:
        sums = [torch.zeros_like(p) for p in common]
        for client in draw.permutation(clients)[:share]:
            with torch.no_grad():
                for p, start in zip(module.parameters(), common, strict=True):
                    p.copy_(start)
            optimizer = torch.optim.SGD(module.parameters(), lr=work.LR)
            order = torch.from_numpy(client * each + draw.permutation(each))
            for chosen in order.split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(x[chosen]), y[chosen]).backward()
                optimizer.step()
            for total, p in zip(sums, module.parameters(), strict=True):
                total += p.detach() / share
        for p, total in zip(common, sums, strict=True):
            p.copy_(total)

    return looped(one, rounds)


def looped(one: Callable[[], None], rounds: int) -> Found:
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        one()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            first = time.time() - BEGUN
    return {"seconds": seconds[1:], "first": first}


CONTENDERS: dict[str, tuple[Callable[[str, int], Found], tuple[str, ...]]] = {
    "polyclinic": (polyclinic, tuple(TASKS)),
    "numpy loop": (numpy_loop, ("softmax",)),
    "PyTorch loop": (torch_loop, ("softmax", "cnn")),
}


def rows(task: str) -> tuple[np.ndarray, np.ndarray]:
    return work.data(TASKS[task], IMAGES if task == "cnn" else work.ROWS)


def alone(name: str, task: str, args: argparse.Namespace) -> Found:
    """What a contender's own process prints last. Raises CalledProcessError."""
    if name in PEERS:
        short, needed = PEERS[name]
        python = apart(f"neural-{short}", needed)
        cores = len(os.sched_getaffinity(0))
        given = [TASKS[task], work.SHARE, args.rounds, cores]
        command = [python, FOLDER / f"_neural_{short}.py", *map(str, given)]
    else:
        again = ["--one", name, task, "--rounds", str(args.rounds)]
        command = [sys.executable, "-m", "benchmarks.neural", *again]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def show(task: str, args: argparse.Namespace) -> None:
    print(f"\n{task}: {TASKS[task]:,} clients")
    print(f"{'':22}{'a round, seconds':>22}{'times':>9}{'first round':>13}")
    ours: float | None = None
    for name in args.only:
        if task not in (CONTENDERS[name][1] if name in CONTENDERS else ("softmax",)):
            continue
        try:
            found = alone(name, task, args)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{name:22}  did not run: {type(error).__name__}")
            continue
        median, least = statistics.median(found["seconds"]), min(found["seconds"])
        ours = least if ours is None else ours
        line = (
            f"{name:22}{median:>12.4f} ({least:.4f}){least / ours:>8.1f}x{found['first']:>12.1f}s"
        )
        if "start" in found:
            line += f"  fit to first round {found['start']:.2f} s, imports {found['imports']:.1f} s"
        if "memory" in found:
            line += f", memory {found['memory'] / 1024:.0f} MB"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [*CONTENDERS, *PEERS]
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--only", nargs="+", default=every, choices=every)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, task = args.one
        print(json.dumps(CONTENDERS[name][0](task, args.rounds)))
        return
    for task in args.tasks:
        show(task, args)


if __name__ == "__main__":
    main()
