"""Data sets of images and of time series.

``pneumonia_mnist``: 5,856 chest X-rays of children, 28 x 28 pixels, with pneumonia or without; the
published set has no hospitals, so its rows are dealt to made-up ones. ``physionet_2012`` as series:
the 37 variables of 48 hours in intensive care, of 4,000 stays in four kinds of unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.data.codebook import Codebook
from polyclinic.data.deal import deal
from polyclinic.data.fetch import Archive
from polyclinic.data.intensive_care import PHYSIONET_2012, UNITS, tables_by
from polyclinic.data.read import table_from_frame
from polyclinic.data.table import Table

_FILE = "pneumoniamnist_rebuilt.npz"
PNEUMONIA = Archive(
    "pneumonia_mnist",
    "pneumonia-mnist",
    {_FILE: "10974beb84803c2a100fea7c62f3a0414267bb3d528a8ef2041799fe2c8ac8cf"},
    {},
    "rebuild it from MedMNIST v2's PneumoniaMNIST, the training images in the order of the sha256 "
    "of their pixels",
)
PARTS = ("train", "val", "test")
_SUMS = ("Urine",)  # what flows in a step; of all others their mean
_LARGEST = ("MechVent",)


def pneumonia_tables(
    hospitals: int, by: str, alpha: float, seed: int
) -> tuple[dict[str, Table], Codebook]:
    """Tables of PneumoniaMNIST, and their codebook; a row's `part` is the published one.

    by  "label" with label skew `alpha`, "iid" or "quantity"

    Raises
    ------
    InputError : DATA_NOT_AVAILABLE, DATA_CHANGED, WRONG_VALUE.
    """
    with np.load(PNEUMONIA.paths()[_FILE], allow_pickle=False) as held:
        images = np.concatenate([held[f"{part}_images"] for part in PARTS])
        labels = np.concatenate([held[f"{part}_labels"].ravel() for part in PARTS])
        lengths = [len(held[f"{part}_labels"]) for part in PARTS]
    codebook = _pneumonia_codebook(images.shape[1:])
    frame = pd.DataFrame(
        {
            "xray": np.arange(len(images)),
            "pneumonia": labels.astype(int),
            "part": np.repeat(PARTS, lengths),
        }
    )
    how = {"label": "dirichlet"}.get(by, by)
    site = deal(len(frame), hospitals, how, by=labels, alpha=alpha, min_rows=20, seed=seed)
    return dealt_images(frame, images[:, None], site, codebook, "xray"), codebook


def dealt_images(
    frame: pd.DataFrame, images: NDArray[Any], site: NDArray[Any], codebook: Codebook, column: str
) -> dict[str, Table]:
    """A table per hospital; each holds its own images only."""
    found = {}
    for number in np.unique(site):
        rows = np.flatnonzero(site == number)
        own = frame.iloc[rows].assign(**{column: np.arange(len(rows))})
        name = f"hospital_{number + 1}" if isinstance(number, np.integer) else str(number)
        found[name] = table_from_frame(own, codebook, name, media={column: images[rows]})
    return found


def physionet_series(codebook: Codebook) -> tuple[Mapping[str, Table], Codebook]:
    """Tables by kind of unit with the hourly series `measured`, and their codebook.

    codebook  of the measurements' means, whose ranges and units are those of the variables

    Raises
    ------
    InputError : DATA_NOT_AVAILABLE, DATA_CHANGED.
    """
    paths = PHYSIONET_2012.paths()
    static = pd.read_csv(paths["set-a.static.csv"])
    outcome = pd.read_csv(paths["Outcomes-a.txt"]).set_index("RecordID")
    wide = _series_codebook(codebook)
    frame = static[["RecordID", "Age", "Height", "Weight"]].assign(
        Male=static["Gender"].replace(-1, np.nan),
        died=outcome.loc[static["RecordID"], "In-hospital_death"].to_numpy(),
    )
    measured = paths["set-a.measurements.csv.gz"].resolve()
    whole = table_from_frame(frame, wide, wide.name, media={"measured": measured})
    named = static["ICUType"].map(dict(enumerate(UNITS, 1)))
    return tables_by(whole, named.to_numpy()), wide


def _series_codebook(codebook: Codebook) -> Codebook:
    """Static columns, the series of all variables, and the outcome."""
    plain = codebook.to_dict()
    columns = dict(map(tuple, plain["columns"]))
    measured = {name.removesuffix("_mean") for name in columns if name.endswith("_mean")}
    variables = []
    for name in sorted({*measured, *_LARGEST, "Weight"}):
        like = columns.get(f"{name}_mean") or columns.get(name, {})
        spec = {key: like[key] for key in ("unit", "range", "usual") if key in like}
        if name in _LARGEST:
            spec = {"range": (0, 1)}
        join = "sum" if name in _SUMS else "max" if name in _LARGEST else "mean"
        variables.append((name, {**spec, "join": join}))
    series = {
        "step": "1 h",
        "length": 48,
        "clock": "hh:mm",
        "outside": "drop",  # some are typing errors: pH 735
        "patient": "RecordID",
        "time": "Time",
        "variable": "Parameter",
        "value": "Value",
        "variables": variables,
    }
    kept = [(name, columns[name]) for name in ("Age", "Male", "Height", "Weight")]
    course = {"type": "series", "series": series, "label": "course of 48 hours"}
    listed = [("RecordID", {"type": "text"}), *kept, ("measured", course)]
    return Codebook.from_dict(
        {
            **plain,
            "name": "physionet-2012-series",
            "patient": {"id": "RecordID"},
            "columns": [*listed, ("died", columns["died"])],
            "derived": {},
            "target": {"column": "died"},
        }
    )


def _pneumonia_codebook(size: tuple[int, ...]) -> Codebook:
    return Codebook.from_dict(
        {
            "name": "pneumonia-mnist",
            "title": "Chest X-rays of children, 28 x 28 pixels, with pneumonia or without",
            "source": "MedMNIST v2 (Yang et al. 2023; Kermany et al. 2018), CC BY 4.0",
            "columns": [
                ("xray", {"type": "image", "shape": [1, *size], "range": [0, 255]}),
                ("pneumonia", {"type": "binary", "levels": [("0", "no"), ("1", "yes")]}),
                ("part", {"type": "category", "levels": [(part, part) for part in PARTS]}),
            ],
            "target": {"column": "pneumonia"},
        }
    )
