"""Flower as a peer: SuperLink, three SuperNodes and an app, each a process, over TLS."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks._federated_peers import SITES, Bench, Found, certificates, free_ports, tool

APP = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "rounds"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "polyclinic"
[tool.flwr.app.components]
serverapp = "rounds.app:server"
clientapp = "rounds.app:client"
[tool.flwr.app.config]
plan = ""
"""
CONNECTION = """
[superlink]
default = "bench"
[superlink.bench]
address = "localhost:{port}"
root-certificates = "{authority}"
"""


def flower(bench: Bench) -> Found:
    """The default message API: `Grid.send_and_receive` of one array record to three nodes."""
    home = bench.folder / "home"
    home.mkdir()
    bench.env |= {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    authority, own, key = certificates(bench.folder)
    tls = ["--ssl-ca-certfile", authority, "--ssl-certfile", own, "--ssl-keyfile", key]
    port, *ports = free_ports(1 + len(SITES))
    (home / "config.toml").write_text(CONNECTION.format(port=port, authority=authority))
    app = write_app(bench.folder / "app")
    begun = time.time()
    bench.start("superlink", tool("flower-superlink"), *tls, "--host", "127.0.0.1", "--port",
                str(port), "--disable-runtime-dependency-installation")  # fmt: skip
    bench.wait("SuperLink", lambda: listening(port))
    for site, own_port in zip(SITES, ports, strict=True):
        bench.start(site, tool("flower-supernode"), "--superlink", f"localhost:{port}",
                    "--root-certificates", authority, "--port", str(own_port), *tls)  # fmt: skip
    bench.wait("three SuperNodes", lambda: connected(bench), pause=0.5)
    start = time.time() - begun
    plan = f'plan="{bench.plan()}"'
    submitted = time.time()
    bench.call(tool("flwr"), "run", app, "bench", "--run-config", plan)
    found = bench.follow(submitted)
    found.start = start
    return found


def write_app(folder: Path) -> Path:
    """The app, with a module of its own name as Flower's builder wants it."""
    (folder / "rounds").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(APP.lstrip())
    (folder / "rounds" / "__init__.py").write_text("")
    shutil.copy(Path(__file__).with_name("_federated_flower_app.py"), folder / "rounds" / "app.py")
    return folder


def listening(port: int) -> bool:
    import socket

    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def connected(bench: Bench) -> bool:
    """The SuperLink's own log says so: its list of nodes wants an account."""
    return (bench.folder / "superlink.out").read_text().count("Activated node_id") == len(SITES)
