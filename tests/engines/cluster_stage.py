"""A cluster as it is started at a hospital: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Any, Self

from distributed import Client

HOST = "127.0.0.1"
LONGEST = 30.0  # seconds for a worker to be there
LOOK = 0.05


class Stage:
    """See the module.

    Parameters
    ----------
    wanted : workers.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted, self._started = wanted, 0
        self._folder = tempfile.TemporaryDirectory(prefix="stage-")
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0

    def __enter__(self) -> Self:
        self.address = f"tcp://{HOST}:{_free()}"
        self.scheduler = self._start("scheduler", "--host", HOST, "--port", self.address[16:])
        for _ in range(self.wanted):
            self.add()
        self._client = Client(self.address, set_as_default=False, timeout=LONGEST)
        self.until(self.wanted)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close(timeout=1)
        for one in (*self._workers.values(), self.scheduler):
            one.kill()
            one.wait()
        self._folder.cleanup()

    def _start(self, what: str, *more: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", f"distributed.cli.dask_{what}", *more]
        program += ["--no-dashboard", "--dashboard-address", f"{HOST}:0"]
        return subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def add(self, address: str = "") -> None:
        """One worker more; "": at any address."""
        self._started += 1
        port = address.rpartition(":")[2] or "0"
        name = f"worker-{self._started}"
        how = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--host", HOST]
        how += ["--worker-port", port]
        place = ["--local-directory", self._folder.name, "--death-timeout", "60"]
        self._workers[name] = self._start("worker", self.address, "--name", name, *how, *place)

    def _known(self) -> dict[str, str]:
        """Name of each worker that the scheduler knows and that is alive, by address."""
        known: dict[str, Any] = self._client.sync(self._client.scheduler.identity)["workers"]
        names = {address: one["name"] for address, one in known.items()}
        alive = {name for name, one in self._workers.items() if one.poll() is None}
        return {address: name for address, name in names.items() if name in alive}

    def there(self) -> list[str]:
        """Addresses of the workers that are there."""
        return sorted(self._known())

    def kill(self, address: str) -> None:
        """kill -9."""
        one = self._workers[self._known()[address]]
        os.kill(one.pid, signal.SIGKILL)
        self.kills += 1
        one.wait()

    def kill_scheduler(self) -> None:
        """kill -9 of the scheduler; nobody takes its place."""
        os.kill(self.scheduler.pid, signal.SIGKILL)
        self.scheduler.wait()

    def until(self, workers: int) -> None:
        """Wait until so many workers are there."""
        end = time.monotonic() + LONGEST
        while len(self.there()) < workers:
            assert time.monotonic() < end, f"{workers} workers are not there"
            time.sleep(LOOK)


def _free() -> int:
    """A port that nobody has."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])
