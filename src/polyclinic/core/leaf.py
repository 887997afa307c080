"""One declared array of a contribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Leaf:
    """What a task says about one array before it computes it. Derived at the site from the plan.

    name     unique within the task
    shape    of the array
    kind     in a word, for the officer: "gradient", "histogram", "count"
    ring     "exact128": float64 summed in the 128-bit ring; "int64": integers
    scale    power of two of the ring's unit; from declared bounds, never from data
    unit     of the numbers, where they have one
    bound    norm that one patient's part of the array cannot exceed, where the task clips; None:
             not bounded
    norm     which norm that is: "l2" for Gaussian noise, "l1" for Laplace noise
    noised   whether the task has added the noise of a plan that asks for "steps" of it
    packed   "float16" or "int8": its task has rounded it to numbers of so many bytes, and keeps
             what is left over for a later round; so it travels, and never in a secure sum; "": no
    filled   entries that are not 0 at most, where only these travel; 0: all
    support  who stands behind an entry: all "patients" of the contribution, per entry ("cells"), or
             as the plan's candidates weight them ("weights": the first axis are the candidates)
    small    what the gate does with an entry that too few patients stand behind: "refuse" the whole
             contribution, or "hide" the entry (zeroed and flagged; histograms and cross-tables)
    lossy    whether a plan may have it rounded (`Plan.compress`): only sums that a later round
             corrects; the first axis are the places at which it is taken
    closed   axes along which entries add up to a number that is known, so that a hidden entry
             needs another one beside it: "last", "first", or "groups": the first axis from its
             second entry on (its first is their sum)
    """

    name: str
    shape: tuple[int, ...] = ()
    kind: str = "sum"
    ring: Literal["exact128", "int64"] = "exact128"
    scale: int = 0
    unit: str = ""
    bound: float | None = None
    norm: Literal["l2", "l1"] = "l2"
    support: Literal["patients", "cells", "weights"] = "patients"
    small: Literal["refuse", "hide"] = "refuse"
    closed: tuple[Literal["first", "last", "groups"], ...] = ()
    lossy: bool = False
    noised: bool = False
    packed: Literal["", "float16", "int8"] = ""
    filled: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)
