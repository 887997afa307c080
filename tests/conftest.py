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


# The longest files, longest first, as measured: no core is left with one of them at the end.
LONGEST = (
    "study/test_trees.py",
    "study/test_conformance.py",
    "cli/test_commands.py",
    "study/test_resume.py",
    "study/test_privacy.py",
    "study/test_hub_driver.py",
    "privacy/secure/test_fuzz.py",
    "study/test_svm.py",
    "site/test_agent.py",
    "study/test_simple.py",
    "attacks/test_membership.py",
    "study/test_ordinary_analyses.py",
    "study/test_rounded_gradients.py",
    "attacks/test_every_rule.py",
    "study/test_hub_fewer.py",
    "attacks/test_rare_columns.py",
    "privacy/secure/test_dropouts.py",
    "models/glm/test_private.py",
    "study/test_intensive_care.py",
    "study/test_goldens.py",
    "study/test_learner.py",
    "study/test_ensembles.py",
    "study/test_pictures.py",
    "privacy/test_accounting.py",
    "study/test_effects.py",
)
WAITING = ("network/", "engines/test_chaos.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First files that wait for real processes and the longest by turns, then the others."""
    paths = {item: item.path.relative_to(ROOT / "tests").as_posix() for item in items}
    waiting = sorted({path for path in paths.values() if path.startswith(WAITING)})
    places = {path: 2 * place for place, path in enumerate(waiting)}
    places |= {path: 2 * place + 1 for place, path in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(paths[item], 2 * len(items)))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets; without it a test is skipped here and fails in CI."""
    if not (DATA / "heart-disease").is_dir():
        reason = f"no data at {DATA}: set POLYCLINIC_DATA to the folder that holds heart-disease/"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return DATA
