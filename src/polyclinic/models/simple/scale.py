"""What terms are divided by, so that their units do not decide what is near and what is far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.simple.moments import Moments

Floats = NDArray[np.float64]
SCALES = ("none", "sd", "range")
MOST = 0.9  # of the variance, from which on one term is all that is looked at


@dataclass(frozen=True)
class Scale:
    """How.

    by      "none"; "sd", pooled standard deviations; "range", the widths that the codebook declares
    widths  per term, for "range"
    """

    by: str = "none"
    widths: tuple[float, ...] = ()

    def of(self, moments: Moments) -> Floats:
        """The divisors, (n_terms,); 1 for a term that is the same in all rows."""
        if self.by == "range":
            widths = np.asarray(self.widths, dtype=np.float64)
            return np.where(widths > 0, widths, 1.0)
        if self.by == "none":
            return np.ones(moments.mean.shape[1])
        return np.asarray(np.where(moments.constant, 1.0, np.sqrt(moments.variance[0])))

    @property
    def note(self) -> str:
        return {
            "none": "",
            "sd": "Of terms divided by their standard deviation.",
            "range": "Of terms divided by the width of their range in the codebook.",
        }[self.by]

    def warnings(self, names: Sequence[str], moments: Moments) -> list[str]:
        """Whether one term is all that counts, by its unit."""
        share = moments.variance[0] / max(float(moments.variance[0].sum()), 1e-300)
        if self.by != "none" or len(share) < 3 or share.max() <= MOST:
            return []
        j = int(share.argmax())
        return [
            f"{names[j]} has {share[j]:.0%} of all variance, by its unit alone: "
            'scale = "sd" gives every term the same'
        ]

    def to_data(self) -> dict[str, Any]:
        return {"by": self.by, "widths": [float(width) for width in self.widths]}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Scale:
        return Scale(data["by"], tuple(data["widths"]))


NONE = Scale()
