"""Names of runs, each used once; a bounded number of them is kept.

A name is an empty file below ``runs/``. Where there are too many, the lower half is let go and the
highest of them is kept instead: nothing at or below it is taken any more. The coordinator's names
begin with its clock, so that new ones are above it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polyclinic.core.checkpoint import sync_folder
from polyclinic.core.codes import RULES
from polyclinic.core.errors import PolyclinicError
from polyclinic.site.data import write_private

MOST = 10_000
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_BELOW = "_below"  # the file of the highest name that was let go: no name begins so


class RunNames:
    """The names below `folder`."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self.folder, self.most = folder, most
        self._guard = threading.Lock()

    def use(self, name: str) -> None:
        """Use a name up, durably.

        Raises
        ------
        PolyclinicError : RUN_LOST where it was used before, or may have been; CANNOT_WRITE.
        """
        with self._guard, _full_disk(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if name <= self._below():
                raise refusal("a run of this name may have been here before", "RUN_LOST")
            try:
                handle = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                raise refusal("a run of this name was here before", "RUN_LOST") from None
            os.close(handle)
            sync_folder(self.folder)
            self._bounded()

    def _below(self) -> str:
        try:
            return (self.folder / _BELOW).read_text()
        except FileNotFoundError:
            return ""

    def _bounded(self) -> None:
        names = sorted(name for name in os.listdir(self.folder) if NAME.fullmatch(name))
        if len(names) <= self.most:
            return
        old = names[: len(names) // 2]
        write_private(self.folder / _BELOW, max(old[-1], self._below()).encode())
        for name in old:
            (self.folder / name).unlink(missing_ok=True)


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    """An error of the disk has its code, so that the hub knows that it may ask again later."""
    try:
        yield
    except OSError as error:
        raise refusal(f"{path}: {error.strerror}", "CANNOT_WRITE") from error


def refusal(what: str, code: str) -> PolyclinicError:
    """What a hospital does not answer, by its code."""
    return PolyclinicError(what, code=code, rule=RULES.get(code, ""))
