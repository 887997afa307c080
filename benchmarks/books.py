"""What a hospital writes down and adds: ledger with its audit of cohorts, log, noise.

Printed: milliseconds of a commit into a ledger of 500 cohorts over 100,000 patients (with fsync),
and of the first check after the file was opened anew; events per second into the log, each
fsynced and signed, and lines checked per second; seconds for a million draws of the discrete
Gaussian, and its variance beside the one asked for.

    scripts/bench books [--json] [--patients 100000] [--cohorts 500] [--events 5000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from polyclinic.governance.audit import AuditLog
from polyclinic.governance.chain import verify
from polyclinic.privacy.ledger import Ledger
from polyclinic.privacy.noise import discrete_gaussian
from polyclinic.privacy.secure import Identity

ENTRY = {
    "study": "bench",
    "step": "Newton round",
    "task": "glm.derivatives",
    "combine": "sum",
    "n_sums": 1330,
    "patients": 50_000,
    "seen_as": "this site",
}
DRAWS, SIGMA = 1_000_000, 1000.0


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ledger(folder: Path, patients: int, cohorts: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    masks = [rng.random(patients) < 0.5 for _ in range(cohorts)]
    path, took = folder / "ledger.sqlite", []
    books = Ledger(path)
    for i, mask in enumerate(masks):

        def commit(i: int = i, mask: np.ndarray = mask) -> None:
            books.commit(
                f"{i:064d}",
                b"sums",
                entry=ENTRY,
                dataset="data",
                cohorts=[("data", mask)],
                k=5,
                max_cohorts=cohorts,
            )

        took.append(seconds(commit))
    books.close()
    again = Ledger(path)
    opened = seconds(lambda: again.check_cohort("data", ~masks[0], 5, 2 * cohorts))
    again.close()
    return {"commit_ms": 1e3 * statistics.median(took[-20:]), "first_check_s": opened}


def log(folder: Path, events: int) -> dict[str, float]:
    identity, path = Identity.generate(), folder / "audit.jsonl"
    book = AuditLog(path, identity)

    def write() -> None:
        for i in range(events):
            book.append("released", plan="0" * 64, step="Newton round", seen_as=str(i))

    written = seconds(write)
    checked = seconds(lambda: verify(path, identity.public))
    return {"events_per_s": events / written, "lines_checked_per_s": events / checked}


def noise() -> dict[str, float]:
    drawn: list[np.ndarray] = []
    took = seconds(lambda: drawn.append(discrete_gaussian(SIGMA, DRAWS)))
    return {"draws_s": took, "variance_ratio": float(drawn[0].var()) / SIGMA**2}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench books")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--cohorts", type=int, default=500)
    parser.add_argument("--events", type=int, default=5_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            **ledger(Path(folder), asked.patients, asked.cohorts),
            **log(Path(folder), asked.events),
            **noise(),
        }
    if asked.json:
        print(json.dumps(found))
        return
    about = f"{asked.cohorts} cohorts over {asked.patients:,} patients"
    print(f"commit into a ledger of {about}: {found['commit_ms']:.0f} ms")
    print(f"first check after opening it: {found['first_check_s']:.1f} s")
    print(
        f"log: {found['events_per_s']:,.0f} events/s, {found['lines_checked_per_s']:,.0f} checked/s"
    )
    print(f"noise: {DRAWS:,} draws in {found['draws_s']:.2f} s")
    print(f"       variance over the one asked for: {found['variance_ratio']:.4f}")


if __name__ == "__main__":
    main()
