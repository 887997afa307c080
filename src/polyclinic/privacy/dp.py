"""What a reader asks for under ``privacy=``, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.privacy.noise import check_guarantee

TOGETHER = "several releases with noise cost less together than the sum of their epsilons"


@dataclass(frozen=True)
class DifferentialPrivacy:
    """Noise that hides whether any one patient, with all rows, was in the data.

    epsilon, delta  budget of the whole fit, over all rounds; delta well below 1 / patients
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_guarantee(self.epsilon, self.delta)

    def guarantee(self) -> str:
        """What the numbers mean, in one sentence."""
        factor = math.exp(min(self.epsilon, 700.0))
        return (
            "The result would be almost the same without any one patient: "
            f"epsilon {self.epsilon:g}, delta {self.delta:g}, that is, no finding is more than "
            f"{factor:.3g} times as likely with a patient's data as without them, "
            f"up to an extra chance of {self.delta:g}."
        )


@dataclass(frozen=True)
class SecureSum:
    """Encrypted sums: nobody sees the numbers of one hospital, only the total of all."""


def parse_privacy(value: Any) -> tuple[DifferentialPrivacy | None, SecureSum | None]:
    """The two kinds in `value`: one of them, a list with at most one of each, or None."""
    asked = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    dp = [item for item in asked if isinstance(item, DifferentialPrivacy)]
    secure = [item for item in asked if isinstance(item, SecureSum)]
    if len(dp) > 1 or len(secure) > 1 or len(dp) + len(secure) < len(asked):
        raise InputError(
            "privacy= is not understood",
            code="BAD_PRIVACY",
            rule="privacy is DifferentialPrivacy(...), SecureSum(), a list of both, or None",
            next="write privacy=[DifferentialPrivacy(epsilon=1, delta=1e-6), SecureSum()]",
        )
    return (dp[0] if dp else None, secure[0] if secure else None)
