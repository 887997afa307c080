"""Networks of tables: a linear one, and layers with ReLU between them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from polyclinic.models.neural.architectures import Architecture, torch
from polyclinic.models.neural.zoo.options import share, widths
from polyclinic.models.neural.zoo.series import fill

if TYPE_CHECKING:
    from polyclinic.models.neural.spec import NeuralSpec


def flat(spec: NeuralSpec) -> int:
    """Numbers of a row when everything is laid side by side."""
    size = spec.table
    for shape in spec.shapes.values():
        size += math.prod(shape) * (2 if len(shape) == 2 else 1)
    return size


def laid(item: Any) -> Any:
    """A batch of one input, laid side by side: of series the values without gaps, and which were
    measured."""
    if item.dim() != 3:
        return item.flatten(1)
    return torch().cat([part.flatten(1) for part in fill(item)], dim=1)


def dense(spec: NeuralSpec, hidden: tuple[int, ...], dropout: float) -> Any:
    """Fully connected layers over all of a row."""
    nn = torch().nn

    class Dense(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            widths = [flat(spec), *hidden]
            layers: list[Any] = []
            for a, b in pairwise(widths):
                layers += [nn.Linear(a, b), nn.ReLU()]
                if dropout:
                    layers.append(nn.Dropout(dropout))
            self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], spec.outputs))

        def forward(self, inputs: dict[str, Any]) -> Any:
            parts = [laid(inputs[name]) for name in inputs]
            return self.layers(parts[0] if len(parts) == 1 else torch().cat(parts, dim=1))

    return Dense()


def _linear(spec: NeuralSpec) -> Any:
    return dense(spec, (), 0.0)


def _mlp(spec: NeuralSpec) -> Any:
    return dense(spec, tuple(spec.options["hidden"]), float(spec.options["dropout"]))


ARCHITECTURES = [
    Architecture("linear", _linear, reads=("image", "series"), stacks=True),
    Architecture(
        "mlp",
        _mlp,
        options={"hidden": ((64, 32), widths(20)), "dropout": (0.0, share)},
        reads=("image", "series"),
        stacks=True,
    ),
]
