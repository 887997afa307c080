"""The coordinator's arithmetic: from sums to effects with errors that count the models' own.

With phi = U - mu V summed to zero, H its derivative in a model's coefficients, I that model's
information and s a patient's score in it, the influence of a patient on mu is
(phi + s'I^-1 H) / sum V: stacked estimating equations, solved block by block.
Reference: Stefanski & Boos, The American Statistician 56 (2002).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.distributions import chi2_tail, normal_quantile, normal_tail
from polyclinic.models.effects.modify import linear_model
from polyclinic.models.effects.spec import Spec
from polyclinic.models.glm.inference import GLMFit
from polyclinic.models.glm.rank import independent_columns
from polyclinic.models.glm.scale import unpack

Floats = NDArray[np.float64]
Fit = Mapping[str, Any]  # what is kept of a model: coef, inverse, end, n, patients


@dataclass(frozen=True)
class Contrast:
    """A number with its error; `estimate`, `lower` and `upper` of a ratio are no logarithms."""

    name: str
    estimate: float
    se: float
    lower: float
    upper: float
    p: float


def kept(fit: GLMFit) -> dict[str, Any]:
    """What later steps need of a model: raw coefficients and the inverse of its information."""
    spec, transform = fit.scale.spec, fit.scale.transform()
    inverse = transform @ fit.inverse @ transform.T
    return {
        "coef": fit.coef[0],
        "inverse": np.ldexp(inverse, -2 * spec.response_exponent),
        "end": fit.end,
        "dropped": [int(j) for j in np.flatnonzero(~fit.active)],
        "rounds": int(fit.rounds),
        "n": int(fit.scale.moments.n),
        "patients": int(fit.scale.moments.patients),
    }


def wire(spec: Spec) -> NDArray[np.int64]:
    """Powers of two of the covariates with the intercept, (p + 1,)."""
    return np.concatenate([np.zeros(1, dtype=np.int64), spec.matrix.exponents])


def propensity(spec: Spec, fits: list[Fit]) -> Floats:
    """Coefficients of the propensity models in the sites' units, (folds, p + 1)."""
    return np.asarray(np.ldexp(np.array([fit["coef"] for fit in fits]), wire(spec)))


def outcome(spec: Spec, fits: list[Fit]) -> Floats:
    """Coefficients of the outcome models by arm in the sites' units, (folds, 2, p + 1)."""
    both = np.array([_by_arm(fit["coef"], len(spec.covariates) + 1) for fit in fits])
    return np.asarray(np.ldexp(both, wire(spec) - spec.outcome().response_exponent))


def _by_arm(coef: Floats, size: int) -> Floats:
    """Intercept and covariates, then the treatment and its products: what it adds to them."""
    return np.stack([coef[:size], coef[:size] + coef[size:]])


def _inverse_by_arm(inverse: Floats, size: int) -> Floats:
    """Inverse of each arm's own information, (2, p + 1, p + 1)."""
    adds = np.hstack([np.eye(size), np.eye(size)])
    return np.stack([inverse[:size, :size], adds @ inverse @ adds.T])


def mean_of(sums: Mapping[str, Any]) -> Floats:
    """Means under the two arms, the outcome in the sites' units."""
    found: Floats = np.asarray(sums["u"] / sums["v"])
    return found


def levers(
    spec: Spec, sums: Mapping[str, Any], treated: Fit, explained: Fit | None
) -> dict[str, Any]:
    """The state of the influence round: what a score in each model does to the means."""
    mean, e = mean_of(sums), wire(spec)
    size = len(e)
    change = sums["u_propensity"] - mean[:, None] * sums["v_propensity"]
    by_propensity = np.ldexp(np.ldexp(change, e) @ treated["inverse"], e)
    by_outcome = np.zeros((0, size))
    if explained is not None:
        inverse = _inverse_by_arm(explained["inverse"], size)
        pulled = np.ldexp(sums["u_outcome"], e)
        by_outcome = np.ldexp(np.einsum("ai,aij->aj", pulled, inverse), e)
    return {"mean": mean, "by_propensity": by_propensity, "by_outcome": by_outcome}


def covariance_of(sums: Mapping[str, Any], products: Floats) -> Floats:
    """Covariance of the two means, (2, 2), the outcome in the sites' units."""
    v = np.asarray(sums["v"])
    return np.asarray(unpack(products, 2) / np.outer(v, v))


def of_one(sums: Mapping[str, Any], products: Floats) -> tuple[Floats, Floats]:
    """Means of one hospital and their covariance, given the models; NaN for an arm without rows."""
    v = np.asarray(sums["v"])
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.asarray(sums["u"]) / v
        take = np.hstack([np.eye(2), -np.diag(mean)])
        return mean, np.asarray(take @ unpack(products, 4) @ take.T / np.outer(v, v))


def contrasts(mean: Floats, covariance: Floats, binary: bool, level: float) -> list[Contrast]:
    """The difference of two means, and of 0/1 outcomes the risk and odds ratio (delta method)."""
    difference = "risk difference" if binary else "difference"
    found = [_contrast(difference, mean[1] - mean[0], [-1.0, 1.0], covariance, level)]
    if binary and np.all((mean > 0) & (mean < 1)):
        log, odds = np.log(mean), np.log(mean / (1 - mean))
        for name, value, slope in (
            ("risk ratio", log, 1 / mean),
            ("odds ratio", odds, 1 / (mean * (1 - mean))),
        ):
            gradient = [-slope[0], slope[1]]
            one = _contrast(name, value[1] - value[0], gradient, covariance, level)
            middle, lower, upper = np.exp([one.estimate, one.lower, one.upper]).tolist()
            found.append(Contrast(name, middle, one.se, lower, upper, one.p))
    return found


def _contrast(
    name: str, value: float, gradient: list[Any], covariance: Floats, level: float
) -> Contrast:
    g = np.asarray(gradient, dtype=np.float64)
    se = float(np.sqrt(max(float(g @ covariance @ g), 0.0)))
    half = float(normal_quantile(0.5 + level / 2)) * se
    p = float(2 * normal_tail(abs(value) / se)) if se > 0 else float("nan")
    return Contrast(name, float(value), se, float(value) - half, float(value) + half, p)


def balance(spec: Spec, sums: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Means per arm and standardised differences, before and after weighting.

    Both are in units of the spread before weighting, pooled over the arms.
    """
    weight = np.asarray(sums["weight"])
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums["x"] / weight[:, None]
        variance = np.maximum(sums["xx"][:2] / weight[:2, None] - mean[:2] ** 2, 0.0)
        sd = np.sqrt(variance.mean(axis=0))
        smd = np.stack([mean[1] - mean[0], mean[3] - mean[2]]) / np.where(sd > 0, sd, np.nan)
    raw = np.ldexp(mean, spec.matrix.exponents)
    return [
        {
            "column": name,
            "untreated": float(raw[0, j]),
            "treated": float(raw[1, j]),
            "smd_before": float(smd[0, j]),
            "smd_after": float(smd[1, j]),
        }
        for j, name in enumerate(spec.matrix.names)
    ]


def effective(sums: Mapping[str, Any]) -> Floats:
    """Effective numbers of rows behind the weights of the arms, (2,)."""
    weight, square = np.asarray(sums["weight"])[2:], np.asarray(sums["square"])[2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(weight**2 / square)


def crude(spec: Spec, sums: Mapping[str, Any], level: float) -> list[Contrast]:
    """The arms as they are, without any adjustment."""
    n = np.asarray(sums["weight"])[:2]
    mean = sums["y"][:2] / n
    variance = np.maximum(sums["yy"][:2] / n - mean**2, 0.0) / np.maximum(n - 1, 1)
    unit = spec.outcome().response_exponent
    covariance = np.diag(np.ldexp(variance, 2 * unit))
    return contrasts(np.ldexp(mean, unit), covariance, spec.binary, level)


@dataclass(frozen=True)
class Modified:
    """How columns change the effect: tau(z) = z'coef, `names` with the intercept first."""

    names: tuple[str, ...]
    coef: Floats
    covariance: Floats

    def test(self) -> tuple[float, int, float]:
        """Wald's chi-square that nothing changes the effect, degrees of freedom, p."""
        known = np.flatnonzero(~np.isnan(np.diag(self.covariance)))
        known = known[known > 0]
        if not len(known):
            return float("nan"), 0, float("nan")
        beta, part = self.coef[known], self.covariance[np.ix_(known, known)]
        chi = float(beta @ np.linalg.pinv(part, hermitian=True) @ beta)
        return chi, len(known), float(chi2_tail(chi, len(known)))


def solve(spec: Spec, sums: Mapping[str, Any]) -> Floats:
    """Coefficients of the modified effect in the sites' units, (k,)."""
    hessian, keep = _information(spec, sums)
    found = np.zeros(len(hessian))
    part = hessian[np.ix_(keep, keep)]
    found[keep] = -np.linalg.solve(part, np.asarray(sums["gradient"])[keep])
    return found


def _information(spec: Spec, sums: Mapping[str, Any]) -> tuple[Floats, NDArray[np.bool_]]:
    hessian = unpack(sums["hessian"], len(spec.modifying) + 1)
    return hessian, independent_columns(hessian)


def modified(spec: Spec, sums: Mapping[str, Any], meat: Floats, solved: Floats) -> Modified:
    """The modified effect in raw units, with errors that need no equal variances."""
    glm = linear_model(spec)
    hessian, keep = _information(spec, sums)
    inverse, at = np.zeros_like(hessian), np.ix_(keep, keep)
    inverse[at] = np.linalg.inv(hessian[at])
    covariance = inverse @ unpack(meat, len(hessian)) @ inverse
    e = glm.response_exponent - np.concatenate([[0], glm.design.exponents])
    covariance = np.where(np.outer(keep, keep), np.ldexp(covariance, e[:, None] + e), np.nan)
    return Modified(("Intercept", *glm.design.names), np.ldexp(solved, e), covariance)
