"""Where a network computes, and what makes it compute the same there again.

Weights, first weights and everything that leaves are numbers of the processor; a device holds
copies of them while it computes. Every draw of a round follows from the seed and the round, on a
card too, so a checkpoint holds no state of random numbers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from polyclinic.core.device import AUTO, CPU, VARIABLE, checked
from polyclinic.core.errors import InputError
from polyclinic.models.neural.architectures import torch

Device = Any  # torch.device
ORDER = ("cuda", "mps", CPU)  # of "auto"
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # read by cuBLAS when it begins


def name_of(asked: str = "") -> str:
    """The device that is asked for: by the site's settings, by the environment, or "auto".

    Raises WRONG_VALUE.
    """
    found = os.environ.get(VARIABLE, "")
    return checked(asked) or checked(found, VARIABLE) or AUTO


def device_of(asked: str = "") -> Device:
    """The device of a name; "": of the environment, or "auto". Raises WRONG_VALUE, NO_DEVICE."""
    name = name_of(asked)
    if name == AUTO:
        name = next(one for one in ORDER if _there(one))
    elif not _there(name):
        raise InputError(
            f"there is no device {name!r} here",
            code="NO_DEVICE",
            rule="a network computes on the device that the site's settings name, or not at all",
            next='device = "auto" takes a card where there is one, "cpu" takes none',
        )
    if name.startswith("cuda"):
        os.environ.setdefault(CUBLAS, ":4096:8")
    return torch().device(name)


def check(asked: str = "") -> None:
    """Raises NO_DEVICE or WRONG_VALUE for a device that is not there; "auto" always is."""
    if name_of(asked) not in (AUTO, CPU):
        device_of(asked)


def _there(name: str) -> bool:
    kind, _, number = name.partition(":")
    library = torch()
    if kind == "cuda":
        cards = library.cuda.device_count() if library.cuda.is_available() else 0
        return int(number or 0) < cards
    return kind == CPU or bool(library.backends.mps.is_available())


@dataclass(frozen=True)
class _Generators:
    """Random numbers of cards: their states, setting them, and seeding all."""

    get: Callable[[], Any]
    restore: Callable[[Any], None]
    seed: Callable[[int], None]


def _generators(device: Device) -> _Generators | None:
    """Those of a device; None: it is the processor."""
    library = torch()
    if device.type == "cuda":
        card = library.cuda
        return _Generators(card.get_rng_state_all, card.set_rng_state_all, card.manual_seed_all)
    if device.type == "mps":
        card = library.mps
        return _Generators(card.get_rng_state, card.set_rng_state, card.manual_seed)
    return None


@contextmanager
def draws(device: Device, seed: int) -> Iterator[None]:
    """torch's random numbers from `seed`, and as they were afterwards."""
    library, seed = torch(), seed % 2**63
    generator, card = library.default_generator, _generators(device)
    before, on_card = generator.get_state(), card.get() if card else None
    generator.manual_seed(seed)
    if card:
        card.seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
        if card:
            card.restore(on_card)


@contextmanager
def repeatable(device: Device) -> Iterator[None]:
    """Kernels that give the same bits again, where torch has such, and whole single precision.

    The settings are the process's, so one user at a time.
    """
    if device.type == CPU:
        yield
        return
    library = torch()
    before = library.are_deterministic_algorithms_enabled()
    lenient = library.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deterministic")
        library.use_deterministic_algorithms(True, warn_only=True)
        exact = {"benchmark": False, "deterministic": True, "allow_tf32": False}
        try:
            with library.backends.cudnn.flags(enabled=True, **exact):
                yield
        finally:
            library.use_deterministic_algorithms(before, warn_only=lenient)


def forget() -> None:
    """Give memory of a card back that nothing holds any more."""
    library = torch()
    if library.cuda.is_available() and library.cuda.is_initialized():
        library.cuda.empty_cache()
