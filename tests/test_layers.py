"""What import-linter cannot see: what core loads, who makes a release, how long a file is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "polyclinic"
FILES = sorted(SOURCE.rglob("*.py"))
PACKAGES = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
MOST_LINES = 500


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) for each imported name; name is empty for a plain import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules, beyond the standard library, that `statement` loads in a new process."""
    code = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*{m.partition('.')[0] for m in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if name not in sys.stdlib_module_names}


def test_every_file_is_looked_at() -> None:
    expected = {"core", "privacy", "data", "models", "engines", "evaluation", "report", "study"}
    assert expected <= PACKAGES
    assert len(FILES) > len(PACKAGES)


@pytest.mark.parametrize("path", sorted(SOURCE.glob("core/**/*.py")), ids=name_of)
def test_core_imports_numpy_and_the_standard_library(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"numpy", "polyclinic", "__future__"}
    assert {module.partition(".")[0] for module, _ in imports(path)} <= allowed


def test_core_loads_no_library_but_numpy() -> None:
    modules = [
        "polyclinic."
        + name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in SOURCE.glob("core/**/*.py")
    ]
    assert loaded_by(f"import {', '.join(sorted(modules))}") <= {"numpy", "polyclinic"}


def test_a_plain_import_loads_no_slow_library() -> None:
    slow = {"matplotlib", "typer", "statsmodels", "polars", "torch", "numba"}
    assert not loaded_by("import polyclinic") & slow


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != SOURCE], ids=name_of)
def test_no_package_reaches_around_the_layers_through_the_public_surface(path: Path) -> None:
    allowed = PACKAGES | ({"__version__"} if name_of(path).startswith("cli/") else set())
    for module, name in imports(path):
        assert module != "polyclinic" or name in allowed, f"import {name} from where it is defined"


def test_only_the_gate_makes_a_release() -> None:
    makers = {
        name_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (
            getattr(node.func, "id", "") == "Release" or getattr(node.func, "attr", "") == "Release"
        )
    }
    assert makers == {"privacy/gate.py"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
