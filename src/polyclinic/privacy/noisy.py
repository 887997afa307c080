"""Noise on a release: how much follows from what the task declares, and is typed in nowhere else.

A plan that asks for noise says its mechanism and the noise multiplier z alone. Every leaf declares
what one patient can change in it (`Leaf.bound`) and in which norm: L2 for Gaussian noise, L1 for
Laplace noise. Noise is not added to a leaf that is bounded in the other norm.

    gaussian   with L leaves each gets sigma = z * bound * sqrt(L), so that all of them together are
               one Gaussian mechanism of multiplier z
    laplace    every entry gets the scale z * (sum of all bounds): one Laplace mechanism, for counts
    steps      the task itself adds Gaussian noise of multiplier z in each of `times` steps, each of
               patients who were drawn with probability `rate`, and says of its leaves that they
               are `noised`; the gate adds none and takes no other leaf
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.privacy.noise import add_laplace, add_noise, grid_of, rounded_sensitivity

KEY = "noise"  # of the plan's values: {"multiplier": z}, with "mechanism" for another one
NORMS: dict[str, Literal["l2", "l1"]] = {"gaussian": "l2", "laplace": "l1", "steps": "l2"}
MOST_STEPS = 10**6
LAPLACE_STEPS = 1024  # accounted for as on this grid; the real one is finer and costs less


@dataclass(frozen=True)
class Noise:
    """What a plan asks for; `multiplier` is relative to what one patient can change.

    rate, times  of "steps": chance of each patient to be drawn, and how many steps there are
    """

    mechanism: str
    multiplier: float
    rate: float = 1.0
    times: int = 1

    @property
    def norm(self) -> Literal["l2", "l1"]:
        """The norm in which it needs one patient's part of every leaf to be bounded."""
        return NORMS[self.mechanism]

    @property
    def event(self) -> dict[str, Any]:
        """What one such release costs, for the accountant."""
        if self.mechanism == "laplace":
            about = {"mechanism": "discrete_laplace", "steps": LAPLACE_STEPS}
        else:
            about = {"mechanism": "gaussian"}
            if self.mechanism == "steps":
                sampled = {} if self.rate == 1.0 else {"rate": self.rate}
                return {**about, **sampled, "multiplier": self.multiplier, "times": self.times}
        return {**about, "multiplier": self.multiplier, "times": 1}

    def variance(self, leaf: Leaf, leaves: Sequence[Leaf]) -> float:
        """Of the noise of one site that is seen alone, in each entry of `leaf`."""
        if self.mechanism == "laplace":
            return 2.0 * self._scale(leaves) ** 2
        return self._sigma(leaf, len(leaves)) ** 2

    def share_of(self, sites: int, threshold: int) -> float:
        """How many times `variance` is in a secure sum over all `sites`."""
        return float(sites) if self.mechanism == "laplace" else sites / threshold

    def added(self, leaves: Sequence[Leaf], words: Mapping[str, Any], share: int) -> dict[str, Any]:
        """The ring words of all leaves with noise; `share`: sites whose noise adds up to sigma."""
        if self.mechanism == "steps":
            if other := [leaf.name for leaf in leaves if not leaf.noised]:
                raise _not_bounded(f"{', '.join(other)} has no noise of its own")
            return dict(words)
        found = {}
        for leaf in leaves:
            if self.mechanism == "laplace":
                scale = self._scale(leaves)
                found[leaf.name] = add_laplace(words[leaf.name], scale, grid_of(scale), leaf.scale)
                continue
            sigma = self._sigma(leaf, len(leaves))
            grid = grid_of(self.multiplier * self._bound(leaf) * math.sqrt(len(leaves)))
            found[leaf.name] = add_noise(words[leaf.name], sigma, grid, share, leaf.scale)
        return found

    def _sigma(self, leaf: Leaf, leaves: int) -> float:
        bound = self._bound(leaf)
        exact = self.multiplier * bound * math.sqrt(leaves)
        rounded = rounded_sensitivity(bound, leaf.size, grid_of(exact))
        return self.multiplier * rounded * math.sqrt(leaves)

    def _scale(self, leaves: Sequence[Leaf]) -> float:
        exact = self.multiplier * sum(self._bound(leaf) for leaf in leaves)
        step = math.ldexp(1.0, grid_of(exact))  # rounding moves every entry by less than one
        return exact + self.multiplier * step * sum(leaf.size for leaf in leaves)

    def _bound(self, leaf: Leaf) -> float:
        if leaf.bound is None or leaf.ring != "exact128":
            raise _not_bounded(f"{leaf.name} is not bounded per patient")
        if leaf.norm != self.norm:
            raise _not_bounded(
                f"{leaf.name} is bounded in the {leaf.norm.upper()} norm, and {self.mechanism} "
                f"noise needs the {self.norm.upper()} norm"
            )
        return leaf.bound


def noise_of(plan: Plan) -> Noise | None:
    """The noise that a plan asks for; None: exact sums. Raises BAD_MESSAGE for one that is none."""
    asked = plan.values.get(KEY)
    if asked is None:
        return None
    found = _noise(asked) if isinstance(asked, Mapping) else None
    if found is not None:
        return found
    raise PolyclinicError(
        "the plan's noise is not one",
        code="BAD_MESSAGE",
        rule="a multiplier above 0, and gaussian or laplace; or steps, with rate and times",
    )


def _noise(asked: Mapping[str, Any]) -> Noise | None:
    value, mechanism = asked.get("multiplier"), asked.get("mechanism", "gaussian")
    more = {"rate", "times"} if mechanism == "steps" else set()
    if not more <= set(asked) <= {"multiplier", "mechanism"} | more or mechanism not in NORMS:
        return None
    if not isinstance(value, float) or not 0 < value < math.inf:
        return None
    rate, times = asked.get("rate", 1.0), asked.get("times", 1)
    if not isinstance(rate, float) or type(times) is not int:
        return None
    fits = 0 < rate <= 1 and 1 <= times <= MOST_STEPS
    return Noise(str(mechanism), value, rate, times) if fits else None


def noise_required(plan: Plan) -> Noise:
    """The noise of a plan that is nothing without it. Raises NOISE_REQUIRED, or as `noise_of`."""
    noise = noise_of(plan)
    if noise is None:
        raise Refused(
            f"{plan.task} was asked for without noise",
            code="NOISE_REQUIRED",
            rule="an algorithm under differential privacy computes nothing for a plan without "
            "noise: its sums have no other guard",
            next="ask with privacy = DifferentialPrivacy(epsilon, delta)",
        )
    return noise


def _not_bounded(what: str) -> PolyclinicError:
    return PolyclinicError(
        what,
        code="NOT_BOUNDED",
        rule="noise needs a bound, in its own norm, on what one patient can change",
        next="ask for an algorithm that has one",
    )
