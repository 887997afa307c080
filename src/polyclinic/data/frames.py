"""Frames of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def native(X: Any) -> Any:
    """pandas and arrays as they are; polars and arrow frames as pandas, so names are kept."""
    if isinstance(X, (np.ndarray, list, pd.DataFrame)) or not hasattr(X, "columns"):
        return X
    import narwhals as nw

    return nw.from_native(X, eager_only=True).to_pandas()
