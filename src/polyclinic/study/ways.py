"""How a fit may be asked for: sites with a formula or arrays, exact, secure or noisy."""

from __future__ import annotations

from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.engines.embedded import Sums
from polyclinic.privacy.dp import DifferentialPrivacy, parse_privacy
from polyclinic.study.sites import Sites


def ways(X: Any, y: Any, privacy: Any) -> tuple[DifferentialPrivacy | None, Sums]:
    """The noise that is asked for, and how sums are seen.

    Raises
    ------
    InputError : BAD_FORMULA for sites without a formula; NO_SITES for a formula, noise or secure
        sums without sites.
    """
    noise, secure = parse_privacy(privacy)
    if isinstance(X, Sites):
        if not isinstance(y, str):
            raise InputError(
                "sites need a formula",
                code="BAD_FORMULA",
                rule='fit(sites, "outcome ~ term + term")',
                next="give a formula",
            )
        return noise, "secure" if secure else "auto"
    if noise or secure:
        raise InputError(
            "arrays are in one trust domain",
            code="NO_SITES",
            rule="secure sums and noise are between sites and those who ask them",
            next="make sites with pc.read or pc.split",
        )
    if isinstance(y, str):
        raise InputError(
            "a formula needs sites",
            code="NO_SITES",
            rule="fit(sites, formula) or fit(X, y)",
            next="make sites with pc.read or pc.split",
        )
    return None, "clear"
