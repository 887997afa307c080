"""What an update in fewer bytes costs in accuracy: handwritten digits at four hospitals.

A perceptron of 64 hidden units is trained by FedAvg on four fifths of the 1,797 images, and scored
on the others; mean and range over the seeds. Bytes are those of one hospital's answer in a round,
on average over the rounds, as the run records them.

    python benchmarks/fewer_bytes.py [--seeds 0 1 2 3 4] [--rounds 20]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd

import polyclinic as pc
from polyclinic.core.errors import DataWarning
from polyclinic.privacy.policy import open_policy

WAYS = (
    ("all numbers, secure sums", {}),
    ('`"topk_shared"`, secure sums', {"compress": "topk_shared"}),
    ("all numbers, seen alone", {}),
    ('`"float16"`', {"compress": "float16"}),
    ('`"int8"`', {"compress": "int8"}),
    ('`"topk"`', {"compress": "topk"}),
    ('`"topk"`, `keep=0.01`', {"compress": "topk", "keep": 0.01}),
)


def rows() -> tuple[pd.DataFrame, pd.DataFrame, pc.Codebook]:
    """Rows that are trained on and those that are not, with their hospital; the codebook."""
    sites = pc.datasets.digits()
    frames = [sites.local(name).assign(hospital=name) for name in sites.names]
    whole = pd.concat(frames, ignore_index=True)
    held = np.arange(len(whole)) % 5 == 0
    return whole[~held], whole[held], sites.codebook


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    train, test, codebook = rows()
    inputs = [name for name in train if name.startswith("pixel")]
    print("| update | bytes per round | accuracy |\n|---|---|---|")
    for name, more in WAYS:
        privacy = pc.SecureSum() if name.endswith("secure sums") else None
        scores, bytes = [], 0.0
        for seed in given.seeds:
            sites = pc.split(train, by="hospital", schema=codebook, policy=open_policy())
            strategy = pc.FedAvg(rounds=given.rounds, lr=0.1, momentum=0.9, **more)
            model = pc.NeuralNetwork(
                "mlp",
                architecture_options={"hidden": (64,)},
                scale="range",
                strategy=strategy,
                random_state=seed,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                model.fit(sites, f"digit ~ {' + '.join(inputs)}", privacy=privacy)
            scores.append(model.score(test[inputs], test["digit"].astype(int)))
            sent = [sum(leaf["bytes"] for leaf in done.left) for done in model.rounds_[1:]]
            bytes = float(np.mean(sent))
        spread = f"{min(scores):.3f} to {max(scores):.3f}"
        print(f"| {name} | {bytes:,.0f} | {np.mean(scores):.3f} ({spread}) |", flush=True)


if __name__ == "__main__":
    main()
