"""Polyclinic's own contender: a hub, three sites whose agent echoes, and rounds on the hub line."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks._federated_peers import SITES, Bench, Found, conduct, free_ports

ECHO = [sys.executable, "-m", "benchmarks._federated_polyclinic", "echo"]
SECONDS = 60.0


class Echo:
    """An agent that decodes a message, as a site does with a question, and encodes it again."""

    def receive(self, message: bytes) -> bytes:
        from polyclinic.core import codec

        return codec.encode(codec.decode(message))


def polyclinic(bench: Bench) -> Found:
    """Certificates and kits as `hub init` and `site join` make them; no job is ever deployed."""
    from polyclinic.core.errors import Stopped
    from polyclinic.engines.flare import kit, pki
    from polyclinic.engines.hubline import HubLine

    server, socket = bench.folder / "server", bench.folder / "socket" / "hub.sock"
    socket.parent.mkdir(mode=0o700)
    ca, ca_key = pki.make_ca("rounds")
    cert, key = pki.sign_server(ca, ca_key, "localhost")
    at = {"host": "localhost", "port": free_ports(1)[0], "ca": ca}
    kit.write_server_kit(server, name="rounds", cert=cert, key=key, socket=socket, **at)
    for site in SITES:
        request, key = pki.make_request(site)
        cert = pki.sign_request(request, ca, ca_key, site)
        home = bench.folder / site
        home.mkdir(mode=0o700)
        own = {"cert": cert, "key": key, "agent": ECHO, "state": home / "state.json"}
        kit.write_client_kit(home / "kit", hub="rounds", site=site, **at, **own)
    begun = time.time()
    bench.start("server", *kit.server_command(server), **kit.server_environment(server))
    for site in SITES:
        folder = bench.folder / site / "kit"
        bench.start(site, *kit.client_command(folder), **kit.client_environment(folder))

    def connected() -> bool:
        try:
            return set(HubLine(socket).sites()) == set(SITES)
        except Stopped:
            return False

    bench.wait("three sites", connected)
    start = time.time() - begun
    submitted = time.time()
    bench.start("driver", sys.executable, "-m", __spec__.name, "drive", socket, bench.plan())
    found = bench.follow(submitted)
    found.start = start
    return found


def drive(socket: str, plan: str) -> None:
    """The coordinator's process."""
    from polyclinic.core import codec
    from polyclinic.engines.hubline import HubLine

    line = HubLine(Path(socket))

    def ask(values: np.ndarray) -> list[np.ndarray]:
        message = codec.encode({"values": values})
        replies = line.ask(dict.fromkeys(SITES, message), timeout=SECONDS)
        return [codec.decode(reply)["values"] for reply in replies.values()]

    conduct(plan, ask)


def echo() -> None:
    """The agent's process: its own loop over standard input and output, with `Echo` inside."""
    from polyclinic.site.agent import serve

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(Echo(), sys.stdin.buffer, answers)  # type: ignore[arg-type]


if __name__ == "__main__":
    {"drive": drive, "echo": echo}[sys.argv[1]](*sys.argv[2:])
