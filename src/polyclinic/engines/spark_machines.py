"""Spark's executors as the machines of a cluster: who is there, and how a message gets to them.

A slot stands for an executor. In each round one job runs: a task for each slot takes the plan to
it, and brings the sum over its partitions back. Where a slot has run once, a block of a byte or so
is kept, by which Spark sends its next task to the same executor, whose Python process has the
rows. If the executor is lost, Spark runs the task on another one, which reads the rows anew.

Where many slots bring long sums Spark adds them at the executors (`treeReduce`), in the same job.
What a slot says beside its sum comes as it is, and so does the answer of one that has no sum.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from polyclinic.core import codec
from polyclinic.core.errors import InputError, Stopped
from polyclinic.engines.assign import Policy
from polyclinic.engines.machines import AllAtOnce, Talk, Together, Tree
from polyclinic.engines.spark_worker import Added, answers, forgotten, held_back
from polyclinic.engines.spool import local_places

LOOK = 0.5  # seconds between two looks at the executors
MANY = 32  # slots from which on executors add sums
LONG = 1 << 25  # bytes of them all: 0.27 s at 1 Gbit/s, about what a second stage takes
FAILED = (Py4JError, PySparkException, OSError)
HERE = {
    "spark.driver.host": "localhost",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}


class SparkMachines(AllAtOnce):
    """The executors of a session; see `polyclinic.spark` for the parameters."""

    name = "spark"

    def __init__(
        self,
        session: Any,
        *,
        workers: int | None,
        threads: int | None,
        memory: int,
        policy: Policy,
        spool: str | None,
        patience: float,
    ) -> None:
        super().__init__(policy)
        self.spool: tuple[str, ...] = () if spool is None else (spool,)
        self._memory, self._patience, self._tag = memory, patience, f"polyclinic-{uuid.uuid4()}"
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        self._own = isinstance(session, str)
        self._session = started(session) if self._own else session
        try:
            context: SparkContext = self._session.sparkContext
            self._context, self._local = context, context.master.startswith("local")
            if self._local and spool is None:
                self._folders = local_places()
                self.spool = tuple(folder.name for folder in self._folders)
            self._check()
            slots = workers or max(1, self._executors())
            self._threads = threads or self._cores(slots)
            self._slots = context.parallelize(list(range(slots)), slots).cache()
            self._names = [f"executor-{slot}" for slot in range(slots)]
            self.tree = Tree(fan_in=slots, workers=MANY, bytes=0, together=LONG)
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        """Executors have the same Polyclinic as this process."""

        def installed(_: Any) -> Iterator[str]:  # is sent, as there may be no Polyclinic
            try:
                yield version("polyclinic")
            except PackageNotFoundError:
                yield "none"

        count = max(2, self._context.defaultParallelism)
        rdd = self._context.parallelize(list(range(count)), count)
        found = set(self._done(lambda: rdd.mapPartitions(installed).collect()))
        if found != {version("polyclinic")}:
            raise InputError(
                f"Polyclinic in the Python of Spark's executors: {', '.join(sorted(found))}",
                code="OTHER_VERSION",
                rule=f"workers run what is asked here: Polyclinic {version('polyclinic')}",
                next="install the same version on the workers",
            )

    def _executors(self) -> int:
        """How many there are beside this process; in local mode it is the only one."""
        known = self._context._jsc.sc().statusTracker().getExecutorInfos()
        return len(known) - (not self._alone)

    @property
    def _alone(self) -> bool:
        return self._local and not self._context.master.startswith("local-cluster")

    def _cores(self, slots: int) -> int:
        """Of an executor, shared by the slots that it has."""
        executors = 1 if self._alone else max(1, self._executors())
        given = None if self._alone else self._context.getConf().get("spark.executor.cores")
        cores = int(given or self._context.defaultParallelism // executors)
        return max(1, cores * executors // max(slots, executors))

    def close(self) -> None:
        """Stop the session that was started here; one that was there before goes on, without the
        rows."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(*FAILED, Stopped):  # it may have ended by itself
                if self._own:
                    session.stop()
                elif hasattr(self, "_slots") and self._up():
                    slots = self._slots
                    self._done(lambda: slots.mapPartitions(forgotten).collect())
                    slots.unpersist()
        for folder in self._folders:
            folder.cleanup()

    def worker_pids(self) -> dict[str, int]:
        """Python process in which each slot was when it was asked."""
        found = self._round(dict.fromkeys(self._names, b""))
        return {self._names[slot]: pid for slot, pid, _ in found}

    def talk(self) -> Talk:
        """Messages of a round to the slots."""
        few = self.tree is None or len(self._names) < self.tree.workers
        return Together(self.ask if few else Adding(self).ask)

    def ask(self, messages: Mapping[str, bytes]) -> dict[str, Any]:
        """The answer of each slot. Raises Stopped (CLUSTER_LOST)."""
        return self.replies(self._round(messages))

    def replies(self, found: Iterable[tuple[int, int, bytes]]) -> dict[str, Any]:
        """Answers by slot."""
        return {self._names[slot]: reply for slot, _, reply in found}

    def _round(self, messages: Mapping[str, bytes]) -> list[tuple[int, int, bytes]]:
        pairs, mine = self._asked(messages)
        memory, threads = self._memory, self._threads

        def job() -> Any:
            return self._context.runJob(pairs, lambda part: answers(part, memory, threads), mine)

        found: list[tuple[int, int, bytes]] = self._done(job)
        return found

    def added(self, messages: Mapping[str, bytes]) -> Added:
        """Answers that are held, added: at the executors if it is most slots that are asked, as
        Spark's tree has a task for each. Raises Stopped (CLUSTER_LOST)."""
        pairs, mine = self._asked(messages)
        memory, threads = self._memory, self._threads
        each = pairs.mapPartitions(lambda part: held_back(part, memory, threads))

        def job() -> Any:
            if 2 * len(mine) > len(self._names):
                return each.treeReduce(Added.plus)
            return reduce(Added.plus, self._context.runJob(each, list, mine))

        found: Added = self._done(job)
        return found

    def _asked(self, messages: Mapping[str, bytes]) -> tuple[Any, list[int]]:
        """Slots with what they are asked, as an RDD, and those that are asked something."""
        self.live()
        asked = [messages.get(name) for name in self._names]
        mine = [slot for slot, message in enumerate(asked) if message is not None]
        return self._slots.zip(self._context.parallelize(asked, len(asked))), mine

    def _done(self, job: Callable[[], Any]) -> Any:
        """What a job finds. Raises Stopped where Spark gives it up, or nobody takes it up."""
        with self._watched():
            try:
                self._context.addJobTag(self._tag)
                return job()
            except FAILED as error:
                raise _gone(f"has given a job up ({type(error).__name__})") from None
            finally:
                with suppress(*FAILED):
                    self._context.removeJobTag(self._tag)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Cancels the job once there has been no executor for too long: Spark would wait on."""
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), daemon=True)
        if not self._alone:
            watcher.start()
        try:
            yield
        finally:
            over.set()
            if not self._alone:
                watcher.join()

    def _watch(self, over: threading.Event) -> None:
        nobody = 0.0
        with suppress(*FAILED):  # the job then fails by itself
            while not over.wait(LOOK):
                nobody = nobody + LOOK if self._executors() < 1 else 0.0
                if nobody > self._patience:
                    self._context.cancelJobsWithTag(self._tag)
                    return

    def live(self) -> list[str]:
        """The slots, while there is a session. Raises Stopped (CLUSTER_LOST)."""
        if not self._up():
            raise _gone("was stopped")
        return list(self._names)

    def _up(self) -> bool:
        try:
            return self._context._jsc is not None and not self._context._jsc.sc().isStopped()
        except FAILED:
            return False


class Adding:
    """Jobs of one round in which executors may add sums; their sum waits here to be asked for.

    Parameters
    ----------
    machines : whose slots are asked.
    """

    def __init__(self, machines: SparkMachines) -> None:
        self._machines, self._found = machines, Added([], [], {})

    def ask(self, messages: Mapping[str, bytes]) -> dict[str, Any]:
        """The answer of each slot. Raises Stopped (CLUSTER_LOST)."""
        one = codec.decode(next(iter(messages.values())))  # all ask the same
        if one["op"] == "combine":
            return {name: self._combined(message) for name, message in messages.items()}
        if "hold" not in one:
            return self._machines.ask(messages)
        found = self._machines.added(messages)
        self._found = self._found.plus(found)
        return self._machines.replies(found.answers)

    def _combined(self, message: bytes) -> bytes:
        """The sum of these answers, if it is of no others."""
        names = {name for _, name in codec.decode(message)["from"]}
        same = names == set(self._found.names)
        return codec.encode(self._found.sum if same else {"missing": True})


def started(master: str) -> SparkSession:
    """A session of our own. Raises InputError where this process has one already."""
    if SparkContext._active_spark_context is not None:
        raise InputError(
            "this process has a Spark session",
            code="WRONG_VALUE",
            rule="a process has one Spark session",
            next="hand it over: polyclinic.spark(session)",
        )
    builder = SparkSession.builder.master(master).appName("polyclinic")
    local, before = master.startswith("local"), os.environ.get("PYSPARK_PYTHON")
    if local:
        for name, value in HERE.items():
            builder = builder.config(name, value)
        os.environ["PYSPARK_PYTHON"] = before or sys.executable
    try:
        with warnings.catch_warnings():  # of pandas 3, by which nothing goes here
            warnings.filterwarnings("ignore", "PySpark does not yet fully", FutureWarning)
            return builder.getOrCreate()
    except Exception as error:  # what Java says, in Java's words
        raise _gone(f"cannot be started at {master} ({type(error).__name__})") from None
    finally:
        if local and before is None:
            del os.environ["PYSPARK_PYTHON"]


def _gone(what: str) -> Stopped:
    return Stopped(
        f"Spark {what}; its own log says why",
        code="CLUSTER_LOST",
        rule="a worker's partitions go to the others while there is one, and a scheduler",
        next="start the cluster again; a run with a store or a run folder goes on with resume",
        kept="every round before",
    )
