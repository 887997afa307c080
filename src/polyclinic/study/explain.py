"""What in a row a network's answer rests on, for rows that the user holds.

Everything is computed here: no map leaves for a hub, as it shows the image that it explains.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import DataWarning, InputError, PolyclinicError
from polyclinic.models.neural.architectures import torch
from polyclinic.models.neural.inputs import TABLE, inputs_of
from polyclinic.study.sites import Sites

if TYPE_CHECKING:
    from polyclinic.study.neural import NeuralNetwork

Floats = NDArray[np.float64]
METHODS = ("integrated_gradients", "occlusion")
GAP = 0.05  # of the difference that a map adds up to; above, the reader is told


def explain(
    model: NeuralNetwork,
    X: Any,
    method: str = "integrated_gradients",
    *,
    target: int | None = None,
    baseline: float | NDArray[Any] = 0.0,
    steps: int = 50,
    window: int | tuple[int, ...] = 3,
    column: str = "",
) -> Floats:
    """A map of each row's image, series or columns: what they add to the network's output.

    The output is a logit, a number, or the log of a rate or a hazard; of masks its mean over the
    pixels. Of a table the map is about the columns as the network reads them, scaled.

    Parameters
    ----------
    X : rows that you hold, as for `predict`.
    method : "integrated_gradients": the map of a row adds up to its output less the baseline's;
        "occlusion": how the output falls when the baseline stands in a part of it.
    target : class, or channel of the mask; None: the one output there is, or the last class.
    baseline : what a row is compared with; a number, or an array that is cut to the rows' shape. A
        gap of a series stays one.
    steps : between baseline and row, of integrated gradients.
    window : of occlusion, in pixels, or in steps of a series; or a length of each dimension.
    column : of several inputs the one that is explained; "table" are the columns of the table.

    Returns
    -------
    Maps of the shape of the inputs.

    Raises
    ------
    InputError : WRONG_VALUE; NOT_HELD for rows at hospitals. PolyclinicError : NO_CAPTUM.

    References: Sundararajan, Taly & Yan (2017), "Axiomatic attribution for deep networks"; Zeiler &
    Fergus (2014), "Visualizing and understanding convolutional networks".
    """
    if isinstance(X, Sites):
        raise InputError(
            "these rows are at hospitals",
            code="NOT_HELD",
            rule="a map shows the image that it explains, so it is made where the image is",
            next="explain rows of your own; a hospital explains its own",
        )
    if method not in METHODS:
        raise _wrong(f"method = {method!r}", f"one of {', '.join(METHODS)}")
    captum = _captum()
    module, result = model.to_torch(), model.result_
    rows = inputs_of(result.spec, result.scaling, model.partition(X), outcome=False)
    batch = rows.batch(np.arange(len(rows)))
    name = _chosen(batch, column)
    given = batch.pop(name)
    output = _output(module, name, list(batch), target)
    base = torch().as_tensor(baseline, dtype=given.dtype).expand_as(given).clone()
    base[given.isnan()] = float("nan")
    rest = tuple(batch.values())
    if method == "occlusion":
        return _occluded(captum, output, given, base, rest, window)
    return _integrated(captum, output, given, base, rest, steps)


def _integrated(
    captum: Any, output: Any, given: Any, base: Any, rest: tuple[Any, ...], steps: int
) -> Floats:
    """Integrated gradients; says where they do not add up."""
    found = captum.IntegratedGradients(output).attribute(
        given, base, additional_forward_args=rest or None, n_steps=steps, internal_batch_size=64
    )
    maps: Floats = found.nan_to_num(0.0).detach().double().numpy()
    with torch().no_grad():
        wanted = (output(given, *rest) - output(base, *rest)).double().numpy()
    gap = np.abs(maps.reshape(len(maps), -1).sum(axis=1) - wanted)
    bad = int(np.count_nonzero(gap > GAP * np.maximum(np.abs(wanted), 0.1)))
    if bad:
        warnings.warn(
            f"{bad} of {len(maps)} maps do not add up to the difference from the baseline: more "
            f"steps than {steps} are nearer",
            DataWarning,
            stacklevel=4,
        )
    return maps


def _occluded(
    captum: Any, output: Any, given: Any, base: Any, rest: tuple[Any, ...], window: Any
) -> Floats:
    """Occlusion, all channels of an image, or variables of a series, each by itself in a series."""
    shape = tuple(given.shape[1:])
    if isinstance(window, int):
        sides = {1: (1,), 2: (window, 1)}.get(len(shape), (shape[0], *[window] * (len(shape) - 1)))
    else:
        sides = tuple(window)
    if len(sides) != len(shape) or not all(1 <= w <= s for w, s in zip(sides, shape, strict=True)):
        raise _wrong(f"window = {window!r}", f"from 1 to the lengths of {shape}")
    with torch().no_grad():
        found = captum.Occlusion(output).attribute(
            given, sides, baselines=base, additional_forward_args=rest or None
        )
    maps: Floats = found.nan_to_num(0.0).double().numpy()
    return maps


def _output(module: Any, name: str, others: list[str], target: int | None) -> Any:
    """One number per row of one input, the others after it."""

    def of(item: Any, *rest: Any) -> Any:
        found = module({name: item, **dict(zip(others, rest, strict=True))})
        channel = found.shape[1] - 1 if target is None else target
        if not 0 <= channel < found.shape[1]:
            raise _wrong(f"target = {target}", f"from 0 to {found.shape[1] - 1}")
        return found[:, channel].flatten(1).mean(1) if found.dim() > 2 else found[:, channel]

    return of


def _chosen(batch: dict[str, Any], column: str) -> str:
    """The input that is explained: the only image or series, or the table."""
    if column:
        if column not in batch:
            raise _wrong(f"column = {column!r}", f"inputs: {', '.join(batch)}")
        return column
    items = [name for name in batch if name != TABLE] or [TABLE]
    if len(items) > 1:
        raise _wrong("several images or series", f"column is one of {', '.join(batch)}")
    return items[0]


def _wrong(what: str, rule: str) -> InputError:
    return InputError(what, code="WRONG_VALUE", rule=rule, next="correct the value")


def _captum() -> Any:
    try:
        return import_module("captum.attr")
    except ImportError:
        raise PolyclinicError(
            "Captum is not installed here",
            code="NO_CAPTUM",
            rule="maps are made with Captum, which training does without",
            next='pip install "polyclinic[explain]"',
        ) from None
