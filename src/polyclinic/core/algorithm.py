"""The coordinator's half: a frozen record of pure functions over an explicit state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from polyclinic.core.asking import FirstOf
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan

State = dict[str, Any]  # nested dict of arrays and scalars: it is checkpointed after each round


class Algorithm(Protocol):
    """Rounds of plan -> local -> sum -> update.

    init    the first state
    plan    what every site computes next, or None when finished; pure: called again after a resume
    update  the next state, from the plan that was answered and its total
    model   the result in a finished (or interrupted) state
    """

    def init(self, seed: int) -> State: ...
    def plan(self, state: State) -> Plan | None: ...
    def update(self, state: State, plan: Plan, total: Total) -> State: ...
    def model(self, state: State) -> Any: ...
    def progress(self, state: State) -> Mapping[str, float]:
        """Figures to show while it runs: "loss", "gain"."""
        ...


@runtime_checkable
class Unhurried(Protocol):
    """An algorithm whose sites answer each by itself, whenever they are ready.

    several  the plans of single sites, of which one answer comes to `update`; None: `plan` is of
             all. `plan` is then the first of them, so that any loop can go on one by one
    """

    def several(self, state: State) -> FirstOf | None: ...


@runtime_checkable
class Overlapping(Protocol):
    """An algorithm whose next rounds may begin before the ones before them are summed.

    ahead  the plans of the next rounds, as far as they may begin, at what is known now: the first
           is `plan`; None: no round begins before its time
    """

    def ahead(self, state: State) -> Sequence[Plan] | None: ...


Make = Callable[[Sequence[Any]], Algorithm]


@dataclass(frozen=True)
class Stages:
    """Algorithms one after the other as one algorithm: moments -> fit -> evaluation.

    Each entry of `make` receives the results of the stages before it and returns the next
    algorithm. `model` is the list of all results.
    """

    make: tuple[Make, ...]

    def init(self, seed: int) -> State:
        return self._enter({"seed": seed, "done": []})

    def plan(self, state: State) -> Plan | None:
        if len(state["done"]) == len(self.make):
            return None
        return self._current(state).plan(state["inner"])

    def several(self, state: State) -> FirstOf | None:
        """Plans of single sites, where the current algorithm has them."""
        if len(state["done"]) == len(self.make):
            return None
        current = self._current(state)
        return current.several(state["inner"]) if isinstance(current, Unhurried) else None

    def ahead(self, state: State) -> Sequence[Plan] | None:
        """Plans of the next rounds, where the current algorithm has them."""
        if len(state["done"]) == len(self.make):
            return None
        current = self._current(state)
        return current.ahead(state["inner"]) if isinstance(current, Overlapping) else None

    def update(self, state: State, plan: Plan, total: Total) -> State:
        inner = self._current(state).update(state["inner"], plan, total)
        return self._advance({**state, "inner": inner})

    def model(self, state: State) -> list[Any]:
        return self._results(state["done"])

    def progress(self, state: State) -> Mapping[str, float]:
        if len(state["done"]) < len(self.make):
            return self._current(state).progress(state["inner"])
        if not self.make:
            return {}
        *before, last = state["done"]
        return self._algorithm(before).progress(last)

    def _advance(self, state: State) -> State:
        while len(state["done"]) < len(self.make):
            if self._current(state).plan(state["inner"]) is not None:
                return state
            state = self._enter({"seed": state["seed"], "done": [*state["done"], state["inner"]]})
        return state

    def _enter(self, state: State) -> State:
        if len(state["done"]) == len(self.make):
            return {**state, "inner": {}}
        state = {**state, "inner": self._algorithm(state["done"]).init(state["seed"])}
        return self._advance(state)

    def _current(self, state: State) -> Algorithm:
        return self._algorithm(state["done"])

    def _algorithm(self, done: Sequence[State]) -> Algorithm:
        return self.make[len(done)](self._results(done))

    def _results(self, done: Sequence[State]) -> list[Any]:
        results: list[Any] = []
        for make, state in zip(self.make, done, strict=False):
            results.append(make(results).model(state))
        return results
