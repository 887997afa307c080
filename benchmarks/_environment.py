"""An environment of its own for a benchmark and its peers, made on first use."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def enter(module: str, peers: list[str], extras: str = "") -> None:
    """Start a benchmark again in `.venv-bench-NAME`, where Polyclinic and its peers are."""
    name = module.rpartition(".")[2]
    if Path(sys.prefix).resolve() == _home(name).resolve():
        return
    own = f".[{extras}]" if extras else "."
    python = _made(name, peers, ["-e", own])
    os.chdir(ROOT)
    os.execv(python, [str(python), "-m", module, *sys.argv[1:]])


def apart(name: str, peers: list[str]) -> Path:
    """The Python of `.venv-bench-NAME`, where peers are without Polyclinic.

    Raises CalledProcessError where they cannot be installed.
    """
    return _made(name, peers, [])


def _home(name: str) -> Path:
    return ROOT / f".venv-bench-{name}"


def _made(name: str, peers: list[str], own: list[str]) -> Path:
    home = _home(name)
    python, mark = home / "bin" / "python", home / "made-for"
    wanted = [str(ROOT), sys.version, *own, *peers]
    if own:
        wanted.append((ROOT / "pyproject.toml").read_text())
    state = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    if not mark.exists() or mark.read_text() != state:
        print(f"installing into {home.name}: {' '.join(peers)} (once; a minute)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        (home / ".gitignore").write_text("*\n")
        install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        build = {"PIP_BUILD_CONSTRAINT": str(ROOT / "constraints.txt")}
        subprocess.run([*install, *peers, *own], check=True, cwd=ROOT, env={**os.environ, **build})
        mark.write_text(state)
    return python
