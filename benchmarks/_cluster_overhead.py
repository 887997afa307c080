"""Part `overhead` of `scripts/bench cluster`: milliseconds of a round in which there is next to
nothing to compute, two workers on this machine.

Beside Polyclinic's round stand its own message without the encoding around it, ways in which Dask
itself asks two workers, and two processes with a pipe each, which is the least there can be.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing as mp
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

TURNS, ROUNDS = 6, 40  # the ways take turns, so that other work on the machine disturbs all alike
Way = Callable[[], Any]


def show(args: Any) -> None:
    """A line per way."""
    import polyclinic as pc

    with pc.cluster(workers=2) as c, Pipes() as pipes:
        ways = {**own(c), **dask(c.machines._client), "two processes, a pipe each": pipes.round}
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, way in ways.items():
                found[name] += timed(way)
    print(f"milliseconds of a round, two workers, {TURNS * ROUNDS} rounds")
    print(f"{'':44}{'median':>8}{'least':>8}{'9 of 10':>9}")
    for name, seconds in found.items():
        middle, least, most = (
            1e3 * f(seconds) for f in (statistics.median, min, lambda s: np.quantile(s, 0.9))
        )
        print(f"{name:44}{middle:>8.2f}{least:>8.2f}{most:>9.2f}", flush=True)


def timed(way: Way, times: int = ROUNDS) -> list[float]:
    """Seconds of each call."""
    for _ in range(5):
        way()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        way()
        found.append(time.perf_counter() - start)
    return found


def own(c: Any) -> dict[str, Way]:
    """A round of logistic regression over 400 rows of five columns, a part at each worker."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 5)), (rng.uniform(size=400) < 0.5).astype(np.float64)
    one = Captured(c, x, y, parts=2)
    return {
        "Polyclinic": one.round,
        "Polyclinic, the messages alone": lambda: one.ask(one.sent),
        "Dask, a message to each worker, nothing done": lambda: client_sync(c, one.sent),
    }


def client_sync(c: Any, addresses: Any) -> Any:
    """What Dask's own connection takes: each worker says who it is."""
    client = c.machines._client

    async def both() -> Any:
        return await asyncio.gather(*(client.rpc(one).identity() for one in addresses))

    return client.sync(both)


class Captured:
    """The last round of a fit, to be asked again: its plan, workers and messages.

    Parameters
    ----------
    x, y : (n_rows, n_columns) and (n_rows,) of a logistic regression.
    """

    def __init__(self, c: Any, x: np.ndarray, y: np.ndarray, parts: int = 1) -> None:
        import polyclinic as pc
        from polyclinic.engines import spread

        asked: list[tuple[Any, Any]] = []
        plain = spread.SpreadWorkers.sum

        def seen(workers: Any, plan: Any) -> Any:
            asked.append((workers, plan))
            return plain(workers, plan)

        engine = dataclasses.replace(c, partitions=parts)
        spread.SpreadWorkers.sum = seen  # type: ignore[method-assign]
        try:
            pc.LogisticRegression(l2=1.0).fit(x, y, engine=engine)
        finally:
            spread.SpreadWorkers.sum = plain  # type: ignore[method-assign]
        self.workers, self.plan = next(
            one for one in reversed(asked) if one[1].task == "glm.derivatives"
        )
        self.machines = c.machines
        self.sent: dict[str, bytes] = {}
        self.answers: dict[str, Any] = {}
        c.machines.talk = lambda: Heard(type(c.machines).talk(c.machines), self)
        try:
            self.round()
        finally:
            del c.machines.talk

    def ask(self, messages: dict[str, bytes]) -> dict[str, Any]:
        """The answers of the workers."""
        from polyclinic.engines.machines import answers

        return answers(self.machines, messages)

    def round(self) -> Any:
        """Ask again, all of it."""
        return self.workers.sum(self.plan)

    def seconds(self, times: int) -> float:
        """Median of a round."""
        return statistics.median(timed(self.round, times))

    def costs(self) -> dict[str, float]:
        """Seconds of the asker's processor for a worker's message and its answer, and to read and
        add an answer."""
        from polyclinic.core.contribution import Sum
        from polyclinic.engines.spread import opened

        used = time.process_time()
        for _ in range(200):
            self.ask(self.sent)
        message = (time.process_time() - used) / 200 / len(self.sent)
        answer = next(iter(self.answers.values()))
        total = Sum.from_data(opened(answer)["sum"])
        add = statistics.median(timed(lambda: total + Sum.from_data(opened(answer)["sum"]), 200))
        return {"asked": len(self.sent), "message": message, "add": add}


class Heard:
    """A talk, and what is said in it."""

    def __init__(self, talk: Any, into: Captured) -> None:
        self.talk, self.into, self.drop = talk, into, talk.drop

    def post(self, messages: Any) -> None:
        self.into.sent.update(messages.values())
        self.talk.post(messages)

    def wait(self, seconds: float | None = None) -> Any:
        found = self.talk.wait(seconds)
        self.into.answers.update({one.name: one.reply for one in found})
        return found


class Counter:
    """An actor: what a worker would hold."""

    def __init__(self) -> None:
        self.rows = np.ones((400, 5))

    def round(self) -> np.ndarray:
        return self.rows.T @ self.rows


def dask(client: Any) -> dict[str, Way]:
    """Dask's own ways to ask two workers for a sum."""
    rows = np.ones((400, 5))
    addresses = list(client.scheduler_info()["workers"])
    held = [client.scatter(rows, workers=[one], broadcast=False) for one in addresses]

    def futures() -> Any:
        made = [
            client.submit(lambda x: x.T @ x, part, workers=[one], pure=False)
            for part, one in zip(held, addresses, strict=True)
        ]
        return sum(client.gather(made))

    with client.as_current():
        made = [client.submit(Counter, actor=True, workers=[one]) for one in addresses]
        actors = [one.result() for one in made]

    def by_actors() -> Any:
        with client.as_current():
            return sum(one.result() for one in [actor.round() for actor in actors])

    return {
        "Dask, a future per worker": futures,
        "Dask, actors": by_actors,
        "Dask, client.run": lambda: client.run(lambda: rows.T @ rows),
    }


class Pipes:
    """Two processes that hold rows and answer with a sum."""

    def __enter__(self) -> Pipes:
        context = mp.get_context("spawn")
        pairs = [context.Pipe() for _ in range(2)]
        self.ends = [near for near, _ in pairs]
        self.processes = [context.Process(target=_serve, args=(far,)) for _, far in pairs]
        for process in self.processes:
            process.start()
        return self

    def round(self) -> np.ndarray:
        for end in self.ends:
            end.send_bytes(b"x" * 1000)
        return np.asarray(sum(np.frombuffer(end.recv_bytes()) for end in self.ends))

    def __exit__(self, *_: Any) -> None:
        for end, process in zip(self.ends, self.processes, strict=True):
            end.send_bytes(b"")
            process.join()


def _serve(end: Any) -> None:
    rows = np.ones((400, 5))
    while end.recv_bytes():
        end.send_bytes((rows.T @ rows).tobytes())
