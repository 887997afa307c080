"""Every error that a person may read, drawn once.

Each error answers five questions in this order: what happened (where), the code, the rule, the
next step, and what is kept. Across a site's border only ``code`` travels; the words are the
reader's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING_LEFT = "nothing was computed, nothing left a hospital"


class PolyclinicError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what : one sentence that names site, column or file line. Never a patient's value.
    code : stable name in capitals, for example ``UNKNOWN_LEVEL``.
    rule : the rule that was broken, in words.
    next : what the reader can do now.
    kept : what is not lost.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        code: str,
        rule: str = "",
        next: str = "",
        kept: str = NOTHING_LEFT,
        site: str | None = None,
        step: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        self.rule = rule
        self.next = next
        self.kept = kept
        self.site = site
        self.step = step

    def __str__(self) -> str:
        parts = [f"{self.what}  {self.code}"]
        parts += [
            f"{label:<6} {text}"
            for label, text in (("rule", self.rule), ("next", self.next), ("kept", self.kept))
            if text
        ]
        return "\n".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), dict(self.__dict__)))


def _rebuild(kind: type[PolyclinicError], fields: dict[str, object]) -> PolyclinicError:
    error = kind.__new__(kind)
    error.__dict__.update(fields)
    error.args = (fields["what"],)
    return error


class InputError(PolyclinicError, ValueError):
    """Something the reader wrote or supplied is wrong: a file, a column, a formula, a key."""

    exit_code = 2


class EmptySite(InputError):
    """A call that would lose a whole hospital without saying so."""


class Refused(PolyclinicError):
    """A site's gate did not let a contribution out. `refusals` has the code of each such site."""

    exit_code = 3

    def __init__(
        self, what: str, *, refusals: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(what, **more)
        self.refusals = dict(refusals or {})


class Stopped(PolyclinicError):
    """The run stopped and can be resumed: a full disk, a lost site, Ctrl-C."""

    exit_code = 4


class DataWarning(UserWarning):
    """The fit is usable and something about the data should be known (separation, collinearity)."""
