"""A model matrix as data: which terms, from which columns, with which agreed constants.

The coordinator compiles a formula into a `Design`; a site builds the matrix from it. Only data
travels, so nothing in a design can run code at a site, and every level, knot and fill value is an
agreed constant rather than something learnt from a hospital's rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.core.spline import bspline_basis, natural_basis

Floats = NDArray[np.float64]

_FUNCTIONS = {"log": np.log, "log1p": np.log1p, "exp": np.exp, "sqrt": np.sqrt, "abs": np.abs}
OWN = "("  # how names begin of sums that belong to no term
KINDS = ("value", "level", "missing", "power", "affine", "bspline", "natural", "site", *_FUNCTIONS)


@dataclass(frozen=True)
class Factor:
    """One column, transformed. `kind` is one of KINDS.

    value    the number itself
    level    1 where the category column holds level number ``args[0]`` (0-based codebook order)
    missing  1 where the value is missing
    power    value ** args[0]
    affine   args[0] * value + args[1]
    log, log1p, exp, sqrt, abs
    bspline  basis function number args[0] of degree args[1], knots args[2:], boundaries first and
             last
    natural  natural cubic basis function number args[0], knots args[1:] likewise
    site     1 at the site that `column` names
    """

    kind: str
    column: str
    args: tuple[float, ...] = ()

    def evaluate(self, columns: Mapping[str, Floats], fills: Mapping[str, float]) -> Floats:
        raw = columns[self.column]
        if self.kind == "missing":
            return np.isnan(raw).astype(np.float64)
        x = raw
        if self.column in fills:
            x = np.where(np.isnan(raw), fills[self.column], raw)
        if self.kind == "value":
            return x
        if self.kind == "level":
            return np.where(np.isnan(x), np.nan, (x == self.args[0]).astype(np.float64))
        if self.kind == "power":
            return np.power(x, self.args[0])
        if self.kind == "affine":
            return self.args[0] * x + self.args[1]
        if self.kind == "bspline":
            return bspline_basis(x, int(self.args[0]), int(self.args[1]), self.args[2:])
        if self.kind == "natural":
            return natural_basis(x, int(self.args[0]), self.args[1:])
        function = _FUNCTIONS.get(self.kind)
        if function is None:
            raise InputError(
                f"unknown factor kind {self.kind!r}",
                code="UNKNOWN_FACTOR",
                rule=f"kinds: {', '.join(KINDS)}",
            )
        with np.errstate(all="ignore"):
            return np.asarray(function(x), dtype=np.float64)


@dataclass(frozen=True)
class Term:
    """One column of the model matrix: the product of its factors.

    `name` reads as in statsmodels (``C(cp)[T.4]``, ``age:sex``). `bound` is the largest magnitude
    that the codebook allows; it fixes the fixed-point scale, so it never comes from a site's rows.
    """

    name: str
    factors: tuple[Factor, ...]
    bound: float = 2.0**20


@dataclass(frozen=True)
class Design:
    """The columns of a model matrix, its response, offset and weight.

    Either `terms` over named columns, or, for arrays in one trust domain, the whole matrix in the
    partition column ``"X"`` (then `terms` carry names and bounds only, and no factor).

    response  the outcome column: 0/1, a number, or a category's level index
    fills     value that stands in for a missing one, by column (pooled means, agreed beforehand)
    event     where the response is a duration: the column that says how it ended
    strata    columns whose levels have a baseline each
    media     columns of images or series, which only some models read
    """

    terms: tuple[Term, ...]
    response: str = "y"
    intercept: bool = True
    offset: str | None = None
    weight: str | None = None
    fills: Mapping[str, float] = field(default_factory=dict)
    response_bound: float = 2.0**20
    weight_bound: float = 1.0
    event: str | None = None
    strata: tuple[str, ...] = ()
    media: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(term.name for term in self.terms)

    @property
    def is_array(self) -> bool:
        return all(not term.factors for term in self.terms)

    @property
    def columns(self) -> tuple[str, ...]:
        """The data columns that the design reads, each once, in order of first use."""
        found: dict[str, None] = {}
        for term in self.terms:
            for factor in term.factors:
                if factor.kind != "site":
                    found[factor.column] = None
        extras = (self.offset, self.weight, *self.strata, self.event, self.response)
        for extra in (*self.media, *extras):
            if extra:
                found[extra] = None
        return tuple(found)

    def matrix(self, columns: Mapping[str, Floats], site: str = "") -> Floats:
        """The model matrix without intercept at `site`, (n_rows, n_terms), C order."""
        if self.is_array and "X" in columns:
            return columns["X"]
        n_rows = len(next(iter(columns.values())))
        out = np.empty((n_rows, len(self.terms)))
        for j, term in enumerate(self.terms):
            out[:, j] = 1.0
            for factor in term.factors:
                if factor.kind == "site":
                    out[:, j] *= float(factor.column == site)
                else:
                    out[:, j] *= factor.evaluate(columns, self.fills)
        return out

    @property
    def exponents(self) -> NDArray[np.int64]:
        """Power of two per term that brings its values into [-1, 1]; multiplying by it is exact."""
        return np.array([exponent(term.bound) for term in self.terms], dtype=np.int64)

    def to_data(self) -> dict[str, Any]:
        """Plain data; without an event or media it reads as before there were any."""
        survival = {"event": self.event, "strata": list(self.strata)} if self.event else {}
        media = {"media": list(self.media)} if self.media else {}
        return {
            "terms": [
                {
                    "name": t.name,
                    "bound": float(t.bound),
                    "factors": [
                        {"kind": f.kind, "column": f.column, "args": list(map(float, f.args))}
                        for f in t.factors
                    ],
                }
                for t in self.terms
            ],
            "response": self.response,
            "intercept": self.intercept,
            "offset": self.offset,
            "weight": self.weight,
            "fills": {k: float(v) for k, v in self.fills.items()},
            "response_bound": float(self.response_bound),
            "weight_bound": float(self.weight_bound),
            **survival,
            **media,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Design:
        """Raises InputError (BAD_MESSAGE) where a term's name could stand for another sum."""
        names = [str(t["name"]) for t in data["terms"]]
        if len(set(names)) < len(names) or any(name.startswith(OWN) for name in names):
            raise InputError(
                "two terms have one name, or a name that is not theirs",
                code="BAD_MESSAGE",
                rule=f"every term has a name of its own, which does not begin with {OWN!r}",
                next="rename the term",
            )
        return Design(
            terms=tuple(
                Term(
                    t["name"],
                    tuple(Factor(f["kind"], f["column"], tuple(f["args"])) for f in t["factors"]),
                    t["bound"],
                )
                for t in data["terms"]
            ),
            response=data["response"],
            intercept=data["intercept"],
            offset=data["offset"],
            weight=data["weight"],
            fills=dict(data["fills"]),
            response_bound=data["response_bound"],
            weight_bound=data["weight_bound"],
            event=data.get("event"),
            strata=tuple(data.get("strata", ())),
            media=tuple(data.get("media", ())),
        )


def exponent(bound: float) -> int:
    """The smallest e with bound <= 2**e; 0 for a bound that is not positive and finite."""
    if not (bound > 0 and math.isfinite(bound)):
        return 0
    mantissa, e = math.frexp(bound)
    return e - 1 if mantissa == 0.5 else e
