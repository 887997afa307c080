"""Quantiles and tails of a few distributions. Importing scipy.stats takes each process a second."""

from __future__ import annotations

from typing import Any

from scipy import special


def normal_quantile(p: Any) -> Any:
    """Below which a standard normal number lies with probability `p`."""
    return special.ndtri(p)


def normal_tail(x: Any) -> Any:
    """Probability of a standard normal number above `x`."""
    return special.ndtr(-x)


def t_quantile(p: Any, df: float) -> Any:
    """As `normal_quantile`, of Student's t."""
    return special.stdtrit(df, p)


def t_tail(x: Any, df: float) -> Any:
    """As `normal_tail`, of Student's t."""
    return special.stdtr(df, -x)


def chi2_tail(x: Any, df: float) -> Any:
    """As `normal_tail`, of chi squared."""
    return special.chdtrc(df, x)


def f_tail(x: Any, df1: float, df2: float) -> Any:
    """As `normal_tail`, of F."""
    return special.fdtrc(df1, df2, x)
