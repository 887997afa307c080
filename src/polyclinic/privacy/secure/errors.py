"""The typed failures of a secure sum. A code is all that crosses a site's border."""

from __future__ import annotations

from collections.abc import Mapping

from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.errors import PolyclinicError, Refused

_KEPT = "nothing was opened; what left the sites is masked and cannot be read"


class SecureSumError(PolyclinicError):
    """A step of the protocol that may not go on. `site` names who is at fault, where known."""


class SiteRefused(SecureSumError, Refused):
    """Sites that did not let their vector out: `refusals` holds the code of each."""

    def __init__(self, refusals: Mapping[str, str], step: str | None = None) -> None:
        named = ", ".join(f"{site}: {code}" for site, code in sorted(refusals.items()))
        site, code = sorted(refusals.items())[0]
        super().__init__(
            f"not every site let its part out ({named})",
            code=code,
            rule=RULES.get(code, ""),
            next=NEXT.get(code, ""),
            kept=_KEPT,
            site=site if len(refusals) == 1 else None,
            step=step,
        )
        self.refusals = dict(refusals)


def failure(code: str, what: str, site: str | None = None) -> SecureSumError:
    """The error of a code, with its rule and next step."""
    return SecureSumError(
        what, code=code, rule=RULES.get(code, ""), next=NEXT.get(code, ""), kept=_KEPT, site=site
    )
