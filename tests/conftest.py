"""What every test may use: the real data, a headless matplotlib, reproducible property tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("POLYCLINIC_DATA") or ROOT.parent / "shared" / "data")

os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_COLOR"] = "1"
if DATA.is_dir():
    os.environ["POLYCLINIC_DATA"] = str(DATA)  # the package itself has no default

# Shared machines are slow at times, which is no property of the code; CI repeats the same examples.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait for real processes come first: no core is left with them at the end."""
    items.sort(key=lambda item: "network" not in item.path.relative_to(ROOT).parts)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets; without it a test is skipped here and fails in CI."""
    if not (DATA / "heart-disease").is_dir():
        reason = f"no data at {DATA}: set POLYCLINIC_DATA to the folder that holds heart-disease/"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return DATA
