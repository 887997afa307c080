"""Treatment effects: averages over patients, and who profits more than others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from polyclinic.core.errors import InputError, Refused
from polyclinic.core.fit import Callback, ask
from polyclinic.core.partition import Partition
from polyclinic.data.formula import formula_columns
from polyclinic.data.read import table_from_frame
from polyclinic.models.effects import Effect
from polyclinic.models.effects.algorithm import by_hospital
from polyclinic.models.effects.result import BETTER, UNCLEAR, modifiers
from polyclinic.report.words import percent, short
from polyclinic.study.learner import Learner
from polyclinic.study.sites import Sites


class TreatmentEffect(Learner):
    """What a treatment changes, on average and for patients of a kind; equal to the pooled answer.

    The propensity is a logistic regression of the treatment on the covariates; the outcome is a
    linear (a number) or logistic (0/1) regression on the covariates in each arm. Standard errors
    count that both are estimated. They are effects only if nothing else influenced both who was
    treated and the outcome.

    Parameters
    ----------
    treatment : the column, with two levels; the second one is "treated".
    method : "aipw", doubly robust: right where one of the two models is; "ipw", inverse-probability
        weighting by the propensity alone; "regression" by the outcome models alone.
    estimand : "ate", the effect in all patients; "att", in those who were treated.
    trim : propensities are held within [trim, 1 - trim]; nobody is left out.
    effect_modifiers : columns among the covariates that may change the effect (R-learner with a
        linear effect, cross-fitted); None: none.
    folds : parts of the patients for cross-fitting.
    cross_fit : also of the average effect by "aipw".
    random_state : without influence here; nothing is drawn.

    Attributes
    ----------
    effect_ : difference of the two means; ``se_`` its standard error
    result_ : the `Effect`: means, contrasts, balance, overlap

    References
    ----------
    Lunceford & Davidian, Statistics in Medicine 23 (2004); Bang & Robins, Biometrics 61 (2005);
    Nie & Wager, Biometrika 108 (2021).
    """

    _kind = "treatment-effect"
    result_: Effect

    def __init__(
        self,
        *,
        treatment: str = "",
        method: str = "aipw",
        estimand: str = "ate",
        trim: float = 0.01,
        effect_modifiers: Sequence[str] | None = None,
        folds: int = 5,
        cross_fit: bool = False,
        random_state: int = 0,
    ) -> None:
        self.treatment = treatment
        self.method = method
        self.estimand = estimand
        self.trim = trim
        self.effect_modifiers = effect_modifiers
        self.folds = folds
        self.cross_fit = cross_fit
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, **more: Any) -> Self:
        """Estimate the effect over sites: ``fit(sites, "outcome ~ age + sex + C(severity)")``.

        The treatment may stand in the formula or not; the other columns are the covariates. Other
        arguments as in `LogisticRegression.fit`.

        Raises
        ------
        InputError : NO_SITES for arrays, BAD_TREATMENT. Refused : a site's gate refused.
        """
        if not isinstance(X, Sites):
            raise InputError(
                "a treatment effect needs sites and a formula",
                code="NO_SITES",
                rule='fit(sites, "outcome ~ age + sex + C(severity)")',
                next="make sites with pc.read or pc.split",
            )
        if isinstance(y, str) and self.treatment:
            y = with_treatment(y, self.treatment, X)
        return super().fit(X, y, sample_weight, **more)

    def _set(self) -> None:
        self.__dict__.pop("_hospitals", None)  # of an earlier fit
        one = self.result_.contrasts()[0]
        self.effect_, self.se_ = one.estimate, one.se

    def summary(self, *, level: float = 0.95) -> pd.DataFrame:
        """Effects by each method that was computed, indexed by method and measure.

        Parameters
        ----------
        level : of the intervals.

        Returns
        -------
        DataFrame with columns estimate, se, lower, upper, p. The `se` of a ratio is that of its
        logarithm.
        """
        check_is_fitted(self)
        lines = [
            {"method": method, "measure": one.name, **{k: getattr(one, k) for k in _COLUMNS}}
            for method in (*self.result_.spec.methods, "unadjusted")
            for one in self.result_.contrasts(method, level)
        ]
        return pd.DataFrame(lines).set_index(["method", "measure"])

    def balance(self) -> pd.DataFrame:
        """Means of the covariates per arm and standardised differences, indexed by column."""
        check_is_fitted(self)
        return pd.DataFrame(self.result_.balance).set_index("column")

    def by_hospital(self, *, level: float = 0.95) -> pd.DataFrame:
        """The effect within each hospital, under the models of all of them; two more rounds.

        Returns
        -------
        DataFrame with columns estimate, se, lower, upper, p, indexed by hospital; NaN where a
        hospital has one arm only. The models' own errors are not in these.

        Raises
        ------
        Refused : SEEN_TOGETHER and others where a hospital does not show sums of its own.
        """
        check_is_fitted(self)
        federation, answers = self.formula_data.federation, []
        for plan in by_hospital(self.result_.spec, self.result_.done):
            total, done = ask(federation, plan)
            answers.append(total.by_site)
            self.rounds_ = (*self.rounds_, done)
        sums, squares = answers
        found = {}
        for site in federation.sites:
            products = np.asarray(squares[site]["products"])
            one = self.result_.of_hospital(sums[site].values, products, level)
            found[site] = {name: getattr(one, name) for name in _COLUMNS}
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("hospital")

    def _ask_hospitals(self, tell: Sequence[Callback] = ()) -> None:
        """The effect in each hospital, where sums are not secret."""
        self._hospitals: pd.DataFrame | None = None
        if self.formula_data.federation.summing.secure:
            return
        before = len(self.rounds_)
        with suppress(Refused):  # a hospital may keep its own: the report says so
            self._hospitals = self.by_hospital()
        for callback in tell:
            for done in self.rounds_[before:]:
                callback(done)

    def blocks_(self) -> list[dict[str, Any]]:
        """Its part of the report; with the hospitals, where they were asked."""
        blocks = super().blocks_()
        if not hasattr(self, "_hospitals"):
            return blocks
        shown = HIDDEN if self._hospitals is None else _forest(self._hospitals)
        return [*blocks[:2], shown, *blocks[2:]]

    def _headline(self) -> str:
        one = self.result_.contrasts()[0]
        codebook, outcome = self.formula_data.codebook, self.result_.spec.design.response
        label = codebook.label(outcome)
        if not self.result_.spec.binary:
            what = f"the mean of {label} would change by {short(one.estimate)}"
            between = f"{short(one.lower)} to {short(one.upper)}"
        else:
            moved = "more" if one.estimate >= 0 else "fewer"
            ends = sorted((one.lower, one.upper), key=abs)
            if one.lower * one.upper < 0:
                ends = [one.lower, one.upper]
            low, high = (percent(abs(v) if one.lower * one.upper > 0 else v) for v in ends)
            what = f"{percent(abs(one.estimate))} {moved} of 100 patients would have {label}"
            between = f"{low} to {high}"
        treated = self._arms()[1]
        return (
            f"If all patients rather than none had {codebook.label(self.treatment)}: {treated}, "
            f"{what} (95 % interval {between}), if what stands at the end of section 3 holds."
        )

    def modifiers(self, *, level: float = 0.95) -> pd.DataFrame:
        """How columns change the effect: coef, se, z, p, lower, upper, indexed by term."""
        check_is_fitted(self)
        found = self.result_.modified
        if found is None:
            raise _no_modifiers()
        return pd.DataFrame(modifiers(found, level)).set_index("term")

    def recommend(self, patients: Any, *, better: str, level: float = 0.95) -> pd.DataFrame:
        """Expected effect of treating each patient, and the arm that it speaks for.

        Parameters
        ----------
        patients : frame with the effect modifiers.
        better : whether a "lower" or a "higher" outcome is better.
        level : of the intervals.

        Returns
        -------
        DataFrame with columns effect, lower, upper, recommended: a level of the treatment, or
        "no clear advantage" where the interval holds 0.
        """
        check_is_fitted(self)
        if self.result_.modified is None:
            raise _no_modifiers()
        if better not in BETTER:
            raise InputError(
                f"better = {better!r}",
                code="WRONG_VALUE",
                rule=f"better is one of {', '.join(BETTER)}: which outcome is to be wished for",
                next='better = "lower" for an event to be avoided',
            )
        effect, lower, upper = self.result_.effect_of(self._new(patients), level)
        wins = np.where(lower > 0, 1, np.where(upper < 0, 0, -1))
        if better == "lower":
            wins = np.where(wins < 0, wins, 1 - wins)
        names = (*self._arms(), UNCLEAR)
        return pd.DataFrame(
            {
                "effect": effect,
                "lower": lower,
                "upper": upper,
                "recommended": [names[int(k)] for k in wins],
            },
            index=getattr(patients, "index", None),
        )

    def _new(self, patients: Any) -> Partition:
        """New patients with the columns that change the effect."""
        codebook, spec = self.formula_data.codebook, self.result_.spec
        needed = list(
            dict.fromkeys(factor.column for term in spec.modifying for factor in term.factors)
        )
        table = table_from_frame(patients, codebook, "new patients", columns=needed)
        missing = [
            c for c in needed if c not in spec.design.fills and np.isnan(table.columns[c]).any()
        ]
        if missing:
            raise InputError(
                f"new patients: {', '.join(missing)} is missing in some",
                code="MISSING_VALUES",
                rule="it needs the effect modifiers",
                next="fill them",
            )
        return Partition({c: table.columns[c] for c in needed}, site="new patients")

    def _arms(self) -> tuple[str, str]:
        """The two levels of the treatment, as people read them."""
        spec = self.formula_data.codebook.spec(self.treatment)
        names = [label or code for code, label in dict(spec.levels or {}).items()]
        return (names[0], names[1]) if len(names) == 2 else ("untreated", "treated")


HIDDEN = {
    "kind": "text",
    "text": "The effects in single hospitals are not shown: they keep their own sums.",
}


def _forest(found: pd.DataFrame) -> dict[str, Any]:
    """The hospitals' effects as a drawing; those with one arm only have a line without numbers."""
    lines = [
        {"name": str(name), **{k: _number(row[k]) for k in ("estimate", "lower", "upper")}}
        for name, row in found.iterrows()
    ]
    return {
        "kind": "forest",
        "title": "The effect in each hospital",
        "x_label": "difference",
        "lines": lines,
        "note": "Under the models of all hospitals, whose own errors are not in these intervals.",
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


_COLUMNS = ("estimate", "se", "lower", "upper", "p")


def with_treatment(formula: str, treatment: str, sites: Sites) -> str:
    """The formula with the treatment as its first term, if it is in none."""
    if treatment in formula_columns(formula, sites.codebook):
        return formula
    outcome, _, terms = formula.partition("~")
    quoted = treatment if treatment.isidentifier() else f"`{treatment}`"
    return f"{outcome.strip()} ~ {quoted} + {terms.strip()}"


def _no_modifiers() -> InputError:
    return InputError(
        "this effect is one number for all patients",
        code="NO_MODIFIERS",
        rule="a recommendation for a patient needs columns that may change the effect",
        next='effect_modifiers = ["age", ...]',
    )
