"""A Keras model that one trust domain trains, site by site."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

from polyclinic.core.errors import InputError
from polyclinic.models.neural.architectures import Architecture, register_architectures
from polyclinic.models.neural.keras import as_module, keras, weights_of
from polyclinic.models.neural.strategy import Strategy
from polyclinic.study.neural import NeuralNetwork
from polyclinic.study.sites import Sites

PREFIX = "keras:"  # of the names of models of this process, which no hospital has
_made: dict[str, Architecture] = {}


class KerasNetwork(NeuralNetwork):
    """A Keras 3 model trained over the sites of arrays (``polyclinic[keras]``).

    No code travels, so hospitals over a hub, or of a formula, train a model only that a package
    registers: `polyclinic.models.neural.keras.keras_architecture`.

    Parameters
    ----------
    model : a built keras.Model; it returns logits or numbers, (n, outputs), and training begins at
        its weights. It is not changed.
    loss, loss_options, strategy, scale, class_weight, sampling, validation, random_state : as of
        `NeuralNetwork`. Images are read as the model reads them.

    Attributes
    ----------
    history_ : loss by round.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        loss: str = "cross_entropy",
        loss_options: Mapping[str, Any] | None = None,
        strategy: Strategy | Mapping[str, Any] | None = None,
        scale: str = "pooled",
        class_weight: Any = None,
        sampling: str = "shuffled",
        validation: float = 0.0,
        random_state: int | None = 0,
    ) -> None:
        super().__init__(
            loss=loss,
            loss_options=loss_options,
            strategy=strategy,
            scale=scale,
            class_weight=class_weight,
            sampling=sampling,
            validation=validation,
            random_state=random_state,
        )
        self.model = model

    def fit(self, X: Any, y: Any = None, *given: Any, **more: Any) -> Any:
        """Fit over arrays, as `NeuralNetwork.fit`. Raises NO_CODE_TRAVELS for hospitals."""
        if isinstance(X, Sites):
            raise _travels("hospitals train installed architectures only")
        return super().fit(X, y, *given, **more)

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        del options["model"]
        return {**options, "architecture": _installed(self.model)}

    def to_keras(self) -> Any:
        """A Keras model of its own with the trained weights."""
        check_is_fitted(self)
        found = keras().models.clone_model(self.model)
        found.set_weights(weights_of(self.to_torch().model))
        return found

    def save(self, path: str | Path) -> None:
        """Raises NO_CODE_TRAVELS: a file of a model holds data only."""
        raise _travels("a saved model is plain data and names an installed architecture")


def _installed(model: Any) -> str:
    """The name under which a model is an architecture of this process."""
    library = keras()
    if not isinstance(model, library.Model) or not model.built:
        raise InputError(
            f"model is a {type(model).__name__}",
            code="WRONG_TYPE",
            rule="a built keras.Model; keras.Input says what it reads",
            next="build it first",
        )
    form, weights = model.to_json(), weights_of(model)
    digest = hashlib.sha256(form.encode())
    for one in weights:
        digest.update(one.tobytes())
    name = PREFIX + digest.hexdigest()[:16]
    copy = library.models.clone_model(model)

    def build(spec: Any) -> Any:
        made = library.models.clone_model(copy)
        made.set_weights(weights)
        return as_module(made)

    if name not in _made:
        _made[name] = Architecture(name, build, reads=("image", "series"), finds=_FINDS)
        register_architectures([_made[name]])
    return name


_FINDS = ("classes", "number", "survival", "mask")


def _travels(rule: str) -> InputError:
    return InputError(
        "a Keras model of this process is code",
        code="NO_CODE_TRAVELS",
        rule=rule,
        next="register it by an entry point, and use NeuralNetwork(architecture=...)",
    )
