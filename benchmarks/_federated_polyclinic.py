"""Polyclinic's own contender: a hub, three sites whose agent echoes, and rounds on the hub line.

The same three agents then answer secure sums.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._federated_peers import SITES, Bench, Found, Rounds, conduct, free_ports
from polyclinic.core.codec import Bytes

AGENT = [sys.executable, "-m", "benchmarks._federated_polyclinic", "agent"]
SECONDS = 60.0


class Echo:
    """An agent that opens a question, decodes its message, encodes it again and signs the answer.

    The coordinator's key is told with "KEY:". What is about secure sums has an agent of its own.
    """

    def __init__(self, site: str) -> None:
        from polyclinic.privacy.secure import Identity

        self.site, self.identity, self.coordinator = site, Identity.generate(), b""
        self.secure: Any = None

    def receive(self, message: Bytes) -> bytes:
        from polyclinic.core import codec
        from polyclinic.governance.paper import ENVELOPE, Answer, Question

        if message[:4] == b"KEY:":
            self.coordinator = bytes(message[4:])
            return self.identity.public
        if message[: len(ENVELOPE)] == ENVELOPE:
            question = Question.open(message, self.coordinator)
            answer = codec.encode(codec.decode(question.message))
            return Answer.to(question, answer).signed(self.identity)
        if self.secure is None:
            from benchmarks._federated_secure import Agent

            self.secure = Agent(self.site)
        return bytes(self.secure.receive(message))


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
        own = {"cert": cert, "key": key, "agent": [*AGENT, site], "state": home / "state.json"}
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
    if bench.secure:
        found.secure = _secure(bench, socket)
    return found


def _secure(bench: Bench, socket: Path) -> dict[str, dict[int, list[float]]]:
    """Seconds of secure totals by kind and payload, from a coordinator's process of its own."""
    out = bench.folder / "secure.jsonl"
    command = (sys.executable, "-m", __spec__.name, "total", socket, json.dumps(bench.secure), out)
    process = bench.start("secure", *command)
    bench.wait("the secure sums", lambda: process.poll() is not None)
    found: dict[str, dict[int, list[float]]] = {}
    for line in out.read_text().splitlines():
        one = json.loads(line)
        found.setdefault(one["kind"], {}).setdefault(one["size"], []).append(one["seconds"])
    return found


SESSION = {
    "format": 1,
    "study": {"name": "rounds"},
    "data": {"hub": "rounds", "schema": "rounds.toml"},
    "session": {"columns": ["x"], "algorithms": ["descriptive"]},
}
BOOK = {"format": 1, "name": "rounds", "columns": {"x": {"type": "number", "range": [-9, 9]}}}


def drive(socket: str, plan: str) -> None:
    """The coordinator's process: questions in their envelopes, answers with their signatures."""
    from polyclinic.core import codec
    from polyclinic.data.codebook import Codebook
    from polyclinic.engines.federated import HubTransport
    from polyclinic.engines.hubline import HubLine
    from polyclinic.governance.paper import Paper
    from polyclinic.governance.study_file import Session
    from polyclinic.privacy.secure import Identity

    line, own = HubLine(Path(socket)), Identity.generate()
    keys = {
        site: bytes(key)
        for site, key in line.ask(dict.fromkeys(SITES, b"KEY:" + own.public), SECONDS).items()
    }
    session, book = Session.model_validate(SESSION), Codebook.from_dict(BOOK)
    transport = HubTransport(
        line, Paper(session, book, keys, "rounds", own.public), own, "run", SECONDS
    )

    def ask(values: np.ndarray) -> list[np.ndarray]:
        message = codec.encode({"values": values})
        replies = transport.ask(dict.fromkeys(SITES, message))
        return [codec.decode(reply)["values"] for reply in replies.values()]

    conduct(plan, ask)


def total(socket: str, rounds: str, out: str) -> None:
    """The coordinator's process of the secure sums."""
    from benchmarks import _federated_secure as secure
    from polyclinic.engines.hubline import HubLine

    wanted: list[Rounds] = [tuple(one) for one in json.loads(rounds)]
    with open(out, "w") as log:
        for entry in secure.conduct(HubLine(Path(socket)), wanted, SECONDS):
            print(json.dumps(entry), file=log, flush=True)


def agent(site: str) -> None:
    """The agent's process: its own loop over standard input and output, with `Echo` inside."""
    from polyclinic.site.agent import serve

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(Echo(site), sys.stdin.buffer, answers)  # type: ignore[arg-type]


if __name__ == "__main__":
    {"drive": drive, "total": total, "agent": agent}[sys.argv[1]](*sys.argv[2:])
