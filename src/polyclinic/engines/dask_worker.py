"""The door of a Dask worker: one handler that takes a message and gives its answer, as bytes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import psutil
from distributed import Worker, WorkerPlugin
from distributed.protocol.serialize import to_serialize
from threadpoolctl import threadpool_limits

from polyclinic.core.task import load_installed
from polyclinic.engines.held import Holder

HANDLER = "polyclinic"
SMALL = 65_536  # bytes that are copied into a message sooner than they are sent beside it
KNOCK = 2.0  # seconds that another worker has to take a connection
PATIENCE = 60.0  # seconds that a worker waits for another one's sum


class Holds(WorkerPlugin):  # type: ignore[misc]
    """Makes a worker hold partitions, also one that joins later.

    Parameters
    ----------
    memory : bytes of columns that are held; 0: half of what the worker has.
    """

    name = HANDLER

    def __init__(self, memory: int) -> None:
        self.memory = memory

    def setup(self, worker: Worker) -> None:
        """Called on the worker. The work is done beside its event loop, so that it stays heard."""
        limit = getattr(worker.memory_manager, "memory_limit", None)
        half = int(limit or psutil.virtual_memory().total) // 2
        loop = worker.loop.asyncio_loop

        async def theirs(address: str, name: str) -> Any:
            if address == worker.address:
                return holder.fetch(name)
            with suppress(OSError, TimeoutError):
                worker.rpc.reuse(address, await worker.rpc.connect(address, timeout=KNOCK))
                door = getattr(worker.rpc(address), HANDLER)
                return await asyncio.wait_for(door(fetch=name), PATIENCE)
            return None

        def fetch(names: list[tuple[str, str]]) -> list[Any]:
            async def all_of_them() -> list[Any]:
                return await asyncio.gather(*(theirs(*one) for one in names))

            return asyncio.run_coroutine_threadsafe(all_of_them(), loop).result()

        holder = Holder(self.memory or half, worker.state.nthreads, fetch)
        threadpool_limits(limits=1, user_api="blas")
        beside = ThreadPoolExecutor(1, thread_name_prefix=HANDLER)
        beside.submit(load_installed)

        async def answer(
            message: Any = b"",
            fetch: str = "",
            drop: str = "",
            about: bool = False,
            gone: bool = False,
        ) -> Any:
            if about:
                return {"memory": holder.memory, "version": installed()}
            if gone:
                return await loop.run_in_executor(beside, holder.let_go)
            if drop:
                return holder.drop(drop)
            if fetch:
                return sent(holder.fetch(fetch))
            return sent(await loop.run_in_executor(beside, holder.answer, bytes(message)))

        worker.handlers[HANDLER] = answer

    def teardown(self, worker: Worker) -> None:
        """What was held is let go."""
        worker.handlers.pop(HANDLER, None)


def sent(content: bytes | None) -> Any:
    """Bytes as a message of Dask carries them soonest."""
    return to_serialize(content) if content and len(content) > SMALL else content


def installed() -> str:
    """Version of Polyclinic, where it is called."""
    return version("polyclinic")
