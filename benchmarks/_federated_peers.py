"""What every contender of the federated benchmark shares: rounds, processes, certificates."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SITES = ("site-1", "site-2", "site-3")
MARK = "POLYCLINIC_BENCH"
FIRST = 1_000  # bytes of the first round, which ends "submit to end of round 1"

Rounds = tuple[int, int, float]  # bytes of a payload, repeats and seconds at most
Ask = Callable[[np.ndarray], list[np.ndarray]]


class Unable(Exception):
    """A contender could not do a part of the benchmark; the text goes into the table."""


def conduct(path: str, ask: Ask) -> None:
    """All rounds of a plan, in the coordinator's process: one line of the log for each."""
    plan = json.loads(Path(path).read_text())
    rounds = [(FIRST, 1, math.inf), *plan["rounds"]]
    with open(plan["log"], "a") as log:

        def note(**entry: Any) -> None:
            print(json.dumps(entry), file=log, flush=True)

        for step, (size, repeats, share) in enumerate(rounds):
            values = np.random.default_rng(step).standard_normal(size // 8)
            until = time.monotonic() + share
            for _ in range(repeats):
                if time.monotonic() > until:
                    break
                try:
                    seconds = one_round(values, ask)
                except Exception as error:
                    note(size=size, failed=f"{type(error).__name__}: {error}"[:200])
                    break
                note(size=size, seconds=seconds, first=step == 0, ended=time.time())
        note(done=True)


def one_round(values: np.ndarray, ask: Ask) -> float:
    start = time.perf_counter()
    replies = ask(values)
    seconds = time.perf_counter() - start
    if len(replies) != len(SITES):
        raise Unable(f"{len(replies)} of {len(SITES)} sites answered")
    if not all(np.array_equal(values, reply) for reply in replies):
        raise Unable("a reply is not what was sent")
    return seconds


@dataclass
class Found:
    """Seconds by payload, the time to the first round, and what could not be done.

    others  the share of the machine that others used meanwhile
    secure  seconds of secure totals, by kind and payload
    study   seconds of the parts of a real study
    """

    start: float = 0.0
    first: float = 0.0
    others: float = 0.0
    seconds: dict[int, list[float]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    secure: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    study: dict[str, float] = field(default_factory=dict)


class Bench:
    """A temporary folder, and processes in it that carry a mark and are ended by their id."""

    def __init__(
        self, folder: Path, rounds: list[Rounds], limit: float, secure: list[Rounds] | None = None
    ) -> None:
        self.folder, self.rounds, self.limit, self.secure = folder, rounds, limit, secure or []
        self.deadline = time.monotonic() + limit
        self.begun, self.busy = time.monotonic(), machine_seconds() - own_seconds(os.getpid())
        self.mark = uuid.uuid4().hex
        self.log = folder / "rounds.jsonl"
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        python_path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.env = {
            **os.environ,
            MARK: self.mark,
            "PYTHONPATH": os.pathsep.join(python_path),
            "PATH": os.pathsep.join([str(tool("")), os.environ.get("PATH", "")]),
        }

    def plan(self) -> str:
        """The file that tells the coordinator's process its rounds."""
        path = self.folder / "plan.json"
        path.write_text(json.dumps({"rounds": self.rounds, "log": str(self.log)}))
        return str(path)

    def start(self, name: str, *command: str | Path, **env: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.out", "wb") as out:
            self.started[name] = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**self.env, **env},
                start_new_session=True,
            )
        return self.started[name]

    def call(self, *command: str | Path, **env: str) -> str:
        """A command that ends by itself; its output."""
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env={**self.env, **env},
            timeout=max(1.0, self.left()),
        )
        if done.returncode:
            raise Unable(f"{Path(str(command[0])).name} failed: {done.stdout[-400:]}")
        return done.stdout

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def wait(self, what: str, ready: Callable[[], bool], pause: float = 0.05) -> None:
        while not ready():
            for name, process in self.started.items():
                if process.poll():
                    tail = (self.folder / f"{name}.out").read_text(errors="replace")[-400:]
                    raise Unable(f"{name} ended while waiting for {what}: {tail}")
            if self.left() < 0:
                raise Unable(f"no {what} within {self.limit:.0f} s")
            time.sleep(pause)

    def entries(self) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        return [
            json.loads(line)
            for line in self.log.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]

    def follow(self, submitted: float) -> Found:
        """Waits until the coordinator's process has logged its last round, or for the limit."""
        found = Found()
        try:
            self.wait("last round", lambda: any("done" in entry for entry in self.entries()))
            missing = "not reached"
        except Unable as problem:
            missing = str(problem)
        for entry in self.entries():
            if "failed" in entry:
                found.failed[entry["size"]] = entry["failed"]
            elif entry.get("first"):
                found.first = entry["ended"] - submitted
            elif "seconds" in entry:
                found.seconds.setdefault(entry["size"], []).append(entry["seconds"])
        for size, *_ in self.rounds:
            if size not in found.seconds:
                found.failed.setdefault(size, missing)
        found.others = self.others()
        return found

    def close(self) -> None:
        """Ends what was started, children that left the group included, each by its id."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            until = time.monotonic() + 3
            while time.monotonic() < until and self.alive():
                time.sleep(0.1)
        for process in self.started.values():
            process.wait(timeout=10)

    def alive(self) -> list[int]:
        """Processes that inherited the mark and have not ended."""
        import psutil

        for process in self.started.values():
            process.poll()
        out = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (
                    process.pid != os.getpid()
                    and process.status() != psutil.STATUS_ZOMBIE
                    and process.environ().get(MARK) == self.mark
                ):
                    out.append(process.pid)
        return out

    def others(self) -> float:
        """The share of the machine's cores that was not ours since the beginning."""
        import psutil

        pids = {os.getpid(), *self.alive()}
        for pid in list(pids):  # and those that have ended, but nobody has asked after
            with contextlib.suppress(psutil.Error):
                pids |= {child.pid for child in psutil.Process(pid).children()}
        own = sum(own_seconds(pid) for pid in pids)
        all_time = (time.monotonic() - self.begun) * (os.cpu_count() or 1)
        return max(0.0, machine_seconds() - self.busy - own) / all_time


@contextlib.contextmanager
def bench(
    folder: Path, rounds: list[Rounds], limit: float, secure: list[Rounds] | None = None
) -> Iterator[Bench]:
    one = Bench(folder, rounds, limit, secure)
    try:
        yield one
    finally:
        one.close()


def machine_seconds() -> float:
    """CPU seconds that all processes of this machine have used."""
    import psutil

    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def own_seconds(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return float(sum(psutil.Process(pid).cpu_times()[:4]))
    return 0.0


def free_ports(count: int) -> list[int]:
    """Ports free just now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def tool(name: str) -> Path:
    """A command of this environment."""
    return Path(sys.executable).parent / name


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A throw-away authority, and a certificate and key of this machine's loopback."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def issue(
        name: str, key: Any, issuer: x509.Name, signer: Any, *parts: tuple[Any, bool]
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        for part, critical in parts:
            builder = builder.add_extension(part, critical)
        return builder.sign(signer, hashes.SHA256())

    authority_key, own_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    authority = issue(
        "benchmark", authority_key, root, authority_key, (x509.BasicConstraints(True, None), True)
    )
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    own = issue("localhost", own_key, root, authority_key, (names, False))
    paths = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    pem = serialization.Encoding.PEM
    paths[0].write_bytes(authority.public_bytes(pem))
    paths[1].write_bytes(own.public_bytes(pem))
    paths[2].write_bytes(
        own_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    paths[2].chmod(0o600)
    return paths
