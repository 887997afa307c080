from __future__ import annotations

import ast
from pathlib import Path

import pytest

import polyclinic

SOURCE = Path(polyclinic.__file__).parent
FILES = sorted(SOURCE.glob("privacy/**/*.py"))


def faults(text: str) -> list[str]:
    """Randomness that is not the operating system's, and checks that `python -O` removes."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assert):
            found.append("assert")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if is_bad(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if is_bad(name)]
        elif isinstance(node, ast.Attribute):
            named = ast.unparse(node)
            found += [named] if is_bad(named) or node.attr == "rvs" else []
    return found


def is_bad(name: str) -> bool:
    return name.split(".")[0] == "random" or name.startswith(
        ("np.random", "numpy.random", "scipy.stats")
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_only_the_operating_system_is_asked_for_randomness(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


def test_the_files_are_found() -> None:
    assert {"noise.py", "bounded.py", "gate.py"} <= {path.name for path in FILES}


@pytest.mark.parametrize(
    "text",
    [
        "import random",
        "from random import gauss",
        "import random as r",
        "import numpy as np\nx = np.random.normal()",
        "import numpy as np\nmake = np.random.default_rng",
        "from numpy import random",
        "from numpy.random import default_rng",
        "import numpy.random as r",
        "from scipy.stats import norm",
        "x = dist.rvs(size=3)",
        "assert 1 == 1",
    ],
)
def test_each_way_round_it_is_seen(text: str) -> None:
    assert faults(text)
