"""A fitted Cox regression in raw units, with what was asked for besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.distributions import chi2_tail, normal_quantile, normal_tail
from polyclinic.models.glm.rank import combination
from polyclinic.models.glm.scale import Scale, unpack
from polyclinic.models.survival.concordance import Pairs, concordance_of
from polyclinic.models.survival.grid_sums import Sums
from polyclinic.models.survival.predictor import CoxPredictor
from polyclinic.models.survival.spec import CoxSpec

Floats = NDArray[np.float64]
LOW, HIGH = "lower", "upper"
FAR = 0.5  # standard errors between two ways of fitting that a reader should know of


@dataclass(frozen=True)
class Diagnosis:
    """Sums of the last rounds, by step."""

    sums: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class CoxFit:
    """A fitted Cox regression, raw units.

    coef        (n_terms,); 0 where a term says nothing that the others do not
    covariance  (n_terms, n_terms), NaN for coefficients without one
    theta       coefficients in standard units; `inverse` of the penalised Hessian there
    loglik, null_loglik   log partial likelihood, also without any effect
    score       the score test of no effect, which is the log-rank test of a group's terms
    """

    spec: CoxSpec
    coef: Floats
    covariance: Floats
    theta: Floats
    inverse: Floats
    curvature: Floats
    scale: Scale
    active: NDArray[np.bool_]
    loglik: float
    null_loglik: float
    score: float
    n: int
    patients: int
    events: int
    rounds: int
    end: str
    diagnosis: Diagnosis

    @staticmethod
    def of(
        scale: Any,
        counts: Mapping[str, float],
        null: Mapping[str, Any],
        optimum: Any,
        diagnosis: Diagnosis,
    ) -> CoxFit:
        """From what the rounds have found."""
        active = optimum.active
        theta = np.where(active, optimum.theta, 0.0)
        curvature = optimum.curvature
        inverse = _inverse(curvature + scale.quadratic, active)
        transform = scale.transform()
        covariance = transform @ (inverse @ curvature @ inverse) @ transform.T
        valid = active & ~(scale.cox.l1 > 0)
        size = scale.cox.size
        first = null["gradient"][0] / scale.spread
        second = unpack(null["hessian"][0], size) / np.outer(scale.spread, scale.spread)
        return CoxFit(
            spec=scale.cox,
            coef=transform @ theta,
            covariance=np.where(np.outer(valid, valid), covariance, np.nan),
            theta=theta,
            inverse=inverse,
            curvature=curvature,
            scale=scale,
            active=active,
            loglik=-float(optimum.loss),
            null_loglik=-float(null["loss"][0]),
            score=float(first @ _inverse(second, active) @ first),
            n=int(counts["n"]),
            patients=int(counts["patients"]),
            events=int(counts["events"]),
            rounds=optimum.rounds,
            end=optimum.end,
            diagnosis=diagnosis,
        )

    @property
    def pooled(self) -> bool:
        """Whether pooled rows would give the same."""
        return self.spec.by_site

    @property
    def converged(self) -> bool:
        return self.end == "converged"

    @property
    def terms(self) -> tuple[str, ...]:
        return self.spec.design.names

    @cached_property
    def meat(self) -> Floats | None:
        """Products of score vectors, standard units."""
        sums = self.diagnosis.sums.get("scores")
        return None if sums is None else self.meat_of(sums)

    def meat_of(self, sums: Mapping[str, Any]) -> Floats:
        """Products of score vectors as a site gives them, in standard units."""
        spread = self.scale.spread
        return np.asarray(unpack(sums["meat"], len(spread)) / np.outer(spread, spread))

    def robust(self, meat: Floats) -> Floats:
        """Sandwich covariance, raw units."""
        transform = self.scale.transform()
        found = transform @ (self.inverse @ meat @ self.inverse) @ transform.T
        keep = np.outer(self.active, self.active)
        return np.where(keep, found, np.nan)

    def summary(self, covariance: Floats | None = None, level: float = 0.95) -> dict[str, Floats]:
        """coef, se, z, p, lower, upper by term."""
        if covariance is None:
            covariance = self.covariance if self.meat is None else self.robust(self.meat)
        coef = np.where(self.active, self.coef, np.nan)
        se = np.sqrt(np.diag(covariance)) if len(coef) else np.zeros(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = coef / se
        half = normal_quantile(0.5 + level / 2) * se
        p = 2 * normal_tail(np.abs(z))
        return {"coef": coef, "se": se, "z": z, "p": p, LOW: coef - half, HIGH: coef + half}

    @property
    def tests(self) -> dict[str, dict[str, float]]:
        """Likelihood ratio and score test of no effect at all."""
        df = int(np.count_nonzero(self.active))
        found = {"likelihood ratio": 2 * (self.loglik - self.null_loglik), "score": self.score}
        return {
            name: {"chi2": value, "df": df, "p": float(chi2_tail(value, df)) if df else 1.0}
            for name, value in found.items()
        }

    @cached_property
    def concordance(self) -> dict[str, float] | None:
        """Harrell's C over pairs of patients of one site and stratum; None: not asked for."""
        sums = self.diagnosis.sums.get("concordance")
        return None if sums is None else concordance_of(Pairs.of(sums))

    @cached_property
    def proportional(self) -> list[dict[str, Any]] | None:
        """Tests that an effect does not change with time, by term; None: not asked for.

        Grambsch & Therneau, *Biometrika* 81 (1994).
        """
        sums = self.diagnosis.sums.get("schoenfeld")
        return None if sums is None else self.proportional_of(sums)

    def proportional_of(self, sums: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The tests from what the sites give."""
        events, covariance = int(sums["events"]), self.inverse
        residuals = sums["residuals"] / self.scale.spread
        total = -(self.scale.quadratic @ self.theta)  # of all residuals, at the optimum
        lines = []
        for j, term in enumerate(self.terms):
            line: dict[str, Any] = {"term": term}
            for k, scale in enumerate(("identity", "log", "rank")):
                first, second = sums["times"][k]
                about = residuals[k] + (first / events) * total
                spread = second - first * first / events
                moved = float(covariance[j] @ about) if self.active[j] else float("nan")
                with np.errstate(divide="ignore", invalid="ignore"):
                    chi2 = float(np.float64(events) * moved**2 / (covariance[j, j] * spread))
                line[f"chi2 {scale}"] = chi2
                line[f"p {scale}"] = float(chi2_tail(chi2, 1))
            lines.append(line)
        return lines

    @cached_property
    def baseline(self) -> tuple[Floats, Floats] | None:
        """Edges of the grid and cumulative baseline hazard at them, of all sites together.

        At x = 0; None without a grid.
        """
        sums = self.diagnosis.sums.get("risk_sets")
        if sums is None:
            return None
        jumps = Sums.of(sums).hazards(self.spec.ties == "efron")
        return np.asarray(self.spec.edges), np.cumsum(jumps)

    @property
    def left_out(self) -> int:
        """Sites without a step of enough patients, which are not in the sums on the grid."""
        return int(self.diagnosis.sums.get("risk_sets", {}).get("left_out", 0))

    @cached_property
    def beside(self) -> dict[str, Floats] | None:
        """Coefficients that other ways would give, by one Newton step; None for a fit by site.

        halved      on a grid of every second edge
        stratified  with a baseline per site and no grid
        """
        if self.spec.by_site or "risk_sets" not in self.diagnosis.sums:
            return None
        wire = self.theta / self.scale.spread
        sums = Sums.of(self.diagnosis.sums["risk_sets"]).halved()
        halved = sums.derivatives(wire, self.spec.ties == "efron")[1:]
        own = self.diagnosis.sums["derivatives"]
        stratified = own["gradient"][0], unpack(own["hessian"][0], len(wire))
        return {
            "halved": self._stepped(*halved),
            "stratified": self._stepped(*stratified),
        }

    @property
    def shift(self) -> float:
        """Largest distance to the coefficients `beside`, in standard errors."""
        se = np.sqrt(np.diag(self.covariance))
        moved = [np.abs(coef - self.coef) / se for coef in (self.beside or {}).values()]
        return float(np.nanmax(moved)) if moved and self.active.any() else 0.0

    def _stepped(self, gradient: Floats, hessian: Floats) -> Floats:
        """Raw coefficients after a Newton step with these derivatives in wire units."""
        s = self.scale.spread
        slope = gradient / s + self.scale.quadratic @ self.theta
        inverse = _inverse(hessian / np.outer(s, s) + self.scale.quadratic, self.active)
        return np.asarray(self.scale.transform() @ (self.theta - inverse @ slope))

    def predictor(self) -> CoxPredictor:
        """Relative risks exp(x coef), and survival where there is a baseline."""
        times, hazard = self.baseline or (np.zeros(0), np.zeros(0))
        return CoxPredictor(self.spec.design, self.coef, times, hazard)

    def warnings(self) -> list[str]:
        """What a reader of the result should know."""
        found = []
        if self.left_out:
            found.append(
                f"{self.left_out} of the sites cannot fill a step of the grid and "
                + ("is" if self.left_out == 1 else "are")
                + (" not in the baseline" if self.spec.by_site else " left out")
            )
        if self.shift > FAR:
            found.append(
                f"beside a fit with a baseline per site the coefficients move by {self.shift:.1f} "
                "standard errors: the grid is coarse, or the sites' baselines differ; the fit "
                "stratified by site is exact"
            )
        for j in np.flatnonzero(~self.active):
            parts = combination(self.curvature, self.active, int(j))
            others = [self.terms[k] for k in np.flatnonzero(np.abs(parts) > 1e-6)]
            made = f"it is a combination of {', '.join(others)}" if others else "it does not vary"
            where = "within the sites and strata" if not others else ""
            found.append(
                f"{self.terms[j]} says nothing that the other terms do not: {made} {where}".strip()
                + "; left out of the fit"
            )
        if self.end == "separated":
            se = np.sqrt(np.maximum(np.diag(self.inverse), 0.0))
            far = [name for name, value in zip(self.terms, se, strict=True) if value > 100.0]
            found.append(
                f"{', '.join(far) or 'the terms together'}: the patients with the event always "
                "have the higher risk, so the hazard ratio has no finite optimum; its value and "
                "errors mean nothing. Merge levels, leave the term out, or set l2 > 0"
            )
        elif not self.converged:
            found.append(f"Newton ended after {self.rounds} rounds ({self.end})")
        return found

    def blocks(self) -> list[dict[str, Any]]:
        """Its part of the report."""
        from polyclinic.models.survival.blocks import cox_blocks

        return cox_blocks(self)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Lines of the CSV files of the run folder."""
        table = self.summary()
        lines = [
            {"term": term, **{name: float(values[j]) for name, values in table.items()}}
            for j, term in enumerate(self.terms)
        ]
        found = {"coefficients": lines}
        if self.proportional:
            found["proportional_hazards"] = self.proportional
        return found


def _inverse(matrix: Floats, active: NDArray[np.bool_]) -> Floats:
    """Inverse within the active coefficients, 0 elsewhere."""
    inverse, keep = np.zeros_like(matrix), np.ix_(active, active)
    if active.any():
        try:
            root = np.linalg.inv(np.linalg.cholesky(matrix[keep]))
            inverse[keep] = root.T @ root
        except np.linalg.LinAlgError:
            inverse[keep] = np.linalg.pinv(matrix[keep], hermitian=True)
    return inverse
