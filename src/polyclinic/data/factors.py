"""The factors that a formula may hold, compiled from their text by a short list of functions."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from polyclinic.core.design import Factor, Term
from polyclinic.core.errors import InputError
from polyclinic.data.codebook import MEDIA, UNBOUNDED, Codebook

_MATH: dict[str, Callable[[float], float]] = {
    "log": math.log,
    "log1p": math.log1p,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "abs": abs,
}
_ALONE = ("offset", "weights", "strata")
MOST_KNOTS = 100
ALLOWED = "C, I, log, log1p, exp, sqrt, abs (also np.log ...), bs, ns, offset, weights, strata"


class Role(Enum):
    """What a factor does in a formula."""

    NUMBER = "number"
    CATEGORY = "category"
    OFFSET = "offset"
    WEIGHT = "weights"
    STRATA = "strata"
    MEDIA = "media"


@dataclass(frozen=True)
class Compiled:
    """One factor of a formula.

    text     as written, which names its columns
    levels   codes of a category; `reference` is left out under reduced coding
    factors  what it computes, one per column, for numbers and splines
    """

    text: str
    column: str
    role: Role
    factors: tuple[Factor, ...] = ()
    bounds: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    reference: int = 0

    def columns(self, full: bool) -> list[Term]:
        """Its columns; a category's without the reference level unless `full`."""
        if self.role is Role.CATEGORY:
            sign = "" if full else "T."
            return [
                Term(
                    f"{self.text}[{sign}{code}]", (Factor("level", self.column, (float(i),)),), 1.0
                )
                for i, code in enumerate(self.levels)
                if full or i != self.reference
            ]
        if len(self.factors) == 1 and self.factors[0].kind not in ("bspline", "natural"):
            return [Term(self.text, self.factors, self.bounds[0])]
        return [
            Term(f"{self.text}[{i}]", (factor,), bound)
            for i, (factor, bound) in enumerate(zip(self.factors, self.bounds, strict=True))
        ]


def compile_factor(text: str, codebook: Codebook) -> Compiled:
    """Compile one factor. Raises InputError; never evaluates the text."""
    if text in codebook.usable:  # also a name in `back ticks`, which is no Python name
        return _plain(text, text, codebook)
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _bad(text, "it is not understood") from None
    if isinstance(node, ast.Name):
        return _plain(text, node.id, codebook)
    if isinstance(node, ast.Call):
        return _call(text, node, codebook)
    raise _bad(text, "arithmetic stands inside I( )")


def _plain(text: str, column: str, codebook: Codebook) -> Compiled:
    spec = codebook.spec(column)
    if spec.type in MEDIA:
        return Compiled(text, column, Role.MEDIA)
    if spec.type == "category":
        return Compiled(text, column, Role.CATEGORY, levels=codebook.level_names(column))
    return Compiled(
        text, column, Role.NUMBER, (Factor("value", column),), (codebook.bound(column),)
    )


def _call(text: str, node: ast.Call, codebook: Codebook) -> Compiled:
    name = _function(node.func)
    if name is None or name not in {*_MATH, "C", "I", "bs", "ns", *_ALONE}:
        raise InputError(
            f"{text}: this function is not allowed in a formula",
            code="UNKNOWN_FUNCTION",
            rule=f"functions: {ALLOWED}",
            next="define the column under [derived] in the codebook",
        )
    if not node.args:
        raise _bad(text, "a column is needed")
    if name == "I":
        return _arithmetic(text, node.args[0], codebook)
    if not isinstance(node.args[0], ast.Name) or node.args[0].id in codebook.media:
        raise _bad(text, "its first argument is a column of numbers or levels")
    if len(node.args) > (2 if name == "C" else 1):
        raise _bad(text, "too many arguments; options are named, as in df=4")
    column = node.args[0].id
    spec = codebook.spec(column)
    if name == "C":
        return _category(text, node, column, codebook)
    if name in _ALONE:
        return _alone(text, Role(name), column, codebook)
    if spec.type == "category":
        raise _bad(text, f"{column} is a category")
    if name in ("bs", "ns"):
        return _spline(text, name, node, column, codebook)
    return Compiled(
        text,
        column,
        Role.NUMBER,
        (Factor(name, column),),
        (_image_bound(_MATH[name], column, codebook),),
    )


def _function(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id in ("np", "numpy") and node.attr in _MATH else None
    return None


def _category(text: str, node: ast.Call, column: str, codebook: Codebook) -> Compiled:
    levels = codebook.level_names(column)
    if not levels:
        raise InputError(
            f"{text}: {column} has no levels in the codebook",
            code="UNKNOWN_LEVEL",
            rule="levels come from the codebook, never from data",
            next="give the column levels, or use it as a number",
        )
    allowed = ("contr", "contrasts", "reference")
    if unknown := [k.arg for k in node.keywords if k.arg not in allowed]:
        raise _bad(text, f"{unknown[0]} is no option; options: {', '.join(allowed)}")
    reference = 0
    choice = (
        node.args[1]
        if len(node.args) > 1
        else next((k.value for k in node.keywords if k.arg in allowed), None)
    )
    if choice is not None:
        code = _reference(text, choice)
        if code not in levels:
            raise InputError(
                f"{text}: {code} is no level of {column}",
                code="UNKNOWN_LEVEL",
                rule=f"levels: {', '.join(levels)}",
                next="use one of them",
            )
        reference = levels.index(code)
    return Compiled(text, column, Role.CATEGORY, levels=levels, reference=reference)


def _alone(text: str, role: Role, column: str, codebook: Codebook) -> Compiled:
    if role is Role.STRATA and not codebook.level_names(column):
        raise _bad(text, f"{column} has no levels in the codebook")
    if role is not Role.STRATA and codebook.spec(column).type == "category":
        raise _bad(text, f"{column} is a category")
    return Compiled(text, column, role)


def _reference(text: str, node: ast.expr) -> str:
    if isinstance(node, ast.Call) and _last_name(node.func) in ("Treatment", "treatment"):
        given = [*node.args, *(k.value for k in node.keywords if k.arg in ("reference", "base"))]
        node = given[0] if given else node
    if isinstance(node, ast.Constant):
        return str(node.value)
    raise _bad(text, "the reference level is given as Treatment(level)")


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _arithmetic(text: str, node: ast.expr, codebook: Codebook) -> Compiled:
    """I(x ** 2), I(x / 10), I(x - 50), I((x - 50) / 10)."""
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and isinstance(node.left, ast.Name)
    ):
        power, column = _constant(text, node.right), node.left.id
        return _number(text, Factor("power", column, (power,)), lambda x: x**power, codebook)
    column, slope, shift = _affine(text, node)
    return _number(
        text, Factor("affine", column, (slope, shift)), lambda x: slope * x + shift, codebook
    )


def _number(
    text: str, factor: Factor, function: Callable[[float], float], codebook: Codebook
) -> Compiled:
    if codebook.spec(factor.column).type == "category":
        raise _bad(text, f"{factor.column} is a category")
    return Compiled(
        text,
        factor.column,
        Role.NUMBER,
        (factor,),
        (_image_bound(function, factor.column, codebook),),
    )


def _affine(text: str, node: ast.expr) -> tuple[str, float, float]:
    """(column, a, b) of a * column + b."""
    if isinstance(node, ast.Name):
        return node.id, 1.0, 0.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        column, a, b = _affine(text, node.operand)
        return column, -a, -b
    if isinstance(node, ast.BinOp):
        swap = isinstance(node.left, (ast.Constant, ast.UnaryOp)) and not isinstance(
            node.op, ast.Div
        )
        inner, outer = (node.right, node.left) if swap else (node.left, node.right)
        column, a, b = _affine(text, inner)
        c = _constant(text, outer)
        if isinstance(node.op, ast.Add):
            return column, a, b + c
        if isinstance(node.op, ast.Sub):
            return (column, -a, c - b) if swap else (column, a, b - c)
        if isinstance(node.op, ast.Mult):
            return column, a * c, b * c
        if isinstance(node.op, ast.Div) and c != 0:
            return column, a / c, b / c
    raise _bad(text, "I( ) holds a column with + - * / or ** and numbers")


def _constant(text: str, node: ast.expr) -> float:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_constant(text, node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        if abs(node.value) <= 1e15:
            return float(node.value)
        raise _bad(text, "a number is at most 1e15")
    raise _bad(text, "a number is needed")


def _spline(text: str, name: str, node: ast.Call, column: str, codebook: Codebook) -> Compiled:
    options = {k.arg: k.value for k in node.keywords}
    if unknown := set(options) - {"knots", "df", "degree", "lower", "upper"}:
        raise _bad(
            text,
            f"{sorted(map(str, unknown))[0]} is no option; options: knots, df, "
            "degree, lower, upper",
        )
    degree = int(_constant(text, options["degree"])) if "degree" in options else 3
    if not 1 <= degree <= 5:
        raise _bad(text, "degree is 1 to 5")
    lower, upper = _ends(text, options, column, codebook)
    inner = _knots(text, name, options, degree, lower, upper)
    if not all(lower < knot < upper for knot in inner):
        raise _bad(text, f"knots lie between {lower:g} and {upper:g}, the ends")
    knots = (lower, *inner, upper)
    if name == "bs":
        count = len(inner) + degree
        factors = tuple(
            Factor("bspline", column, (float(i + 1), float(degree), *knots)) for i in range(count)
        )
    else:
        factors = tuple(
            Factor("natural", column, (float(i), *knots)) for i in range(len(knots) - 1)
        )
    reach = 1.0 if name == "bs" else 8.0
    return Compiled(text, column, Role.NUMBER, factors, (reach,) * len(factors))


def _ends(
    text: str, options: dict[str | None, ast.expr], column: str, codebook: Codebook
) -> tuple[float, float]:
    spec = codebook.spec(column)
    ends = spec.usual or spec.range
    given = [_constant(text, options[k]) if k in options else None for k in ("lower", "upper")]
    if ends is None and None in given:
        raise InputError(
            f"{text}: {column} has no range in the codebook",
            code="KNOTS_NEEDED",
            rule="knots are agreed, never found from data",
            next="give lower= and upper=, or a range in the codebook",
        )
    low, high = (g if g is not None else e for g, e in zip(given, ends or (0, 0), strict=True))
    return float(low), float(high)


def _knots(
    text: str,
    name: str,
    options: dict[str | None, ast.expr],
    degree: int,
    lower: float,
    upper: float,
) -> Sequence[float]:
    if "knots" in options:
        listed = options["knots"]
        if not isinstance(listed, (ast.List, ast.Tuple)):
            raise _bad(text, "knots is a list of numbers")
        return sorted(_constant(text, item) for item in listed.elts)
    if "df" not in options:
        raise InputError(
            f"{text}: knots or df is needed",
            code="KNOTS_NEEDED",
            rule="knots are agreed, never found from data",
            next="give knots=[...], or df= for equal spacing over the range",
        )
    df = int(_constant(text, options["df"]))
    inner = df - degree if name == "bs" else df - 1
    if not 0 <= inner <= MOST_KNOTS:
        least = degree if name == "bs" else 1
        raise _bad(text, f"df is {least} to {least + MOST_KNOTS}")
    step = (upper - lower) / (inner + 1)
    return [lower + step * (i + 1) for i in range(inner)]


def _image_bound(function: Callable[[float], float], column: str, codebook: Codebook) -> float:
    """Largest magnitude of a monotone (or even) function over the column's range."""
    spec = codebook.spec(column)
    ends = spec.range or (-codebook.bound(column), codebook.bound(column))
    reached = []
    for end in ends:
        try:
            reached.append(abs(function(end)))
        except (ValueError, OverflowError, ZeroDivisionError):
            reached.append(UNBOUNDED)
    return max(reached) or 1.0


def _bad(text: str, why: str) -> InputError:
    return InputError(
        f"{text}: {why}",
        code="BAD_FORMULA",
        rule=f"functions: {ALLOWED}",
        next="correct the formula",
    )
