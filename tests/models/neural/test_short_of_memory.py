"""A hospital without enough memory is named, and the run goes on from there."""

from __future__ import annotations

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
