"""Secure sums: what a site and the coordinator compute, beside Flower's SecAgg+ and CKKS.

Each contender runs its own code for one whole round over the same numbers, every site for real, in
a process of its own: Flower's `secaggplus_mod` and `SecAggPlusWorkflow` over an in-process grid,
TenSEAL with NVIDIA FLARE's CKKS parameters (there every site holds the one key that opens all).

Printed: CPU time, threads included and without the wire, of one site's whole round (median over
the sites) and of the coordinator (median of the repeats, over the messages of that same round);
Polyclinic's key set-up serves 16 rounds, so 1/16 of it counts. Then the bytes a site uploads per
value; the sum against `math.fsum`: worst relative error, relative error in L2, entries equal bit
by bit; and the bits of the secret that opens an upload: of a mask's seed (agreed by X25519; those
of Flower are counted in this run), for CKKS the security level its parameters are listed for.
Flower has no default number of neighbours: one row is the full graph, as Polyclinic's, with the
same threshold (flower-all); one its published example: 3 shares, any 2 of which open an upload.

All sizes take about six minutes and 4 GB; no process may take more than 20 GB. The peers live in
an environment of their own, .venv-bench-secure, made on first use.

    scripts/bench secure [--quick] [--json] [--repeats 3] [--only polyclinic-fast64 ckks ...]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks._environment import enter
from benchmarks._secure_peers import BOUND, Clock, Round, ckks, flower, values

ROOT = Path(__file__).resolve().parent.parent
PEERS = ["flwr==1.41.0", "tenseal==0.3.18"]
MEMORY = 20 << 30
BATCH = 16
GLM = (20, 1_330)  # gradient, Hessian and counts of 50 coefficients, 20 sites
CASES = [GLM, (10, 100_000), (50, 100_000), (10, 1_000_000), (50, 1_000_000)]
QUICK = [(10, 100_000)]


class Members:
    """All of Polyclinic's sites: every answer is timed, apart before and from the plan on."""

    def __init__(self, sites: int, size: int, encode: Callable[[np.ndarray], np.ndarray]) -> None:
        from polyclinic.privacy import secure

        names = [f"site-{site:02d}" for site in range(sites)]
        own = {name: secure.Identity.generate() for name in names}
        self.roster = secure.Roster({name: identity.public for name, identity in own.items()})
        self.members = {
            name: secure.SecureSite(
                name, own[name], self.roster, secure.MemoryJournal(), run="bench"
            )
            for name in names
        }
        self.data = {name: values(site, size) for site, name in enumerate(names)}
        self.encode = encode
        self.setup, self.round = Clock(), Clock()
        self.replies: list[dict[str, bytes]] = []
        self.setup_steps, self.planned = 0, False

    def ask(self, messages: dict[str, bytes]) -> dict[str, bytes]:
        out = {}
        for name, message in messages.items():
            start = time.process_time()
            out[name] = self.members[name].receive(message, self.contribute(name))
            clock = self.round if self.planned else self.setup
            clock.spent[name] += time.process_time() - start
        self.replies.append(out)
        self.setup_steps += not self.planned
        return out

    def contribute(self, name: str) -> Callable[[Any], np.ndarray]:
        def encoded(plan: Any) -> np.ndarray:
            self.planned = True
            return self.encode(self.data[name])

        return encoded

    def upload(self) -> float:
        """Bytes one site sends in a round, with its part of the set-up."""
        steps = [sum(map(len, step.values())) / len(self.members) for step in self.replies]
        return sum(steps[: self.setup_steps]) / BATCH + sum(steps[self.setup_steps :])


Answer = Callable[[dict[str, bytes]], dict[str, bytes]]


def conduct(
    members: Members, size: int, profile: str, answer: Answer
) -> tuple[np.ndarray, list[float]]:
    """The opened words and the coordinator's CPU seconds by step."""
    from polyclinic.privacy.secure import SecureCoordinator

    coordinator = SecureCoordinator(members.roster, run="bench", batch=BATCH)
    steps = coordinator.total({}, size, profile=profile, round=0)
    replies, seconds = None, []
    # The one name that the coordinator draws is kept, so that kept replies fit a second time.
    with mock.patch("secrets.token_hex", lambda size: "5e" * size):
        while True:
            start = time.process_time()
            try:
                messages = steps.send(replies)
            except StopIteration as stop:
                return stop.value.words, [*seconds, time.process_time() - start]
            seconds.append(time.process_time() - start)
            replies = answer(messages)


def polyclinic(profile: str) -> Callable[[int, int, int], Round]:
    def run(sites: int, size: int, repeats: int) -> Round:
        encode, decode = CODECS[profile](sites)
        members = Members(sites, size, encode)
        conduct(members, size, profile, members.ask)
        first, done = members.setup_steps, Round(key_bits=256)
        for _ in range(repeats):
            kept = iter(members.replies)
            words, seconds = conduct(members, size, profile, lambda _, kept=kept: next(kept))
            start = time.process_time()
            done.total = decode(words)
            decoding = time.process_time() - start
            done.coordinator.append(sum(seconds[:first]) / BATCH + sum(seconds[first:]) + decoding)
        done.setup = list(members.setup.spent.values())
        done.site = [
            members.setup.spent[name] / BATCH + members.round.spent[name] for name in members.data
        ]
        done.upload = members.upload()
        return done

    return run


def exact128(sites: int) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    from polyclinic.core import ring

    return ring.encode, ring.decode


def fast64(sites: int) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    from polyclinic.privacy.secure import decode_fast64, encode_fast64

    magnitude = int(math.log2(BOUND))
    return (
        lambda x: encode_fast64(x, sites, magnitude),
        lambda words: decode_fast64(words, sites, magnitude),
    )


CODECS = {"exact128": exact128, "fast64": fast64}
CONTENDERS: dict[str, Callable[[int, int, int], Round]] = {
    "polyclinic-exact128": polyclinic("exact128"),
    "polyclinic-fast64": polyclinic("fast64"),
    "flower-all": flower(1.0, 2 / 3),
    "flower-example": flower(3, 2),
    "ckks": ckks,
}


def measure(name: str, sites: int, size: int, repeats: int, truth: np.ndarray) -> dict[str, Any]:
    """One contender's round in this process, after a small one for first-call costs."""
    CONTENDERS[name](3, 100, 1)
    done = CONTENDERS[name](sites, size, repeats)
    gap = np.abs(done.total - truth)
    return {
        "site_seconds": statistics.median(done.site),
        "setup_seconds": statistics.median(done.setup) if done.setup else 0.0,
        "coordinator_seconds": statistics.median(done.coordinator),
        "coordinator_each": done.coordinator,
        "upload_bytes": done.upload,
        "bytes_per_value": done.upload / size,
        "worst": float((gap / np.abs(truth)).max()),
        "l2": float(np.linalg.norm(gap) / np.linalg.norm(truth)),
        "equal": float((done.total == truth).mean()),
        "key_bits": done.key_bits,
    }


def alone(name: str, case: tuple[int, int], repeats: int, folder: Path) -> dict[str, Any]:
    """`measure` in a process of its own, its memory limited."""
    sites, size = case
    command = [sys.executable, "-m", "benchmarks.secure", "--one", name, str(folder)]
    command += ["--sites", str(sites), "--size", str(size), "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{name} failed with {sites} sites x {size:,} values\n{done.stderr}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def true_sum(sites: int, size: int) -> np.ndarray:
    x = np.stack([values(site, size) for site in range(sites)], axis=1)
    blocks = (x[at : at + 4096].tolist() for at in range(0, size, 4096))
    return np.array([math.fsum(row) for block in blocks for row in block])


def show(case: tuple[int, int], found: dict[str, dict[str, Any]]) -> None:
    sites, size = case
    note = "  (GLM of 50 coefficients)" if case == GLM else ""
    print(f"\n{sites} sites x {size:,} values{note}, CPU ms of a round")
    print(
        f"{'':26}{'a site':>10}{'':>8}{'coordinator':>13}{'':>8}{'B/value':>9}"
        f"{'worst':>10}{'L2':>10}{'equal':>7}{'key bits':>10}"
    )
    base = next(iter(found.values()))
    for name, result in found.items():
        line = f"{name:26}"
        for part, width in (("site_seconds", 10), ("coordinator_seconds", 13)):
            times = result[part] / base[part]
            line += f"{result[part] * 1e3:>{width},.1f}{times:>7.2f}x"
        print(
            f"{line}{result['bytes_per_value']:>9.1f}{result['worst']:>10.0e}{result['l2']:>10.0e}"
            f"{result['equal']:>7.1%}{result['key_bits']:>10}"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10 sites x 1e5 values only")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--sites", type=int, help="one case only, with --size")
    parser.add_argument("--size", type=float)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    enter("benchmarks.secure", PEERS)
    cases = QUICK if args.quick else CASES
    if args.sites and args.size:
        cases = [(args.sites, int(args.size))]
    if args.one:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        name, folder = args.one[0], Path(args.one[1])
        result = measure(name, *cases[0], args.repeats, np.load(folder / "truth.npy"))
        (folder / "result.json").write_text(json.dumps(result))
        return
    everything = []
    installed = {name: version(name) for name in ("polyclinic", "cryptography", "flwr", "tenseal")}
    if not args.json:
        print(", ".join(f"{name} {number}" for name, number in installed.items()), flush=True)
    for case in cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "truth.npy", true_sum(*case))
            found = {one: alone(one, case, args.repeats, folder) for one in args.only}
        everything.append({"sites": case[0], "size": case[1], "contenders": found})
        if not args.json:
            show(case, found)
    if args.json:
        print(json.dumps({"versions": installed, "cases": everything}, indent=1))


if __name__ == "__main__":
    main()
