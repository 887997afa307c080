"""Tasks of a stratified Cox regression over a hospital whose rows are in chunks.

A risk set is of all rows of a hospital. So the site asks its chunks for the event times (known.py)
and for sums at each (risk_sums.py), adds them up from the latest on, and hands down what a chunk
needs to find what its own rows add (pieces.py). Rows in one place go through kernel.py at once.

None of it leaves the site; what does is in tasks.py and held_out.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.exposure import Exposure, Shares
from polyclinic.core.exposure_data import exposure_from_data, exposure_to_data
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Answer, Question, Steps
from polyclinic.models.by_time import ByTime
from polyclinic.models.survival import pieces
from polyclinic.models.survival.exposure import LOSS, Asked, Exposed, Own, exposure_of, shared_of
from polyclinic.models.survival.grid_runs import first_rows
from polyclinic.models.survival.known import Known, Piece, Times, facts, known_of, piece_of
from polyclinic.models.survival.leverage import leverage_of
from polyclinic.models.survival.pieces import Table
from polyclinic.models.survival.risk_sums import Band, RiskSums, risk_sums
from polyclinic.models.survival.rows import Rows, key_of, rows_of, spec_of
from polyclinic.models.survival.spec import CoxSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class InChunks(Exposed):
    """A task that goes step by step over the chunks of a scan."""

    @property
    def exact(self) -> bool:
        """Chunks round their sums, and risk sets are added up otherwise than in one place."""
        return False

    def by_steps(self, plan: Plan) -> bool:
        """Always."""
        return True

    def together(self, one: Answer, other: Answer) -> Answer:
        """Both."""
        return {name: _added(name, mine, other[name]) for name, mine in one.items()}


@dataclass(frozen=True)
class Part:
    """A chunk at the coefficients of a plan, and what it was handed.

    risk, rates, own  as in pieces.py, in the order of the piece
    """

    spec: CoxSpec
    partition: Partition
    asked: Mapping[str, Any]
    piece: Piece
    risk: Floats
    rates: Floats
    own: Floats

    @property
    def rows(self) -> Rows:
        """All of the chunk."""
        return rows_of(self.spec, self.partition)

    @property
    def key(self) -> Ints | None:
        """The patient of each row that counts."""
        key = self.partition.key
        return None if key is None else key[self.rows.used]

    def by_row(self, values: Floats) -> Floats:
        """Values (..., n, m) in the order of the chunk's rows; 0 of those not in the piece."""
        found = np.zeros((*values.shape[:-2], self.partition.n_rows, values.shape[-1]))
        found[..., self.piece.rows, :] = values
        return found

    def scored(self) -> Floats:
        """Each row's part in minus the gradient at the first candidate, (n_rows, p)."""
        vectors = self.asked["vectors"]
        return self.by_row(pieces.scores(self.piece, self.risk[:, 0], self.own[:, 0], vectors))

    def leverage(self) -> Floats:
        """Largest of a patient of the chunk, (1,)."""
        used, curved = self.rows.used, self.by_row(self.rates[2])[:, 0]
        x = self.rows.x[used] - self.asked["mean"]
        return np.array([leverage_of(x, curved[used], self.asked["hessian"], self.key)])

    def shared(self, views: list[Asked], counted: Mapping[str, int]) -> dict[str, Any]:
        """How the chunk's patients share in the sums; `counted`: patients of more levels."""
        rates, at, seen = self.by_row(np.abs(self.rates)), 0, []
        rates[:3, :, Table(**self.asked["table"]).lost] = np.inf
        rates = np.where(np.isfinite(rates), rates, np.inf)
        scored = self.scored() if "vectors" in self.asked else None
        for view in views:
            assert view.theta is not None
            mine = rates[:, :, at : at + len(view.theta)]
            at += len(view.theta)
            centre = Times(**self.asked["times"]).centre
            one = shared_of(self.spec, self.partition, view, mine[:3], centre, scored)
            used = mine[:, self.rows.used] if view.flagged else mine[:, self.rows.used, 0]
            columns = {**one.columns, LOSS: _loss_of(used[0], used[3], self.key)}
            one = replace(one, columns=columns, slots={**one.slots, **counted})
            seen.append([exposure_to_data(one)])
        return {
            "shared": seen,
            "leaving": pieces.leaving(self.piece, self.risk, self.asked["flagged"]),
            "patients": self.partition.patients(self.rows.used),
        }


def _loss_of(loss: Floats, apart: Floats, key: Ints | None) -> Shares:
    """Shares in the loss, of which nobody knows which of the events at one time has which part: no
    patient's is taken for smaller than it may be, and the sum not for larger."""
    least = Shares.of(np.maximum(loss - apart, 0.0), key)
    return replace(Shares.of(loss + apart, key), total=least.total)


@dataclass
class Asker:
    """The site's half of one plan: what is known of all its rows.

    top   largest eta of each candidate and stratum
    kept  what else is, whatever the coefficients; names begin with "survival "
    """

    task: ByRiskSets
    plan: Plan
    known: Known
    top: Floats
    kept: dict[str, Any]
    sums: RiskSums = field(init=False)

    def at_times(
        self, use: Callable[[int, Band], None] | None = None, observed: bool = False
    ) -> Generator[Question, Answer, None]:
        """The risk sets; see `risk_sums`."""
        efron = self.task.spec(self.plan).ties == "efron"
        told = {"times": vars(self.known.times)}
        self.sums = yield from risk_sums(self.known, self.top, efron, told, use, observed)

    def parts(self, **more: Any) -> Generator[Question, Answer, tuple[Answer, Exposure]]:
        """What chunks find of their own rows, and how patients share in it."""
        found = yield self.question("parts", flagged=self.sums.flagged(self.known), **more)
        crowd = self.sums.crowd(self.known, found["leaving"])
        seen, at = [], 0
        for asked, of_chunks in zip(self.task.views(self.plan), found["shared"], strict=True):
            assert asked.theta is not None
            mine = crowd[at : at + len(asked.theta)]
            at += len(asked.theta)
            one = reduce(add, map(exposure_from_data, of_chunks))
            seen.append(replace(one, crowd=np.asarray(mine if asked.flagged else mine[0])))
        return found, self.task.judged(self.plan, seen)

    def question(self, ask: str, **more: Any) -> Question:
        """About the risk sets that are known."""
        told = {"times": vars(self.known.times), "top": self.top}
        return Question({**told, "ask": ask, "table": vars(self.sums.table(self.known)), **more})

    def ranked(self) -> Generator[Question, Answer, list[Ranked]]:
        """All rows of the site, stratum after stratum."""
        found = yield replace(self.question("ranks"), long=True)
        stratum, time, event, keys, eta = (np.concatenate(found[name]) for name in RANKS)
        order = np.lexsort((keys, -time, stratum))
        cuts = np.flatnonzero(np.diff(stratum[order])) + 1
        groups = np.split(order, cuts) if len(order) else []
        return [Ranked(time[rows], event[rows], keys[rows], eta[rows]) for rows in groups]


@dataclass(frozen=True)
class Ranked:
    """Rows of a stratum; eta of each candidate, (n, m), or of one, (n,)."""

    time: Floats
    event: Bools
    keys: Ints
    eta: Floats


RANKS = ("stratum", "time", "event", "keys", "eta")


class ByRiskSets(InChunks, ABC):
    """One whose sums are of risk sets."""

    name: str

    def spec(self, plan: Plan) -> CoxSpec:
        """The regression."""
        return spec_of(plan)

    def views(self, plan: Plan) -> list[Asked]:
        """How the sums hang on the coefficients: one, or one for each fold."""
        return [self.asked(plan)]

    def judged(self, plan: Plan, seen: list[Exposure]) -> Exposure:
        """What the gate reads, of the exposures of `views`."""
        return seen[0]

    def counted(self, plan: Plan, partition: Partition) -> dict[str, int]:
        """Patients of more levels."""
        return {}

    @abstractmethod
    def asking(self, asker: Asker) -> Steps:
        """From the event times and the largest predictors on."""

    def found(self, plan: Plan, part: Part) -> dict[str, Any]:
        """What a chunk adds to the sums that leave, beside how patients share in them."""
        return {}

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Of rows in one place."""
        more = self.counted(plan, partition)
        seen = [exposure_of(self.spec(plan), partition, own, one) for one in self.views(plan)]
        return self.judged(plan, [replace(one, slots={**one.slots, **more}) for one in seen])

    def steps(self, plan: Plan, kept: dict[str, Any]) -> Steps:
        """See the module."""
        name = f"survival {key_of(self.spec(plan))}"
        if name not in kept:
            for old in [old for old in kept if old.startswith("survival ")]:
                del kept[old]  # that of another model
            kept[name] = known_of((yield Question({"ask": "facts"}, long=True)))
        known: Known = kept[name]
        found = yield Question({"ask": "highest", "times": vars(known.times)})
        return (yield from self.asking(Asker(self, plan, known, found["highest"], kept)))

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """The answer of one chunk."""
        spec, asked = self.spec(plan), question.values
        if asked["ask"] == "facts":
            return facts(spec, partition)
        views, times = self.views(plan), Times(**asked["times"])
        theta = np.concatenate([one.theta for one in views if one.theta is not None])
        piece = piece_of(spec, partition, times)
        if asked["ask"] == "highest":
            return {"highest": pieces.highest(piece, theta, len(times.stratum))}
        if asked["ask"] == "at times":
            return {"times": pieces.at_times(piece, times, theta, asked)}
        if asked["ask"] == "ranks":
            return _ranks(spec, partition, piece, theta)
        eta, risk = pieces.risks(piece, theta, asked["top"])
        with np.errstate(all="ignore"):  # what is not finite is left out
            rates, own = pieces.rates(piece, eta, risk, Table(**asked["table"]))
            part = Part(spec, partition, asked, piece, risk, rates, own)
            if asked["ask"] == "leverage":
                return {"leverage": part.leverage()}
            return part.shared(views, self.counted(plan, partition)) | self.found(plan, part)


def _ranks(spec: CoxSpec, partition: Partition, piece: Piece, theta: Floats) -> dict[str, Any]:
    """When and how each row's time ended, and its risk."""
    time, keys = rows_of(spec, partition).time[piece.rows], partition.keys[piece.rows]
    values = (piece.stratum, time, piece.event, keys, piece.eta(theta))
    return {name: [one] for name, one in zip(RANKS, values, strict=True)}


def _added(name: str, mine: Any, more: Any) -> Any:
    """What two chunks say under one name, as one."""
    if name == "times":
        return vars(ByTime(**mine) + ByTime(**more))
    if name == "low":
        return np.minimum(mine, more)
    if name in ("high", "heaviest", "highest", "leverage", "most"):
        return np.maximum(mine, more)
    if name == "head":
        return first_rows(mine, more)
    if name == "by run":
        return {name: vars(Shares(**one) + Shares(**more[name])) for name, one in mine.items()}
    if name in ("leaving", "shared"):  # of each candidate, or view
        return [one + two for one, two in zip(mine, more, strict=True)]
    return mine + more  # sums, counts, and lists of what each chunk has
