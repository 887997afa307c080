"""Networks by name: installed and versioned at every site, so that no code travels.

A group of hospitals adds its own by an entry point in the group ``polyclinic.architectures`` that
names a list of `Architecture`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from polyclinic.core.errors import InputError, PolyclinicError

if TYPE_CHECKING:
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
    finds    outcomes that it explains, as losses name them
    fits     raises InputError (WRONG_VALUE) for a spec that it cannot be built from
    stacks   its weights are those of plain `torch.nn.Linear` layers, and whatever stands between
             them acts on each row by itself: many sites of one process are trained at once
    """

    name: str
    build: Callable[[NeuralSpec], Any]
    version: int = 1
    options: Mapping[str, tuple[Any, Callable[[Any], bool]]] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    finds: tuple[str, ...] = ("classes", "number", "survival")
    fits: Callable[[NeuralSpec], None] = lambda spec: None
    stacks: bool = False


_installed: dict[str, Architecture] = {}
_loaded: list[str] = []
_broken: list[str] = []  # packages whose architectures could not be read


def register_architectures(found: Iterable[Architecture]) -> None:
    """Install architectures; two of one name are an error."""
    for one in found:
        if _installed.setdefault(one.name, one) is not one:
            raise ValueError(f"two architectures are called {one.name}")


def names() -> tuple[str, ...]:
    """Names of the installed architectures."""
    _load()
    return tuple(sorted(_installed))


def architecture_of(name: str, version: int | None = None) -> Architecture:
    """The installed architecture of that name (and version). Raises UNKNOWN_ARCHITECTURE."""
    _load()
    found = _installed.get(name)
    if found is None:
        broken = f"; not read: {', '.join(_broken)}" if _broken else ""
        raise InputError(
            f"no architecture {name!r} is installed here",
            code="UNKNOWN_ARCHITECTURE",
            rule=f"{OUTSIDE_RULE}; here: {', '.join(sorted(_installed))}{broken}",
            next="use one of these, or install the package that has it at every site",
        )
    if version not in (None, found.version):
        raise InputError(
            f"architecture {name!r} is of version {found.version} here, not {version}",
            code="UNKNOWN_ARCHITECTURE",
            rule=f"{OUTSIDE_RULE}, and of the same version everywhere",
            next="install the same version of the package that has it at every site",
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


def check_reads(spec: NeuralSpec, *dimensions: int) -> tuple[int, ...]:
    """The shape of the one image or series of a spec. Raises WRONG_VALUE for none, for several, or
    for one of other than so many dimensions."""
    shapes = list(spec.shapes.values())
    if len(shapes) != 1 or len(shapes[0]) not in dimensions:
        given = ", ".join(f"{name} {shape}" for name, shape in spec.shapes.items())
        wanted = " or ".join(_FORMS[n] for n in dimensions)
        raise wrong(
            f"{spec.architecture} with {given or 'a table only'}",
            f"{spec.architecture} reads one item a row of shape {wanted}",
        )
    return shapes[0]


_FORMS = {
    2: "(steps, variables)",
    3: "(channels, height, width)",
    4: "(channels, depth, height, width)",
}


def wrong(what: str, rule: str) -> InputError:
    """The error of a setting that does not fit the others."""
    return InputError(what, code="WRONG_VALUE", rule=rule, next="correct the value")


def torch() -> Any:
    """The torch module, imported when a network is needed. Raises NO_TORCH."""
    return _library("torch", "PyTorch", "torch")


def monai() -> Any:
    """MONAI, imported when one of its networks is built. Raises NO_TORCH."""
    _library("monai.networks.nets", "MONAI", "monai")
    return import_module("monai")


def _library(module: str, title: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise PolyclinicError(
            f"{title} is not installed here",
            code="NO_TORCH",
            rule=f"this network is built with {title}, which the core does without",
            next=f'pip install "polyclinic[{extra}]"',
        ) from None


def _load() -> None:
    if not _loaded:
        _loaded.append(GROUP)
        from polyclinic.models.neural.zoo import ARCHITECTURES

        register_architectures(ARCHITECTURES)
        for entry in entry_points(group=GROUP):
            try:
                register_architectures(entry.load())
            except Exception:  # a broken package is no reason to do without all others
                _broken.append(entry.name)
