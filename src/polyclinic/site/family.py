"""With which hospitals a study goes on: with those that it first showed a number with, for ever.

A run may go on without a lost hospital as another paper instead of the approved one. Two totals,
with and without that hospital, would show its own numbers. So the first paper of such a family for
which this hospital computes anything that leaves is written down before it leaves, and questions of
the others are refused from then on.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from polyclinic.core.checkpoint import sync_folder
from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.errors import Refused, Stopped
from polyclinic.governance.paper import Paper
from polyclinic.site.data import write_private


class Families:
    """Of one hospital, below ``studies/HASH`` of the papers that all hospitals have approved."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, str] = {}

    def fixed(self, paper: Paper) -> str:
        """The hash of the paper of the same family that is computed for; "": none yet."""
        family = paper.family
        if not self._held.get(family):
            path = self._path(family)
            self._held[family] = path.read_text().strip() if path.is_file() else ""
        return self._held[family]

    def check(self, paper: Paper) -> None:
        """Raises MEMBERSHIP_CHANGED where another paper of the family is computed for."""
        if self.fixed(paper) not in ("", paper.hash):
            raise Refused(
                f"numbers of {paper.study.study.name} have left here over other hospitals",
                code="MEMBERSHIP_CHANGED",
                rule=RULES["MEMBERSHIP_CHANGED"],
                next=NEXT["MEMBERSHIP_CHANGED"],
            )

    def fix(self, paper: Paper) -> None:
        """From now on this paper only. Raises what `check` raises, or CANNOT_WRITE."""
        if paper.study.federation.may_restart and not self.fixed(paper):
            self._write(paper)
        self.check(paper)

    def _write(self, paper: Paper) -> None:
        """Whole or not at all, and never over what another process has written meanwhile."""
        path = self._path(paper.family)
        draft = path.with_name(f"fixed.{os.getpid()}")
        try:
            write_private(draft, f"{paper.hash}\n".encode())
            with suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
            sync_folder(path.parent)
        except OSError as error:
            raise Stopped(
                f"{path}: {error.strerror}",
                code="CANNOT_WRITE",
                rule=RULES["CANNOT_WRITE"],
                next=NEXT["CANNOT_WRITE"],
            ) from error

    def _path(self, family: str) -> Path:
        return self._folder / family / "fixed"
