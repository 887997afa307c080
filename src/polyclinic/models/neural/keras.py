"""Models of Keras 3 as architectures: Keras computes with PyTorch, so they train as all others do.

Keras reads its backend when it is imported; here it is told "torch", so that no TensorFlow arrives.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError
from polyclinic.models.neural.architectures import Architecture, torch

if TYPE_CHECKING:
    from polyclinic.models.neural.spec import NeuralSpec


def keras() -> Any:
    """Keras on PyTorch. Raises NO_KERAS."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        found = import_module("keras")
    except ImportError:
        raise _missing("Keras is not installed here", 'pip install "polyclinic[keras]"') from None
    if found.config.backend() != "torch":
        raise _missing(
            f"Keras computes with {found.config.backend()} here",
            "set KERAS_BACKEND=torch before Keras is imported",
        )
    return found


def keras_architecture(
    name: str,
    make: Callable[[NeuralSpec], Any],
    version: int = 1,
    options: Mapping[str, tuple[Any, Callable[[Any], bool]]] | None = None,
    reads: tuple[str, ...] = (),
) -> Architecture:
    """An architecture of a Keras model, for a package's entry point.

    make  from the spec to a built keras.Model of one input: the table, (n, columns), or the only
          image or series, channels first; it returns logits or numbers, (n, outputs). Its first
          weights are drawn by Keras, from the spec's seed
    """

    def build(spec: NeuralSpec) -> Any:
        keras().utils.set_random_seed(spec.seed % 2**32)
        return as_module(make(spec))

    return Architecture(name, build, version, options or {}, reads)


def weights_of(model: Any) -> list[NDArray[np.float32]]:
    """Copies of what `get_weights` gives."""
    return [np.array(one.value.detach().cpu().numpy()) for one in model.weights]


def as_module(model: Any) -> Any:
    """A Keras model as a torch module: `parameters` are what Keras trains, `buffers` the rest, in
    the order of its `get_weights`."""
    nn = torch().nn

    class Keras(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: dict[str, Any]) -> Any:
            (only,) = inputs.values()
            with keras().device(str(only.device)):  # else it takes a card where there is one
                found = self.model(only, training=self.training)
            return found if found.dim() > 1 else found[:, None]

        def parameters(self, recurse: bool = True) -> Any:
            return iter([variable.value for variable in self.model.trainable_variables])

        def buffers(self, recurse: bool = True) -> Any:
            return iter([variable.value for variable in self.model.non_trainable_variables])

    return Keras()


def _missing(what: str, then: str) -> PolyclinicError:
    return PolyclinicError(
        what,
        code="NO_KERAS",
        rule="a Keras model is trained with Keras 3 on PyTorch, which the core does without",
        next=then,
    )
