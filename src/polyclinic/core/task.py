"""The site's half of an algorithm, and the list of those that are installed.

A plan names a task; a site looks the name up here. No code travels. Other packages add tasks by an
entry point in the group ``polyclinic.tasks`` that names a list of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from threading import RLock
from typing import Any, Literal, Protocol, TypeGuard, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan

Facts = Mapping[str, NDArray[np.int64]]
Grain = Literal["row", "patient", "site"]
Answer = Mapping[str, Any]
GROUP = "polyclinic.tasks"
T = TypeVar("T")


class Task(Protocol):
    """Computes one kind of contribution; never sees the algorithm that asked.

    grain  "row": rows may be split anywhere; "patient": all rows of a patient in one call; "site":
           the whole site in one call. Workers never split a patient, whatever the grain.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def grain(self) -> Grain: ...

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        """The arrays that `local` will return, derived from the plan at the site."""
        ...

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        """The contribution of one partition. Pure."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A task of grain "site" whose site goes on from what it kept at an earlier round.

    What is kept stands in the site's ledger beside the release of that round, and never leaves. The
    plan's state names that round: "after" is the `bare_hash` of its plan, "" for none. Of a
    chain of rounds the ledger keeps the bytes of the last few.
    """

    def remember(
        self, plan: Plan, partition: Partition, memory: Mapping[str, Any]
    ) -> tuple[Contribution, Mapping[str, Any]]:
        """The contribution, and what is kept for a later round. Pure."""
        ...


@runtime_checkable
class Informed(Protocol):
    """A task of grain "site" that can go chunk by chunk once it is known what all of them hold.

    What is known are whole numbers that are added over the chunks of `Partition.chunks`. They stay
    at the site, where `local` and `exposure` find them in `Plan.known`.
    """

    def facts(self, plan: Plan, partition: Partition) -> Facts:
        """Of one chunk, the same for all plans of one `about`. Pure."""
        ...

    def about(self, plan: Plan) -> str:
        """What of the plan the facts are about."""
        ...

    def apart(self, known: Facts) -> bool:
        """Whether chunks are computed one by one; else all rows of the site in one call."""
        ...


@dataclass(frozen=True)
class Question:
    """What a site asks of each of its chunks, as data.

    long  whether answers are as long as there are rows: it is then asked of a few chunks at a time
    """

    values: Mapping[str, Any]
    long: bool = False


Steps = Generator[Question, Answer, tuple[Contribution, Exposure]]


@runtime_checkable
class Stepwise(Task, Protocol):
    """A task of grain "site" whose site asks its chunks several questions, one after the other, and
    makes its contribution of what they hold together.

    Questions and answers stay inside the site: no gate judges them. What they end in has the same
    bytes wherever the chunks are.
    """

    @property
    def exact(self) -> bool:
        """Whether these are the bytes of `local` over all rows, however rows are cut."""
        ...

    def by_steps(self, plan: Plan) -> bool:
        """Whether it goes so; else all rows of the site in one call of `local`."""
        ...

    def steps(self, plan: Plan, kept: dict[str, Any]) -> Steps:
        """Yields questions, is sent the answers of all chunks together, and returns what the site
        contributes and how its patients share in it.

        kept  what it knows from earlier plans about the same rows; it may vanish at any time
        """
        ...

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """The answer of one chunk. Pure."""
        ...

    def together(self, one: Answer, other: Answer) -> Answer:
        """The answer of two parts, in any order: each worker adds up its own first."""
        ...


def goes_by_steps(task: Task, plan: Plan, apart: bool, large: bool) -> TypeGuard[Stepwise]:
    """Whether a site asks its chunks; else all rows are computed in one call.

    Where both have the same bytes the engine decides, else the rows alone: over a scan, which may
    be more than one process holds, the result is the same on every engine.

    apart  whether chunks are with several workers
    large  whether they are several chunks of a scan
    """
    if not isinstance(task, Stepwise) or not task.by_steps(plan):
        return False
    return apart if task.exact else large


def answered(steps: Generator[Question, Answer, T], ask: Callable[[Question], Answer]) -> T:
    """What steps end in when `ask` answers their questions."""
    try:
        question = next(steps)
        while True:
            question = steps.send(ask(question))
    except StopIteration as end:
        found: T = end.value
        return found


class Stepped:
    """What a site finds by steps. It remembers the last plan, whose sum and exposure are asked for
    one after the other, and what tasks keep of all rows."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self._last: tuple[str, tuple[Contribution, Exposure]] | None = None

    def found(
        self, task: Stepwise, plan: Plan, ask: Callable[[Question], Answer]
    ) -> tuple[Contribution, Exposure]:
        """What the steps of a plan end in; `ask` answers their questions."""
        if self._last is None or self._last[0] != plan.content_hash:
            self._last = plan.content_hash, answered(task.steps(plan, self.kept), ask)
        return self._last[1]


@runtime_checkable
class Keeping(Protocol):
    """A task that sums what it keeps of a chunk, so that the chunk is not read again."""

    def keeps(self, plan: Plan, cache: Mapping[str, Any]) -> bool:
        """Whether all that is asked for is there; it is then called with rows without columns."""
        ...


def facts_added(found: Iterable[Facts]) -> Facts:
    """Of all chunks."""
    total: dict[str, NDArray[np.int64]] = {}
    for one in found:
        total = {name: total[name] + more if total else more for name, more in one.items()}
    return total


def goes_on_from(plan: Plan) -> str:
    """`bare_hash` of the plan from whose round a site goes on; "": from nothing."""
    state = plan.values.get("state")
    after = state.get("after", "") if isinstance(state, Mapping) else ""
    return after if isinstance(after, str) else ""


_installed: dict[tuple[str, int], Task] = {}
_loaded: list[str] = []
_loading = RLock()


def register(tasks: Iterable[Task]) -> None:
    """Install `tasks`; installing the same one twice is harmless, two of one name are an error."""
    for task in tasks:
        key = (task.name, task.version)
        if _installed.setdefault(key, task) is not task:
            raise ValueError(f"two tasks are called {task.name} version {task.version}")


def load_installed() -> None:
    """Import all that is installed, once; another thread waits until it is there."""
    with _loading:
        if not _loaded:
            _loaded.append(GROUP)
            for entry in entry_points(group=GROUP):
                register(entry.load())


def lookup(name: str, version: int) -> Task:
    """The installed task of that name and version. Raises UNKNOWN_TASK."""
    if (name, version) not in _installed:
        load_installed()
    task = _installed.get((name, version))
    if task is None:
        raise PolyclinicError(
            f"no algorithm step {name!r} version {version} is installed here",
            code="UNKNOWN_TASK",
            rule="a site runs installed algorithms only; no code travels",
            next="install the same version of Polyclinic at every site",
        )
    return task
