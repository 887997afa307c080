"""The heart codebook and its four tables, read once."""

from __future__ import annotations

import pytest

from polyclinic.data.codebook import Codebook
from polyclinic.data.datasets import packaged_codebook
from polyclinic.data.read import read_table
from polyclinic.data.table import Table

SITES = ("cleveland", "hungarian", "switzerland", "va")


@pytest.fixture(scope="session")
def heart() -> Codebook:
    return packaged_codebook("heart")


@pytest.fixture(scope="session")
def tables(data_dir, heart) -> dict[str, Table]:
    folder = data_dir / "heart-disease"
    return {site: read_table(folder / f"processed.{site}.data", heart, site) for site in SITES}


@pytest.fixture(scope="session")
def small() -> Codebook:
    """One column of every type."""
    return Codebook.from_dict(
        {
            "name": "small",
            "file": {"missing": ["?", "NA"]},
            "columns": {
                "age": {"type": "integer", "unit": "a", "range": [18, 110]},
                "chol": {
                    "type": "number",
                    "unit": "mg/dL",
                    "molar_mass": 386.65,
                    "range": [50, 800],
                    "usual": [100, 400],
                    "missing": [0],
                },
                "sex": {"type": "binary", "levels": {"0": "female", "1": "male"}},
                "smoker": {
                    "type": "category",
                    "levels": {"never": "never", "former": "former", "now": "now"},
                },
                "seen": {"type": "date"},
                "note": {"type": "text"},
            },
        }
    )
