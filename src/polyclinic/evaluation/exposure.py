"""How the patients of a site share in the measures of a predictor: what the gate judges.

A predictor is anybody's: one that is steep gives all patients but one the risk 0 or 1, one with a
rare term all but one the same risk, and the sum of the risks is then that one's. So, as in a fit,
the weight p (1 - p) of a patient is looked at, its part in every term under these weights and in
the sums that leave, and how far its risk lies from the usual one. Each predictor of a
cross-validation is looked at on all rows, so that none of them covers what another does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.evaluation.rows import Scored, chosen, observed, predictions, predictors_of, scored
from polyclinic.models.glm.pairs import pair_counts, pair_slots
from polyclinic.models.glm.support import (
    Data,
    few_values,
    filled_counts,
    filled_slots,
    product_counts,
)
from polyclinic.models.learner import kind_of
from polyclinic.models.predictor import Predictor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
STEPS = ("trees",)  # kinds of predictors that are no sum over terms
FLOOR = 1e-15  # of a probability inside a logarithm
SEEN = 0.01  # part of the largest weight from which on a patient counts among those in a sum
SUMS = {
    "binary": ("(weight)", "(difference)", "(predicted)", "(Brier score)", "(log loss)"),
    "classes": ("(weight)", "(difference)", "(log loss)"),
    "survival": ("(weight)", "(difference)"),
    "number": ("(weight)", "(difference)", "(predicted)", "(squared error)", "(squared outcome)"),
}


@dataclass(frozen=True)
class Part:
    """A design that is judged: its own terms, then every factor of a product; no name twice.

    number  of its predictor
    """

    design: Design
    wide: Design
    number: int = 0

    @property
    def mark(self) -> str:
        """Behind the names of its sums."""
        return f" [{self.number}]" if self.number else ""

    @property
    def names(self) -> tuple[str, ...]:
        return self.wide.names


def parts_of(plan: Plan) -> list[Part]:
    """One per predictor that the plan reads, made once."""
    return plan.once("parts", lambda: [*_parts(plan)])


def _parts(plan: Plan) -> Iterator[Part]:
    taken: set[str] = set()
    for k, (design, by_terms) in enumerate(_judged(plan)):
        if not by_terms:
            yield Part(design, replace(design, terms=()), k)
            continue
        terms = []
        for term in _terms(design):
            name = f"{term.name} [{k}]" if k else term.name
            while name in taken:
                name += "'"
            taken.add(name)
            terms.append(replace(term, name=name))
        yield Part(design, replace(design, terms=tuple(terms)), k)


def _judged(plan: Plan) -> list[tuple[Design, bool]]:
    """The designs, and whether their terms are judged: steps of trees are of no single term, and
    what they predict is averaged over groups of patients."""
    if "spec" not in plan.values:
        return [(one.design, of_terms(one)) for one in predictors_of(plan)]
    spec = plan.values["spec"]
    kind = kind_of(spec["learner"]) if "learner" in spec else None
    by_terms = kind is None or (kind.predicts_as or kind.name) not in STEPS
    return [(Design.from_data(spec["design"]), by_terms)]


def of_terms(predictor: Predictor) -> bool:
    """Whether a predictor is a sum over terms."""
    return bool(getattr(predictor, "by_terms", True))


def _terms(design: Design) -> Iterator[Term]:
    yield from design.terms
    if design.terms and design.is_array:
        return
    for term in design.terms:
        for factor in term.factors if len(term.factors) > 1 else ():
            if factor.kind != "site":
                yield Term(f"{factor.kind} {factor.column} {factor.args}", (factor,), term.bound)
    if design.offset:
        yield Term("offset", (Factor("value", design.offset),))


def whole_rows(plan: Plan) -> bool:
    """Whether a plan is judged as one: a subgroup of a sum is hidden like a cell instead."""
    return plan.values.get("where") is None or plan.combine == "collect"


def slots(plan: Plan) -> tuple[str, ...]:
    """Values of the predictors' terms, levels without a term, outcomes and folds."""
    names = [f"{name} = {v}" for part in parts_of(plan) for name in part.names for v in (0, 1)]
    names += [f"{name}: other levels" for name in _groups(plan)]
    names += [f"outcome = {k}" for k in range(_classes(plan))]
    names += [f"fold {i}" for i in range(plan.values["folds"])]
    for design in _designs(plan):
        names += [*filled_slots(design), *pair_slots(design, _classes(plan))]
    return tuple(dict.fromkeys(names))


def candidates(plan: Plan) -> tuple[tuple[str, ...], int]:
    """Names of the sums, and one candidate."""
    if not whole_rows(plan):
        return (), 0
    names = [] if "spec" in plan.values else _of_all(plan)
    for part in parts_of(plan):
        if "spec" not in plan.values:
            names += [f"{name}{part.mark}" for name in SUMS[plan.values["outcome"]]]
        names += part.names
    return tuple(names), 1


def _of_all(plan: Plan) -> list[str]:
    folds = plan.values["folds"] if plan.values["folds"] > 1 else 0
    names = [f"{name} over the folds" for name in SUMS[plan.values["outcome"]] if folds]
    return names + [f"(weight) in fold {i}" for i in range(folds)]


def exposure(plan: Plan, partition: Partition, alone: bool) -> Exposure:
    """Of the rows that are scored, or on which a site's own model is fitted."""
    mask = chosen(plan, partition)
    looked_at = mask if whole_rows(plan) else np.ones_like(mask)
    named, values, leverage = _levels(plan, partition, looked_at)
    members = Members(_columns(plan), np.unique(partition.persons[mask]))
    found = Exposure(
        slots=named,
        values=values,
        leverage=leverage,
        alone=alone or plan.combine == "collect" or _names_a_site(plan, partition.site),
        members=(members,),
        updates=own_numbers(plan),
    )
    if not whole_rows(plan):
        return found
    weight = np.ones(int(mask.sum()))
    if "spec" not in plan.values:
        weight = _sums(plan, scored(plan, partition))["(weight)"]
    shares = shares_of(plan, partition, mask)
    key = None if partition.key is None else partition.key[mask]
    return replace(found, columns=shares, weights=Shares.of(weight, key))


def own_numbers(plan: Plan) -> int:
    """Numbers that the site has for itself in the predictors; its measures could tell them."""
    if "spec" in plan.values:
        return 0
    return max(getattr(one, "own_numbers", 0) for one in predictors_of(plan))


def shares_of(plan: Plan, partition: Partition, mask: Bools) -> dict[str, Shares]:
    """Shares of the patients of `mask` in every sum, as `candidates` names them."""
    key = None if partition.key is None else partition.key[mask]
    found: dict[str, Shares] = {}
    if "spec" not in plan.values and plan.values["folds"] > 1:
        found |= _over_the_folds(plan, partition, mask)
    own = np.ones(int(mask.sum()))
    for part, x in _matrices(plan, partition, mask):
        weight = own
        if "spec" not in plan.values:
            rows = _rows_under(plan, partition, part, mask)
            for name, parts in _sums(plan, rows).items():
                found[f"{name}{part.mark}"] = Shares.of(parts, key)
                weight = parts if name == "(weight)" else weight
        for j, name in enumerate(part.names):
            e = part.wide.exponents[j]
            found[name] = Shares.of(np.ldexp(np.abs(x[:, j]), -e) * weight, key)
    return found


def carried(plan: Plan, rows: Scored) -> int:
    """Patients with a part in the sums that can be seen."""
    if not len(rows.keys):
        return 0
    weight = _sums(plan, rows)["(weight)"]
    return len(np.unique(rows.keys[weight >= SEEN * weight.max()]))


def worst(shares: dict[str, Shares]) -> Shares:
    """The one in which two patients have the largest part."""

    def part(one: Shares) -> float:
        if one.first == 0:
            return 0.0
        return float((one.first + one.second) / one.total) if np.isfinite(one.total) else np.inf

    return max(shares.values(), key=part)


def _over_the_folds(plan: Plan, partition: Partition, mask: Bools) -> dict[str, Shares]:
    rows = scored(plan, partition)
    key = None if partition.key is None else partition.key[mask]
    sums, fold = _sums(plan, rows), rows.keys % plan.values["folds"]
    found = {f"{name} over the folds": Shares.of(parts, key) for name, parts in sums.items()}
    for i in range(plan.values["folds"]):
        at = fold == i
        inside = None if key is None else key[at]
        found[f"(weight) in fold {i}"] = Shares.of(sums["(weight)"][at], inside)
    return found


def _rows_under(plan: Plan, partition: Partition, part: Part, mask: Bools) -> Scored:
    """All rows of `mask` under one predictor."""
    p, y = predictions(plan, part.number, partition)[mask], observed(plan, partition)[mask]
    return Scored(p, y, partition.keys[mask], 0)


def _matrices(plan: Plan, partition: Partition, mask: Bools) -> Iterator[tuple[Part, Floats]]:
    """Every part with its matrix; the folds of a validation share theirs."""
    built: tuple[Design | None, Floats] = (None, np.zeros((0, 0)))
    for part in parts_of(plan):
        if built[0] != part.design:
            x = part.wide.matrix(partition.columns, partition.site)
            built = part.design, np.nan_to_num(x[mask])  # some models take gaps
        yield part, built[1]


def _sums(plan: Plan, rows: Scored) -> dict[str, Floats]:
    """What every row adds to the sums that leave, in magnitude, by the names of `SUMS`."""
    p, y, kind = rows.predicted, rows.outcome, plan.values["outcome"]
    if not len(y):
        return {name: np.zeros(0) for name in SUMS[kind]}
    found: tuple[Floats, ...]
    with np.errstate(over="ignore", invalid="ignore"):
        away = np.abs(p - np.median(p, axis=0))
        if kind == "binary":
            chance = np.clip(np.where(y == 1, p, 1 - p), FLOOR, 1.0)
            found = (np.abs(p * (1 - p)), away, np.abs(p), (p - y) ** 2, -np.log(chance))
        elif kind == "survival":
            found = (np.ones(len(y)), away)
        elif kind == "classes":
            chance = np.clip(p[np.arange(len(y)), y.astype(np.int64)], FLOOR, 1.0)
            found = ((p * (1 - p)).sum(axis=1), away.sum(axis=1), -np.log(chance))
        else:
            # Squares of what is declared to be large would overflow: only shares are wanted.
            r, f, y = (np.ldexp(v, -plan.values["exponent"]) for v in (y - p, p, y))
            found = (np.ones(len(y)), away, f * f, r * r, y * y)
    return dict(zip(SUMS[kind], found, strict=True))


def losses(plan: Plan, rows: Scored) -> Floats:
    """-log of the probability of what happened, or of numbers the squared error in units of
    4**exponent, (n_rows,)."""
    number = plan.values["outcome"] == "number"
    return _sums(plan, rows)["(squared error)" if number else "(log loss)"]


def _levels(
    plan: Plan, partition: Partition, mask: Bools
) -> tuple[dict[str, int], dict[str, dict[str, int]], float]:
    """Patients per level, outcome and fold; per value of columns that have few; the leverage."""
    key = None if partition.key is None else partition.key[mask]
    values: dict[str, dict[str, int]] = {}
    leverage, design = 0.0, None
    for part, x in _matrices(plan, partition, mask):
        values |= few_values(part.wide, x, key)
        if part.design != design:
            design = part.design
            leverage = max(leverage, _leverage(design, x[:, : len(design.terms)], key))
    named = {}
    for column, levels in _groups(plan).items():
        other = ~np.isin(partition.columns[column], levels) & mask
        named[f"{column}: other levels"] = partition.patients(other)
    outcome = _outcome(plan, partition)
    for k in range(_classes(plan)):
        named[f"outcome = {k}"] = partition.patients((outcome == k) & mask)
    folds = plan.values["folds"]
    for i in range(folds):
        named[f"fold {i}"] = partition.patients((partition.keys % folds == i) & mask)
    for design in _designs(plan):
        inside = {name: partition.columns[name][mask] for name in design.columns}
        data = Data(inside, design.fills, outcome[mask], _classes(plan), key)
        counts = {**filled_counts(design, inside, key), **pair_counts(design, data)}
        for part in parts_of(plan):
            if part.design == design:
                counts |= product_counts(part.wide, data)
        named |= {name: fewer(count, named.get(name, 0)) for name, count in counts.items()}
    return named, values, leverage


def fewer(one: int, two: int) -> int:
    """The smaller number of patients that is not nobody."""
    return min(one or two, two or one)


def _designs(plan: Plan) -> list[Design]:
    """The different designs of the plan whose terms are judged; folds share theirs."""
    found: list[Design] = []
    for part in parts_of(plan):
        judged = part.wide.terms or not part.design.terms
        if judged and part.design not in found:
            found.append(part.design)
    return found


def _leverage(design: Design, x: Floats, key: NDArray[np.int64] | None) -> float:
    """Largest leverage of a patient in the model matrix."""
    if design.intercept:
        x = np.hstack([np.ones((len(x), 1)), x])
    if not x.size or not np.isfinite(x).all():
        return 0.0
    size = np.sqrt(np.einsum("ij,ij->j", x, x))
    x = x / np.where(size > 0, size, 1.0)
    inverse = np.linalg.pinv(x.T @ x, rcond=1e-12, hermitian=True)
    h = np.einsum("ij,ij->i", x @ inverse, x)
    if key is not None:
        h = np.add.reduceat(h, np.flatnonzero(np.diff(key, prepend=key[0] - 1)))
    return float(min(h.max(initial=0.0), 1.0))


def _groups(plan: Plan) -> dict[str, list[float]]:
    """Levels with a term of their own, by column."""
    found: dict[str, list[float]] = {}
    for part in parts_of(plan):
        for term in part.wide.terms:
            if len(term.factors) == 1 and term.factors[0].kind == "level":
                found.setdefault(term.factors[0].column, []).append(term.factors[0].args[0])
    return found


def _classes(plan: Plan) -> int:
    if "spec" in plan.values:
        return int(plan.values["spec"].get("classes", 2))
    kind = plan.values["outcome"]
    return int(plan.values["classes"]) if kind == "classes" else 2 * (kind == "binary")


def _outcome(plan: Plan, partition: Partition) -> Floats:
    if "spec" in plan.values:
        return partition.columns[parts_of(plan)[0].design.response]
    return observed(plan, partition)


def _columns(plan: Plan) -> tuple[str, ...]:
    """The columns that are read."""
    found: dict[str, None] = {}
    for k, part in enumerate(parts_of(plan)):
        weight = part.design.weight if "spec" in plan.values else None
        response = part.design.response if k == 0 else ""
        read = replace(part.design, weight=weight, response=response)
        found |= dict.fromkeys(read.columns)
    where = plan.values.get("where")
    if where is not None:
        found[where["column"]] = None
    return tuple(found) or ("",)


def _names_a_site(plan: Plan, site: str) -> bool:
    return any(
        factor.kind == "site" and factor.column == site
        for part in parts_of(plan)
        for term in part.design.terms
        for factor in term.factors
    )
