"""Generalised linear models under differential privacy: noisy sums, few rounds, honest errors.

Least squares takes one round of noisy products. Logistic and Poisson models take `rounds` noisy
Newton rounds of equal noise. The first round is at a constant mean, so the Newton step from the
model without terms follows from it exactly. The end joins all rounds but the first: each one's
gradient g_t is carried from its point b_t to the common solution b by the trapezoidal rule,

    sum over t of  g_t + (H_t + H) (b - b_t) / 2 = 0,   H = mean of H_t,

so the noise of all of them averages out and no round is spent on the standard errors alone.
A Hessian below its own noise in some direction is lifted to that level; then the end is "noise"
and there are no standard errors. Else the covariance is, by the delta method,

    H^-1 (H + N) H^-1,   N = noise of the gradients + noise of the Hessians times (b - b_t).

It does not count down rows that were shortened, so it is rather too wide than too narrow. All
numbers about the data in the result come from the same noisy sums. What leaves a site:
see `polyclinic.models.glm.private_tasks`.

References: Vu and Slavkovic, "Differential Privacy for Clinical Trial Data", ICDM Workshops 2009;
Avella-Medina, Bradshaw and Loh, "Differentially Private Inference via Noisy Optimization", Annals
of Statistics 51 (2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.models.glm.inference import GLMFit
from polyclinic.models.glm.private_scale import Bounds, PrivateScale, bounds_of
from polyclinic.models.glm.private_solve import Joined, Step, join
from polyclinic.models.glm.private_tasks import (
    POISSON_CURVATURE,
    unpack_norm,
)
from polyclinic.models.glm.spec import Moments, Spec
from polyclinic.models.private import LOGISTIC_CURVATURE, noise_variance
from polyclinic.privacy import accounting, noisy
from polyclinic.privacy.dp import DifferentialPrivacy

Floats = NDArray[np.float64]
FAMILIES = ("gaussian", "binomial", "poisson")
NEWTON_ROUNDS = 5
LONGEST_STEP = 4.0  # of one round, in scaled units: an odds ratio of 55 over half a range
EDGE = 0.02  # a noisy share of events is kept this far from 0 and 1 for the start
FAR = 6.0  # noise levels between the last point and the solution that count as not arrived


@dataclass(frozen=True)
class PrivateGLMFit(GLMFit):
    """A model fitted under differential privacy.

    coef = `scale.transform()` @ theta + `scale.origin()` maps scaled units to raw ones, exactly.
    `scale.moments` holds noisy figures: n and patients are the sum of the rows' weights, rounded.

    algorithm         what was asked of the hospitals
    multiplier        noise multiplier of every round
    noise_covariance  (size, size), raw units: the part of `covariance` that is noise
    """

    algorithm: PrivateGLM
    multiplier: float
    noise_covariance: Floats

    @property
    def privacy(self) -> DifferentialPrivacy:
        """The guarantee of all rounds together."""
        return self.algorithm.privacy


def private_glm(
    spec: Spec,
    privacy: DifferentialPrivacy,
    sites: int,
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    rounds: int | None = None,
) -> PrivateGLM:
    """The algorithm that fits `spec` within `privacy`; its last result is a `PrivateGLMFit`.

    Every fit spends its own budget, those of cross-validation too: give each its part of epsilon.

    Parameters
    ----------
    sites : hospitals that answer.
    ranges : smallest and largest value by column, from the codebook (for arrays: by term); absent:
        minus to plus the bound. Tighter ranges mean less noise.
    rounds : Newton rounds, 2 or more; None: 5. Least squares always takes one.

    Raises
    ------
    InputError : NO_PRIVATE_VERSION; NO_RANGE for a column without a declared range.
    """
    _check(spec)
    if rounds is not None and rounds < 2:
        raise InputError(
            f"rounds = {rounds}",
            code="WRONG_VALUE",
            rule="noisy Newton takes 2 rounds or more",
            next="leave rounds out",
        )
    return PrivateGLM(spec, privacy, sites, bounds_of(spec, ranges or {}), rounds or NEWTON_ROUNDS)


def _check(spec: Spec) -> None:
    design = spec.design
    reasons = {
        f"the {spec.family} family": spec.family not in FAMILIES,
        "more than two classes": spec.family == "binomial" and spec.classes != 2,
        "an L1 penalty": spec.l1 > 0,
        "a sample weight": design.weight is not None,
        "a class weight": spec.class_weight is not None,
        "an offset": design.offset is not None,
        "a mean in place of missing values": bool(design.fills),
        "a model without terms and intercept": not spec.width,
    }
    for what, found in reasons.items():
        if found:
            raise InputError(
                f"{what} has no version under differential privacy",
                code="NO_PRIVATE_VERSION",
                rule="linear, logistic and Poisson models of complete rows, with or without l2",
                next="change the model, or fit it without DifferentialPrivacy",
            )


@dataclass(frozen=True)
class PrivateGLM:
    """See the module; made by `private_glm`."""

    spec: Spec
    privacy: DifferentialPrivacy
    sites: int
    bounds: Bounds
    newton_rounds: int = NEWTON_ROUNDS

    def to_data(self) -> dict[str, Any]:
        """As it is stored beside the specification."""
        return {
            "epsilon": self.privacy.epsilon,
            "delta": self.privacy.delta,
            "sites": self.sites,
            "bounds": self.bounds.to_data(),
            "rounds": self.newton_rounds,
        }

    @staticmethod
    def from_data(spec: Spec, data: Mapping[str, Any]) -> PrivateGLM:
        """What `to_data` gave."""
        privacy = DifferentialPrivacy(data["epsilon"], data["delta"])
        return PrivateGLM(spec, privacy, data["sites"], Bounds(**data["bounds"]), data["rounds"])

    @property
    def rounds(self) -> int:
        """Rounds of the whole fit: each is one Gaussian mechanism of the same multiplier."""
        return 1 if self.spec.family == "gaussian" else self.newton_rounds

    def init(self, seed: int) -> State:
        privacy = self.privacy
        z = accounting.calibrate(privacy.epsilon, privacy.delta, self.rounds)
        return {"multiplier": float(z), "theta": self._start(), "known": {}, "steps": []}

    def plan(self, state: State) -> Plan | None:
        if len(state["steps"]) == self.rounds:
            return None
        values = {
            "design": self.spec.design.to_data(),
            "family": self.spec.family,
            "rows": dict(self.spec.rows),
            **self.bounds.to_data(),
            noisy.KEY: {"multiplier": state["multiplier"]},
        }
        if self.spec.family == "gaussian":
            return Plan("glm.private_products", values, "noisy products")
        return Plan("glm.private_newton", {**values, "theta": state["theta"]}, "noisy Newton round")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        (leaf,) = lookup(plan.task, plan.version).leaves(plan)
        variance = noise_variance(total, leaf, plan)
        if len(total.sites) != self.sites:
            raise PolyclinicError(
                f"{len(total.sites)} hospitals answered, not {self.sites}",
                code="WRONG_ANSWER",
                rule="all hospitals of a fit answer every round",
            )
        if self.spec.family == "gaussian":
            step, known = self._products(total[leaf.name], variance)
        else:
            step, known = self._derivatives(state, total[leaf.name], variance)
        state = {**state, "known": known, "steps": [*state["steps"], step.to_data()]}
        if len(state["steps"]) == self.rounds:
            return state
        ahead = self.joined(state).shortened(LONGEST_STEP)
        return {**state, "theta": np.concatenate([np.zeros(1 - self._lead), ahead])}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> list[PrivateGLMFit]:
        """The fit, in a list as that of the stages of `glm`."""
        return [_result(self, state)]

    def joined(self, state: State) -> Joined:
        """The solution from all rounds but the first, which was far off; from it if it is alone."""
        steps = [Step.from_data(data) for data in state["steps"]]
        return join(steps[1:] or steps, self.scale(_nothing(self.spec)).quadratic)

    def scale(self, moments: Moments) -> PrivateScale:
        """Maps between scaled and raw units."""
        return PrivateScale(self.spec, moments, self.bounds)

    @property
    def _lead(self) -> int:
        return int(self.spec.design.intercept)

    def _start(self) -> Floats:
        """The constant of the first round: the one of all about which least is unknown."""
        theta = np.zeros(len(self.spec.design.terms) + 1)
        if self.spec.family == "poisson" and self._lead:
            theta[0] = math.log(self.bounds.largest / 2.0)
        return theta

    def _products(self, sums: Floats, variance: float) -> tuple[Step, State]:
        """Least squares as a Newton round at 0."""
        d = len(self.spec.design.terms) + 1
        full = unpack_norm(sums, d + 1)
        step = Step(np.zeros(d), -full[:d, d], full[:d, :d], variance / 2.0, variance)
        known: State = {"x": full[0, 1:d], "xx": np.diag(full)[1:d]}
        known |= {"n": full[0, 0], "y": full[0, d], "yy": full[d, d]}
        return step.kept(self._lead), known

    def _derivatives(self, state: State, sums: Floats, variance: float) -> tuple[Step, State]:
        """A round's step; the first one's is moved to the mean of the outcome."""
        logistic, at = self.spec.family == "binomial", state["theta"]
        d, unit = len(at), 1.0 if logistic else self.bounds.largest
        factor = unit * self.bounds.row_norm
        factor /= LOGISTIC_CURVATURE if logistic else 2.0 * POISSON_CURVATURE
        hessian = unpack_norm(sums[d:], d) * factor
        step = Step(at, sums[:d] * unit, hessian, variance * unit**2, variance * factor**2)
        if state["steps"]:
            return step.kept(self._lead), state["known"]
        mean = 0.5 if logistic else math.exp(at[0])
        curvature = mean * (1.0 - mean) if logistic else mean
        n = max(float(hessian[0, 0]) / curvature, 1.0)
        y = mean * n - float(step.gradient[0])
        known: State = {"x": hessian[0, 1:] / curvature, "xx": np.diag(hessian)[1:] / curvature}
        known |= {"n": n, "y": y, "yy": y}
        if not self._lead:
            return step.kept(0), known
        edge = EDGE if logistic else EDGE * mean
        wanted = min(max(y / n, edge), 1.0 - edge if logistic else mean)
        weight = wanted * (1.0 - wanted) if logistic else wanted
        at = np.zeros(d)
        at[0] = math.log(wanted / (1.0 - wanted)) if logistic else math.log(wanted)
        return replace(step.constant(mean, curvature, wanted, weight), at=at), known


def _nothing(spec: Spec) -> Moments:
    zero = np.zeros(len(spec.design.terms))
    return Moments(
        0,
        0,
        0.0,
        0.0,
        zero,
        zero,
        zero,
        np.zeros(spec.classes, np.int64),
        None,
        0.0,
        0.0,
        0.0,
        zero,
    )


def _moments(fit: PrivateGLM, known: State) -> Moments:
    """Counts and means of the noisy sums, as a reader of a result looks for them."""
    spec, bounds = fit.spec, fit.bounds
    n = max(round(float(known["n"])), 1)
    ones = min(max(float(known["y"]), 0.0), float(n))
    counts = np.array([n - round(ones), round(ones)] if spec.classes else [], dtype=np.int64)
    mean, square = known["x"] / n, known["xx"] / n
    e = spec.design.exponents
    sd = np.sqrt(np.maximum(square - mean * mean, 0.0))
    y = bounds.outcome_centre + bounds.outcome_unit * float(known["y"]) / n
    return Moments(
        n,
        n,
        float(n),
        y,
        np.ldexp(bounds.centre + bounds.unit * mean, -e),
        np.ldexp(bounds.unit * sd, -e),
        np.zeros(len(mean)),
        counts,
        None,
        0.0,
        0.0,
        0.0,
        counts.astype(np.float64),
    )


def _result(fit: PrivateGLM, state: State) -> PrivateGLMFit:
    spec, joined = fit.spec, fit.joined(state)
    moments = _moments(fit, state["known"])
    scale = fit.scale(moments)
    theta, inverse = joined.solution, joined.inverse
    df = max(float(moments.n - spec.size), 1.0)
    figures, dispersion = _figures(fit, state, joined, df)
    transform = scale.transform()
    noise = transform @ inverse @ joined.noise @ inverse @ transform.T
    sampling = transform @ inverse @ (dispersion * joined.hessian) @ inverse @ transform.T
    unknown = np.nan if joined.lifted else 0.0
    return PrivateGLMFit(
        coef=(transform @ theta + scale.origin()).reshape(1, spec.width),
        covariance=sampling + noise + unknown,
        theta=theta,
        inverse=inverse,
        scale=scale,
        active=np.ones(spec.size, dtype=bool),
        curvature=joined.hessian,
        df_resid=df,
        rounds=len(state["steps"]),
        end=_end(fit, state, joined),
        distance=None,
        algorithm=fit,
        multiplier=state["multiplier"],
        noise_covariance=noise + unknown,
        **figures,
    )


def _end(fit: PrivateGLM, state: State, joined: Joined) -> str:
    """How it ended; "max_rounds" where the last point was further off than noise explains."""
    if joined.lifted:
        return "noise"
    if fit.rounds == 1:
        return "converged"
    last = Step.from_data(state["steps"][-1])
    way, information = joined.solution - last.at, joined.hessian
    covariance = information + last.gradient_noise * np.eye(len(way))
    level = float(way @ information @ np.linalg.solve(covariance, information @ way)) / len(way)
    return "converged" if level < FAR**2 else "max_rounds"


def _figures(
    fit: PrivateGLM, state: State, joined: Joined, df: float
) -> tuple[dict[str, Any], float]:
    """What else a `GLMFit` says, raw units, and the dispersion in scaled ones."""
    known, n = state["known"], max(float(state["known"]["n"]), 1.0)
    found: dict[str, Any] = dict.fromkeys(("deviance", "null_deviance", "loglik", "null_loglik"))
    if fit.spec.family == "gaussian":
        step, unit = Step.from_data(state["steps"][0]), fit.bounds.outcome_unit**2
        b = joined.solution
        rss = float(known["yy"]) + 2.0 * float(step.gradient @ b) + float(b @ step.hessian @ b)
        # Fitted to the noise as well, the sum is too small by this.
        rss += float(np.trace(joined.inverse @ joined.noise))
        rss = max(rss, math.sqrt(step.hessian_noise) * (1.0 + float(b @ b)))
        null = max(float(known["yy"]) - float(known["y"]) ** 2 / n, rss)
        found |= {"deviance": rss * unit, "null_deviance": null * unit, "loss": 0.5 * rss * unit}
        found |= {"dispersion": rss / df * unit}
        found |= {"loglik": _normal(rss * unit, n), "null_loglik": _normal(null * unit, n)}
        return found, rss / df
    found |= {"loss": math.nan, "dispersion": 1.0}
    if fit.spec.family == "binomial":
        null, loss = _logistic_losses(fit, state, joined)
        found |= {"deviance": 2.0 * loss, "null_deviance": 2.0 * null, "loss": loss}
        found |= {"loglik": -loss, "null_loglik": -null}
    return found, 1.0


def _normal(rss: float, n: float) -> float:
    return -0.5 * n * (math.log(2.0 * math.pi * rss / n) + 1.0)


def _logistic_losses(fit: PrivateGLM, state: State, joined: Joined) -> tuple[float, float]:
    """Loss without terms, and of the fit: the noisy gradient summed up along the way.

    The corrected trapezoidal rule, of two ends and the curvature at both. No round asks for it.
    """
    n = max(float(state["known"]["n"]), 1.0)
    share = min(max(float(state["known"]["y"]) / n, EDGE), 1.0 - EDGE)
    null = -n * (share * math.log(share) + (1.0 - share) * math.log(1.0 - share))
    start = Step.from_data(state["steps"][0])
    way = joined.solution - start.at
    end = -fit.scale(_nothing(fit.spec)).quadratic @ joined.solution
    gain = 0.5 * float((start.gradient + end) @ way)
    gain += float(way @ (start.hessian - joined.hessian) @ way) / 12.0
    from_zero = null if fit.spec.design.intercept else n * math.log(2.0)
    return null, min(max(from_zero + gain, 1e-9 * n), from_zero)
