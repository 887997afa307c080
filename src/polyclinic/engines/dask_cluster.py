"""The cluster inside one trust domain: Dask workers that read their own rows and add up.

Each round one message goes down to every worker and one sum comes up. There is no gate between
workers: it stands at the hospital's border, in the process that asks.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import psutil
from dask.utils import parse_bytes
from distributed import Client
from distributed.protocol import to_serialize
from distributed.security import Security

import polyclinic
from polyclinic.core.errors import InputError, Stopped
from polyclinic.core.partition import Partition
from polyclinic.data.scan import Selected
from polyclinic.engines.assign import POLICIES, Policy
from polyclinic.engines.dask_local import LocalWorkers
from polyclinic.engines.dask_worker import HANDLER, Holds, version
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.spread import SpreadWorkers

LOOK = 0.1  # seconds between two looks for a worker


class Cluster(Embedded):
    """An engine whose workers are processes, here or on other machines; see `cluster`.

    Sites and their gates stay in this process.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int = 2,
        threads: int = 1,
        memory: int | str | None = None,
        partitions: int = 1,
        policy: Policy = "least_load",
        spool: str | None = None,
        tls: Mapping[str, str] | None = None,
        timeout: float = 600.0,
        patience: float = 30.0,
        dashboard: str | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise InputError(
                f"policy {policy!r}",
                code="WRONG_VALUE",
                rule=f"policies: {', '.join(POLICIES)}",
                next="correct it",
            )
        super().__init__(partitions, threads)
        own = self.__dict__  # the base is frozen
        own.update(policy=policy, timeout=timeout, patience=patience, lost=set(), speed={})
        limit = parse_bytes(memory) if memory else 0
        own["local"] = local = None if address else LocalWorkers(workers, threads, dashboard)
        if local and not limit:
            limit = psutil.virtual_memory().total // (2 * workers)
        own["_spool"] = tempfile.TemporaryDirectory(prefix="polyclinic-rows-") if local else None
        own["spool"] = own["_spool"].name if local else spool
        try:
            security = local.security if local else _security(tls)
            own["_client"] = Client(
                local.address if local else address, security=security, set_as_default=False
            )
            self._start(workers if local else 1, limit)
        except OSError as error:
            self.close()
            raise self.gone(f"cannot be reached ({type(error).__name__})") from None
        except BaseException:
            self.close()
            raise

    def _start(self, workers: int, memory: int) -> None:
        self._client.wait_for_workers(workers, timeout=max(60.0, self.patience))
        found = set(self._client.run(version).values())
        if found != {polyclinic.__version__}:
            raise InputError(
                f"the cluster's workers have Polyclinic {', '.join(sorted(found))}",
                code="OTHER_VERSION",
                rule=f"workers run what is asked here: Polyclinic {polyclinic.__version__}",
                next="install the same version on the workers",
            )
        self._client.register_plugin(Holds(memory))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what was started here; a cluster that was there before goes on."""
        own = self.__dict__
        if client := own.pop("_client", None):
            client.close(timeout=5)
        if local := own.pop("local", None):
            local.close()
        if folder := own.pop("_spool", None):
            folder.cleanup()

    def worker_pids(self) -> dict[str, int]:
        """Process of each worker, by address."""
        return {address: int(found) for address, found in self._client.run(_pid).items()}

    def workers(self, rows: Partition | Selected) -> SpreadWorkers:
        return SpreadWorkers(self, rows, self.partitions)

    def ask(self, messages: Mapping[str, bytes]) -> dict[str, Any]:
        """The answer of each worker, None where there is none; such a worker is not asked again."""
        replies: dict[str, Any] = self._client.sync(self._ask, messages)
        self.lost.update(address for address, reply in replies.items() if reply is None)
        return replies

    async def _ask(self, messages: Mapping[str, bytes]) -> dict[str, Any]:
        replies = await asyncio.gather(*(self._one(*message) for message in messages.items()))
        return dict(zip(messages, replies, strict=True))

    async def _one(self, address: str, message: bytes) -> Any:
        door = getattr(self._client.rpc(address), HANDLER)
        try:
            reply = await asyncio.wait_for(door(message=to_serialize(message)), self.timeout)
        except (OSError, TimeoutError):
            return None
        return reply if isinstance(reply, (bytes, bytearray, memoryview)) else None

    def live(self) -> list[str]:
        """The workers that are there, waiting a while for one. Raises Stopped (CLUSTER_LOST)."""
        end = time.monotonic() + self.patience
        while True:
            try:
                known = self._client.sync(self._client.scheduler.identity, callback_timeout=10)
            except (OSError, TimeoutError) as error:
                raise self.gone(f"does not answer ({type(error).__name__})") from None
            if found := sorted(set(known["workers"]) - self.lost):
                return found
            if time.monotonic() > end:
                raise self.gone("has no worker left")
            time.sleep(LOOK)

    def gone(self, what: str) -> Stopped:
        """The error for a cluster that is not there."""
        return Stopped(
            f"the cluster {what}",
            code="CLUSTER_LOST",
            rule="a worker's partitions go to the others while there is one, and a scheduler that "
            "answers",
            next="start the cluster again; a run with a store or run folder goes on with resume",
            kept="every round before",
        )


def cluster(address: str | None = None, **options: Any) -> Cluster:
    """Processes that compute together on one hospital's rows: ``with cluster(workers=2) as c``.

    Parameters
    ----------
    address : of a Dask scheduler that is there, ``"tls://host:8786"``; None: processes here.
    workers : processes that are started here, 2.
    threads : of each of them, 1.
    memory : bytes of columns that a worker holds, or "4 GB"; what does not fit is read anew in each
        round. None: half of what the worker has.
    partitions : contiguous parts to cut rows into before they are cut into chunks, 1.
    policy : "least_load", "round_robin" or "random".
    spool : for rows in memory, a folder that all workers see; here it is made.
    tls : files of a scheduler's keys: ``{"ca": ..., "cert": ..., "key": ...}``; None: those of
        Dask's own configuration.
    timeout : seconds after which a silent worker is taken for lost, 600.
    patience : seconds to wait for a first worker, 30.
    dashboard : where Dask's pages are shown, "127.0.0.1:8787"; None: nowhere.

    Raises
    ------
    InputError : WRONG_VALUE, OTHER_VERSION. Stopped : CLUSTER_LOST.
    """
    return Cluster(address, **options)


def _security(tls: Mapping[str, str] | None) -> Security | None:
    if tls is None:
        return None
    return Security(
        tls_ca_file=tls["ca"],
        tls_client_cert=tls["cert"],
        tls_client_key=tls["key"],
        require_encryption=True,
    )


def _pid() -> int:
    import os

    return os.getpid()
