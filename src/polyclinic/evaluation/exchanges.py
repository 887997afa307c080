"""What of the columns that a model reads is exchanged, with the names by which people know it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook, Column
from polyclinic.evaluation.shuffled import MOST, Shuffle

Parts = Mapping[str, int | Sequence[str]]
Ends = tuple[tuple[int, int], ...]  # (first, end) along each dimension of an item


def exchanges(
    design: Design,
    codebook: Codebook,
    *,
    repeats: int,
    seed: int,
    columns: Sequence[str] | None = None,
    parts: Parts | None = None,
) -> dict[str, Shuffle]:
    """Every exchange by its name, in the order of the formula.

    Parameters
    ----------
    columns : None: all that the model reads.
    parts : by column, of a series the names of variables, or 1 for all of them; of an image into
        how many parts each side is cut.

    Raises
    ------
    InputError : WRONG_VALUE.
    """
    if not 1 <= repeats <= MOST or not 0 <= seed < 2**63:
        raise _wrong(f"repeats = {repeats}, seed = {seed}", f"1 to {MOST} repeats, seed from 0")
    parts, known = parts or {}, columns_of(design)
    wanted = known if columns is None else tuple(columns)
    if unknown := sorted({*wanted, *parts} - set(known)):
        raise _wrong(f"columns: {', '.join(unknown)}", f"the model reads {', '.join(known)}")
    return {
        name: Shuffle(column, part, repeats, seed)
        for column in wanted
        for name, part in _parts_of(codebook, column, parts.get(column))
    }


def columns_of(design: Design) -> tuple[str, ...]:
    """The columns that a model reads to predict."""
    fixed = {design.response, design.event, design.weight, *design.strata}
    return tuple(name for name in design.columns if name not in fixed)


def _parts_of(
    codebook: Codebook, column: str, asked: int | Sequence[str] | None
) -> Iterator[tuple[str, Ends]]:
    """Names and ends of the parts of a column. Raises WRONG_VALUE."""
    if asked is None:
        yield column, ()
        return
    spec = codebook.spec(column)
    if not isinstance(spec, Column) or not spec.shape:
        raise _wrong(f"parts of {column}", "only an image or a series has parts")
    if spec.type == "series":
        names = list(spec.series.variables) if spec.series else []
        names = names or [str(i) for i in range(spec.shape[1])]
        chosen = names if isinstance(asked, int) else list(asked)
        if unknown := sorted(set(chosen) - set(names)):
            raise _wrong(f"{column}: {', '.join(unknown)}", f"variables: {', '.join(names)}")
        for name in chosen:
            at = names.index(name)
            yield f"{column}: {name}", ((0, spec.shape[0]), (at, at + 1))
        return
    if not isinstance(asked, int) or not 1 <= asked <= min(spec.shape[1:]):
        raise _wrong(f"parts of {column}: {asked!r}", "cuts along each side of an image")
    sides = [[(s * i // asked, s * (i + 1) // asked) for i in range(asked)] for s in spec.shape[1:]]
    for ends in itertools.product(*sides):
        words = ", ".join(f"{first}-{end - 1}" for first, end in ends)
        yield f"{column}: {words}", ((0, spec.shape[0]), *ends)


def _wrong(what: str, rule: str) -> InputError:
    return InputError(what, code="WRONG_VALUE", rule=rule, next="correct it")
