"""Networks of one time series beside the table: GRU, LSTM, and causal convolutions.

Each reads the series (steps, variables) with gaps carried forward, beside which stands whether a
value was measured: 2 variables numbers a step, the simplest of the inputs of Che et al. (2018).
What comes of the last step stands beside the table's columns before the last layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyclinic.models.neural.architectures import Architecture, check_reads, torch
from polyclinic.models.neural.zoo.options import one_of, share, whole

if TYPE_CHECKING:
    from polyclinic.models.neural.spec import NeuralSpec


def fill(series: Any) -> tuple[Any, Any]:
    """Values with gaps (NaN) filled by the last one before, 0 before the first; and 1 where a value
    was measured, else 0. Both as `series`, (n, steps, variables)."""
    library = torch()
    seen = ~series.isnan()
    steps = library.arange(series.shape[1], device=series.device)[None, :, None]
    last = library.where(seen, steps, -1).cummax(dim=1).values
    values = library.where(seen, series, 0.0).gather(1, last.clamp_min(0))
    return library.where(last >= 0, values, 0.0), seen.to(series.dtype)


def _head(spec: NeuralSpec, body: Any, width: int, dropout: float) -> Any:
    """`body` of values and mask, (n, steps, 2 variables) to (n, width); then the last layer."""
    library, name = torch(), next(iter(spec.shapes))
    nn = library.nn

    class Series(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.dropout = nn.Dropout(dropout)
            self.last = nn.Linear(width + spec.table, spec.outputs)

        def forward(self, inputs: dict[str, Any]) -> Any:
            found = self.dropout(self.body(library.cat(fill(inputs[name]), dim=2)))
            if spec.table:
                found = library.cat([found, inputs["table"]], dim=1)
            return self.last(found)

    return Series()


def _recurrent(spec: NeuralSpec, kind: str) -> Any:
    nn, options = torch().nn, spec.options
    (shape,) = spec.shapes.values()

    class Last(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            layers = options["layers"]
            between = options["dropout"] if layers > 1 else 0.0
            self.cells = getattr(nn, kind)(
                2 * shape[1], options["hidden"], layers, batch_first=True, dropout=between
            )

        def forward(self, series: Any) -> Any:
            return self.cells(series)[0][:, -1]

    return _head(spec, Last(), options["hidden"], options["dropout"])


def _gru(spec: NeuralSpec) -> Any:
    """Cho et al. (2014). Weights of a layer: 3 (inputs + hidden + 2) hidden."""
    return _recurrent(spec, "GRU")


def _lstm(spec: NeuralSpec) -> Any:
    """Hochreiter & Schmidhuber (1997). Weights of a layer: 4 (inputs + hidden + 2) hidden."""
    return _recurrent(spec, "LSTM")


def _tcn(spec: NeuralSpec) -> Any:
    """Bai, Kolter & Koltun (2018), without weight normalisation: blocks of two causal convolutions
    with ReLU and a way round them; block i looks 2**i steps apart.

    Weights of a block of c channels of inputs to h: (c + h) h kernel + 2 h, and c h + h more where
    c is not h.
    """
    nn, options = torch().nn, spec.options
    (shape,) = spec.shapes.values()
    hidden, kernel = options["hidden"], options["kernel"]

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, channels: int, apart: int) -> None:
            super().__init__()
            self.pad = nn.ConstantPad1d(((kernel - 1) * apart, 0), 0.0)
            self.first = nn.Conv1d(channels, hidden, kernel, dilation=apart)
            self.second = nn.Conv1d(hidden, hidden, kernel, dilation=apart)
            self.dropout = nn.Dropout(options["dropout"])
            same = channels == hidden
            self.round = nn.Identity() if same else nn.Conv1d(channels, hidden, 1)

        def forward(self, x: Any) -> Any:
            found = self.dropout(self.first(self.pad(x)).relu())
            found = self.dropout(self.second(self.pad(found)).relu())
            return (found + self.round(x)).relu()

    class Last(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            widths = [2 * shape[1], *[hidden] * (options["layers"] - 1)]
            self.blocks = nn.Sequential(*(Block(c, 2**i) for i, c in enumerate(widths)))

        def forward(self, series: Any) -> Any:
            return self.blocks(series.transpose(1, 2))[:, :, -1]

    return _head(spec, Last(), hidden, 0.0)


def _fits(spec: NeuralSpec) -> None:
    check_reads(spec, 2)


_COMMON = {"hidden": (64, whole(1, 4096)), "dropout": (0.0, share)}
ARCHITECTURES = [
    Architecture(
        "gru", _gru, options={**_COMMON, "layers": (1, whole(1, 8))}, reads=("series",), fits=_fits
    ),
    Architecture(
        "lstm",
        _lstm,
        options={**_COMMON, "layers": (1, whole(1, 8))},
        reads=("series",),
        fits=_fits,
    ),
    Architecture(
        "tcn",
        _tcn,
        options={**_COMMON, "layers": (4, whole(1, 12)), "kernel": (3, one_of(2, 3, 5, 7))},
        reads=("series",),
        fits=_fits,
    ),
]
