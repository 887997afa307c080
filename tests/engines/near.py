"""Machines of a cluster that are in this process: the messages, holders and losses are real."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from polyclinic.data.codebook import Codebook
from polyclinic.engines.clusters import Cluster
from polyclinic.engines.held import Holder

BOOK = Codebook.from_dict(
    {
        "format": 1,
        "name": "visits",
        "patient": {"id": "patient"},
        "columns": {
            "patient": {"type": "text"},
            "age": {"type": "integer", "range": [0, 120]},
            "sex": {"type": "category", "levels": {"f": "female", "m": "male"}},
            "hba1c": {"type": "number", "range": [0, 30]},
            "readmitted": {"type": "binary", "levels": {"0": "no", "1": "yes"}},
        },
        "derived": {"old": {"from": "age >= 65", "type": "binary"}},
    }
)
FORMULA = "readmitted ~ age + C(sex) + hba1c"


class Near:
    """Holders by name. A message to one of `lost` is lost, and so is what it held."""

    def __init__(self, folder: Any, workers: int = 2, memory: int = 1 << 30) -> None:
        self.name = "near"
        self.policy, self.speed, self.spool = "least_load", {}, str(folder)
        self.holders = {f"w{i}": Holder(memory) for i in range(workers)}
        self.lost: set[str] = set()
        self.messages: list[str] = []

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


def near(folder: Any, partitions: int = 1, **more: Any) -> Cluster:
    return Cluster(partitions, machines=Near(folder, **more))


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
