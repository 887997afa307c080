"""Rounds across sites: seconds for a payload to three sites and back, beside FLARE and Flower.

Every contender runs as real processes on this machine's loopback, over TLS: a server, three sites,
and the coordinator's process, which sends one array of standard normal doubles to all sites, waits
for three replies of the same size and compares them. Measured by its wall clock, from the array to
the three arrays; medians.

- polyclinic: signed questions on the hub line (`HubTransport.ask`), an agent at each site that
  opens them, decodes and encodes again, and signs its answer;
- flare-default: NVIDIA FLARE's own task controller (`ModelController.send_model_and_wait`) in a
  provisioned federation, with its defaults;
- flare-tuned: the same with the two keys that set its pace at 0.05 s: `task_request_interval` (how
  often a site asks for a task) and `task_check_period` (how often the server looks at it);
- flower: SuperLink, SuperNodes and an app with the default message API
  (`Grid.send_and_receive`); its TLS names the server only, the sites have no certificate.

"start": from the first process to three sites connected. "submit": from the command of a
coordinator (a new process; for FLARE and Flower their job and app) to the end of its first round
of 1 KB. A payload is repeated until its share of the time is spent, at least twice where the time
allows. "others": the share of the machine that other programs used meanwhile; where it is high, the
best round says more than the median.

Two blocks are Polyclinic's own. "study": hub and hospitals by the documented commands, then
`polyclinic run --hub` of a small logistic regression; the hospitals approve at once, each by a
command; seconds from that command to all approvals, to the end of round 1, and to the report, with
five-fold validation. "secure sums": seconds of a total of so many bytes at each of the three sites
(8 a number), opened and compared with the sum of all numbers: "protocol" is SA-1 (exact128) alone,
"total" what `SecureSums` does in a study, with each site's gate, ledger and log heads, in memory.

All of it takes about six minutes, eight at most. The peers live in an environment of their own,
.venv-bench-federated, made on first use.

    scripts/bench federated [--quick] [--json] [--only polyclinic flower ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks._environment import enter
from benchmarks._federated_flare import flare
from benchmarks._federated_flower import flower
from benchmarks._federated_peers import Bench, Found, Rounds, Unable, bench
from benchmarks._federated_polyclinic import polyclinic
from benchmarks._federated_study import study

PEERS = ["flwr==1.41.0", "psutil>=6.0"]
CONTENDERS: dict[str, Callable[[Bench], Found]] = {
    "polyclinic": polyclinic,
    "flare-default": flare(tuned=False),
    "flare-tuned": flare(tuned=True),
    "flower": flower,
}
FULL: list[Rounds] = [(1_000, 30, 13.0), (10_000_000, 10, 13.0), (100_000_000, 5, 25.0)]
QUICK: list[Rounds] = [(1_000, 10, 5.0), (10_000_000, 3, 5.0)]
SECURE: list[Rounds] = [(1_000, 20, 4.0), (10_000_000, 4, 10.0)]
NAMES = {1_000: "1 KB", 10_000_000: "10 MB", 100_000_000: "100 MB"}
GOALS = {1_000: 0.02, 10_000_000: 0.35, 100_000_000: 5.0}
FIRST_GOAL = 10.0
LIMIT = {"full": 95.0, "quick": 60.0}  # of one contender; five of them in eight minutes
OWN = "polyclinic"


def measure(name: str, rounds: list[Rounds], limit: float) -> Found:
    """One contender in a folder of its own; Polyclinic's with its secure sums."""
    secure = SECURE if name == OWN else []
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        try:
            with bench(Path(folder), rounds, limit, secure) as one:
                return CONTENDERS[name](one)
        except Unable as problem:
            return Found(failed={size: str(problem) for size, *_ in rounds})


def measure_study(limit: float) -> Found:
    """The study, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        try:
            with bench(Path(folder), [], limit) as one:
                return Found(study=study(one), others=one.others())
        except Unable as problem:
            return Found(failed={0: str(problem)})


def show_own(found: Found, asked: Found) -> None:
    """Polyclinic's secure sums and its study."""
    print("\nseconds per secure total, 3 sites: median, best")
    for kind, sizes in found.secure.items():
        heads = (f"{NAMES[size]:>8}" for size in sizes)
        each = (f"{shown(statistics.median(s), 9, 4)}{shown(min(s), 9, 4)}" for s in sizes.values())
        print(f"{kind:12}" + "".join(map("".join, zip(heads, each, strict=True))))
    print("\nseconds of a study from `polyclinic run --hub` on")
    parts = asked.study
    if not parts:
        print(f"not measured: {' '.join(''.join(asked.failed.values()).split())}")
        return
    print(f"{'approved by all':24}{shown(parts['approved'], 8, 1)}")
    print(f"{'end of round 1':24}{shown(parts['first'], 8, 1)}   goal, at most {FIRST_GOAL:.1f}")
    print(f"{'report written':24}{shown(parts['whole'], 8, 1)}")
    print(f"before: hub and three hospitals from nothing {parts['joined']:.1f}; ", end="")
    print(f"others {asked.others:.0%}")


def show(found: dict[str, Found], rounds: list[Rounds]) -> None:
    sizes = [size for size, *_ in rounds]
    print("\nseconds per round, 3 sites, to and from: median, times the first line's, best")
    heads = "".join(f"{NAMES[size]:>10}{'':>9}{'best':>9}" for size in sizes)
    print(f"{'':16}{'start':>6}{'submit':>8}{heads}{'others':>9}")
    base = next(iter(found.values()))
    for name, one in found.items():
        line = f"{name:16}{shown(one.start, 6, 1)}{shown(one.first, 8, 1)}"
        for size in sizes:
            middle, own = median(one, size), median(base, size)
            line += shown(middle, 10, 4)
            times = middle / own if own else 0.0
            line += f"{times:>8,.{1 if times < 100 else 0}f}x" if times else f"{'':>9}"
            line += shown(min(one.seconds.get(size, [0.0])), 9, 4)
        print(f"{line}{one.others:>9.0%}")
    goals = "".join(f"{GOALS[size]:>10.4f}{'':>18}" for size in sizes)
    print(f"{'goal, at most':16}{'':>6}{FIRST_GOAL:>8.1f}{goals}")
    for name, one in found.items():
        for size, why in one.failed.items():
            print(f"{name}, {NAMES.get(size, size)}: not measured: {' '.join(why.split())}")


def shown(seconds: float, width: int, digits: int) -> str:
    return f"{seconds:>{width}.{digits}f}" if seconds else f"{'-':>{width}}"


def median(one: Found, size: int) -> float:
    return statistics.median(one.seconds[size]) if one.seconds.get(size) else 0.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1 KB and 10 MB only, few repeats")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    enter("benchmarks.federated", PEERS, extras="federated")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then too
    rounds, limit = (QUICK, LIMIT["quick"]) if args.quick else (FULL, LIMIT["full"])
    versions = {name: version(name) for name in ("polyclinic", "nvflare", "flwr", "grpcio")}
    if not args.json:
        print(", ".join(f"{name} {number}" for name, number in versions.items()), flush=True)
    found = {name: measure(name, rounds, limit) for name in args.only}
    asked = measure_study(limit) if OWN in found else Found()
    if args.json:
        contenders = {name: dataclasses.asdict(one) for name, one in found.items()}
        about = {"versions": versions, "cores": os.cpu_count(), "study": asked.study}
        print(json.dumps({**about, "contenders": contenders}, indent=1))
        return
    show(found, rounds)
    if OWN in found:
        show_own(found[OWN], asked)
    print(f"{os.cpu_count()} cores; others: the share of them that other programs used")


if __name__ == "__main__":
    main()
