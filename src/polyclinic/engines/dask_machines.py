"""Dask workers as the machines of a cluster: who is there, and how a message gets to them.

Each round one message goes down to every worker and one sum comes up, past the scheduler.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import psutil
from dask.utils import parse_bytes
from distributed import Client
from distributed.security import Security

from polyclinic.core.errors import InputError, Stopped
from polyclinic.engines.activity import Activity
from polyclinic.engines.assign import Policy
from polyclinic.engines.dask_local import LocalWorkers
from polyclinic.engines.dask_worker import HANDLER, Holds, holds, installed, sent
from polyclinic.engines.machines import Arrived, Tree
from polyclinic.engines.speeds import Speeds
from polyclinic.engines.spool import local_places

LOOK = 0.1  # seconds between two looks for a worker
ANSWER = 10.0  # seconds that a scheduler has for an answer


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
        self.speeds, self.memory = Speeds(), dict[str, int]()
        self.tree: Tree | None = Tree()
        self.activity = Activity()
        self._timeout, self._patience, self._lost = timeout, patience, set[str]()
        self._tasks = set[asyncio.Task[None]]()
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
        if client is not None:
            client.sync(self._end)
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
        """Messages of a round to the workers."""
        return DaskTalk(self)

    def loop(self) -> asyncio.AbstractEventLoop:
        """Where messages are sent and answers arrive."""
        found: asyncio.AbstractEventLoop = self._client.loop.asyncio_loop
        return found

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this, on the loop, and end it with the cluster."""
        task = self.loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def send(self, address: str, message: bytes) -> Any:
        """The answer of a worker; None: there is none, and it is not asked again."""
        door = getattr(self._client.rpc(address), HANDLER)
        try:
            reply = await asyncio.wait_for(door(message=sent(message)), self._timeout)
        except (OSError, TimeoutError):
            reply = None
        if isinstance(reply, (bytes, bytearray, memoryview)):
            return reply
        self._lost.add(address)
        return None

    async def drop(self, address: str, name: str) -> None:
        """A worker need not go on with this."""
        with suppress(OSError, TimeoutError):
            door = getattr(self._client.rpc(address), HANDLER)
            await asyncio.wait_for(door(drop=name), ANSWER)

    def live(self) -> list[str]:
        """The workers that are there, waiting a while for one. Raises Stopped (CLUSTER_LOST)."""
        end = time.monotonic() + self._patience
        while True:
            try:
                known = self._client.sync(self._client.scheduler.identity, callback_timeout=ANSWER)
            except (OSError, TimeoutError) as error:
                raise _gone(f"does not answer ({type(error).__name__})") from None
            if found := sorted(set(known["workers"]) - self._lost):
                self._ask_memory(set(found) - set(self.memory))
                return found
            if time.monotonic() > end:
                raise _gone("has no worker left")
            time.sleep(LOOK)

    def _ask_memory(self, workers: set[str]) -> None:
        """How much these hold, who are new."""
        if workers:
            self.memory |= self._client.run(holds, workers=sorted(workers), on_error="ignore")


class DaskTalk:
    """See `polyclinic.engines.machines.Talk`."""

    def __init__(self, machines: DaskMachines) -> None:
        self._machines, self._loop = machines, machines.loop()
        self._arrived: SimpleQueue[Arrived | BaseException] = SimpleQueue()

    def post(self, messages: Mapping[str, tuple[str, bytes]]) -> None:
        """Send, and return at once."""
        self._loop.call_soon_threadsafe(self._start, dict(messages))

    def _start(self, messages: Mapping[str, tuple[str, bytes]]) -> None:
        for name, (address, message) in messages.items():
            self._machines.keep(self._one(name, address, message))

    async def _one(self, name: str, address: str, message: bytes) -> None:
        try:
            self._arrived.put(Arrived(name, await self._machines.send(address, message)))
        except BaseException as error:
            self._arrived.put(error)
            raise

    def wait(self, seconds: float | None = None) -> list[Arrived]:
        """What has arrived. Raises what sending has raised."""
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
        self._loop.call_soon_threadsafe(
            lambda: self._machines.keep(self._machines.drop(address, name))
        )


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
