"""A second device that computes, for machines without a card.

Its tensors call themselves "meta" and hold their numbers aside. As on a card, an operation that
mixes them with the processor's is an error, and so is reading them without `.cpu()`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD, CPU = torch.device("meta"), torch.device("cpu")
COPIES = ("_to_copy", "copy_")


class OnCard(torch.Tensor):
    """A tensor of the card; `held` are its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Any:
        more = {"strides": held.stride(), "dtype": held.dtype, "device": CARD}
        found = torch.Tensor._make_wrapper_subclass(cls, held.shape, **more)
        found.held = held
        return found

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(op, args, kwargs or {})


class Card(TorchDispatchMode):
    """While it is entered, what is moved to the card computes there."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(op, args, kwargs or {})


def computed(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation by the processor on what the card's tensors hold."""
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    on_card = [isinstance(one, OnCard) for one in tensors]
    mixed = any(on_card) and any(
        one.dim() and not there for one, there in zip(tensors, on_card, strict=True)
    )
    if mixed and op.__name__.split(".")[0] not in COPIES:
        raise RuntimeError(f"Expected all tensors to be on the same device: {op}")
    wanted = kwargs.get("device")
    to_card = wanted == CARD if wanted is not None else any(on_card)
    kwargs = {name: CPU if value == CARD else value for name, value in kwargs.items()}
    kwargs.pop("pin_memory", None)
    found = op(*tree_map(_held, args), **tree_map(_held, kwargs))
    if op._schema.is_mutable and isinstance(args[0], torch.Tensor):
        return args[0]
    return tree_map(_on_card, found) if to_card else found


def _held(one: Any) -> Any:
    return one.held if isinstance(one, OnCard) else one


def _on_card(one: Any) -> Any:
    return OnCard(one) if isinstance(one, torch.Tensor) else one
