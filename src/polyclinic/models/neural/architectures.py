"""Networks by name: installed and versioned at every site, so that no code travels.

A group of hospitals adds its own by an entry point in the group ``polyclinic.architectures`` that
names a list of `Architecture`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.models.neural.spec import NeuralSpec

GROUP = "polyclinic.architectures"
OUTSIDE_RULE = "a site runs installed architectures only; no code travels"


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    name, version  as in studies; a changed network is another version
    build    from the spec to a torch module whose `forward` takes a dict: "table" (n, columns)
             where there is a table, and each media column by name, (n, *shape); it returns
             (n, outputs) logits or numbers. It draws its first weights from torch's generator, and
             may hold buffers
    options  by name, the default and whether a value is allowed
    reads    kinds of media that it takes: "image", "series"; without any only tables
    """

    name: str
    build: Callable[[NeuralSpec], Any]
    version: int = 1
    options: Mapping[str, tuple[Any, Callable[[Any], bool]]] = field(default_factory=dict)
    reads: tuple[str, ...] = ()


_installed: dict[str, Architecture] = {}
_loaded: list[str] = []


def register_architectures(found: Iterable[Architecture]) -> None:
    """Install architectures; two of one name are an error."""
    for one in found:
        if _installed.setdefault(one.name, one) is not one:
            raise ValueError(f"two architectures are called {one.name}")


def names() -> tuple[str, ...]:
    """Names of the installed architectures."""
    _load()
    return tuple(sorted(_installed))


def architecture_of(name: str) -> Architecture:
    """The installed architecture of that name. Raises UNKNOWN_ARCHITECTURE."""
    _load()
    found = _installed.get(name)
    if found is None:
        raise InputError(
            f"no architecture {name!r} is installed here",
            code="UNKNOWN_ARCHITECTURE",
            rule=f"{OUTSIDE_RULE}; here: {', '.join(sorted(_installed))}",
            next="use one of these, or install the package that has it at every site",
        )
    return found


def options_of(one: Architecture, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options with their values. Raises UNKNOWN_OPTION, WRONG_VALUE."""
    if unknown := sorted(set(given) - set(one.options)):
        raise InputError(
            f"architecture {one.name}: {', '.join(unknown)}",
            code="UNKNOWN_OPTION",
            rule=f"options of {one.name}: {', '.join(sorted(one.options)) or 'none'}",
            next="correct the name",
        )
    for name, value in given.items():
        if not one.options[name][1](value):
            raise InputError(
                f"architecture {one.name}: {name} = {value!r}",
                code="WRONG_VALUE",
                rule="see the page on neural networks for what each option may be",
                next="correct the value",
            )
    return {name: given.get(name, default) for name, (default, _) in one.options.items()}


def torch() -> Any:
    """The torch module, imported when a network is needed. Raises NO_TORCH."""
    try:
        import torch as found
    except ImportError:
        raise PolyclinicError(
            "PyTorch is not installed here",
            code="NO_TORCH",
            rule="networks are trained with PyTorch, which the core does without",
            next='pip install "polyclinic[torch]"',
        ) from None
    return found


def _load() -> None:
    if not _loaded:
        _loaded.append(GROUP)
        from polyclinic.models.neural.zoo import ARCHITECTURES

        register_architectures(ARCHITECTURES)
        for entry in entry_points(group=GROUP):
            register_architectures(entry.load())
