"""A real study by the documented commands: from `polyclinic run --hub` to the end of its round 1.

The hospitals' officers approve at once, each by its own command, as soon as the study is there.
"""

from __future__ import annotations

import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._federated_peers import MARK, SITES, Bench, Unable
from polyclinic.cli.stage import Stage
from polyclinic.study.hubevents import Events

ROWS = 300
NAME = "small"
BOOK = """format = 1
name = "small"
[columns]
age = { type = "integer", range = [18, 100] }
dose = { type = "number", range = [-10, 10] }
event = { type = "binary", levels = { 0 = "no", 1 = "yes" } }
"""
STUDY = """format = 1
seed = 1
[study]
name = "small"
purpose = "a benchmark"
[data]
hub = "try"
schema = "codebook.toml"
[model]
kind = "logistic"
formula = "event ~ age + dose"
[privacy]
secure_sums = true
"""


class _Stage(Stage):
    """Its processes carry the benchmark's mark."""

    mark = ""

    def environment(self, site: str = "") -> dict[str, str]:
        return {**super().environment(site), MARK: self.mark}


def study(bench: Bench) -> dict[str, float]:
    """Seconds: `joined` (hub and three hospitals, from nothing), `approved`, `first`, `whole`."""
    folder = bench.folder / "stage"
    folder.mkdir()
    files = {site: _rows(folder / f"{site}.csv", seed) for seed, site in enumerate(SITES)}
    (folder / "codebook.toml").write_text(BOOK)
    (folder / "study.toml").write_text(STUDY)
    stage = _Stage(folder, files, folder / "codebook.toml")
    stage.mark = bench.mark
    begun = time.time()
    try:
        with stage:
            found = {"joined": time.time() - begun}
            return {**found, **_run(stage, bench)}
    except subprocess.CalledProcessError as error:
        raise Unable(f"{' '.join(error.cmd[3:5])}: {error.stderr[-300:]}") from error


def _run(stage: Stage, bench: Bench) -> dict[str, float]:
    submitted = time.time()
    running = stage.begin("run", str(stage.folder / "study.toml"), "--hub", stage.hub)
    try:
        for _ in stage.each(lambda site: _approve(stage, bench, site)):
            pass
        approved = time.time() - submitted
        said, _ = running.communicate(timeout=max(1.0, bench.left()))
        whole = time.time() - submitted
    except subprocess.TimeoutExpired:
        raise Unable("the study did not end in time") from None
    finally:
        running.kill()
        running.wait()
    if running.returncode:
        raise Unable(f"the study ended without a result: {said[-300:]}")
    log = stage.folder / "hub" / "hubs" / stage.hub / "runs" / NAME / "events.jsonl"
    first = next(one for one in Events(log).read()[0] if one.get("n") == 1)
    ended = datetime.fromisoformat(first["at"]).timestamp()
    return {"approved": approved, "first": ended - submitted, "whole": whole}


def _approve(stage: Stage, bench: Bench, site: str) -> None:
    """As soon as the study has arrived."""
    offers = stage.home(site) / "studies"
    while not (offers.is_dir() and any(offers.iterdir())):
        if bench.left() < 0:
            raise Unable(f"the study did not arrive at {site}")
        time.sleep(0.02)
    for attempt in range(3):  # it is being written, perhaps
        try:
            stage.do("site", "approve", NAME, "--yes", NAME, site=site)
            return
        except subprocess.CalledProcessError:
            if attempt == 2:
                raise


def _rows(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    age, dose = rng.integers(20, 90, ROWS), rng.normal(0, 2, ROWS).round(3)
    event = rng.uniform(size=ROWS) < 1 / (1 + np.exp(-(0.03 * (age - 55) + 0.2 * dose)))
    rows: list[Any] = ["age,dose,event", *map("{},{},{:d}".format, age, dose, event)]
    path.write_text("\n".join(rows) + "\n")
    return path
