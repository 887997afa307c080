"""Worker processes on this machine, for a cluster that lasts as long as a `with` block.

The scheduler lives in this process. All of it listens on 127.0.0.1 only, and who has not the keys
that were made for this one cluster is turned away: another account of the machine could else
send work to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from dask import config
from distributed import LocalCluster
from distributed.security import Security

HOST = "127.0.0.1"
NOWHERE = f"{HOST}:0"  # a web server without a page: Dask always starts one
ROUTES = config.get("distributed.scheduler.http.routes")


class LocalWorkers:
    """A scheduler in this process and workers in processes of their own.

    Workers are started as programs, not forked: a script needs no ``if __name__ == "__main__"``.
    """

    def __init__(self, workers: int, threads: int, dashboard: str | None) -> None:
        self.security = Security.temporary()
        self._folder = tempfile.TemporaryDirectory(prefix="polyclinic-cluster-")
        self.processes: list[subprocess.Popen[bytes]] = []
        with config.set({"distributed.scheduler.http.routes": ROUTES if dashboard else []}):
            self._cluster = LocalCluster(
                n_workers=0,
                host=HOST,
                protocol="tls://",
                security=self.security,
                dashboard_address=dashboard or NOWHERE,
                scheduler_kwargs={"dashboard": dashboard is not None},
                silence_logs=40,
            )
        self.address = str(self._cluster.scheduler_address)
        # it stops the work a hundred times a second, for a page that nobody sees
        unseen = {} if dashboard else {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
        about, command = {**os.environ, **unseen}, self._command(threads)
        for number in range(workers):
            one = [*command, "--name", f"worker-{number}"]
            self.processes.append(
                subprocess.Popen(
                    one, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=about
                )
            )

    def _command(self, threads: int) -> list[str]:
        keys = {"ca-file": "tls_ca_file", "cert": "tls_worker_cert", "key": "tls_worker_key"}
        files = []
        for option, name in keys.items():
            path = Path(self._folder.name) / f"{option}.pem"
            path.touch(mode=0o600)
            path.write_text(getattr(self.security, name))
            files += [f"--tls-{option}", str(path)]
        program = [sys.executable, "-m", "distributed.cli.dask_worker", self.address]
        how = [
            "--no-nanny",
            "--no-dashboard",
            "--dashboard-address",
            NOWHERE,
            "--nthreads",
            str(threads),
            "--memory-limit",
            "0",
        ]
        place = ["--host", HOST, "--local-directory", self._folder.name, "--death-timeout", "60"]
        return [*program, *files, *how, *place]

    def close(self) -> None:
        """End the workers that were started here, and the scheduler."""
        for one in self.processes:
            one.terminate()
        for one in self.processes:
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        self._cluster.close(timeout=10)
        self._folder.cleanup()
