"""Cox regression, exact, with standard errors, beside statsmodels, lifelines and scikit-survival.

Each contender runs in a process of its own over the same made-up rows (10 columns, 40 % censored,
Breslow's ties where there is a choice, of which these times have none). Printed per size: seconds
of the fit (median of the repeats, minimum in brackets), how many times longer than Polyclinic, the
largest distance of a coefficient to Polyclinic's in standard errors, and memory beyond the data at
the peak. "with diagnostics": also concordance, tests of proportional hazards, baseline hazard.

    scripts/bench survival [--rows 1e4 1e5 1e6] [--repeats 3] [--only polyclinic ...]

The peers live in an environment of their own, `.venv-bench-survival`, made on first use. Contenders
that took more than --patience seconds are left out of the larger sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._environment import enter

PEERS = ["lifelines==0.30.3", "scikit-survival==0.28.0", "statsmodels>=0.14.5"]
COLUMNS = 10
Fit = Callable[[Any, Any, Any], Any]


def data(rows: int) -> tuple[Any, Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, COLUMNS))
    time_ = rng.exponential(1.0, rows) * np.exp(-x @ (rng.standard_normal(COLUMNS) * 0.2))
    end = rng.exponential(1.5, rows)
    return x, np.minimum(time_, end), (time_ <= end).astype(np.float64)


def polyclinic(x: Any, duration: Any, event: Any) -> Any:
    import polyclinic as pc

    model = pc.CoxRegression(ties="breslow", diagnostics=False).fit(x, duration, event=event)
    return model.summary()["coef"].to_numpy()


def with_diagnostics(x: Any, duration: Any, event: Any) -> Any:
    import polyclinic as pc

    return pc.CoxRegression(ties="breslow").fit(x, duration, event=event).coef_


def statsmodels(x: Any, duration: Any, event: Any) -> Any:
    from statsmodels.duration.hazard_regression import PHReg

    found = PHReg(duration, x, status=event.astype(int), ties="breslow").fit(disp=0)
    _ = found.bse
    return found.params


def lifelines(x: Any, duration: Any, event: Any) -> Any:
    import pandas as pd
    from lifelines import CoxPHFitter

    frame = pd.DataFrame(x).assign(duration=duration, event=event)
    frame.columns = [str(name) for name in frame.columns]
    return CoxPHFitter().fit(frame, "duration", "event").params_.to_numpy()


def scikit_survival(x: Any, duration: Any, event: Any) -> Any:
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    outcome = Surv.from_arrays(event == 1, duration)
    return CoxPHSurvivalAnalysis(ties="breslow").fit(x, outcome).coef_


CONTENDERS: dict[str, Fit] = {
    "polyclinic": polyclinic,
    "polyclinic, with diagnostics": with_diagnostics,
    "statsmodels PHReg": statsmodels,
    "lifelines": lifelines,
    "scikit-survival, no errors": scikit_survival,
}


def measure(name: str, rows: int, repeats: int) -> dict[str, Any]:
    """Seconds of each fit, coefficients and peak memory beyond the data, in this process."""
    x, duration, event = data(rows)
    CONTENDERS[name](x[:1000], duration[:1000], event[:1000])  # imports and first-call costs
    before = peak_memory(reset=True)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        coef = CONTENDERS[name](x, duration, event)
        seconds.append(time.perf_counter() - start)
    more = (peak_memory() - before) / 1e3
    return {"seconds": seconds, "coef": [float(c) for c in coef], "mb": more}


def peak_memory(reset: bool = False) -> int:
    """Peak resident memory of this process in kB; `reset` starts the peak anew (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def alone(name: str, rows: int, repeats: int, patience: float) -> dict[str, Any] | None:
    """The figures of a contender; None where it takes ten times as long as one may wait."""
    own = ["--one", name, "--rows", str(rows), "--repeats", str(repeats)]
    command = [sys.executable, "-m", "benchmarks.survival", *own]
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=10 * patience
        )
    except subprocess.TimeoutExpired:
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e4, 1e5, 1e6])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, int(args.rows[0]), args.repeats)))
        return
    left = list(args.only)
    for rows in (int(r) for r in args.rows):
        x, _, event = data(rows)
        error = 1.0 / float(event.sum()) ** 0.5  # of a coefficient, about
        print(f"\n{rows:,} rows x {COLUMNS} columns, {x.nbytes / 1e6:,.0f} MB")
        print(f"{'':32}{'seconds':>18}{'times':>9}{'distance':>10}{'memory':>10}")
        base: dict[str, Any] | None = None
        for name in list(left):
            found = alone(name, rows, args.repeats, args.patience)
            if found is None:
                print(f"{name:32}   more than {10 * args.patience:.0f} seconds")
                left.remove(name)
                continue
            base = base or found
            median = statistics.median(found["seconds"])
            pairs = zip(found["coef"], base["coef"], strict=True)
            gap = max(abs(a - b) for a, b in pairs) / error
            times = median / statistics.median(base["seconds"])
            least = min(found["seconds"])
            print(
                f"{name:32}{median:>10.3f} ({least:.3f}){times:>8.1f}x{gap:>10.0e}"
                f"{found['mb']:>7.0f} MB",
                flush=True,
            )
            if median > args.patience:
                left.remove(name)


if __name__ == "__main__":
    enter("benchmarks.survival", PEERS)
    main()
