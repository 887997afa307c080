"""`polyclinic.spark`: an engine whose workers are the executors of a Spark session."""

from __future__ import annotations

import os
import re
import shutil
from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.engines.assign import POLICIES, Policy
from polyclinic.engines.clusters import Cluster

_BYTES = re.compile(r"(\d+(?:\.\d+)?) *([kMGT]?)(i?)B?")


def spark(
    session: Any = "local[2]",
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    partitions: int = 1,
    policy: Policy = "least_load",
    spool: str | None = None,
    patience: float = 60.0,
) -> Cluster:
    """Spark executors that compute together on one hospital's rows: ``with spark(session) as s``.

    Parameters
    ----------
    session : a `SparkSession`, or the master at which one is started and stopped again:
        "local[2]", "yarn", "spark://host:7077".
    workers : tasks of a round; None: one per executor, so that each keeps its own rows.
    threads : of each of them; None: the cores of an executor.
    memory : bytes of columns that a worker holds, or "4 GB"; what does not fit is read anew in each
        round. None: half of `spark.executor.pyspark.memory`, or else of the machine's.
    partitions : as of `Embedded`: with the same number results have the same bytes.
    policy : which worker gets a partition: "least_load", "round_robin" or "random".
    spool : for rows in memory, a folder that all executors see; in local mode it is made.
    patience : seconds to wait for a first executor.

    Raises
    ------
    InputError : MISSING_EXTRA, NO_JAVA, WRONG_VALUE, OTHER_VERSION. Stopped : CLUSTER_LOST.
    """
    counts = [one for one in (workers, threads, partitions) if one is not None]
    if policy not in POLICIES or min(counts) < 1:
        raise InputError(
            f"policy {policy!r}, {workers} workers, {threads} threads, {partitions} partitions",
            code="WRONG_VALUE",
            rule=f"policies: {', '.join(POLICIES)}; the numbers are 1 or more",
            next="correct it",
        )
    limit = bytes_of(memory)
    try:
        from polyclinic.engines.spark_machines import SparkMachines
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed",
            code="MISSING_EXTRA",
            rule="this engine is the executors of a Spark session",
            next='pip install "polyclinic[spark]"',
        ) from None
    _check_session(session)
    machines = SparkMachines(
        session,
        workers=workers,
        threads=threads,
        memory=limit,
        policy=policy,
        spool=spool,
        patience=patience,
    )
    return Cluster(partitions, threads, machines=machines)


def _check_session(session: Any) -> None:
    from pyspark.sql import SparkSession

    if isinstance(session, str):
        if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
            raise InputError(
                "there is no Java",
                code="NO_JAVA",
                rule="Spark runs on Java 17 or newer",
                next="install it (Debian: default-jre-headless), or set JAVA_HOME",
            )
        return
    if not isinstance(session, SparkSession) or not hasattr(session, "_sc"):
        raise InputError(
            f"a {type(session).__module__}.{type(session).__name__} is no session of Spark's",
            code="WRONG_VALUE",
            rule="tasks are run by a classic SparkSession: Spark Connect gives no access to them",
            next='polyclinic.spark(spark), or a master: polyclinic.spark("yarn")',
        )


def bytes_of(memory: int | str | None) -> int:
    """Bytes of ``"4 GB"``, ``"512 MiB"`` or a number; None: 0. Raises InputError WRONG_VALUE."""
    if not isinstance(memory, str):
        return memory or 0
    found = _BYTES.fullmatch(memory.strip())
    if found is None:
        raise InputError(
            f"memory: {memory!r}",
            code="WRONG_VALUE",
            rule='a number of bytes, or one with kB, MB, GB, TB, KiB to TiB: "4 GB"',
            next="correct it",
        )
    step = 1024 if found[3] else 1000
    return int(float(found[1]) * step ** " kMGT".index(found[2] or " "))
