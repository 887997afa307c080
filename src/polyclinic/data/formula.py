"""Formulas, compiled to a `Design` with levels and knots from the codebook only.

formulaic reads the formula's algebra (+ : * ** - ()); the factors in it are compiled here from a
short list of functions. Nothing in a formula is ever evaluated as code. Category columns are coded
against their first level, with or without C(); interactions without main effects and models without
intercept are coded to full rank as in R and patsy (Nathaniel Smith's subterm algorithm).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formulaic.errors import FormulaicError
from formulaic.parser import DefaultFormulaParser

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.factors import Compiled, Role, compile_factor

Subset = frozenset[str]
HIGHEST = 5
_POWER = re.compile(r"(?:\*\*|\^)\s*(\d+)")
_CALL = re.compile(r"\bI\([^()]*(?:\([^()]*\)[^()]*)*\)")


_SURV = re.compile(r"^Surv\(\s*([^\s,()]+)\s*,\s*([^\s,()]+)\s*\)$")


@dataclass(frozen=True)
class _Parsed:
    response: Compiled | None
    event: str | None
    terms: tuple[tuple[Compiled, ...], ...]
    intercept: bool
    offset: str | None
    weight: str | None
    strata: tuple[str, ...]
    media: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        found = [self.response.column] if self.response else []
        found += [self.event] if self.event else []
        found += self.media
        found += [factor.column for term in self.terms for factor in term]
        found += [extra for extra in (self.offset, self.weight, *self.strata) if extra]
        return tuple(dict.fromkeys(found))


def formula_columns(formula: str, codebook: Codebook) -> tuple[str, ...]:
    """Columns that a formula reads, any outcome first. Raises as `compile_formula`."""
    return _parse(formula, codebook).columns


def complete_columns(formula: str, codebook: Codebook) -> tuple[str, ...]:
    """Columns that are never filled and never kept with gaps: outcome, event, weight, offset and
    strata."""
    parsed = _parse(formula, codebook)
    found = [parsed.response.column] if parsed.response else []
    found += [one for one in (parsed.event, parsed.offset, parsed.weight, *parsed.strata) if one]
    return tuple(dict.fromkeys(found))


def compile_formula(
    formula: str,
    codebook: Codebook,
    fills: Mapping[str, float] | None = None,
    indicators: Sequence[str] = (),
) -> Design:
    """The design of ``"outcome ~ terms"``, ``"Surv(duration, event) ~ terms"`` or ``"~ terms"``.

    Without an outcome its response is "".

    Parameters
    ----------
    fills : value that stands in for a missing one, by column.
    indicators : columns that also get a 0/1 term ``column_missing`` after their first term.

    Raises
    ------
    InputError : BAD_FORMULA, UNKNOWN_COLUMN, UNKNOWN_FUNCTION, UNKNOWN_LEVEL, KNOTS_NEEDED.
    """
    parsed, fills = _parse(formula, codebook), dict(fills or {})
    for column in fills:
        if codebook.spec(column).type == "category":
            raise InputError(
                f"{column}: a category has no mean",
                code="WRONG_VALUE",
                rule='missing = "mean" is for numbers and 0/1 columns',
                next='use "drop", or add a level for missing to the codebook',
            )
    terms: list[Term] = []
    waiting = list(indicators)
    for term, subterms in zip(parsed.terms, _codings(parsed), strict=True):
        for full in subterms:
            terms += _columns(term, full)
        for column in [c for c in waiting if any(f.column == c for f in term)]:
            terms.append(Term(f"{column}_missing", (Factor("missing", column),), 1.0))
            waiting.remove(column)
    return Design(
        tuple(terms),
        parsed.response.column if parsed.response else "",
        parsed.intercept and parsed.event is None,
        parsed.offset,
        parsed.weight,
        fills,
        codebook.bound(parsed.response.column) if parsed.response else 1.0,
        codebook.bound(parsed.weight) if parsed.weight else 1.0,
        parsed.event,
        parsed.strata,
        parsed.media,
    )


def _parse(formula: str, codebook: Codebook) -> _Parsed:
    if any(int(power) > HIGHEST for power in _POWER.findall(_CALL.sub("", formula))):
        raise InputError(
            f"formula {formula!r}: the power is too high",
            code="BAD_FORMULA",
            rule=f"( ) ** n makes interactions of n columns, n at most {HIGHEST}",
            next="correct it",
        )
    try:
        structured = DefaultFormulaParser().get_terms(formula)
        left, right = _sides(structured, formula)
        if not all(hasattr(term, "factors") for term in (*(left or ()), *right)):
            raise ValueError("a formula has one part on each side")
    except (
        FormulaicError,
        AttributeError,
        SyntaxError,
        ValueError,
        TypeError,
        RecursionError,
    ) as error:
        raise InputError(
            f"formula {formula!r} is not understood",
            code="BAD_FORMULA",
            rule='a formula reads "outcome ~ term + term"; without an outcome "~ term + term"',
            next=f"correct it ({type(error).__name__})",
        ) from None
    if left is not None and (len(left) != 1 or len(left[0].factors) != 1):
        raise InputError(
            f"formula {formula!r} needs one outcome",
            code="BAD_FORMULA",
            rule='a formula reads "outcome ~ term + term"',
            next="correct it",
        )
    response, event = _response(left[0].factors[0].expr, codebook) if left else (None, None)
    terms, extras, strata, intercept = _right(right, codebook)
    media, terms = _media(terms)
    if response is not None and response.role is Role.MEDIA and (terms or not media):
        raise InputError(
            f"{response.column}: an image is the outcome of images only",
            code="BAD_FORMULA",
            rule='a mask is found in an image: "mask ~ image"',
            next="correct the formula",
        )
    if strata and not event:
        raise InputError(
            f"strata({strata[0]}) has no duration beside it",
            code="BAD_FORMULA",
            rule="strata( ) belongs to an outcome Surv(duration, event)",
            next=f"use C({strata[0]})",
        )
    terms.sort(key=len)
    return _Parsed(
        response,
        event,
        tuple(terms),
        intercept or event is not None,
        extras.get(Role.OFFSET),
        extras.get(Role.WEIGHT),
        tuple(dict.fromkeys(strata)),
        media,
    )


def _media(
    terms: list[tuple[Compiled, ...]],
) -> tuple[tuple[str, ...], list[tuple[Compiled, ...]]]:
    """Columns of images and series, and the terms without them. Raises BAD_FORMULA."""
    found = [term for term in terms if any(factor.role is Role.MEDIA for factor in term)]
    for term in found:
        if len(term) > 1:
            raise InputError(
                f"{':'.join(factor.text for factor in term)}: images and series stand alone",
                code="BAD_FORMULA",
                rule="a column of images or series is in no product",
                next="correct the formula",
            )
    return tuple(term[0].column for term in found), [term for term in terms if term not in found]


def _right(
    right: Sequence[Any], codebook: Codebook
) -> tuple[list[tuple[Compiled, ...]], dict[Role, str], list[str], bool]:
    """Terms, offset and weight, strata, and whether there is an intercept."""
    terms: list[tuple[Compiled, ...]] = []
    extras: dict[Role, str] = {}
    strata: list[str] = []
    intercept = False
    for term in right:
        factors = [compile_factor(f.expr, codebook) for f in term.factors if f.expr != "1"]
        special = [f for f in factors if f.role in (Role.OFFSET, Role.WEIGHT, Role.STRATA)]
        if special:
            if len(factors) > 1 or special[0].role in extras:
                raise InputError(
                    f"{special[0].text}: it stands alone, once",
                    code="BAD_FORMULA",
                    rule="one offset( ) and one weights( ), in no product; nor strata( )",
                    next="correct the formula",
                )
            if special[0].role is Role.STRATA:
                strata.append(special[0].column)
            else:
                extras[special[0].role] = special[0].column
        elif factors:
            terms.append(tuple(factors))
        else:
            intercept = True
    return terms, extras, strata, intercept


def _response(text: str, codebook: Codebook) -> tuple[Compiled, str | None]:
    """The outcome; of a duration also the column that says how it ended."""
    found = _SURV.match(text)
    if found is None:
        return _outcome(text, codebook), None
    duration, event = (name.strip("`") for name in found.groups())
    response = compile_factor(duration, codebook)
    number = response.role is Role.NUMBER and not codebook.level_names(duration)
    if not number or not codebook.level_names(event) or duration == event:
        raise InputError(
            f"{text}: a number and a column with levels are needed",
            code="BAD_FORMULA",
            rule="Surv(duration, event): the event is a binary or category column, 1 = event",
            next="correct the formula, or the columns' types in the codebook",
        )
    return response, event


def _sides(structured: Any, formula: str) -> tuple[list[Any] | None, list[Any]]:
    """The terms on both sides; None for the left one of a formula that begins with ~."""
    if formula.lstrip().startswith("~"):
        return None, [*structured]
    return [*structured.lhs], [*structured.rhs]


def _outcome(text: str, codebook: Codebook) -> Compiled:
    """A category as outcome stands for its levels; nothing else may be done to an outcome."""
    response = compile_factor(text, codebook)
    if response.role is Role.NUMBER and response.factors[0].kind == "value":
        return response
    if response.role in (Role.CATEGORY, Role.MEDIA) and response.text == response.column:
        return response
    raise InputError(
        f"the outcome {text} is not a column",
        code="BAD_FORMULA",
        rule="the outcome is a column of the codebook, as it is",
        next="define it under [derived] in the codebook",
    )


def _codings(parsed: _Parsed) -> Iterable[list[dict[str, bool]]]:
    """Per term its subterms; each maps category factors to True for full-rank coding."""
    spanned: dict[Subset, set[Subset]] = {}
    if parsed.intercept:
        spanned[frozenset()] = {frozenset()}
    for term in parsed.terms:
        numbers = frozenset(f.text for f in term if f.role is not Role.CATEGORY)
        categories = [f.text for f in term if f.role is Role.CATEGORY]
        used = spanned.setdefault(numbers, set())
        new = [
            frozenset(s)
            for size in range(len(categories) + 1)
            for s in itertools.combinations(categories, size)
            if frozenset(s) not in used
        ]
        used.update(new)
        yield _absorb([dict.fromkeys((c for c in categories if c in s), False) for s in new])


def _absorb(subterms: list[dict[str, bool]]) -> list[dict[str, bool]]:
    """Merge a subterm with one that has a factor more: that factor then has full rank."""
    for i, short in enumerate(subterms):
        for j in range(i + 1, len(subterms)):
            long = subterms[j]
            extra = set(long.items()) - set(short.items())
            if len(long) == len(short) + 1 and len(extra) == 1 and set(short) <= set(long):
                merged = {**long, next(iter(extra))[0]: True}
                return _absorb([*subterms[:i], *subterms[i + 1 : j], merged, *subterms[j + 1 :]])
    return subterms


def _columns(term: Sequence[Compiled], full: Mapping[str, bool]) -> list[Term]:
    """The columns of one subterm; the first factor varies fastest, as in patsy."""
    parts = [
        factor.columns(full.get(factor.text, False))
        for factor in term
        if factor.role is not Role.CATEGORY or factor.text in full
    ]
    found = []
    for combined in itertools.product(*reversed(parts)):
        chosen = list(reversed(combined))
        bound = 1.0
        for column in chosen:
            bound *= column.bound
        found.append(
            Term(
                ":".join(column.name for column in chosen),
                tuple(f for column in chosen for f in column.factors),
                bound,
            )
        )
    return found
