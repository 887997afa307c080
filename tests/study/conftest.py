"""The four heart hospitals, read from their files by the agreed codebook."""

from __future__ import annotations

from pathlib import Path

import pytest

import polyclinic as pc

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
CODEBOOK = Path(__file__).resolve().parents[2] / "examples" / "heart.toml"


@pytest.fixture(scope="session")
def heart_files(data_dir: Path) -> dict[str, Path]:
    return {name: data_dir / "heart-disease" / f"processed.{name}.data" for name in HOSPITALS}


@pytest.fixture
def heart(heart_files: dict[str, Path]) -> pc.Sites:
    return pc.read(heart_files, schema=CODEBOOK)
