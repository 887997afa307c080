"""The one loop: plan, total, update, checkpoint, until the algorithm is finished."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from polyclinic.core.algorithm import Algorithm, Overlapping, State, Unhurried
from polyclinic.core.asking import FirstOf
from polyclinic.core.compress import KINDS
from polyclinic.core.contribution import Total
from polyclinic.core.errors import InputError, Stopped
from polyclinic.core.federation import Engine
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup


@dataclass(frozen=True)
class Round:
    """One finished round, as callbacks, history and report see it. `seconds` is wall time."""

    number: int
    step: str
    task: str
    plan: str
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    left: tuple[Mapping[str, Any], ...] = ()


class Store(Protocol):
    """Keeps the newest state of a run."""

    def load(self) -> Mapping[str, Any] | None: ...
    def save(self, value: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Run:
    """A finished fit: the model, and the history of its rounds."""

    model: Any
    state: State
    rounds: tuple[Round, ...]


Callback = Callable[[Round], None]


def fit(
    algorithm: Algorithm,
    engine: Engine,
    *,
    seed: int = 0,
    store: Store | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Run `algorithm` to its end.

    The state is saved in `store` after every round. A store that already holds a state resumes it,
    with its seed; the result has the same bytes as an undisturbed run. Ctrl-C between two saves
    loses at most the round in progress.
    """
    saved = store.load() if store else None
    seed = saved["seed"] if saved else seed
    state = algorithm.init(seed)
    start = _start(algorithm, state)
    if saved:
        if saved["start"] != start:
            raise _other_run()
        state = saved["state"]
        engine.recall(saved["engine"])
    rounds = _rounds(saved) if saved else []
    parent = rounds[-1].plan if rounds else ""
    with engine.session():
        try:
            while (plan := algorithm.plan(state)) is not None:
                plan = plan.at(len(rounds) + 1, parent)
                plan, total, done = _next(algorithm, engine, state, plan)
                state = algorithm.update(state, plan, total)
                rounds.append(replace(done, figures=_finite(algorithm.progress(state))))
                parent = plan.round_hash
                if store:
                    kept = {"seed": seed, "start": start, "engine": engine.memory()}
                    store.save({**kept, "state": state, **_history(rounds)})
                for callback in callbacks:
                    callback(rounds[-1])
        except KeyboardInterrupt:
            raise _interrupted(len(rounds), store is not None) from None
    return Run(algorithm.model(state), state, tuple(rounds))


def _start(algorithm: Algorithm, state: State) -> str:
    """What a run asks first: the stored state of another one does not fit."""
    first = algorithm.plan(state)
    return first.content_hash if first else ""


def _other_run() -> InputError:
    return InputError(
        "the store holds the state of another run",
        code="OTHER_RUN",
        rule="a run goes on only from its own state",
        next="give each fit a store of its own",
        kept="the stored state is left as it is",
    )


def ask(engine: Engine, plan: Plan) -> tuple[Total, Round]:
    """One round: the total of `plan`, and the record of what left for it."""
    started = time.perf_counter()
    total = engine.total(plan)
    return total, _record(plan, total, time.perf_counter() - started)


def _next(
    algorithm: Algorithm, engine: Engine, state: State, plan: Plan
) -> tuple[Plan, Total, Round]:
    """The next round: of all sites, of whichever is first, or with later ones begun."""
    several = algorithm.several(state) if isinstance(algorithm, Unhurried) else None
    if several is not None:
        return _first(engine, several, plan.round)
    ahead = algorithm.ahead(state) if isinstance(algorithm, Overlapping) else None
    if ahead is not None:
        return _ahead(engine, ahead, plan)
    return plan, *ask(engine, plan)


def _ahead(engine: Engine, ahead: Sequence[Plan], plan: Plan) -> tuple[Plan, Total, Round]:
    """One round; those after it may be begun."""
    started = time.perf_counter()
    later = [one.at(plan.round + i, plan.parent) for i, one in enumerate(ahead)]
    total = engine.ahead([plan, *later[1:]])
    return plan, total, _record(plan, total, time.perf_counter() - started)


def _first(engine: Engine, asked: FirstOf, number: int) -> tuple[Plan, Total, Round]:
    """The answer of whichever site is first, as a round of this number."""
    started = time.perf_counter()
    plan, total = engine.first(asked)
    done = _record(plan, total, time.perf_counter() - started)
    return plan, total, replace(done, number=number)


def _record(plan: Plan, total: Total, seconds: float) -> Round:
    leaves = () if total.lost else lookup(plan.task, plan.version).leaves(plan)
    left = tuple(
        {
            "leaf": leaf.name,
            "kind": leaf.kind,
            "shape": list(leaf.shape),
            "numbers": leaf.filled or leaf.size,
            "bytes": _bytes(leaf, plan, total),
            "sites": list(total.sites),
            "combine": plan.combine,
            "seen": total.seen,
        }
        for leaf in leaves
    )
    if total.shared:
        left = (*left, _shared(plan, total))
    return Round(plan.round, plan.step, plan.task, plan.round_hash, seconds, left=left)


def _shared(plan: Plan, total: Total) -> dict[str, Any]:
    """What left before the answer, so that sites could lean on each other; a step of its own."""
    return {
        "leaf": "safe",
        "kind": "what is safe",
        "shape": [total.shared],
        "numbers": total.shared,
        "bytes": total.shared * 16,
        "sites": list(total.sites),
        "combine": "sum",
        "seen": total.seen,
        "step": f"{plan.step or plan.task}: what is safe",
    }


def _bytes(leaf: Leaf, plan: Plan, total: Total) -> int:
    """Bytes of a leaf in a release, with the flags or bits that say which entries are there.

    What is masked in a secure sum is a whole number of the ring, rounded or not.
    """
    if leaf.filled:
        return leaf.filled * KINDS[leaf.packed] + -(-leaf.size // 8)
    if leaf.packed:
        return leaf.size * KINDS[leaf.packed]
    if leaf.lossy and plan.compress and total.seen == "this site":
        return leaf.size * KINDS[plan.compress]
    return leaf.size * ((8 if leaf.ring == "int64" else 16) + (8 if leaf.small == "hide" else 0))


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def _history(rounds: Sequence[Round]) -> dict[str, Any]:
    """The rounds as they are stored: what left is the same in most of them and is held once."""
    kinds: dict[int, int] = {}
    left, lines = [], []
    for done in rounds:
        if id(done.left) not in kinds:
            if done.left not in left:
                left.append(done.left)
            kinds[id(done.left)] = left.index(done.left)
        lines.append({**vars(done), "left": kinds[id(done.left)]})
    return {"rounds": lines, "left": [list(kind) for kind in left]}


def _rounds(saved: Mapping[str, Any]) -> list[Round]:
    left = [tuple(kind) for kind in saved["left"]]
    return [Round(**{**line, "left": left[line["left"]]}) for line in saved["rounds"]]


def _interrupted(rounds: int, stored: bool) -> Stopped:
    return Stopped(
        f"stopped by Ctrl-C after round {rounds}",
        code="INTERRUPTED",
        rule="the state is saved after every round" if stored else "this run had no run folder",
        next="the same command with --resume goes on from there" if stored else "start again",
        kept=f"rounds 1 to {rounds}" if stored and rounds else "nothing",
    )
