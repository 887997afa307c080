"""Which columns a fitted model rests on, over the rows of hospitals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from polyclinic.core.errors import InputError
from polyclinic.core.fit import fit
from polyclinic.data.codebook import Column
from polyclinic.evaluation import Importance, Shuffle
from polyclinic.evaluation.shuffled import MOST
from polyclinic.study.formula import FormulaData, on_other_sites

if TYPE_CHECKING:
    from polyclinic.engines.embedded import Embedded
    from polyclinic.study.evaluate import Judged
    from polyclinic.study.sites import Sites

Parts = Mapping[str, int | Sequence[str]]


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
        is -log of the probability of what happened, or of a number the squared error.

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
        judged, data = self.judged(), self.formula_data
        if sites is not None:
            data = on_other_sites(data, sites, self._engine)
        if judged.outcome not in ("binary", "classes", "number"):
            raise InputError(
                f"importances of a model of {judged.outcome}",
                code="NOTHING_TO_PREDICT",
                rule="importance is how a loss of risks, classes or numbers grows",
                next="explain(X) on rows of your own",
            )
        if not 1 <= repeats <= MOST or not 0 <= seed < 2**63:
            raise _wrong(f"repeats = {repeats}, seed = {seed}", f"1 to {MOST} repeats, seed from 0")
        shuffles = {
            name: Shuffle(column, part, repeats, seed)
            for column, asked in _wanted(data, columns, parts or {}).items()
            for name, part in parts_of(data, column, asked)
        }
        least = max(data.least, 1)
        algorithm = Importance(judged.full, judged.outcome, shuffles, least, judged.classes)
        found = fit(algorithm, data.federation, seed=seed).model
        table = pd.DataFrame.from_dict(found, orient="index").rename_axis("column")
        table = table.astype({"increase": float, "sd": float})
        return table.sort_values("increase", ascending=False, kind="stable")


def _wanted(
    data: FormulaData, columns: Sequence[str] | None, parts: Parts
) -> dict[str, int | Sequence[str] | None]:
    """The columns, each with what is asked of its parts. Raises WRONG_VALUE."""
    known = columns_of(data)
    wanted = known if columns is None else tuple(columns)
    if unknown := sorted({*wanted, *parts} - set(known)):
        raise _wrong(f"columns: {', '.join(unknown)}", f"the model reads {', '.join(known)}")
    return {column: parts.get(column) for column in wanted}


def columns_of(data: FormulaData) -> tuple[str, ...]:
    """The columns that a model reads to predict."""
    design = data.design
    fixed = {design.response, design.event, design.weight, *design.strata}
    return tuple(name for name in design.columns if name not in fixed)


def parts_of(
    data: FormulaData, column: str, asked: int | Sequence[str] | None
) -> Iterator[tuple[str, tuple[tuple[int, int], ...]]]:
    """Names and ends of the parts of a column. Raises WRONG_VALUE."""
    if asked is None:
        yield column, ()
        return
    spec = data.codebook.spec(column)
    if not isinstance(spec, Column) or not spec.shape:
        raise _wrong(f"parts of {column}", "only an image or a series has parts")
    if spec.type == "series":
        names = list(spec.series.variables) if spec.series else []
        names = names or [str(i) for i in range(spec.shape[1])]
        chosen = names if isinstance(asked, int) else list(asked)
        if unknown := sorted(set(chosen) - set(names)):
            raise _wrong(f"{column}: {', '.join(unknown)}", f"variables: {', '.join(names)}")
        for name in chosen:
            at = names.index(name)
            yield f"{column}: {name}", ((0, spec.shape[0]), (at, at + 1))
        return
    if not isinstance(asked, int) or not 1 <= asked <= min(spec.shape[1:]):
        raise _wrong(f"parts of {column}: {asked!r}", "cuts along each side of an image")
    sides = [[(s * i // asked, s * (i + 1) // asked) for i in range(asked)] for s in spec.shape[1:]]
    for ends in itertools.product(*sides):
        words = ", ".join(f"{first}-{end - 1}" for first, end in ends)
        yield f"{column}: {words}", ((0, spec.shape[0]), *ends)


def _wrong(what: str, rule: str) -> InputError:
    return InputError(what, code="WRONG_VALUE", rule=rule, next="correct it")
