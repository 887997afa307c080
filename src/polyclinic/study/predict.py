"""Predictions for new rows, and the report of a run written anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from polyclinic.core.errors import InputError
from polyclinic.data.read import open_file, to_table
from polyclinic.report.html import write_report
from polyclinic.report.travelled import travelled
from polyclinic.study.learner import Learner
from polyclinic.study.saved import load


def predict_file(run: str | Path, data: str | Path, site: str = "new rows") -> pd.DataFrame:
    """One line per row of the file `data`: its number, the prediction, empty where a value lacks.

    For two classes the column is the predicted risk, for more one column per class.
    """
    from polyclinic.core.partition import Partition

    model = load(run)
    about, design = model.formula_data, model.predictor_.design
    gaps = isinstance(model, Learner) and model.kind_.gaps
    needed = [name for name in design.columns if name != design.response]
    table = to_table(open_file(data, about.codebook, site), about.codebook, site, needed)
    complete = np.ones(table.n_rows, dtype=bool)
    for name in needed:
        if name not in design.fills and not gaps:
            complete &= ~np.isnan(table.columns[name])
    rows = Partition({name: values[complete] for name, values in table.columns.items()}, site=site)
    predicted = model.predictor_.predict(rows)
    out = pd.DataFrame({"row": np.arange(1, table.n_rows + 1)})
    if predicted.ndim == 2:
        for i, label in enumerate(model.classes_):
            out[f"probability_{label}"] = _spread(predicted[:, i], complete)
        return out
    name = "risk" if hasattr(model, "classes_") else "predicted"
    out[name] = _spread(predicted, complete)
    return out


def _spread(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    full = np.full(len(where), np.nan)
    full[where] = values
    return full


def report_again(run: str | Path) -> Path:
    """Write report.html of a run folder from its metrics.json."""
    folder = Path(run)
    if not (folder / "metrics.json").is_file():
        raise InputError(
            f"{folder} holds no finished run",
            code="NO_RUN",
            rule="a run folder holds metrics.json",
            next="finish the run: polyclinic run STUDY --resume",
        )
    results = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    write_report(results, folder / "report.html", travelled(folder))
    return folder / "report.html"
