"""What a fitted learner shows of itself: print, notebook, evaluation, report, file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from polyclinic.core.errors import InputError
from polyclinic.report import noise, words
from polyclinic.study.importance import Explained

NOISY = "Noise was added to all sums behind the model, its number of patients too."
MEASURES = f"The measures are of the model with noise; they are {noise.NOT_COVERED}."

MEASURED = ("roc", "calibration", "decision", "sites")

if TYPE_CHECKING:
    from polyclinic.core.fit import Callback
    from polyclinic.privacy.dp import DifferentialPrivacy
    from polyclinic.report.svg import Figure
    from polyclinic.study.evaluate import Evaluated, Judged
    from polyclinic.study.formula import FormulaData
    from polyclinic.study.sites import Sites


class ShownLearner(Explained, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """The faces of a fitted learner. The fitting itself is in `Learner`."""

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        changed = str(super().__repr__(N_CHAR_MAX))
        if not self.__sklearn_is_fitted__():
            return changed
        about = "" if self._privacy is None else "about "
        parts = [about + words.plural(self.result_.patients, "patient")]
        if self._data is not None:
            parts.append(words.plural(len(self._data.federation.sites), "hospital"))
        parts.append(words.plural(self.n_iter_, "round"))
        if self._privacy is not None:
            parts.append(f"noise of epsilon {self._privacy.epsilon:g}")
        return f"{changed}, fitted: {', '.join(parts)}"

    def __str__(self) -> str:
        if not self.__sklearn_is_fitted__():
            return repr(self)
        lines = [repr(self), *words.block_lines(self.result_.blocks())]
        if self._privacy is not None:
            lines.append(words.fold(f"privacy {NOISY} {self._privacy.guarantee()}", indent=" " * 8))
        lines += [f"! {text}" for text in self.result_.warnings()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For notebooks; values escaped, no script."""
        return f"<pre>{html.escape(str(self))}</pre>"

    _privacy: DifferentialPrivacy | None

    @property
    def formula_data(self) -> FormulaData:
        """The formula's data. Raises NO_FORMULA for a model fitted on arrays."""
        check_is_fitted(self)
        data: FormulaData | None = self._data
        if data is None:
            raise InputError(
                "this model was fitted on arrays",
                code="NO_FORMULA",
                rule="this needs hospitals and a formula",
                next="fit(sites, formula); for arrays use scikit-learn's own tools",
            )
        return data

    def blocks_(self) -> list[dict[str, Any]]:
        """Its part of the report, see `polyclinic.report.blocks`."""
        check_is_fitted(self)
        found: list[dict[str, Any]] = self.result_.blocks()
        return found

    def _headline(self) -> str:
        """The answer in a sentence, for a model that is not evaluated; "" for the kind's name."""
        return ""

    def _ask_hospitals(self, tell: Sequence[Callback] = ()) -> None:
        """Ask every hospital for what the report shows of it, where it lets it out."""

    @property
    def evaluated_(self) -> bool:
        """Whether there is something to evaluate."""
        found: bool = self.kind_.evaluated
        return found

    def judged(self) -> Judged:
        """The model as it is evaluated. Raises NOTHING_TO_PREDICT."""
        from polyclinic.study.evaluate import Judged

        data = self.formula_data
        classes = len(data.codebook.level_names(data.design.response))
        full = self.predictor_.to_data()
        return Judged.learner(self._kind, self.spec_, classes, full)

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
        InputError : NO_FORMULA for a model fitted on arrays; WRONG_VALUE; NOTHING_TO_PREDICT;
            NO_PRIVATE_VERSION for the cross-validation of a model with noise.
        """
        from polyclinic.study.evaluate import evaluate
        from polyclinic.study.formula import on_other_sites

        validate = validation(validate, self._privacy is not None)
        judged, data, elsewhere = self.judged(), self.formula_data, sites is not None
        if sites is not None:
            data = on_other_sites(data, sites, self._engine)
            elsewhere = data.federation.sites != self.formula_data.federation.sites
        found = evaluate(
            judged,
            data,
            folds=folds if validate == "cross-validation" and not elsewhere else 0,
            thresholds=thresholds,
            subgroups=subgroups,
            show_sites=show_sites,
            alone=alone,
            seed=self._seed,
        )
        if elsewhere:
            found.measures["how"] = "other hospitals"
        if self._privacy is not None:
            found.measures["note"] = MEASURES
        self._evaluated: Evaluated | None = found
        return found

    def plot(self, name: str = "") -> Figure:
        """A figure of the report: one of its own by its title, or one of its evaluation.

        Parameters
        ----------
        name : the title of a figure in the report, such as "Survival" or "Hazard ratios"; or
            "roc", "calibration", "decision", "sites" of a model that predicts, which is evaluated
            by `evaluate()` if that is not done. "": the first of its own.

        Raises
        ------
        InputError : UNKNOWN_FIGURE, or NOTHING_TO_DRAW where the model has no such figure.
        """
        from polyclinic.report import blocks, figures
        from polyclinic.study.results import label_part

        check_is_fitted(self)
        labels = label_part(self._data) if self._data is not None else {}
        own = blocks.figures_of(self.blocks_(), labels)
        measured = MEASURED if self.evaluated_ and self._data is not None else ()
        if name in own or (own and not name):
            return own[name or next(iter(own))]
        drawn = figures.figure(name, self._results("", "", True)) if name in measured else None
        if drawn is None:
            known = not name or name in MEASURED
            raise InputError(
                f"this model has no figure {name!r}" if known else f"there is no figure {name!r}",
                code="NOTHING_TO_DRAW" if known else "UNKNOWN_FIGURE",
                rule=f"figures: {', '.join([*own, *measured]) or 'none'}",
                next="use one of them" if own or measured else "print(model)",
            )
        return drawn

    def report(
        self, path: str | Path, *, title: str = "", purpose: str = "", show_sites: bool = True
    ) -> Path:
        """Write the report of this model; evaluates it by `evaluate()` if that is not done.

        Without `show_sites` no hospital is asked for anything of its own.
        """
        from polyclinic.report.html import write_report

        write_report(self._results(title, purpose, show_sites), path)
        return Path(path)

    def _results(self, title: str, purpose: str, show_sites: bool) -> Any:
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
        if show_sites:
            self._ask_hospitals()
        if self.evaluated_ and self._evaluated is None:
            self.evaluate(show_sites=show_sites)
        table = fit(table_one_algorithm(data, show_sites), data.federation)
        measured = self._evaluated.rounds if self._evaluated else ()
        about = {
            "name": "model",
            "title": title
            or f"{self.kind_.title[:1].upper()}{self.kind_.title[1:]} of {data.formula}",
            "purpose": purpose,
            "seed": self._seed,
        }
        return assemble(
            self,
            data.sites,
            about=about,
            evaluated=self._evaluated,
            rounds=[*data.rounds, *self.rounds_, *table.rounds, *measured],
            table_one=table.model,
            show_sites=show_sites,
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """The model's tables by name, as they are written into a run folder."""
        check_is_fitted(self)
        return {name: pd.DataFrame(lines) for name, lines in self.result_.tables().items()}

    def save(self, path: str | Path) -> None:
        """Write the fitted model: plain data, no pickle, no rows. `pc.load` reads it."""
        from polyclinic.study.saved import save

        check_is_fitted(self)
        save(self, path)


def validation(asked: str | None, noisy: bool) -> str:
    """How to validate. Raises WRONG_VALUE, NO_PRIVATE_VERSION."""
    if asked is None:
        return "none" if noisy else "cross-validation"
    if asked not in ("cross-validation", "none"):
        raise InputError(
            f"validate = {asked!r}",
            code="WRONG_VALUE",
            rule='"cross-validation" or "none"',
            next="correct it",
        )
    if asked == "cross-validation" and noisy:
        raise InputError(
            "this model was fitted with noise and has no cross-validation",
            code="NO_PRIVATE_VERSION",
            rule="every fold would be another fit: without noise it would undo the guarantee, "
            "with noise it would spend epsilon again",
            next='validate = "none" judges the model as it is on the same patients; '
            "evaluate(sites) on other hospitals",
        )
    return asked
