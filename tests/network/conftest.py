"""A hub and three sites as real FLARE processes on loopback, started once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polyclinic.core.errors import Stopped
from polyclinic.engines.flare import kit, pki
from polyclinic.engines.hubline import HubLine

ROOT = Path(__file__).resolve().parents[2]
SITES = ("a", "b", "c")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait(what: Callable[[], Any], seconds: float = 40.0) -> Any:
    """What `what` gives once it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


class Kits:
    """An authority, a hub's kit, and sites' kits below a folder."""

    def __init__(self, folder: Path, sites: tuple[str, ...] = SITES) -> None:
        self.folder, self.port = folder, free_port()
        self.ca, self.ca_key = pki.make_ca("heart")
        self.socket = folder / ("deep" * 25) / "hub.sock"  # longer than a socket address
        cert, key = pki.sign_server(self.ca, self.ca_key, "localhost")
        self.pulse = folder / "pulse"
        child = [sys.executable, "-c", CHILD, str(self.pulse)]
        kit.write_server_kit(
            self.hub,
            name="heart",
            host="localhost",
            port=self.port,
            ca=self.ca,
            cert=cert,
            key=key,
            socket=self.socket,
            children=[child],
        )
        for site in sites:
            request, key = pki.make_request(site)
            self.client(site, pki.sign_request(request, self.ca, self.ca_key, site), key)

    def client(self, site: str, cert: bytes, key: bytes, ca: bytes | None = None) -> Path:
        agent = [sys.executable, "-m", "tests.network.agent_for_tests", site]
        kit.write_client_kit(
            self.folder / site,
            hub="heart",
            site=site,
            host="localhost",
            port=self.port,
            ca=ca or self.ca,
            cert=cert,
            key=key,
            agent=agent,
            state=self.state(site),
        )
        return self.folder / site

    @property
    def hub(self) -> Path:
        return self.folder / "hub"

    def state(self, site: str) -> Path:
        return self.folder / "state" / site / "state.json"

    def said(self, site: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.state(site).read_bytes())
        return found


CHILD = """import os, sys, pathlib
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
sys.stdin.buffer.read()
pathlib.Path(sys.argv[1]).unlink()
"""


class Network:
    """Real processes, by name; ended by their numbers."""

    def __init__(self, kits: Kits) -> None:
        self.kits, self.line = kits, HubLine(kits.socket)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> subprocess.Popen[bytes]:
        folder = self.kits.hub if name == "hub" else self.kits.folder / name
        paths = os.pathsep.join((str(ROOT), str(ROOT / "src")))
        environment = {**os.environ, "PYTHONPATH": paths}
        command = kit.server_command(folder) if name == "hub" else kit.client_command(folder)
        with open(self.kits.folder / f"{name}.said", "ab") as said:
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        self.processes[name] = process
        return process

    def kill(self, name: str, how: int = signal.SIGKILL) -> int:
        process = self.processes.pop(name)
        process.send_signal(how)
        return process.wait(15)

    def connected(self) -> set[str]:
        try:
            return set(self.line.sites())
        except Stopped:
            return set()

    def wait_for(self, *sites: str) -> None:
        wait(lambda: self.connected() >= set(sites))

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    pytest.importorskip("nvflare")
    found = Network(Kits(tmp_path_factory.mktemp("network")))
    try:
        for name in ("hub", *SITES):
            found.start(name)
        found.wait_for(*SITES)
        yield found
    finally:
        found.stop()
