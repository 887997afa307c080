"""What noisy releases about the same patients cost together: epsilon at a given delta.

Google's dp-accounting composes; nothing is composed by hand here. The reported number comes from
privacy loss distributions, and Renyi accounting checks it: the two are independent upper bounds
and the first is the tighter one.

An event is plain data:
    mechanism   "gaussian", "discrete_gaussian", "laplace" or "discrete_laplace"
    multiplier  sigma (or the Laplace scale) divided by what one patient can change: the L2 norm
                for the Gaussians, the L1 norm for the Laplace mechanisms
    times       how often, default 1
    rate        chance of each patient to be in the batch, drawn anew each time ("gaussian" only)
    steps       what one patient can change in steps of the grid ("discrete_..." only), default 1

References: Koskela, Jaelkoe and Honkela, AISTATS 2020; Doroshenko et al., "Connect the Dots",
PoPETs 2022; Mironov, "Renyi Differential Privacy", CSF 2017.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.privacy.noise import analytic_gaussian_sigma, check_guarantee

SMALLEST_DELTA = 1e-12  # below it the truncated tails of the distributions show
FINE_STEPS = 1024.0  # a grid this much finer than the noise cannot be told from no grid
_TOLERANCE = 1e-3
_RESOLUTION = 5e-5  # width of a bin of privacy loss, relative to epsilon
_MANY = 10_000  # compositions from which on bins are narrower
_ORDERS = (*range(2, 64), 128, 256, 512)  # of sampled noise: whole ones have a finite sum
_COARSE = 5e-4  # for a first guess only
_STEP = 2.5e-5


@dataclass(frozen=True, order=True)
class _Event:
    mechanism: str
    multiplier: float
    rate: float = 1.0
    steps: int = 1


_Group = tuple[_Event, int]


def epsilon(events: Sequence[Mapping[str, Any]], delta: float) -> float:
    """Smallest proved epsilon of all events together; 0 for none.

    Raises
    ------
    InputError : BAD_PRIVACY for an event or delta that means nothing.
    PolyclinicError : MISSING_EXTRA; ACCOUNTING when the two accountants contradict each other.
    """
    _check_delta(delta)
    found, check = _epsilon(_grouped(events), delta, _RESOLUTION)
    if not found <= check * (1 + _TOLERANCE):
        raise PolyclinicError(
            f"epsilon = {found:.6g} by privacy loss distributions, {check:.6g} by Renyi accounting",
            code="ACCOUNTING",
            rule="the reported epsilon is at most the one of the cruder accountant",
            next="report the events and the version of dp-accounting; do not release",
        )
    return found


def within(events: Sequence[Mapping[str, Any]], delta: float, most: float) -> bool:
    """Whether all events together cost `most` at most.

    Renyi accounting alone says yes much faster, where its cruder bound is low enough. Raises as
    `epsilon`.
    """
    _check_delta(delta)
    groups = _grouped(events)
    crude = _renyi(_library(), groups).get_epsilon(delta) if groups else 0.0
    return bool(crude <= most) or epsilon(events, delta) <= most


def calibrate(
    epsilon: float, delta: float, rounds: int, mechanism: str = "gaussian", rate: float = 1.0
) -> float:
    """Noise multiplier, at most 1e-4 too large, with which `rounds` releases cost `epsilon`.

    The multiplier returned was accounted for itself, so the budget is never exceeded.
    """
    check_guarantee(epsilon, delta)
    _check_delta(delta)
    guess = rate * analytic_gaussian_sigma(epsilon, delta, math.sqrt(max(rounds, 1)))
    for resolution, factor, step in ((_COARSE, 1.2, 1e-3), (_RESOLUTION, 1.001, _STEP)):

        def excess(multiplier: float, resolution: float = resolution) -> float:
            event = {"mechanism": mechanism, "multiplier": multiplier, "times": rounds}
            found, _ = _epsilon(_grouped([{**event, "rate": rate}]), delta, resolution)
            return found - epsilon

        guess = _least(excess, guess, factor, step)
    return guess


def _least(excess: Callable[[float], float], guess: float, factor: float, step: float) -> float:
    """Where the falling function `excess` is no longer positive, at most 4 steps beyond it."""
    low = high = guess
    grow = factor
    while excess(low) <= 0:
        low, high, grow = low / grow, low, grow * factor
    while excess(high) > 0:
        low, high, grow = high, high * grow, grow * factor
    step *= min(1.0, low)
    from scipy.optimize import brentq  # takes each process a quarter of a second

    found = float(brentq(excess, low, high, xtol=step))
    while excess(found) > 0:
        found += step
    return found


@lru_cache(maxsize=256)
def _epsilon(groups: tuple[_Group, ...], delta: float, resolution: float) -> tuple[float, float]:
    """By privacy loss distributions in bins of `resolution`, and by Renyi accounting."""
    if not groups:
        return 0.0, 0.0
    accountant = _renyi(_library(), groups)
    spread = float(accountant.get_epsilon(min(delta, 1e-5)))  # a large delta leaves epsilon near 0
    most = max(times for _, times in groups)  # each composition adds a little of a bin
    width = resolution * spread * min(1.0, math.sqrt(_MANY / most))
    return _by_distributions(groups, delta, max(width, 1e-7)), float(accountant.get_epsilon(delta))


def _by_distributions(groups: Sequence[_Group], delta: float, width: float) -> float:
    pld = import_module("dp_accounting.pld.privacy_loss_distribution")
    total = pld.identity(value_discretization_interval=width)
    for event, times in groups:
        total = total.compose(_distribution(pld, event, times, width))
    return float(total.get_epsilon_for_delta(delta))


def _distribution(pld: Any, event: _Event, times: int, width: float) -> Any:
    more = {"value_discretization_interval": width}
    scale = event.multiplier * event.steps
    if event.mechanism == "laplace":
        one = pld.from_laplace_mechanism(event.multiplier, **more)
    elif event.mechanism == "discrete_laplace":
        one = pld.from_discrete_laplace_mechanism(1 / scale, event.steps, **more)
    elif event.mechanism == "discrete_gaussian" and scale < FINE_STEPS:
        one = pld.from_discrete_gaussian_mechanism(
            scale, event.steps, use_connect_dots=True, **more
        )
    elif event.rate == 1.0:  # T Gaussian releases are one with sqrt(T) times less noise
        return pld.from_gaussian_mechanism(event.multiplier / math.sqrt(times), **more)
    else:
        one = pld.from_gaussian_mechanism(event.multiplier, sampling_prob=event.rate, **more)
    return one.self_compose(times) if times > 1 else one


def _renyi(library: Any, groups: Sequence[_Group]) -> Any:
    sampled = any(event.rate != 1.0 for event, _ in groups)
    accountant = library.rdp.RdpAccountant(*([_ORDERS] if sampled else []))
    for event, times in groups:
        accountant.compose(_renyi_event(library, event), times)
    return accountant


def _renyi_event(library: Any, event: _Event) -> Any:
    if event.mechanism == "laplace":
        return library.LaplaceDpEvent(event.multiplier)
    if event.mechanism == "discrete_laplace":  # what is epsilon-private is epsilon**2/2-zCDP
        return library.ZCDpEvent(0.5 / event.multiplier**2)
    # The discrete Gaussian's Renyi divergence is at most the Gaussian's (Canonne et al. 2020).
    gaussian = library.GaussianDpEvent(event.multiplier)
    return gaussian if event.rate == 1.0 else library.PoissonSampledDpEvent(event.rate, gaussian)


def _library() -> Any:
    try:
        return import_module("dp_accounting")
    except ImportError:
        raise PolyclinicError(
            "differential privacy needs the package dp-accounting",
            code="MISSING_EXTRA",
            rule="epsilon is computed by Google's accountant, never by a formula of our own",
            next='pip install "polyclinic[dp]"',
        ) from None


_MECHANISMS = ("gaussian", "discrete_gaussian", "laplace", "discrete_laplace")
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "mechanism": lambda x: x in _MECHANISMS,
    "multiplier": lambda x: _is_number(x) and 0 < x < math.inf,
    "times": lambda x: type(x) is int and x >= 1,
    "rate": lambda x: _is_number(x) and 0 < x <= 1,
    "steps": lambda x: type(x) is int and x >= 1,
}


def _grouped(events: Sequence[Mapping[str, Any]]) -> tuple[_Group, ...]:
    times: Counter[_Event] = Counter()
    for event in events:
        kind, count = _parsed(event)
        times[kind] += count
    return tuple(sorted(times.items()))


def _parsed(event: Mapping[str, Any]) -> tuple[_Event, int]:
    if not {"mechanism", "multiplier"} <= set(event) <= set(_FIELDS):
        raise _bad(f"an event of noise has the fields {', '.join(_FIELDS)}")
    for name, value in event.items():
        if not _FIELDS[name](value):
            raise _bad(f"an event of noise has {name} = {value!r}")
    fields = {name: value for name, value in event.items() if name != "times"}
    parsed = _Event(**fields)
    if parsed.rate != 1.0 and parsed.mechanism != "gaussian":
        raise _bad(f"batches are accounted for with Gaussian noise only, not {parsed.mechanism}")
    if parsed.steps != 1 and not parsed.mechanism.startswith("discrete"):
        raise _bad(f"{parsed.mechanism} noise has no grid")
    return parsed, event.get("times", 1)


def _check_delta(delta: float) -> None:
    check_guarantee(1.0, delta)
    if delta < SMALLEST_DELTA:
        raise _bad(f"delta = {delta} is below {SMALLEST_DELTA}")


def _is_number(x: Any) -> bool:
    return type(x) in (int, float)


def _bad(what: str) -> InputError:
    return InputError(
        what,
        code="BAD_PRIVACY",
        rule="an event names its mechanism, its noise relative to one patient, and how often",
        next='for example {"mechanism": "gaussian", "multiplier": 4.0, "times": 10}',
    )
