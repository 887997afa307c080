"""Machines of a cluster that are in this process: the messages, holders and losses are real."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import pandas as pd

from polyclinic.core import codec
from polyclinic.data.codebook import Codebook
from polyclinic.engines.clusters import Cluster
from polyclinic.engines.held import Holder
from polyclinic.engines.machines import AllAtOnce, Arrived


def book(name: str, more: Mapping[str, Any], **rest: Any) -> Codebook:
    """The codebook of `visits` with these columns in place of the outcome."""
    columns = {
        "patient": {"type": "text"},
        "age": {"type": "integer", "range": [0, 120]},
        "sex": {"type": "category", "levels": {"f": "female", "m": "male"}},
        "hba1c": {"type": "number", "range": [0, 30]},
        **more,
    }
    head = {"format": 1, "name": name, "patient": {"id": "patient"}}
    return Codebook.from_dict({**head, "columns": columns, **rest})


YES = {"type": "binary", "levels": {"0": "no", "1": "yes"}}
OLD = {"old": {"from": "age >= 65", "type": "binary"}}
BOOK = book("visits", {"readmitted": YES}, derived=OLD)
SCHEMA = """
format = 1
name = "visits"
[patient]
id = "patient"
[columns]
patient = { type = "text" }
age = { type = "integer", range = [0, 120] }
sex = { type = "category", levels = { f = "female", m = "male" } }
hba1c = { type = "number", range = [0, 30] }
readmitted = { type = "binary", levels = { 0 = "no", 1 = "yes" } }
"""
FORMULA = "readmitted ~ age + C(sex) + hba1c"


class Near(AllAtOnce):
    """Holders by name. A message to one of `lost` is lost, and so is what it held."""

    def __init__(self, folder: Any, workers: int = 2, memory: int = 1 << 30) -> None:
        super().__init__("least_load")
        self.name, self.spool = "near", (str(folder),)
        self.holders = {f"w{i}": Holder(memory, fetch=self.fetch) for i in range(workers)}
        self.memory = dict.fromkeys(self.holders, memory)
        self.lost: set[str] = set()
        self.messages: list[str] = []

    def fetch(self, names: list[tuple[str, str]]) -> list[Any]:
        return [self.holders[address].fetch(name) for address, name in names]

    def drop(self, address: str, name: str) -> None:
        if address in self.holders:
            self.holders[address].drop(name)

    def ask(self, messages: Mapping[str, bytes]) -> dict[str, Any]:
        self.messages += messages
        gone = set(messages) & self.lost
        for name in gone:
            self.holders.pop(name, None)
        return {
            name: None if name in gone else self.holders[name].answer(message)
            for name, message in messages.items()
        }

    def live(self) -> list[str]:
        return sorted(set(self.holders) - self.lost)

    def worker_pids(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.holders.clear()


class Slow(Holder):
    """Takes longer, for each part and row: what it says of its seconds is true."""

    each = 0.0

    def _work(self, asked: Mapping[str, Any], rows: Any, plan: Any) -> dict[str, Any]:
        end = time.monotonic() + self.each * len(asked["parts"])
        while time.monotonic() < end and asked["name"] not in self._dropped:
            time.sleep(0.002)
        return super()._work(asked, rows, plan)


class Apart(Near):
    """The same, each holder with a thread of its own: answers come when they are done.

    each  seconds that a part takes longer, by holder
    """

    speculate = True

    def __init__(self, folder: Any, each: Mapping[str, float], memory: int = 1 << 30) -> None:
        super().__init__(folder, len(each), memory)
        self.holders = {name: Slow(memory, fetch=self.fetch) for name in each}
        for name, seconds in each.items():
            self.holders[name].each = seconds
        self.memory = dict.fromkeys(self.holders, memory)
        self.threads = {name: ThreadPoolExecutor(1) for name in each}
        self.answered: list[tuple[str, Any, bytes]] = []

    def talk(self) -> Any:
        return _Talk(self)

    def one(self, address: str, message: bytes) -> bytes | None:
        asked = codec.decode(message)
        if address in self.lost:
            return None
        reply = self.holders[address].answer(message)
        if address in self.lost:
            return None
        self.answered.append((address, asked, reply))
        return reply

    def close(self) -> None:
        for thread in self.threads.values():
            thread.shutdown()


class _Talk:
    def __init__(self, machines: Apart) -> None:
        self.machines, self.arrived = machines, SimpleQueue[Arrived]()

    def post(self, messages: Mapping[str, tuple[str, bytes]]) -> None:
        for name, (address, message) in messages.items():
            self.machines.messages.append(address)
            self.machines.threads[address].submit(self._one, name, address, message)

    def _one(self, name: str, address: str, message: bytes) -> None:
        self.arrived.put(Arrived(name, self.machines.one(address, message)))

    def wait(self, seconds: float | None = None) -> list[Arrived]:
        try:
            return [self.arrived.get(timeout=seconds)]
        except Empty:
            return []

    def drop(self, address: str, name: str) -> None:
        self.machines.holders[address].drop(name)


def near(folder: Any, partitions: int = 1, **more: Any) -> Cluster:
    return Cluster(partitions, machines=Near(folder, **more))


def lost_and_forgotten(cluster: Cluster, lost: int, forgotten: int) -> Any:
    """A callback: after these rounds a worker is lost, and the site forgets what tasks have kept,
    as if the process that asks had been started anew. Workers hold next to nothing."""
    for one in cluster.machines.holders.values():
        one.memory = 100

    def after(done: Any) -> None:
        if done.number == lost:
            cluster.machines.lost.add("w1")
        if done.number == forgotten:
            for workers in cluster._known.values():
                assert workers.stepped.kept
                workers.stepped.kept.clear()

    return after


def visits(n: int = 700, seed: int = 0) -> pd.DataFrame:
    """Visits of patients with up to four each, side by side, in no order of the patient's name."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(rng.permutation(n), rng.integers(1, 5, n))[:n]
    frame = pd.DataFrame(
        {
            "patient": [f"p{one}" for one in patient],
            "age": rng.integers(18, 95, n),
            "sex": rng.choice(["f", "m"], n),
            "hba1c": np.round(rng.normal(6, 1, n), 1),
        }
    )
    frame["readmitted"] = (rng.uniform(size=n) < 1 / (1 + np.exp((60 - frame.age) / 20))).astype(
        int
    )
    frame.loc[rng.uniform(size=n) < 0.05, "hba1c"] = np.nan
    return frame


def write(frame: pd.DataFrame, folder: Any, files: int = 3, group: int = 130) -> str:
    """The frame as Parquet files of small row groups; the pattern that names them."""
    folder.mkdir(exist_ok=True)
    edges = [len(frame) * i // files for i in range(files + 1)]
    for i, (a, b) in enumerate(pairwise(edges)):
        part = frame[a:b]
        part.to_parquet(folder / f"v{i}.parquet", row_group_size=group, index=False)
    return str(folder / "*.parquet")
