"""A hub and its hospitals as processes on this machine, made by the documented commands."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from polyclinic.core.errors import Stopped
from polyclinic.engines.hubline import HubLine

HOST = "localhost"
AT_ONCE = max(2, min(os.cpu_count() or 1, 8))  # commands
TO_CONNECT = 120.0  # seconds


class Stage:
    """See the module. What was started is stopped at the end of the `with` block.

    Parameters
    ----------
    folder : where hub and hospitals have their folders; absent or empty.
    files : each hospital's file.
    schema : the codebook.
    hub : name of the hub.
    """

    def __init__(
        self, folder: Path, files: Mapping[str, Path], schema: Path, hub: str = "try"
    ) -> None:
        self.folder, self.files, self.schema, self.hub = folder, dict(files), schema, hub
        self.port = two_free_ports()

    def __enter__(self) -> Stage:
        try:
            for _ in self.open():
                pass
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def home(self, site: str) -> Path:
        """A hospital's folder."""
        return self.folder / "hospitals" / site

    def open(self) -> Iterator[str]:
        """Start hub and hospitals; yields what has been done."""
        self.do("hub", "init", self.hub, "--host", HOST, "--port", str(self.port))
        self.do("hub", "start", self.hub)
        yield f"hub {self.hub} on {HOST}:{self.port}"
        for site in self.each(self._join):
            yield f"hospital {site}: joined with keys of its own, policy signed, started"
        self._wait_for_all()

    def each(self, work: Callable[[str], object]) -> Iterator[str]:
        """Do `work` for every hospital, for a few at once; yields them in order when it is done.

        Raises
        ------
        Exception : the first one of `work`; what has not begun by then is left.
        """
        helpers = ThreadPoolExecutor(AT_ONCE)
        try:
            for site, _ in zip(self.files, helpers.map(work, self.files), strict=True):
                yield site
        finally:
            helpers.shutdown(cancel_futures=True)

    def _join(self, site: str) -> None:
        invite = self.folder / f"{site}.invite"
        self.do("hub", "invite", site, "--hub", self.hub, "--out", str(invite))
        where = ("--data", str(self.files[site]), "--schema", str(self.schema))
        self.do("site", "join", str(invite), *where, site=site)
        self.do("site", "policy", "--sign", site=site)
        self.do("site", "start", site=site)

    def _wait_for_all(self) -> None:
        """Raises Stopped SITE_LOST for a hospital that does not connect."""
        line = HubLine(self.folder / "hub" / "hubs" / self.hub / "socket" / "hub.sock")
        until, missing = time.monotonic() + TO_CONNECT, set(self.files)
        while missing and time.monotonic() < until:
            with suppress(Stopped):
                missing = set(self.files) - set(line.sites())
            time.sleep(0.1)
        if missing:
            raise Stopped(
                f"{', '.join(sorted(missing))}: started, but not connected to the hub",
                code="SITE_LOST",
                rule=f"a hospital connects within {TO_CONNECT:.0f} s",
                next=f"look into {self.home(min(missing)) / 'log'}",
            )

    def close(self) -> None:
        """Stop everything that is there."""
        for _ in self.each(self._leave):
            pass
        self.do("hub", "stop", self.hub, check=False)

    def _leave(self, site: str) -> None:
        if self.home(site).is_dir():
            self.do("site", "stop", site=site, check=False)

    def environment(self, site: str = "") -> dict[str, str]:
        """That of a command, of the coordinator or of a hospital."""
        home = {"POLYCLINIC_SITE": str(self.home(site))} if site else {}
        return {**os.environ, "POLYCLINIC_HOME": str(self.folder / "hub"), "NO_COLOR": "1", **home}

    def words(self, *arguments: str) -> list[str]:
        """A command line of this program."""
        return [sys.executable, "-m", "polyclinic.cli.main", *arguments]

    def do(self, *arguments: str, site: str = "", check: bool = True) -> str:
        """What a command prints. Raises CalledProcessError, with what it said."""
        done = subprocess.run(
            self.words(*arguments),
            env=self.environment(site),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise subprocess.CalledProcessError(
                done.returncode, done.args, done.stdout, done.stdout + done.stderr
            )
        return done.stdout

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """A command of the coordinator that goes on meanwhile."""
        return subprocess.Popen(
            self.words(*arguments),
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def two_free_ports() -> int:
    """The first of two ports that stand together and are free."""
    for _ in range(200):
        with socket.socket() as one, socket.socket() as two:
            one.bind((HOST, 0))
            port = int(one.getsockname()[1])
            with suppress(OSError):
                two.bind((HOST, port + 1))
                return port
    raise OSError("no two free ports beside each other")


def names(count: int, known: Sequence[str]) -> list[str]:
    """Names of so many hospitals."""
    return list(known) if count == len(known) else [f"hospital-{i + 1}" for i in range(count)]
