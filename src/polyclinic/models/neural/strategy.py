"""How a network is trained across sites: what each does in a round, and what becomes of the mean.

The site's half of a strategy is read in `train`, the coordinator's in `server`, whose turn it is in
`turns`, and what stays at a site in `personal`.
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
    "fedsgd": "gradient",
    "fedprox": "average",
    "scaffold": "scaffold",
    "fedadam": "adam",
    "fedyogi": "yogi",
    "fedadagrad": "adagrad",
    "cyclic": "average",
    "fedbn": "average",
    "fedper": "average",
    "ditto": "average",
    "fedbuff": "average",
    "fednova": "average",
}
NAMES = tuple(SERVER)
WORDS = {
    "fedavg": "FedAvg",
    "fedsgd": "FedSGD",
    "fedprox": "FedProx",
    "scaffold": "Scaffold",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
    "fedadagrad": "FedAdagrad",
    "cyclic": "Cyclic",
    "fedbn": "FedBN",
    "fedper": "FedPer",
    "ditto": "Ditto",
    "fedbuff": "FedBuff",
    "fednova": "FedNova",
}
SCHEDULES = ("decay", "step", "cosine")
SPARSE = ("topk", "topk_shared")  # some entries of a change are sent, the others later

_ANY = ("name", "rounds", "lr", "lr_schedule", "lr_decay", "lr_every", "batch_size", "clients")
_WORK = ("local_epochs", "local_steps", "site_steps", "local_seconds")
_STEPS = (*_ANY, *_WORK, "weight_decay", "fine_tune")
_LOCAL = (*_STEPS, "momentum", "optimizer")
_BYTES = ("compress", "keep", "whole_every")
_SERVER = ("server_lr", "server_schedule", "server_decay", "server_every")
_MEAN = (*_LOCAL, *_SERVER, "stop_after", *_BYTES)
_MOMENTS = (*_MEAN, "beta1", "tau")
# The options of each strategy; those of others are refused.
OPTIONS: dict[str, tuple[str, ...]] = {
    "fedavg": _MEAN,
    "fedsgd": (*_ANY, "stop_after", *_BYTES),
    "fedprox": (*_MEAN, "mu"),
    "scaffold": (*_STEPS, *_SERVER, "stop_after"),
    "fedadam": (*_MOMENTS, "beta2", "bias_correction"),
    "fedyogi": (*_MOMENTS, "beta2"),
    "fedadagrad": _MOMENTS,
    "cyclic": (*(name for name in _LOCAL if name != "clients"), "order"),
    "fedbn": _MEAN,
    "fedper": (*_MEAN, "layers"),
    "ditto": (*_MEAN, "pull"),
    "fednova": (*_STEPS, *_SERVER, "stop_after", "compress"),
    "fedbuff": (
        *(name for name in _LOCAL if name not in ("clients", "fine_tune")),
        *_SERVER,
        *("compress", "buffer", "staleness", "weigh", "server", "beta1", "beta2", "tau"),
    ),
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "fedsgd": {"rounds": 100, "lr": 0.1, "batch_size": 0},
    "fedadam": {"server_lr": 0.01},
    "fedyogi": {"server_lr": 0.01},
    "fedadagrad": {"server_lr": 0.1},
}


@dataclass(frozen=True, repr=False)
class Strategy:
    """Names and defaults are those of the papers; see `polyclinic.FedAvg` and its siblings.

    name           one of NAMES; each has its own options, see OPTIONS
    rounds         communication rounds
    local_epochs   passes over a site's rows in one round; with `local_steps` not read
    local_steps    mini-batches of a round, whatever the number of rows; a site goes on in its
                   shuffled rows where it stopped in the round before; None: `local_epochs`
    site_steps     mini-batches of a round at these sites, by name, as for slower machines
    local_seconds  after so many seconds a site begins no further step of a round; None: no limit.
                   How far it comes is then its machine's, and another run has other bytes
    batch_size     rows of a local step; 0: all rows of the site
    lr             local step size (of "fedsgd": of the coordinator's step)
    momentum, weight_decay   of the local steps
    optimizer      of the local steps: "sgd" | "adam"
    server_lr      step size of the coordinator, who takes the mean change as a gradient
    lr_schedule    how the local step size falls: "decay" as lr * lr_decay ** round, "step" by
                   lr_decay after every `lr_every` rounds, "cosine" to 0 after the last one
    server_schedule, server_decay, server_every   the same of `server_lr`
    compress       a site's change in fewer bytes; what is not sent is added to a later one, see
                   `smaller`. "float16", "int8": 2 or 1 per number, "topk": the site's largest
                   numbers, each only where it is seen alone; "topk_shared": in most rounds the
                   numbers that moved most in the sum, also where that is a secure one
    keep           share of the numbers that "topk" and "topk_shared" send in a round
    whole_every    rounds from one in which "topk_shared" sends all numbers to the next
    stop_after     rounds without a better summed validation loss after which it stops; 0: never
    clients        share of the sites that train in a round, at least one
    mu             weight of 1/2 |w - w_start|^2 in the local loss
    beta1, beta2   of the coordinator's running means of the change and of its square
    tau            added to the root of the latter
    bias_correction   whether both are divided by what they lack for having begun at 0
    order          of the sites' turns: "shuffled" anew in each cycle, or "named"
    layers         last layers that stay at the site
    pull           weight of 1/2 |v - w|^2 in the loss of a site's own network v
    fine_tune      local steps of a site's own network after the last round; 0: none
    buffer         changes of single sites after which there are new common weights; `rounds` counts
                   these
    staleness      a change that began t versions ago counts (1 + t)**-staleness; 0: all alike
    weigh          what a change counts beside that: a site's "rows", or all "sites" alike
    server         what the coordinator does with the mean change: "average", "adam", "yogi" or
                   "adagrad"
    """

    name: str = "fedavg"
    rounds: int = 20
    local_epochs: int = 1
    local_steps: int | None = None
    site_steps: tuple[tuple[str, int], ...] = ()
    local_seconds: float | None = None
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    server_lr: float = 1.0
    lr_schedule: str = "decay"
    lr_decay: float = 1.0
    lr_every: int = 1
    server_schedule: str = "decay"
    server_decay: float = 1.0
    server_every: int = 1
    stop_after: int = 0
    clients: float = 1.0
    mu: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    bias_correction: bool = False
    order: str = "shuffled"
    layers: int = 1
    pull: float = 0.1
    fine_tune: int = 0
    compress: str = ""
    buffer: int = 2
    staleness: float = 0.5
    weigh: str = "rows"
    server: str = "average"
    keep: float = 0.1
    whole_every: int = 4

    def __post_init__(self) -> None:
        for field in fields(self):
            good, rule = _RULES[field.name]
            if not good(getattr(self, field.name)):
                raise _wrong(self, field.name, rule)
        if self.stop_after and self.clients < 1:
            raise _wrong(self, "stop_after", "every site watches in every round: clients = 1")
        if self.compress in SPARSE and SERVER[self.name] in ("adam", "yogi", "adagrad"):
            rule = "float16 or int8: an adaptive step is divided by how much an entry moves, and "
            raise _wrong(self, "compress", rule + "one that waits for its turn does not")
        if self.compress == "topk_shared" and self.name == "fedbuff":
            raise _wrong(self, "compress", "topk: without rounds there are no shared entries")

    def lr_at(self, round: int) -> float:
        """Local step size in a round, counted from 0; after the last one that of the first."""
        if round >= self.rounds:
            return self.lr
        given = (self.lr_schedule, self.lr_decay, self.lr_every)
        return self.lr * _factor(*given, round, self.rounds)

    def server_lr_at(self, round: int) -> float:
        """The coordinator's step size in a round."""
        if self.gradients:
            return self.lr_at(round)
        given = (self.server_schedule, self.server_decay, self.server_every)
        return self.server_lr * _factor(*given, round, self.rounds)

    @property
    def rule(self) -> str:
        """What the coordinator does with the mean change."""
        return self.server if self.buffered else SERVER[self.name]

    @property
    def buffered(self) -> bool:
        """Whether each site answers by itself, whenever it is ready."""
        return self.name == "fedbuff"

    @property
    def gradients(self) -> bool:
        """Whether sites answer with one gradient instead of training."""
        return self.name == "fedsgd"

    @property
    def by_turns(self) -> bool:
        """Whether some sites do not train in a round."""
        return self.name == "cyclic" or self.clients < 1

    @property
    def personal(self) -> bool:
        """Whether a site ends with numbers of its own, which never leave."""
        return self.name in ("fedbn", "fedper", "ditto") or self.fine_tune > 0

    @property
    def options(self) -> dict[str, Any]:
        """Values of its own options."""
        found = {name: getattr(self, name) for name in OPTIONS[self.name] if name != "name"}
        return found | ({"site_steps": dict(self.site_steps)} if "site_steps" in found else {})

    def __repr__(self) -> str:
        usual = vars(Strategy.from_data({"name": self.name}))
        given = [f"{k}={v!r}" for k, v in self.options.items() if getattr(self, k) != usual[k]]
        return f"{WORDS[self.name]}({', '.join(given)})"

    def to_data(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Strategy:
        """Raises InputError: UNKNOWN_OPTION, WRONG_VALUE."""
        name = data.get("name", "fedavg")
        if name not in NAMES:
            raise InputError(
                f"strategy {name!r}",
                code="WRONG_VALUE",
                rule=f"one of {', '.join(NAMES)}",
                next="correct the name",
            )
        if unknown := sorted(set(data) - set(OPTIONS[name])):
            raise InputError(
                f"{WORDS[name]}: {', '.join(unknown)}",
                code="UNKNOWN_OPTION",
                rule=f"options of {WORDS[name]}: {', '.join(sorted(OPTIONS[name][1:]))}",
                next="correct the name, or use a strategy that has the option",
            )
        given = {"name": name, **_DEFAULTS.get(name, {}), **data}
        steps = given.get("site_steps")
        if isinstance(steps, Mapping):
            given["site_steps"] = tuple(sorted(steps.items()))
        return Strategy(**given)


def _factor(schedule: str, decay: float, every: int, round: int, rounds: int) -> float:
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * round / rounds))
    return float(decay ** (round // every if schedule == "step" else round))


def _wrong(strategy: Strategy, name: str, rule: str) -> InputError:
    return InputError(
        f"{WORDS.get(strategy.name, 'strategy')}: {name} = {getattr(strategy, name)!r}",
        code="WRONG_VALUE",
        rule=f"{name}: {rule}",
        next="correct the value",
    )


def _whole(least: int, most: int = 10**6) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most


def _real(least: float, most: float, open_: bool = False) -> Callable[[Any], bool]:
    def good(v: Any) -> bool:
        number = isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
        return number and (least < v if open_ else least <= v) and v <= most

    return good


def _by_site(v: Any) -> bool:
    pairs = isinstance(v, tuple) and all(isinstance(one, tuple) and len(one) == 2 for one in v)
    return pairs and all(isinstance(name, str) and _whole(1)(steps) for name, steps in v)


_SHARE = (_real(0, 1, open_=True), "above 0, at most 1")
_COUNT = (_whole(1), "a whole number of 1 or more")
_SCHEDULE = (SCHEDULES.__contains__, f"one of {', '.join(SCHEDULES)}")
_MEAN_OF = (_real(0, 0.999999), "from 0 to below 1")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (NAMES.__contains__, f"one of {', '.join(NAMES)}"),
    "rounds": _COUNT,
    "local_epochs": _COUNT,
    "local_steps": (lambda v: v is None or _whole(1)(v), "a whole number of 1 or more, or None"),
    "site_steps": (_by_site, "whole numbers of 1 or more, by site"),
    "local_seconds": (
        lambda v: v is None or _real(0, 1e6, open_=True)(v),
        "seconds above 0, or None",
    ),
    "batch_size": (_whole(0), "a whole number; 0: all rows of the site"),
    "lr": (_real(0, 1e3, open_=True), "above 0"),
    "momentum": (_real(0, 0.9999), "from 0 to below 1"),
    "weight_decay": (_real(0, 1e3), "0 or more"),
    "optimizer": (("sgd", "adam").__contains__, "sgd or adam"),
    "server_lr": (_real(0, 1e3, open_=True), "above 0"),
    "lr_schedule": _SCHEDULE,
    "lr_decay": _SHARE,
    "lr_every": _COUNT,
    "server_schedule": _SCHEDULE,
    "server_decay": _SHARE,
    "server_every": _COUNT,
    "stop_after": (_whole(0), "a whole number; 0: never"),
    "clients": _SHARE,
    "mu": (_real(0, 1e6), "0 or more"),
    "beta1": _MEAN_OF,
    "beta2": _MEAN_OF,
    "tau": (_real(0, 1e3, open_=True), "above 0"),
    "bias_correction": (lambda v: isinstance(v, bool), "true or false"),
    "order": (("shuffled", "named").__contains__, "shuffled or named"),
    "layers": _COUNT,
    "pull": (_real(0, 1e6), "0 or more"),
    "fine_tune": (_whole(0), "a whole number; 0: none"),
    "buffer": _COUNT,
    "staleness": (_real(0, 10), "from 0 to 10"),
    "weigh": (("rows", "sites").__contains__, "rows or sites"),
    "server": (
        ("average", "adam", "yogi", "adagrad").__contains__,
        "average, adam, yogi or adagrad",
    ),
    "compress": (
        ("", *KINDS, *SPARSE).__contains__,
        f"one of {', '.join((*KINDS, *SPARSE))}, or empty",
    ),
    "keep": _SHARE,
    "whole_every": _COUNT,
}
