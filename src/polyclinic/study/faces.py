"""What a fitted model shows of itself: print, notebook, figures, report, standard objects."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from polyclinic.core.errors import InputError
from polyclinic.report import noise, words
from polyclinic.study.importance import Explained
from polyclinic.study.shown import MEASURES, validation

if TYPE_CHECKING:
    from polyclinic.report.svg import Figure
    from polyclinic.study.evaluate import Evaluated, Judged
    from polyclinic.study.sites import Sites

NOISY = (
    f"The counts in the first line come from the same noisy sums. {noise.SHORTENED}. "
    f"What evaluate() and report() show beside the coefficients are {noise.NOT_COVERED}."
)
KINDS = {
    "LogisticRegression": "logistic",
    "LinearRegression": "linear",
    "PoissonRegression": "poisson",
    "GammaRegression": "gamma",
}


class Shown(Explained, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """The faces of a fitted model. The fitting itself is in `Regression`."""

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        if not self.__sklearn_is_fitted__():
            return str(super().__repr__(N_CHAR_MAX))
        changed = super().__repr__(N_CHAR_MAX)
        moments = self.result_.scale.moments
        about = "" if self._privacy is None else "about "
        parts = [about + words.plural(moments.patients, "patient")]
        if self._data is not None:
            parts.append(words.plural(len(self._data.federation.sites), "hospital"))
        parts.append(words.plural(self.n_iter_, "round"))
        if self._privacy is not None:
            parts.append(f"noise of epsilon {self._privacy.epsilon:g}")
        return f"{changed}, fitted: {', '.join(parts)}"

    def __str__(self) -> str:
        if not self.__sklearn_is_fitted__():
            return repr(self)
        lines = [self._header(), words.coefficient_table(self._terms())]
        if self._privacy is not None:
            lines.append(words.fold(f"privacy {self._noise()}", indent=" " * 8))
        lines += [f"! {text}" for text, _ in self.warnings_()]
        return "\n".join(lines)

    def _header(self) -> str:
        moments, spec = self.result_.scale.moments, self.result_.scale.spec
        events = int(moments.counts[1]) if spec.classes == 2 else None
        event = (
            spec.design.response
            if self._data is not None
            else f"y = {self.classes_[1]}"
            if (events is not None)
            else ""
        )
        sites = len(self._data.federation.sites) if self._data is not None else 0
        return words.header(
            KINDS[type(self).__name__],
            moments.patients,
            events,
            event,
            sites,
            self.n_iter_,
            self._privacy is not None,
        )

    def _noise(self) -> str:
        return f"Noise was added. {self._privacy.guarantee()} {NOISY}"

    def _terms(self) -> list[dict[str, Any]]:
        table = self.summary()
        return [
            {"name": str(name), **{k: float(v) for k, v in row.items()}}
            for name, row in table.iterrows()
        ]

    def _repr_html_(self) -> str:
        """A small table for notebooks; values escaped, no script."""
        if not self.__sklearn_is_fitted__():
            return f"<pre>{html.escape(repr(self))}</pre>"
        labels = {}
        if self._data is not None:
            from polyclinic.study.results import term_labels

            labels = {name: label for name, (label, _, _) in term_labels(self).items()}
        rows = "".join(
            "<tr><th scope='row' style='text-align:left'>"
            + html.escape(labels.get(t["name"], t["name"]))
            + "</th>"
            + "".join(
                f"<td>{words.fixed(t[k], words.decimals(t['se']))}</td>"
                for k in ("coef", "se", "lower", "upper")
            )
            + f"<td>{html.escape(words.p_value(t['p']))}</td></tr>"
            for t in self._terms()
        )
        notes = "".join(f"<p>! {html.escape(text)}</p>" for text, _ in self.warnings_())
        if self._privacy is not None:
            notes += f"<p>{html.escape(self._noise())}</p>"
        heads = "".join(
            f"<th scope='col'>{h}</th>" for h in ("term", "coef", "se", "lower", "upper", "p")
        )
        return (
            f"<p>{html.escape(self._header())}</p><table><thead><tr>{heads}</tr></thead>"
            f"<tbody>{rows}</tbody></table>{notes}"
        )

    def judged(self) -> Judged:
        """The model as it is evaluated."""
        from polyclinic.study.evaluate import Judged

        return Judged.regression(self.result_.scale.spec, self.predictor_.to_data())

    def evaluate(
        self,
        sites: Sites | None = None,
        *,
        validate: str | None = None,
        folds: int = 5,
        thresholds: tuple[float, ...] = (0.5,),
        subgroups: tuple[str, ...] = (),
        show_sites: bool = True,
        alone: bool = True,
    ) -> Evaluated:
        """Measures of the model over hospitals: pooled and per hospital, with intervals.

        Parameters
        ----------
        sites : other hospitals to judge the model on; None: those it was fitted on.
        validate : "cross-validation" (by patient, inside each hospital), or "none": the model as it
            is, which on the patients it was fitted on looks better than it will be elsewhere. None:
            cross-validation, and "none" for a model with noise, of which every fold would be
            another fit.
        folds : parts of the cross-validation, at least 2.
        thresholds : risks at which decisions are counted, between 0 and 1.
        subgroups : columns with levels; the same measures within each level.
        show_sites : ask each hospital for its own measures.
        alone : also fit the model at each hospital alone, as a baseline.

        Raises
        ------
        InputError : NO_FORMULA for a model fitted on arrays; WRONG_VALUE; NO_PRIVATE_VERSION for
            the cross-validation of a model with noise.
        """
        from polyclinic.study.evaluate import evaluate
        from polyclinic.study.formula import on_other_sites

        check_is_fitted(self)
        validate = validation(validate, self._privacy is not None)
        data, elsewhere = self.formula_data, sites is not None
        if sites is not None:
            data = on_other_sites(data, sites, self._engine)
            elsewhere = data.federation.sites != self.formula_data.federation.sites
        crossed = validate == "cross-validation" and not elsewhere
        found = evaluate(
            self.judged(),
            data,
            folds=folds if crossed else 0,
            thresholds=thresholds,
            subgroups=subgroups,
            show_sites=show_sites,
            alone=alone,
            seed=self.random_state,
        )
        if elsewhere:
            found.measures["how"] = "other hospitals"
        if self._privacy is not None:
            found.measures["note"] = MEASURES
        self._evaluated: Evaluated | None = found
        return found

    def report(
        self, path: str | Path, *, title: str = "", purpose: str = "", show_sites: bool = True
    ) -> Path:
        """Write the report of this model; evaluates it by `evaluate()` if that is not done.

        Without `show_sites` no hospital is asked for anything of its own.
        """
        from polyclinic.report.html import write_report

        write_report(self._results(title, purpose, show_sites=show_sites), path)
        return Path(path)

    def plot(self, name: str = "forest") -> Figure:
        """A figure: forest, roc, calibration, decision, sites or convergence.

        Raises
        ------
        InputError : UNKNOWN_FIGURE, or NOTHING_TO_DRAW when the model has no such figure.
        """
        from polyclinic.report.figures import FIGURES, figure

        if name not in FIGURES:
            raise InputError(
                f"there is no figure {name!r}",
                code="UNKNOWN_FIGURE",
                rule=f"figures: {', '.join(FIGURES)}",
                next="use one of them",
            )
        needs = name in ("roc", "calibration", "decision", "sites")
        drawn = figure(name, self._results("", "", evaluate=needs))
        if drawn is None:
            raise InputError(
                f"this model has no figure {name!r}",
                code="NOTHING_TO_DRAW",
                rule="ROC, calibration and decisions need a yes/no outcome",
                next='use plot("forest")',
            )
        return drawn

    def _results(
        self, title: str, purpose: str, evaluate: bool = True, show_sites: bool = True
    ) -> Any:
        from polyclinic.core.fit import fit
        from polyclinic.study.describe import table_one_algorithm
        from polyclinic.study.results import assemble

        data = self.formula_data
        if data.sites is None:
            raise InputError(
                "the sites that this model was fitted on are not here",
                code="NO_TRAINING_ROWS",
                rule="a saved model holds no rows",
                next="use the report of its run folder",
            )
        if evaluate and getattr(self, "_evaluated", None) is None:
            self.evaluate(show_sites=show_sites)
        evaluated = self._evaluated if evaluate else None
        table = fit(table_one_algorithm(data, show_sites), data.federation)
        measured = evaluated.rounds if evaluated else ()
        rounds = [*data.rounds, *self.rounds_, *table.rounds, *measured]
        about = {
            "name": "model",
            "title": title or f"Model of {data.design.response}",
            "purpose": purpose,
            "seed": self.random_state,
        }
        return assemble(
            self,
            data.sites,
            about=about,
            evaluated=evaluated,
            rounds=rounds,
            table_one=table.model,
            show_sites=show_sites,
        )

    def save(self, path: str | Path) -> None:
        """Write the fitted model: plain data, no pickle, no rows. `pc.load` reads it."""
        from polyclinic.study.saved import save

        check_is_fitted(self)
        save(self, path)

    def to_sklearn(self) -> Any:
        """The same model as scikit-learn's own estimator over the model matrix.

        A model of a formula takes the columns that `design_matrix` gives.
        """
        from sklearn import linear_model

        check_is_fitted(self)
        if type(self).__name__ == "LogisticRegression":
            model: Any = linear_model.LogisticRegression()
            model.classes_ = self.classes_
            model.coef_ = np.atleast_2d(self.coef_)
            model.intercept_ = np.atleast_1d(self.intercept_)
        else:
            made = {
                "LinearRegression": linear_model.LinearRegression,
                "PoissonRegression": linear_model.PoissonRegressor,
                "GammaRegression": linear_model.GammaRegressor,
            }[type(self).__name__]
            model = made()
            model.coef_, model.intercept_ = self.coef_, self.intercept_
            if hasattr(model, "_get_loss"):
                model._base_loss = model._get_loss()
        model.n_features_in_ = len(self._design.terms)
        model.n_iter_ = np.array([self.n_iter_])
        return model
