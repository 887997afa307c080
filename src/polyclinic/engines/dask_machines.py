"""Dask workers as the machines of a cluster: who is there, and how a message gets to them.

Each round one message goes down to every worker and one sum comes up, past the scheduler.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakSet

import psutil
from dask.utils import parse_bytes
from distributed import Client
from distributed.security import Security

from polyclinic.core.errors import InputError, Stopped
from polyclinic.engines.activity import Activity
from polyclinic.engines.assign import Policy
from polyclinic.engines.dask_local import LocalWorkers
from polyclinic.engines.dask_worker import HANDLER, Holds, installed, sent
from polyclinic.engines.machines import Arrived, Tree
from polyclinic.engines.speeds import Speeds
from polyclinic.engines.spool import local_places

LOOK = 0.1  # seconds between two looks for a worker
ANSWER = 10.0  # seconds that a scheduler has for an answer
KNOCK = 2.0  # seconds that a worker has to take a connection, before the scheduler is asked
ENDED = ("closing", "closed")


class DaskMachines:
    """The workers of a scheduler; see `polyclinic.cluster` for the parameters."""

    name = "dask"

    def __init__(
        self,
        address: str | None,
        *,
        workers: int,
        threads: int,
        memory: int | str | None,
        policy: Policy,
        speculate: bool,
        spool: str | None,
        security: Security | Mapping[str, str] | None,
        timeout: float,
        patience: float,
        dashboard: str | None,
    ) -> None:
        self.policy, self.speculate = policy, speculate
        self.spool: tuple[str, ...] = () if spool is None else (spool,)
        self.here = address is None and spool is None
        self.speeds, self.memory = Speeds(), dict[str, int]()
        self.tree: Tree | None = Tree()
        self.activity = Activity()
        self._timeout, self._patience = timeout, patience
        self._ready, self._lost = dict[str, str](), set[tuple[str, str]]()
        self._tasks, self._talks = set[asyncio.Task[None]](), WeakSet[DaskTalk]()
        self._shown = dashboard is not None or address is not None
        self._local: LocalWorkers | None = None
        self._client: Any = None
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        limit = int(parse_bytes(memory)) if memory else 0
        try:
            security = _security(security)
            if address is None:
                self._local = LocalWorkers(workers, threads, dashboard)
                self._folders = local_places()
                self.spool = tuple(folder.name for folder in self._folders)
                address, security = self._local.address, self._local.security
                limit = limit or psutil.virtual_memory().total // (2 * workers)
            self._client = Client(address, security=security, set_as_default=False, timeout=ANSWER)
            self._start(workers if self._local else 1, limit)
        except (OSError, TimeoutError) as error:
            self.close()
            raise _gone(f"cannot be reached ({type(error).__name__})") from None
        except BaseException:
            self.close()
            raise

    def _start(self, workers: int, memory: int) -> None:
        self._client.wait_for_workers(workers, timeout=max(60.0, self._patience))
        found = set(self._client.run(installed).values())
        if found != {installed()}:
            raise InputError(
                f"the cluster's workers have Polyclinic {', '.join(sorted(found))}",
                code="OTHER_VERSION",
                rule=f"workers run what is asked here: Polyclinic {installed()}",
                next="install the same version on the workers",
            )
        self._client.register_plugin(Holds(memory))

    def close(self) -> None:
        """End what was started here; a cluster that was there before goes on."""
        client, self._client = self._client, None
        local, self._local = self._local, None
        for talk in list(self._talks):
            talk.end()
        if client is not None:
            with suppress(TimeoutError, RuntimeError):  # it may have ended by itself
                client.sync(self._end, callback_timeout=ANSWER)
            client.close(timeout=5)
        if local is not None:
            local.close()
        for folder in self._folders:
            folder.cleanup()

    async def _end(self) -> None:
        """Nobody waits any more for what is on its way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def client(self) -> Client:
        """Through which the workers are reached."""
        return self._client

    def worker_pids(self) -> dict[str, int]:
        """Process of each worker, by address."""
        found = self._client.run(os.getpid, workers=self.live(), on_error="ignore")
        return {address: int(pid) for address, pid in found.items()}

    @property
    def dashboard(self) -> str:
        """Address of Dask's pages; "": they are off."""
        known = self._client.scheduler_info(n_workers=0)["services"] if self._shown else {}
        return str(self._client.dashboard_link) if "dashboard" in known else ""

    def talk(self) -> DaskTalk:
        """Messages of a round to the workers. Raises Stopped (CLUSTER_LOST)."""
        found = DaskTalk(self, self.loop())
        self._talks.add(found)
        return found

    def loop(self) -> asyncio.AbstractEventLoop:
        """Where messages are sent and answers arrive. Raises Stopped (CLUSTER_LOST)."""
        client = self._client
        if client is None:
            raise _gone("was closed")
        found: asyncio.AbstractEventLoop = client.loop.asyncio_loop
        return found

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this, on the loop where it is called, and end it with the cluster."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def send(self, address: str, message: bytes) -> Any:
        """The answer of a worker; None: there is none, and it is not asked again."""
        who = address, self._ready.get(address, "")
        if who not in self._lost and await self._reached(*who):
            reply = await self._said(address, self._timeout, message=sent(message))
            if isinstance(reply, (bytes, bytearray, memoryview)):
                return reply
        self._lost.add(who)
        return None

    async def _reached(self, address: str, folder: str) -> bool:
        """Whether there is a connection; Dask would knock for half a minute where nobody is."""
        end = time.monotonic() + self._timeout
        while not await self._heard(lambda client: _connected(client, address), ANSWER):
            if time.monotonic() > end or (address, folder) not in await self._there():
                return False
        return True

    def let_go(self) -> None:
        """Rows have gone: workers let go of them, between messages."""

        def begin() -> None:
            for who in self._ready.items() - self._lost:
                self.keep(self._said(who[0], ANSWER, gone=True))

        with suppress(RuntimeError, Stopped):  # it was closed, and workers with it
            self.loop().call_soon_threadsafe(begin)

    async def drop(self, address: str, name: str) -> None:
        """A worker need not go on with this."""
        await self._said(address, ANSWER, drop=name)

    async def _said(self, address: str, seconds: float, **what: Any) -> Any:
        """What a worker says to that; None: nothing, or nothing in time."""
        return await self._heard(
            lambda client: getattr(client.rpc(address), HANDLER)(**what), seconds
        )

    async def _heard(self, ask: Callable[[Any], Awaitable[Any]], seconds: float) -> Any:
        client = self._client
        if client is None or client.status in ENDED:
            return None
        try:
            return await asyncio.wait_for(ask(client), seconds)
        except (OSError, TimeoutError):
            return None
        except RuntimeError:  # so Dask says that its connections were closed
            if client.status not in ENDED:
                raise
            return None

    def live(self) -> list[str]:
        """The workers that are there, waiting a while for one. Raises Stopped (CLUSTER_LOST)."""
        end = time.monotonic() + self._patience
        while True:
            there = self._done(self._there) - self._lost
            if new := sorted(there - self._ready.items()):
                self._done(self._welcome, new)
            if found := sorted(address for address, _ in there & self._ready.items()):
                return found
            if time.monotonic() > end:
                raise _gone("has no worker left")
            time.sleep(LOOK)

    def _done(self, work: Callable[..., Coroutine[Any, Any, Any]], *about: Any) -> Any:
        """What this finds, on the loop. Raises Stopped (CLUSTER_LOST)."""
        loop = self.loop()
        try:
            return asyncio.run_coroutine_threadsafe(work(*about), loop).result(2 * ANSWER)
        except (TimeoutError, RuntimeError):
            if self._client is not None:
                raise
            raise _gone("was closed") from None

    async def _there(self) -> set[tuple[str, str]]:
        """Address and folder of each worker: one that is started anew there has another."""
        said = await self._heard(lambda client: client.scheduler.identity(), ANSWER)
        if said is None:
            raise _gone("has no scheduler that answers")
        workers = said["workers"].items()
        return {(address, str(about["local_directory"])) for address, about in workers}

    async def _welcome(self, new: Sequence[tuple[str, str]]) -> None:
        """Take in workers that can be asked: one that has just been started may not be ready."""
        client = self._client
        for address, _ in new if client else ():
            client.rpc.remove(address)  # it may be of a worker that was there before
        said = await asyncio.gather(*(self._about(address) for address, _ in new))
        for (address, folder), about in zip(new, said, strict=True):
            if about and about["version"] == installed():
                self._ready[address], self.memory[address] = folder, about["memory"]

    async def _about(self, address: str) -> Any:
        """What a worker says of itself; None: nothing, so far."""
        if not await self._heard(lambda client: _connected(client, address), ANSWER):
            return None
        return await self._said(address, ANSWER, about=True)


class DaskTalk:
    """See `polyclinic.engines.machines.Talk`."""

    def __init__(self, machines: DaskMachines, loop: asyncio.AbstractEventLoop) -> None:
        self._machines, self._loop = machines, loop
        self._arrived: SimpleQueue[Arrived | BaseException] = SimpleQueue()

    def post(self, messages: Mapping[str, tuple[str, bytes]]) -> None:
        """Send, and return at once."""
        self._soon(lambda: [self._one(name, *one) for name, one in messages.items()])

    def _soon(self, work: Callable[[], Iterable[Coroutine[Any, Any, None]]]) -> None:
        """Have this done on the loop; where that has ended nobody waits for it."""

        def begin() -> None:
            for one in work():
                self._machines.keep(one)

        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(begin)

    async def _one(self, name: str, address: str, message: bytes) -> None:
        try:
            self._arrived.put(Arrived(name, await self._machines.send(address, message)))
        except Exception as error:
            self._arrived.put(error)

    def wait(self, seconds: float | None = None) -> list[Arrived]:
        """What has arrived. Raises what sending has raised, and Stopped (CLUSTER_LOST)."""
        found = list[Arrived]()
        with suppress(Empty):
            one = self._arrived.get(timeout=seconds)
            while True:
                if not isinstance(one, Arrived):
                    raise one
                found.append(one)
                one = self._arrived.get_nowait()
        return found

    def drop(self, address: str, name: str) -> None:
        """Tell the worker, and return at once."""
        self._soon(lambda: [self._machines.drop(address, name)])

    def end(self) -> None:
        """Nothing arrives any more."""
        self._arrived.put(_gone("was closed"))


async def _connected(client: Any, address: str) -> bool:
    """A connection is in the pool from now on."""
    client.rpc.reuse(address, await client.rpc.connect(address, timeout=KNOCK))
    return True


def _gone(what: str) -> Stopped:
    return Stopped(
        f"the cluster {what}",
        code="CLUSTER_LOST",
        rule="a worker's partitions go to the others while there is one, and a scheduler",
        next="start the cluster again; a run with a store or a run folder goes on with resume",
        kept="every round before",
    )


def _security(tls: Security | Mapping[str, str] | None) -> Security | None:
    if not isinstance(tls, Mapping):
        return tls
    return Security(
        tls_ca_file=tls["ca"],
        tls_client_cert=tls["cert"],
        tls_client_key=tls["key"],
        require_encryption=True,
    )
