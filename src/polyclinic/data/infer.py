"""A codebook from a frame that the analyst holds: types, levels and ranges as they are in it.

For data of one's own that are split into hospitals afterwards. Where hospitals hold their own files
nothing is inferred: they agree on a codebook.
"""

from __future__ import annotations

import datetime
import decimal
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook

MOST_LEVELS = 1000
_NO_YES = {"0": "no", "1": "yes"}


def infer_codebook(frame: Any, name: str = "data", exclude: Sequence[str] = ()) -> Codebook:
    """The codebook of a pandas, polars or arrow frame.

    true/false, and numbers that are 0 and 1 and nothing else, are binary. Numbers are "number" or
    "integer" with their smallest and largest value as range. Texts and categories are categories;
    levels are the values that occur, sorted (numbers as numbers); with more than 1,000 of them the
    column is text, which no formula reads. Dates are dates.

    Parameters
    ----------
    exclude : columns that the codebook leaves out.

    Raises
    ------
    InputError : NO_COLUMN for an unknown name in `exclude`, or a frame without columns.
    """
    import narwhals as nw

    if isinstance(frame, pd.DataFrame):
        frame = frame.set_axis([str(column) for column in frame.columns], axis=1)
    native = nw.from_native(frame, eager_only=True)
    unknown = [column for column in exclude if column not in native.columns]
    if unknown or not set(native.columns) - set(exclude):
        raise InputError(
            f"{unknown[0]} is no column of the frame"
            if unknown
            else "the frame has no column to describe",
            code="NO_COLUMN",
            rule=f"columns: {', '.join(native.columns)}",
            next="correct the name",
        )
    columns = {
        column: _column(native.get_column(column))
        for column in native.columns
        if column not in exclude
    }
    return Codebook.from_dict({"name": name, "columns": columns}, where="inferred codebook")


def _column(series: Any) -> dict[str, Any]:
    import narwhals as nw

    dtype = series.dtype
    if dtype == nw.Boolean:
        return {"type": "binary", "levels": _NO_YES}
    if dtype.is_numeric():
        return _numbers(series.cast(nw.Float64).to_numpy())
    if dtype in (nw.Date, nw.Datetime):
        return {"type": "date"}
    if dtype.is_temporal():
        return {"type": "text"}
    values = [v for v in series.drop_nulls().unique().to_list() if not _is_blank(v)]
    if dtype in (nw.Categorical, nw.Enum):
        return _category(values)
    return _objects(values)


def _objects(values: list[Any]) -> dict[str, Any]:
    """A column of Python objects, by what they are."""
    if values and all(isinstance(value, (bool, np.bool_)) for value in values):
        return {"type": "binary", "levels": _NO_YES}
    if all(isinstance(value, (numbers.Real, decimal.Decimal)) for value in values):
        return _numbers(np.array(values, dtype=np.float64))
    if all(isinstance(value, datetime.date) for value in values):
        return {"type": "date"}
    return _category(values)


def _numbers(values: Any) -> dict[str, Any]:
    finite = np.unique(values[np.isfinite(values)])
    if len(finite) == 0:
        return {"type": "number"}
    if finite.tolist() == [0.0, 1.0]:
        return {"type": "binary", "levels": _NO_YES}
    low, high = float(finite[0]), float(finite[-1])
    if low == high:  # a range has a width
        low, high = (min(low, 0.0), max(high, 0.0)) if low else (0.0, 1.0)
    whole = bool(np.all(finite == np.round(finite)))
    return {"type": "integer" if whole else "number", "range": [low, high]}


def _category(values: list[Any]) -> dict[str, Any]:
    codes = sorted({_code(value) for value in values}, key=_order)
    if not 0 < len(codes) <= MOST_LEVELS:
        return {"type": "text"}
    return {"type": "category", "levels": {code: code for code in codes}}


def _code(value: Any) -> str:
    """The text that a cell with `value` has when it is read."""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _order(code: str) -> tuple[bool, float, str]:
    try:
        return False, float(code), code
    except ValueError:
        return True, 0.0, code


def _is_blank(value: Any) -> bool:
    return (isinstance(value, str) and not value.strip()) or value != value
