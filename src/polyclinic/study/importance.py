"""Which columns a fitted model rests on, over the rows of hospitals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from polyclinic.core.errors import InputError
from polyclinic.core.fit import Callback, Round, Store, fit
from polyclinic.evaluation import Importance, Parts, Shuffle, exchanges
from polyclinic.models.survival import CoxSpec
from polyclinic.study.formula import FormulaData, on_other_sites

if TYPE_CHECKING:
    from polyclinic.engines.embedded import Embedded
    from polyclinic.study.evaluate import Judged
    from polyclinic.study.sites import Sites

OF = "risks, classes and numbers, and of networks of durations and of masks"
MEASURES = {  # the loss of each kind of outcome
    "binary": "log loss",
    "classes": "log loss",
    "number": "squared error",
    "survival": "share of pairs ranked wrongly",
    "mask": "1 - Dice",
}


class Explained:
    """A fitted model of which it can be asked what it rests on."""

    if TYPE_CHECKING:
        _engine: Embedded

        @property
        def formula_data(self) -> FormulaData: ...
        def judged(self) -> Judged: ...

    def importance(
        self,
        sites: Sites | None = None,
        *,
        columns: Sequence[str] | None = None,
        parts: Parts | None = None,
        repeats: int = 5,
        seed: int = 0,
    ) -> pd.DataFrame:
        """How the mean loss over all hospitals grows when a column is that of other patients.

        Each hospital lets its own rows exchange the column; only sums of losses leave it. The loss
        is -log of the probability of what happened, of a number the squared error; of a network of
        durations the share of pairs within a hospital that it ranks wrongly (1 - concordance), and
        of one of masks 1 - Dice.

        Parameters
        ----------
        sites : other hospitals to ask; None: those that the model was fitted on.
        columns : of the formula; None: all that it reads.
        parts : exchange parts of an image or series one by one, by column: of a series the names of
            variables, or 1 for all of them; of an image into how many parts each side is cut.
        repeats : of each exchange, 1 to 100, each time otherwise.
        seed : of the exchanges.

        Returns
        -------
        Table by column, the largest first: increase (mean over the repeats), sd (over the repeats,
        as scikit-learn's `permutation_importance` has it), repeats (that no hospital left out).

        Raises
        ------
        InputError : NO_FORMULA for a model fitted on arrays; WRONG_VALUE; NOTHING_TO_PREDICT.
        Refused : a site's gate refused.
        """
        data = self.formula_data
        if not getattr(self, "evaluated_", True):
            raise _nothing()
        judged = self.judged()
        if sites is not None:
            data = on_other_sites(data, sites, self._engine)
        asked: Any = {"repeats": repeats, "seed": seed, "columns": columns, "parts": parts}
        shuffles = exchanges(data.design, data.codebook, **asked)
        return importances(judged, data, shuffles, seed=seed).table


@dataclass(frozen=True)
class Importances:
    """How the loss grows by column.

    measure  what the loss is, in words
    loss     of the rows as they are, the mean; None: a hospital left it out
    columns  by name {"increase", "sd", "repeats"}, the largest first
    repeats  that were asked for
    how      whose rows: "same patients", or those of an evaluation
    """

    measure: str
    loss: float | None
    columns: Mapping[str, Mapping[str, Any]]
    repeats: int
    rounds: tuple[Round, ...]
    how: str = "same patients"

    @property
    def table(self) -> pd.DataFrame:
        """A line for each column."""
        table = pd.DataFrame.from_dict(dict(self.columns), orient="index").rename_axis("column")
        return table.astype({"increase": float, "sd": float})

    def to_data(self) -> dict[str, Any]:
        """As a run's results hold it."""
        lines = [{"column": name, **found} for name, found in self.columns.items()]
        about = {"how": self.how, "measure": self.measure, "loss": self.loss}
        return {**about, "repeats": self.repeats, "columns": lines}


def importances(
    judged: Judged,
    data: FormulaData,
    shuffles: Mapping[str, Shuffle],
    *,
    seed: int = 0,
    store: Store | None = None,
    callbacks: Sequence[Callback] = (),
) -> Importances:
    """Ask for the loss of the rows as they are, and after every exchange.

    Raises NOTHING_TO_PREDICT for a model whose predictions are not sent to hospitals.
    """
    if isinstance(judged.spec, CoxSpec):
        raise _nothing()
    least = max(data.least, 1)
    algorithm = Importance(judged.full, judged.outcome, shuffles, least, judged.classes)
    run = fit(algorithm, data.federation, seed=seed, store=store, callbacks=callbacks)
    found, repeats = run.model, max(one.repeats for one in shuffles.values())
    lines = sorted(found["columns"].items(), key=_largest_first)
    return Importances(MEASURES[judged.outcome], found["loss"], dict(lines), repeats, run.rounds)


def _largest_first(line: tuple[str, Mapping[str, Any]]) -> float:
    """Columns without a repeat that was let out stand last."""
    increase = line[1]["increase"]
    return math.inf if increase is None else -float(increase)


def _nothing() -> InputError:
    return InputError(
        "importances of a model that sends hospitals no predictions of their rows",
        code="NOTHING_TO_PREDICT",
        rule=f"importance is how a loss grows: of {OF}",
        next="use a model that predicts; a Cox regression has summary(), trees have tables()",
    )
