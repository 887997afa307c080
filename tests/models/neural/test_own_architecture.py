"""A group of hospitals brings a network of its own, by a package with an entry point."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.engines.embedded import InProcess
from polyclinic.models.neural import architectures, network

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

MODULE = """
from polyclinic.models.neural.architectures import Architecture


def build(spec):
    import torch

    name, width = next(iter(spec.shapes)), spec.options["width"]

    class Lung(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layers = torch.nn.Conv2d(spec.shapes[name][0], width, 3), torch.nn.ReLU()
            self.body = torch.nn.Sequential(*layers)
            self.last = torch.nn.Linear(width, spec.outputs)

        def forward(self, inputs):
            return self.last(self.body(inputs[name]).mean((2, 3)))

    return Lung()


ARCHITECTURES = [
    Architecture(
        "lung", build, version=1, options={"width": (4, lambda v: v in (4, 8))}, reads=("image",)
    )
]
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as pip would have put it there."""
    (tmp_path / "lung_networks.py").write_text(MODULE)
    about = tmp_path / "lung_networks-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lung-networks\nVersion: 1.0\n")
    group = "[polyclinic.architectures]\nlung = lung_networks:ARCHITECTURES\n"
    (about / "entry_points.txt").write_text(group)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for name, fresh in (("_installed", {}), ("_loaded", []), ("_broken", [])):
        monkeypatch.setattr(architectures, name, fresh)


def sites():
    images = pc.datasets.digits(images=True)
    return pc.partition(images, 3)


def fit(hospitals):
    model = pc.NeuralNetwork(
        "lung",
        architecture_options={"width": 8},
        strategy=pc.FedAvg(rounds=2, lr=0.1, local_steps=3),
    )
    return model.fit(hospitals, "digit ~ image")


def test_a_network_of_a_package_is_trained_and_saved(installed, tmp_path):
    model = fit(sites())
    assert len(model.result_.weights) == 8 * 9 + 8 + 8 * 10 + 10
    model.save(tmp_path / "m.pcm")
    again = pc.load(tmp_path / "m.pcm")
    assert again.result_.weights.tobytes() == model.result_.weights.tobytes()


@pytest.mark.parametrize("other", ["absent", "of another version"])
def test_a_hospital_without_the_package_is_named(installed, monkeypatch, other):
    hospitals, ask = sites(), InProcess.ask
    third = hospitals.names[2]

    def apart(self, messages):
        """Asks each hospital by itself; the third has other packages."""
        found = {}
        for name, message in messages.items():
            with monkeypatch.context() as here:
                if name == third:
                    lung = architectures._installed["lung"]
                    changed = replace(lung, version=2)
                    here.setitem(architectures._installed, "lung", changed)
                    if other == "absent":
                        here.delitem(architectures._installed, "lung")
                    network._made.cache_clear()
                    network._last.made = None
                found |= ask(self, {name: message})
        return found

    monkeypatch.setattr(InProcess, "ask", apart)
    with pytest.raises(pc.Refused) as found:
        fit(hospitals)
    assert (found.value.code, found.value.site) == ("UNKNOWN_ARCHITECTURE", third)
    assert "installed" in found.value.rule and "same version" in found.value.next


def test_series_of_numbers_are_no_images(installed):
    series = np.zeros((6, 4, 2), dtype="f")
    with pytest.raises(pc.InputError, match="lung with the series"):
        pc.NeuralNetwork("lung").fit(series, [0, 1] * 3)
