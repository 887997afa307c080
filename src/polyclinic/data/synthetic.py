"""Made-up hospitals whose model is known, for tests of scale and of what differs between sites.

    logit P(outcome = 1) = Intercept + sum_j b_j x_j + sum_kl g_kl 1[c_k = l] + label_shift * t_s

with t_s evenly spaced from -1 (first hospital) to 1 (last). Without `label_shift` the pooled
logistic fit estimates the stated coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.datasets import Dataset
from polyclinic.data.table import Table

Floats = NDArray[np.float64]
LEVELS = ("a", "b", "c")
REACH = 12.0  # range of a number column; draws beyond it are set to it


@dataclass(frozen=True)
class SyntheticDataset(Dataset):
    """A data set with its truth: coefficient by term of `formula`, "Intercept" included."""

    truth: Mapping[str, float] = field(default_factory=dict)
    formula: str = ""


def hospitals(
    n_sites: int = 4,
    n_patients: int = 1000,
    *,
    n_numbers: int = 4,
    n_categories: int = 2,
    case_mix_shift: float = 0.0,
    label_shift: float = 0.0,
    missingness: float = 0.0,
    size_imbalance: float = 0.0,
    random_state: int | np.random.Generator = 0,
) -> SyntheticDataset:
    """Hospitals ``h1``, ``h2``, ... with columns x1 ..., c1 ... and a 0/1 `outcome`.

    Parameters
    ----------
    n_patients : of all hospitals together.
    n_numbers, n_categories : columns x1 ... (standard normal) and c1 ... (levels a, b, c).
    case_mix_shift : hospital s has x1, x2, ... around ``case_mix_shift * t_s``, and more of the
        later levels the larger it is.
    label_shift : added to the logit times t_s: the outcome is commoner at the later hospitals.
    missingness : share of the cells of every x and c that is missing, in [0, 1), at random.
    size_imbalance : each hospital has the size of the one before times 1 minus it, in [0, 1).

    Raises
    ------
    InputError : WRONG_VALUE.
    """
    _allowed(n_sites, n_patients, n_numbers, n_categories, missingness, size_imbalance)
    rng = np.random.default_rng(random_state)
    codebook = _codebook(n_numbers, n_categories)
    truth = _truth(n_numbers, n_categories)
    places = np.linspace(-1.0, 1.0, n_sites) if n_sites > 1 else np.zeros(1)
    tables = {
        f"h{i + 1}": _hospital(
            f"h{i + 1}",
            int(size),
            float(place),
            codebook,
            truth,
            rng,
            case_mix_shift,
            label_shift,
            missingness,
        )
        for i, (size, place) in enumerate(
            zip(_sizes(n_sites, n_patients, size_imbalance), places, strict=True)
        )
    }
    formula = "outcome ~ " + (" + ".join(n for n in codebook.columns if n != "outcome") or "1")
    return SyntheticDataset("hospitals", tables, codebook, "made up", "CC0 1.0", truth, formula)


def _hospital(
    site: str,
    size: int,
    place: float,
    codebook: Codebook,
    truth: Mapping[str, float],
    rng: np.random.Generator,
    case_mix_shift: float,
    label_shift: float,
    missingness: float,
) -> Table:
    logit = np.full(size, truth["Intercept"] + label_shift * place)
    columns: dict[str, Floats] = {}
    for name, column in codebook.columns.items():
        if column.type == "number":
            values = rng.standard_normal(size)
            values += case_mix_shift * place
            np.clip(values, -REACH, REACH, out=values)
            logit += truth[name] * values
        elif column.type == "category":
            weights = np.exp(case_mix_shift * place * np.arange(len(LEVELS)))
            steps = np.cumsum(weights / weights.sum())[:-1]
            values = np.searchsorted(steps, rng.random(size)).astype(np.float64)
            logit += np.array([0.0, *(truth[f"{name}[T.{k}]"] for k in LEVELS[1:])])[
                values.astype(np.int64)
            ]
        else:
            continue
        columns[name] = values
    if missingness:
        for values in columns.values():
            values[rng.random(size) < missingness] = np.nan
    columns["outcome"] = (rng.random(size) < 1.0 / (1.0 + np.exp(-logit))).astype(np.float64)
    return Table(site, columns, np.arange(size, dtype=np.int64), codebook)


def _sizes(n_sites: int, n_patients: int, size_imbalance: float) -> NDArray[np.int64]:
    """Patients per hospital: at least one each, `n_patients` together."""
    weights = (1.0 - size_imbalance) ** np.arange(n_sites)
    spare = n_patients - n_sites
    ends = np.round(np.cumsum(weights / weights.sum()) * spare).astype(np.int64)
    return np.diff(ends, prepend=0) + 1


def _truth(n_numbers: int, n_categories: int) -> dict[str, float]:
    """Coefficients of alternating sign that keep the spread of the logit below about 1."""
    scale = 1.0 / np.sqrt(max(n_numbers, 1))
    truth = {"Intercept": -0.5}
    for j in range(n_numbers):
        truth[f"x{j + 1}"] = float((-1) ** j * scale * (1.0 - 0.5 * j / max(n_numbers, 1)))
    for k in range(n_categories):
        truth[f"c{k + 1}[T.b]"] = 0.4 * (-1) ** k / (1 + k)
        truth[f"c{k + 1}[T.c]"] = -0.6 * (-1) ** k / (1 + k)
    return truth


def _codebook(n_numbers: int, n_categories: int) -> Codebook:
    columns: dict[str, object] = {
        f"x{j + 1}": {"type": "number", "unit": "1", "range": [-REACH, REACH]}
        for j in range(n_numbers)
    }
    levels = {code: code for code in LEVELS}
    columns |= {f"c{k + 1}": {"type": "category", "levels": levels} for k in range(n_categories)}
    columns["outcome"] = {"type": "binary", "levels": {"0": "no", "1": "yes"}}
    return Codebook.from_dict(
        {
            "name": "hospitals",
            "title": "Made-up hospitals",
            "source": "made up",
            "columns": columns,
            "target": {"column": "outcome"},
        }
    )


def _allowed(
    n_sites: int,
    n_patients: int,
    n_numbers: int,
    n_categories: int,
    missingness: float,
    size_imbalance: float,
) -> None:
    rules = {
        "n_sites is at least 1": n_sites >= 1,
        "n_patients is at least n_sites": n_patients >= n_sites,
        "n_numbers and n_categories are not negative": min(n_numbers, n_categories) >= 0,
        "missingness is in [0, 1)": 0 <= missingness < 1,
        "size_imbalance is in [0, 1)": 0 <= size_imbalance < 1,
    }
    for rule, holds in rules.items():
        if not holds:
            raise InputError(
                "the hospitals cannot be made up like this",
                code="WRONG_VALUE",
                rule=rule,
                next="correct the value",
            )
