"""An effect in words and pictures: what to be wary of, and the blocks of its report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from polyclinic.models.effects import result as _result
from polyclinic.models.effects.overlap import BINS

if TYPE_CHECKING:
    from polyclinic.models.effects.result import Effect

MUCH_OUTSIDE = 0.02  # share of the rows with an extreme propensity
ALONE = 0.02  # share of the rows with a propensity that the other arm has not
FEW_EFFECTIVE, SMALL_PART = 50.0, 0.4  # effective rows of an arm, and as a part of its rows
UNBALANCED = 0.1  # standardised difference
METHODS = {
    "aipw": "doubly robust (AIPW)",
    "ipw": "inverse-probability weighting",
    "regression": "regression (g-computation)",
    "unadjusted": "unadjusted",
}
OF = {"ate": "all patients", "att": "the patients who were treated"}
ASSUMES = (
    "What this rests on: these numbers are effects only if nothing that is not among the "
    "covariates influenced both who was treated and the outcome, if every patient could have been "
    "in either arm, and if the models hold (for AIPW one of the two). Sums cannot tell; in a "
    "randomised trial the first two hold by design."
)


def warnings(effect: Effect) -> list[str]:
    """What a reader should know before believing the numbers."""
    return [*_models(effect), *_overlap(effect), *_balance(effect)]


def _models(effect: Effect) -> Iterator[str]:
    """Models that were not found, or not whole."""
    spec = effect.spec
    for name, fit in effect.done.items():
        if not name.startswith(("propensity", "outcome")):
            continue
        what = f"the model of the {'treatment' if name.startswith('propensity') else 'outcome'}"
        part = name.partition(" ")[2]
        what += f" without part {part}" if part else ""
        names = ["Intercept", *(spec.matrix if "prop" in name else spec.outcome().design).names]
        if fit["end"] == "separated" and name.startswith("propensity"):
            yield f"{what}: some covariates decide who is treated; there is no overlap to use"
        elif fit["end"] == "separated":
            yield f"{what}: some covariates decide the outcome in an arm; its errors are not valid"
        elif fit["end"] != "converged":
            yield f"{what} has not converged ({fit['end']})"
        if fit["dropped"]:
            dropped = ", ".join(names[j] for j in fit["dropped"])
            yield f"{what}: {dropped} left out, the data cannot tell it from the others"


def _overlap(effect: Effect) -> Iterator[str]:
    if effect.outside > MUCH_OUTSIDE:
        yield (
            f"overlap is poor: {effect.outside:.0%} of the rows have a propensity below 0.05 or "
            "above 0.95; what is said about such patients rests on the models, not on data"
        )
    if effect.alone > ALONE:
        yield (f"{effect.alone:.1%} of the rows have a propensity that nobody in the other arm has")
    effective = effect.effective
    if effective is None:
        return
    for arm, name in enumerate(("untreated", "treated")):
        n = int(effect.sizes[arm])
        if effective[arm] < FEW_EFFECTIVE or effective[arm] < SMALL_PART * n:
            yield f"{name}: the weights leave an effective size of {effective[arm]:.0f} of {n} rows"


def _balance(effect: Effect) -> Iterator[str]:
    weighted = effect.effective is not None
    far = [
        row["column"] for row in effect.balance if weighted and abs(row["smd_after"]) > UNBALANCED
    ]
    if far:
        yield f"not balanced by the weights (difference above 0.1): {', '.join(far)}"
    sums, e, counts = effect.done["overlap"], effect.spec.matrix.exponents, effect.sizes
    x, xx = np.ldexp(sums["x"][:2], e), np.ldexp(sums["xx"][:2], 2 * e)
    for j, name in enumerate(effect.spec.matrix.names):
        share = x[:, j] / np.maximum(counts, 1)
        if not np.array_equal(x[:, j], xx[:, j]) or share[0] == share[1]:
            continue
        for arm, words in enumerate(("untreated", "treated")):
            if share[arm] in (0.0, 1.0):
                yield f"{name} is {share[arm]:.0f} in all who are {words}, not in the others"


def blocks(effect: Effect) -> list[dict[str, Any]]:
    """For the report, as plain data."""
    found = [_effects(effect), _forest(effect), _scores(effect), _table(effect), _sizes(effect)]
    if effect.modified is not None:
        found += [_modifiers(effect), _modified_forest(effect)]
    text = {"kind": "text", "text": ASSUMES}
    return [block for block in (*found, text) if block]


def _effects(effect: Effect) -> dict[str, Any]:
    mean, spec = effect.mean(), effect.spec
    errors = np.sqrt(np.diag(effect.covariance()))
    rows: list[list[Any]] = [
        [
            f"mean if {who} were treated",
            value,
            se,
            value - 1.959964 * se,
            value + 1.959964 * se,
            None,
        ]
        for who, value, se in zip(("none", "all"), mean.tolist(), errors.tolist(), strict=True)
    ]
    rows += [[c.name, c.estimate, c.se, c.lower, c.upper, c.p] for c in effect.contrasts()]
    needed = effect.needed_to_treat()
    if needed is not None:
        word = "fewer" if effect.contrasts()[0].estimate < 0 else "more"
        rows.append([f"number to treat for one event {word}", needed[0], None, *needed[1:], None])
    note = (
        f"{METHODS[spec.method]}; of {OF[spec.estimand]}; errors of ratios are of their logarithms"
    )
    return {
        "title": "Treatment effect",
        "kind": "table",
        "head": ["", "estimate", "se", "lower", "upper", "p"],
        "rows": rows,
        "note": note,
    }


def _forest(effect: Effect) -> dict[str, Any]:
    lines = []
    for method in (*effect.spec.methods, _result.CRUDE):
        one = effect.contrasts(method)[0]
        bounds = {"estimate": one.estimate, "lower": one.lower, "upper": one.upper}
        lines.append({"name": METHODS[method], **bounds})
    return {
        "title": f"{effect.contrasts()[0].name.capitalize()} by method",
        "kind": "forest",
        "lines": lines,
        "ratio": False,
    }


def _scores(effect: Effect) -> dict[str, Any]:
    counts, hidden = effect.scores
    middle = ((np.arange(BINS) + 0.5) / BINS).tolist()
    share = counts / np.maximum(effect.sizes[:, None], 1)
    curves = [
        {"name": name, "x": middle, "y": share[arm].tolist()}
        for arm, name in enumerate(("untreated", "treated"))
    ]
    note = "parts with too few patients at a hospital count as 0 there" if hidden.any() else ""
    return {
        "title": "Overlap: propensity by arm",
        "kind": "curves",
        "x_label": "probability of treatment, given the covariates",
        "y_label": "share of the arm",
        "curves": curves,
        "note": note,
    }


def _table(effect: Effect) -> dict[str, Any]:
    rows = [
        [r["column"], r["untreated"], r["treated"], r["smd_before"]]
        + ([] if effect.effective is None else [r["smd_after"]])
        for r in effect.balance
    ]
    head = ["", "untreated", "treated", "difference before"]
    head += [] if effect.effective is None else ["difference after"]
    return {
        "title": "Balance of the covariates",
        "kind": "table",
        "head": head,
        "rows": rows,
        "note": "means per arm; differences are standardised by the spread before weighting",
    }


def _sizes(effect: Effect) -> dict[str, Any]:
    effective = effect.effective
    rows: list[list[Any]] = []
    for arm, name in enumerate(("untreated", "treated")):
        size = None if effective is None else float(effective[arm])
        rows.append([name, int(effect.sizes[arm]), size])
    return {
        "title": "Size of the arms",
        "kind": "table",
        "head": ["", "rows", "effective rows"],
        "rows": rows,
        "note": f"{effect.outside:.1%} of the rows are known to have a propensity outside "
        "0.05 to 0.95",
    }


def _modifiers(effect: Effect) -> dict[str, Any]:
    found = effect.modified
    if found is None:
        return {}
    chi, df, p = found.test()
    rows = _result.modifiers(found)
    head = ["term", "coef", "se", "z", "p", "lower", "upper"]
    return {
        "title": "What changes the effect",
        "kind": "table",
        "head": head,
        "rows": [[row[name] for name in head] for row in rows],
        "note": f"R-learner with linear effect; Wald test of any change: chi-square {chi:.2f} on "
        f"{df} degrees of freedom, p = {p:.3g}",
    }


def _modified_forest(effect: Effect) -> dict[str, Any]:
    found = effect.modified
    if found is None:
        return {}
    lines = [
        {"name": row["term"], **{k: row[k] for k in ("lower", "upper")}, "estimate": row["coef"]}
        for row in _result.modifiers(found)
        if row["term"] != "Intercept" and np.isfinite(row["se"])
    ]
    return {
        "title": "Change of the effect per unit of a column",
        "kind": "forest",
        "lines": lines,
        "ratio": False,
    }
