"""`polyclinic.cluster`: an engine whose workers are processes, on this machine or on others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, cast

from polyclinic.core import codec
from polyclinic.core.errors import InputError
from polyclinic.core.overlap import Overlap
from polyclinic.core.partition import Partition
from polyclinic.data.scan import Selected
from polyclinic.engines.activity import Activity
from polyclinic.engines.assign import POLICIES, Policy
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.given import Stays
from polyclinic.engines.machines import Machines
from polyclinic.engines.spread import SpreadWorkers

REMEMBERED = 8  # analyses whose rows are known, so that the next fit need not look for them


class Running(Machines, Protocol):
    """Workers that someone has started; `name` as a study file names the engine."""

    name: str

    def worker_pids(self) -> dict[str, int]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Cluster(Embedded):
    """Sites and their gates are in this process, as on `Embedded`; their rows are with workers.

    Parameters
    ----------
    machines : the workers.
    """

    machines: Running
    _known: OrderedDict[str, SpreadWorkers] = field(
        default_factory=OrderedDict, compare=False, repr=False
    )
    _stays: Stays = field(default_factory=Stays, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.machines.name

    def hold(self, rows: Any) -> Any:
        """Rows that the workers keep from their first fit on: ``X = c.hold(X)``.

        Parameters
        ----------
        rows : an array or a frame of numbers, (n_rows, n_columns), or (n_rows,).

        Returns
        -------
        The same rows, an array in place and a frame as a copy, to be given to `fit` as often as
        wanted. They cannot be written to until `let_go(X)`, or until the cluster is closed.

        Raises
        ------
        InputError : WRONG_VALUE for other rows, and for workers on other machines without `spool`.
        """
        return self._stays.hold(self.machines, rows)

    def let_go(self, rows: Any) -> None:
        """Of rows that `hold` has given. Raises InputError (WRONG_VALUE) for others."""
        self._stays.let_go(rows)

    def workers(self, rows: Partition | Selected) -> SpreadWorkers:
        if isinstance(rows, Partition):
            return SpreadWorkers(self.machines, rows, self.partitions, self._stays)
        name = codec.digest(rows.to_data())
        if name not in self._known:
            self._known[name] = SpreadWorkers(self.machines, rows, self.partitions)
        self._known.move_to_end(name)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return self._known[name]

    def overlap(self, workers: Any) -> Overlap:
        """Rounds of a domain overlap as its workers are free."""
        return cast(SpreadWorkers, workers).overlap()

    @property
    def activity(self) -> Activity:
        """What the workers are doing."""
        return self.machines.activity

    @property
    def dashboard(self) -> str:
        """Address of the pages on which the scheduler shows itself; "": they are off."""
        return getattr(self.machines, "dashboard", "")

    def worker_pids(self) -> dict[str, int]:
        """Process of each worker, by address."""
        return self.machines.worker_pids()

    def close(self) -> None:
        """End what was started for it; workers that were there before go on."""
        self._stays.close()
        self.machines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def cluster(
    address: str | None = None,
    *,
    workers: int = 2,
    threads: int = 1,
    memory: int | str | None = None,
    partitions: int = 1,
    policy: Policy = "least_load",
    speculate: bool = True,
    spool: str | None = None,
    tls: Mapping[str, str] | None = None,
    security: Any = None,
    timeout: float = 600.0,
    patience: float = 30.0,
    dashboard: str | None = None,
) -> Cluster:
    """Dask workers that compute together on one hospital's rows: ``with cluster(workers=2) as c``.

    Parameters
    ----------
    address : of a scheduler that is there, ``"tls://host:8786"``; None: processes here.
    workers : processes that are started here.
    threads : of each of them.
    memory : bytes of columns that a worker holds, or "4 GB"; what does not fit is read anew in each
        round. None: half of what the worker has.
    partitions : as of `Embedded`: with the same number results have the same bytes.
    policy : which worker gets a partition: "least_load", by speed and memory, and slow workers give
        some away while the run goes on; "round_robin" or "random", for good.
    speculate : whether partitions of a worker that others would wait for are computed by those who
        are idle, too; whichever answer comes first counts.
    spool : for rows in memory, a folder that all workers see; processes here need none.
    tls : files of a scheduler's keys: ``{"ca": ..., "cert": ..., "key": ...}``; None: those of
        Dask's own configuration.
    security : the same as a `distributed.Security`, of a cluster that was made in this process.
    timeout : seconds after which a silent worker is taken for lost.
    patience : seconds to wait for a first worker.
    dashboard : where Dask shows its pages, "127.0.0.1:8787"; None: nowhere.

    Raises
    ------
    InputError : MISSING_EXTRA, WRONG_VALUE, OTHER_VERSION. Stopped : CLUSTER_LOST.
    """
    if policy not in POLICIES or min(workers, threads, partitions) < 1:
        raise InputError(
            f"policy {policy!r}, {workers} workers, {threads} threads, {partitions} partitions",
            code="WRONG_VALUE",
            rule=f"policies: {', '.join(POLICIES)}; the numbers are 1 or more",
            next="correct it",
        )
    try:
        from polyclinic.engines.dask_machines import DaskMachines
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed",
            code="MISSING_EXTRA",
            rule="a cluster is one of Dask",
            next='pip install "polyclinic[cluster]"',
        ) from None
    machines = DaskMachines(
        address,
        workers=workers,
        threads=threads,
        memory=memory,
        policy=policy,
        speculate=speculate,
        spool=spool,
        security=security or tls,
        timeout=timeout,
        patience=patience,
        dashboard=dashboard,
    )
    return Cluster(partitions, threads, machines=machines)
