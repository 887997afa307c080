"""Dask workers as the machines of a cluster: who is there, and how a message gets to them.

Each round one message goes down to every worker and one sum comes up, past the scheduler.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import psutil
from dask.utils import parse_bytes
from distributed import Client
from distributed.security import Security

from polyclinic.core.errors import InputError, Stopped
from polyclinic.engines.assign import Policy
from polyclinic.engines.dask_local import LocalWorkers
from polyclinic.engines.dask_worker import HANDLER, Holds, installed, sent

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
        spool: str | None,
        security: Security | Mapping[str, str] | None,
        timeout: float,
        patience: float,
        dashboard: str | None,
    ) -> None:
        self.policy, self.spool = policy, spool
        self.speed: dict[str, float] = {}
        self._timeout, self._patience, self._lost = timeout, patience, set[str]()
        self._local: LocalWorkers | None = None
        self._client: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        limit = int(parse_bytes(memory)) if memory else 0
        try:
            security = _security(security)
            if address is None:
                self._local = LocalWorkers(workers, threads, dashboard)
                self._folder = tempfile.TemporaryDirectory(prefix="polyclinic-rows-")
                self.spool = self._folder.name
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
            client.close(timeout=5)
        if local is not None:
            local.close()
        if self._folder is not None:
            self._folder.cleanup()

    def worker_pids(self) -> dict[str, int]:
        """Process of each worker, by address."""
        found = self._client.run(os.getpid, workers=self.live(), on_error="ignore")
        return {address: int(pid) for address, pid in found.items()}

    def ask(self, messages: Mapping[str, bytes]) -> dict[str, Any]:
        """The answer of each worker, None where there is none; such a worker is not asked again."""
        replies: dict[str, Any] = self._client.sync(self._ask, messages)
        self._lost.update(address for address, reply in replies.items() if reply is None)
        return replies

    async def _ask(self, messages: Mapping[str, bytes]) -> dict[str, Any]:
        replies = await asyncio.gather(*(self._one(*message) for message in messages.items()))
        return dict(zip(messages, replies, strict=True))

    async def _one(self, address: str, message: bytes) -> Any:
        door = getattr(self._client.rpc(address), HANDLER)
        try:
            reply = await asyncio.wait_for(door(message=sent(message)), self._timeout)
        except (OSError, TimeoutError):
            return None
        return reply if isinstance(reply, (bytes, bytearray, memoryview)) else None

    def live(self) -> list[str]:
        """The workers that are there, waiting a while for one. Raises Stopped (CLUSTER_LOST)."""
        end = time.monotonic() + self._patience
        while True:
            try:
                known = self._client.sync(self._client.scheduler.identity, callback_timeout=ANSWER)
            except (OSError, TimeoutError) as error:
                raise _gone(f"does not answer ({type(error).__name__})") from None
            if found := sorted(set(known["workers"]) - self._lost):
                return found
            if time.monotonic() > end:
                raise _gone("has no worker left")
            time.sleep(LOOK)


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
