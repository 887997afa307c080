"""Conditions and sums over columns, parsed by hand: nothing is ever evaluated as code.

Grammar, loosest first: ``or``; ``and``; ``not``; comparison (> >= < <= == !=) or ``is [not]
missing``; + -; * /; unary minus; number, 'text', column, ( ). Logic is three-valued: a comparison
with a missing value is unknown (NaN), and only rows where the whole condition is true are taken.
A category is compared by its codes as the codebook writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError

Floats = NDArray[np.float64]
Node = tuple[Any, ...]
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<op>>=|<=|==|!=|=|>|<|\+|-|\*|/|\(|\)))"
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
    "==": np.equal,
    "=": np.equal,
    "!=": np.not_equal,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
}
LONGEST = 300  # words and signs; keeps the tree shallow
_WORDS = {"and", "or", "not", "is", "missing"}


@dataclass(frozen=True)
class Expression:
    """A parsed expression: its text, its tree, and the columns that it reads."""

    text: str
    tree: Node

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_names(self.tree)))

    def evaluate(
        self, columns: Mapping[str, Floats], codes: Mapping[str, tuple[str, ...]]
    ) -> Floats:
        """Value per row; conditions give 1, 0 or NaN (unknown).

        `codes` are the level codes of category and binary columns, in codebook order.
        """
        n_rows = len(next(iter(columns.values()))) if columns else 0
        with np.errstate(divide="ignore", invalid="ignore"):
            value = _evaluate(self.tree, columns, codes)
        return np.asarray(np.broadcast_to(value, (n_rows,)), dtype=np.float64)


def parse(text: str) -> Expression:
    """Parse `text`. Raises InputError BAD_EXPRESSION with the place."""
    tokens = _tokens(text)
    if len(tokens) > LONGEST:
        raise _bad(f"{text[:20]} ...", f"word {LONGEST + 1}")
    try:
        tree, rest = _or(tokens)
    except RecursionError:
        raise _bad(f"{text[:20]} ...", "parentheses too deep") from None
    if rest:
        raise _bad(text, rest[0][1])
    return Expression(text, tree)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise _bad(text, text[at:].strip()[:10])
        kind = str(match.lastgroup)
        value = match.group(kind)
        if kind == "name" and value.lower() in _WORDS:
            kind, value = "word", value.lower()
        found.append((kind, value))
        at = match.end()
    return [*found]


Tokens = list[tuple[str, str]]


def _or(tokens: Tokens) -> tuple[Node, Tokens]:
    return _chain(tokens, _and, "or")


def _and(tokens: Tokens) -> tuple[Node, Tokens]:
    return _chain(tokens, _not, "and")


def _chain(
    tokens: Tokens, inner: Callable[[Tokens], tuple[Node, Tokens]], word: str
) -> tuple[Node, Tokens]:
    node, tokens = inner(tokens)
    while tokens[:1] == [("word", word)]:
        right, tokens = inner(tokens[1:])
        node = (word, node, right)
    return node, tokens


def _not(tokens: Tokens) -> tuple[Node, Tokens]:
    if tokens[:1] == [("word", "not")]:
        node, tokens = _not(tokens[1:])
        return ("not", node), tokens
    return _comparison(tokens)


def _comparison(tokens: Tokens) -> tuple[Node, Tokens]:
    node, tokens = _sum(tokens)
    if tokens[:2] == [("word", "is"), ("word", "missing")]:
        return ("missing", node), tokens[2:]
    if tokens[:3] == [("word", "is"), ("word", "not"), ("word", "missing")]:
        return ("not", ("missing", node)), tokens[3:]
    if tokens and tokens[0][1] in _COMPARE and tokens[0][0] == "op":
        right, rest = _sum(tokens[1:])
        return ("compare", tokens[0][1], node, right), rest
    return node, tokens


def _sum(tokens: Tokens) -> tuple[Node, Tokens]:
    return _binary(tokens, _product, ("+", "-"))


def _product(tokens: Tokens) -> tuple[Node, Tokens]:
    return _binary(tokens, _atom, ("*", "/"))


def _binary(
    tokens: Tokens, inner: Callable[[Tokens], tuple[Node, Tokens]], signs: tuple[str, ...]
) -> tuple[Node, Tokens]:
    node, tokens = inner(tokens)
    while tokens and tokens[0][0] == "op" and tokens[0][1] in signs:
        right, rest = inner(tokens[1:])
        node, tokens = ("arithmetic", tokens[0][1], node, right), rest
    return node, tokens


def _atom(tokens: Tokens) -> tuple[Node, Tokens]:
    if not tokens:
        raise _bad("the expression", "its end")
    (kind, value), rest = tokens[0], tokens[1:]
    if kind == "number":
        return ("number", float(value), value), rest
    if kind == "text":
        return ("text", value[1:-1]), rest
    if kind == "name":
        return ("name", value), rest
    if value == "-":
        node, rest = _atom(rest)
        return ("arithmetic", "-", ("number", 0.0, "0"), node), rest
    if value == "(":
        node, rest = _or(rest)
        if rest[:1] != [("op", ")")]:
            raise _bad("the expression", "a missing )")
        return node, rest[1:]
    raise _bad("the expression", value)


def _names(node: Node) -> list[str]:
    if node[0] == "name":
        return [node[1]]
    return [name for part in node[1:] if isinstance(part, tuple) for name in _names(part)]


def _evaluate(node: Node, columns: Mapping[str, Floats], codes: Mapping[str, Any]) -> Any:
    kind = node[0]
    if kind == "number":
        return node[1]
    if kind == "name":
        return _column(node[1], columns, codes)
    if kind == "missing":
        return np.isnan(_raw(node[1], columns)).astype(np.float64)
    if kind == "not":
        return 1.0 - _evaluate(node[1], columns, codes)
    if kind in ("and", "or"):
        left, right = (_evaluate(part, columns, codes) for part in node[1:])
        return _both(left, right) if kind == "and" else 1.0 - _both(1.0 - left, 1.0 - right)
    if kind == "arithmetic":
        return _ARITHMETIC[node[1]](*(_evaluate(part, columns, codes) for part in node[2:]))
    if kind == "compare":
        return _compare(node, columns, codes)
    raise _bad("the expression", "a text on its own")


def _both(left: Any, right: Any) -> Any:
    """Kleene's and: false beats unknown."""
    unknown = np.isnan(left) | np.isnan(right)
    false = (left == 0) | (right == 0)
    return np.where(false, 0.0, np.where(unknown, np.nan, 1.0))


def _raw(node: Node, columns: Mapping[str, Floats]) -> Floats:
    if node[0] != "name":
        raise _bad("the expression", "missing: it follows a column")
    return _lookup(node[1], columns)


def _lookup(name: str, columns: Mapping[str, Floats]) -> Floats:
    if name not in columns:
        raise InputError(
            f"{name} is not a column",
            code="UNKNOWN_COLUMN",
            rule=f"columns: {', '.join(columns)}",
            next="correct the name",
        )
    return columns[name]


def _column(name: str, columns: Mapping[str, Floats], codes: Mapping[str, Any]) -> Any:
    values = _lookup(name, columns)
    levels = codes.get(name)
    if not levels or not all(_is_number(code) for code in levels):
        return values
    table = np.array([*map(float, levels), np.nan])
    return table[np.where(np.isnan(values), len(levels), values).astype(np.int64)]


def _compare(node: Node, columns: Mapping[str, Floats], codes: Mapping[str, Any]) -> Any:
    sides = [_text_code(a, b, codes) for a, b in ((node[2], node[3]), (node[3], node[2]))]
    left, right = (
        side if side is not None else _evaluate(part, columns, codes)
        for side, part in zip(sides, node[2:], strict=True)
    )
    known = ~(np.isnan(left) | np.isnan(right))
    return np.where(known, _COMPARE[node[1]](left, right).astype(np.float64), np.nan)


def _text_code(node: Node, other: Node, codes: Mapping[str, Any]) -> float | None:
    """A text as the position of the level that it names in the column on the other side."""
    if node[0] != "text":
        return None
    levels = codes.get(other[1], ()) if other[0] == "name" else ()
    if node[1] not in levels:
        raise InputError(
            f"{node[1]!r} is no level of {other[1] if levels else 'a category'}",
            code="UNKNOWN_LEVEL",
            rule=f"levels: {', '.join(levels) or 'none'}",
            next="use a code of the codebook",
        )
    if all(_is_number(code) for code in levels):
        return float(node[1])
    return float(levels.index(node[1]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bad(text: str, place: str) -> InputError:
    return InputError(
        f"{text}: not understood at {place!r}",
        code="BAD_EXPRESSION",
        rule="comparisons, and, or, not, is missing, + - * / over columns",
        next="correct it",
    )
