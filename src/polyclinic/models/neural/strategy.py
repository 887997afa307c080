"""How a network is trained across sites: what each does in a round, and what becomes of the mean.

The site's half of a strategy is read in `train`, the coordinator's in `server`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from polyclinic.core.compress import KINDS
from polyclinic.core.errors import InputError

# What the coordinator does with the mean of the sites' changes, by the strategy's name.
SERVER = {
    "fedavg": "average",
    "fedsgd": "average",
}
NAMES = tuple(SERVER)


@dataclass(frozen=True)
class Strategy:
    """Names and defaults are those of the papers; see `polyclinic.FedAvg` and its siblings.

    name           one of NAMES
    rounds         communication rounds
    local_epochs   passes over a site's rows in one round; with `local_steps` not read
    local_steps    mini-batches of a round, whatever the number of rows; a site goes on in its
                   shuffled rows where it stopped in the round before; None: `local_epochs`
    batch_size     rows of a local step; 0: all rows of the site
    lr             local step size (of "fedsgd": of the coordinator's step)
    momentum, weight_decay   of the local steps
    optimizer      of the local steps: "sgd" | "adam"
    server_lr      step size of the coordinator, who takes the mean change as a gradient
    lr_decay       the local step size falls as lr * lr_decay ** round
    compress       "float16" or "int8": a site's change is sent in 2 or 1 bytes per number, and what
                   rounding leaves over is added to its next one; only where it is seen alone
    stop_after     rounds without a better summed validation loss after which it stops; 0: never
    """

    name: str = "fedavg"
    rounds: int = 20
    local_epochs: int = 1
    local_steps: int | None = None
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    server_lr: float = 1.0
    lr_decay: float = 1.0
    stop_after: int = 0
    compress: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            good, rule = _RULES[field.name]
            if not good(getattr(self, field.name)):
                raise InputError(
                    f"{self.name}: {field.name} = {getattr(self, field.name)!r}",
                    code="WRONG_VALUE",
                    rule=f"{field.name}: {rule}",
                    next="correct the value",
                )

    def lr_at(self, round: int) -> float:
        """Local step size in a round, counted from 0."""
        return self.lr * self.lr_decay**round

    @property
    def gradients(self) -> bool:
        """Whether sites answer with one gradient instead of training."""
        return self.name == "fedsgd"

    def to_data(self) -> dict[str, Any]:
        return dict(vars(self))

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Strategy:
        """Raises InputError: UNKNOWN_OPTION, WRONG_VALUE."""
        known = [field.name for field in fields(Strategy)]
        if unknown := sorted(set(data) - set(known)):
            raise InputError(
                f"strategy: {', '.join(unknown)}",
                code="UNKNOWN_OPTION",
                rule=f"options of a strategy: {', '.join(known)}",
                next="correct the name",
            )
        return Strategy(**data)


def _whole(least: int, most: int = 10**6) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most


def _real(least: float, most: float, open_: bool = False) -> Callable[[Any], bool]:
    def good(v: Any) -> bool:
        number = isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
        return number and (least < v if open_ else least <= v) and v <= most

    return good


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (NAMES.__contains__, f"one of {', '.join(NAMES)}"),
    "rounds": (_whole(1), "a whole number of 1 or more"),
    "local_epochs": (_whole(1), "a whole number of 1 or more"),
    "local_steps": (lambda v: v is None or _whole(1)(v), "a whole number of 1 or more, or None"),
    "batch_size": (_whole(0), "a whole number; 0: all rows of the site"),
    "lr": (_real(0, 1e3, open_=True), "above 0"),
    "momentum": (_real(0, 0.9999), "from 0 to below 1"),
    "weight_decay": (_real(0, 1e3), "0 or more"),
    "optimizer": (("sgd", "adam").__contains__, "sgd or adam"),
    "server_lr": (_real(0, 1e3, open_=True), "above 0"),
    "lr_decay": (_real(0, 1, open_=True), "above 0, at most 1"),
    "stop_after": (_whole(0), "a whole number; 0: never"),
    "compress": (("", *KINDS).__contains__, f"one of {', '.join(KINDS)}, or empty"),
}
