"""With which hospitals a study goes on: with those that it first showed a number with, for ever.

A run may go on without a lost hospital as another paper instead of the approved one. Two totals,
with and without that hospital, would show its own numbers. So the first paper of such a family for
which this hospital computes anything that leaves is written down before it leaves, and questions of
the others are refused from then on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from polyclinic.core.checkpoint import sync_folder
from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.errors import Refused, Stopped
from polyclinic.governance.paper import Paper

_MARK = "fixed-"


class Families:
    """Of one hospital, below ``studies/HASH`` of the papers that all hospitals have approved.

    The mark of a paper is an empty file with its hash in the name, so that it is there whole or not
    at all. Of two processes that write one each at the same time, one at least sees both and does
    not compute; from then on neither does.

    Parameters
    ----------
    goes_on : told of a paper over fewer hospitals, before its mark is written.
    """

    def __init__(self, folder: Path, goes_on: Callable[[Paper], None]) -> None:
        self._folder, self._goes_on = folder, goes_on
        self._sure: set[str] = set()  # hashes whose marks have reached the disk

    def fixed(self, paper: Paper) -> list[str]:
        """The hashes of the family that have a mark: one, or none yet; never more but by a race."""
        try:
            names = os.listdir(self._folder / paper.family)
        except FileNotFoundError:
            return []
        return sorted(name.removeprefix(_MARK) for name in names if name.startswith(_MARK))

    def check(self, paper: Paper) -> None:
        """Raises MEMBERSHIP_CHANGED where another paper of the family is computed for."""
        if set(self.fixed(paper)) - {paper.hash}:
            raise Refused(
                f"{paper.study.study.name} has begun to answer here over other hospitals",
                code="MEMBERSHIP_CHANGED",
                rule=RULES["MEMBERSHIP_CHANGED"],
                next=NEXT["MEMBERSHIP_CHANGED"],
            )

    def fix(self, paper: Paper) -> None:
        """From now on this paper only. Raises what `check` raises, or CANNOT_WRITE."""
        self.check(paper)
        if not paper.study.federation.may_restart or paper.hash in self._sure:
            return
        self._write(paper)
        self.check(paper)
        self._sure.add(paper.hash)

    def _write(self, paper: Paper) -> None:
        """The mark, on the disk also where another process has just made it."""
        path = self._folder / paper.family / f"{_MARK}{paper.hash}"
        try:
            if paper.instead_of and not path.exists():
                self._goes_on(paper)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            sync_folder(path.parent)
        except OSError as error:
            raise Stopped(
                f"{error.filename or path}: {error.strerror}",
                code="CANNOT_WRITE",
                rule=RULES["CANNOT_WRITE"],
                next=NEXT["CANNOT_WRITE"],
            ) from error
