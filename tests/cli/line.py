"""The command line as a process, or in this one where only what it says is looked at."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from polyclinic.cli import main

Done = subprocess.CompletedProcess[str]


def process(*args: object, cwd: Path, **environment: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "polyclinic.cli.main", *map(str, args)],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def here(*args: object, cwd: Path) -> Done:
    """The same words and exit code without a start of two seconds: from `main` on, in `cwd`."""
    out, err, words = io.StringIO(), io.StringIO(), ["polyclinic", *map(str, args)]
    code: object = 0
    with (
        chdir(cwd),
        patch.object(sys, "argv", words),
        patch.object(main, "_debug", False),
        redirect_stdout(out),
        redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        try:
            main.main()
        except SystemExit as end:
            code = end.code
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(words, code or 0, out.getvalue(), err.getvalue())
