"""A hospital without enough memory is named, and the run goes on from there."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.models.neural.inputs import Inputs

torch = pytest.importorskip("torch")
torch.set_num_threads(1)


def fit(store=None):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.uniform(-1, 1, (90, 2)), columns=["a", "b"])
    frame = frame.assign(y=(frame.a > 0).astype(int), h=np.repeat(list("xyz"), 30))
    sites = pc.split(frame, by="h").at_home(store.folder) if store else pc.split(frame, by="h")
    model = pc.NeuralNetwork("linear", strategy=pc.FedAvg(rounds=4, lr=0.3))
    return model.fit(sites, "y ~ a + b", store=store and store.checkpoint)


class Folder:
    def __init__(self, path):
        self.folder, self.checkpoint = path / "sites", pc.Checkpoint(path / "fit.pcm")


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_the_run_goes_on_when_there_is_memory_again(tmp_path, monkeypatch, error):
    store, read, asked = Folder(tmp_path), Inputs.batch, []

    def short(self, rows):
        asked.append(rows)
        if len(asked) > 7:  # in the third round
            raise error("CUDA out of memory. Tried to allocate 2 GiB")
        return read(self, rows)

    monkeypatch.setattr(Inputs, "batch", short)
    with pytest.raises(pc.Refused) as found:
        fit(store)
    assert found.value.code == "OUT_OF_MEMORY" and found.value.site in "xyz"
    assert "smaller batches" in found.value.next
    monkeypatch.undo()
    resumed, whole = fit(store), fit()
    assert len(asked) > 3
    assert resumed.result_.weights.tobytes() == whole.result_.weights.tobytes()


CODEBOOK = """name = "scans"
[columns.scan]
type = "image"
shape = [1, 32, 32]
range = [-8, 8]
[columns.mask]
type = "image"
shape = [1, 32, 32]
range = [0, 1]
"""
STUDY = """format = 1
[study]
name = "scans"
[data]
schema = "scans.toml"
sites = { north = "north.csv", south = "south.csv", west = "west.csv" }
[model]
kind = "neural"
formula = "mask ~ scan"
architecture = "unet"
loss = "dice"
[model.options.architecture_options]
channels = [16, 32]
[strategy]
rounds = 1
batch_size = 1000
[evaluation]
validate = "none"
alone = false
[output]
report = ["json"]
"""
LIMITED = """import resource, sys
import torch
from polyclinic.cli import main
from polyclinic.study import run
torch.set_num_threads(1)
more, opened = int(sys.argv.pop(1)), run.open_sites
def limited(*given, **named):
    sites = opened(*given, **named)  # DuckDB takes what it wants before
    if more:
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return sites
run.open_sites = limited
main.main()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads how much is mapped")
def test_over_the_command_line_in_a_process_that_may_take_little_memory(tmp_path):
    """West has ten times as many rows, all of them in one batch."""
    draw = np.random.default_rng(0)
    for name, rows in {"north": 15, "south": 15, "west": 150}.items():
        images = draw.normal(size=(rows, 1, 32, 32)).astype("float32")
        np.save(tmp_path / f"{name}.npy", images)
        np.save(tmp_path / f"{name}_m.npy", (images > 0).astype("float32"))
        cells = {c: [f"{name}{c}.npy#{i}" for i in range(rows)] for c in ("", "_m")}
        table = pd.DataFrame({"scan": cells[""], "mask": cells["_m"]})
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "scans.toml").write_text(CODEBOOK)
    (tmp_path / "study.toml").write_text(STUDY)

    def command(more, *words):
        return subprocess.run(
            [sys.executable, "-c", LIMITED, str(more), "run", "study.toml", *words],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    short = command(110_000_000)
    assert short.returncode == 3, short.stderr
    assert "west refused" in short.stderr and "OUT_OF_MEMORY" in short.stderr
    assert "smaller batches" in " ".join(short.stderr.split())
    again = command(0, "--resume")
    assert again.returncode == 0, again.stderr
    pc.run(tmp_path / "study.toml", tmp_path / "whole")
    mended, undisturbed = (tmp_path / one / "model.pcm" for one in ("runs/scans", "whole"))
    assert mended.read_bytes() == undisturbed.read_bytes()
