"""Four hospitals whose effects differ: averaging four models is wrong, the sum of sums is not.

Prints the coefficients of the pooled fit (scikit-learn on all rows together), of Polyclinic over
four hospitals, and the average of the four hospitals' own models weighted by their size.
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

import polyclinic as pc

SIZES = {"north": 199, "east": 172, "south": 30, "west": 85}
EFFECTS = {"north": (0.2, 0.9), "east": (-0.3, 0.4), "south": (1.0, 0.2), "west": (0.1, 1.4)}


def invent(rng: np.random.Generator) -> pd.DataFrame:
    """Rows of four hospitals, each with its own effects and its own case mix."""
    parts = []
    for place, (name, size) in enumerate(SIZES.items()):
        x = rng.normal(0.5 * place, 1, (size, 2))
        logit = x @ np.array(EFFECTS[name]) - 0.5
        y = (rng.uniform(size=size) < 1 / (1 + np.exp(-logit))).astype(int)
        parts.append(pd.DataFrame({"hospital": name, "x1": x[:, 0], "x2": x[:, 1], "y": y}))
    return pd.concat(parts, ignore_index=True)


def main() -> None:
    """Fit three ways and show that two of them agree."""
    frame = invent(np.random.default_rng(3))
    model = pc.LogisticRegression().fit(pc.split(frame, by="hospital"), "y ~ x1 + x2")
    ours = np.ravel(model.coef_)

    def alone(rows: pd.DataFrame) -> np.ndarray:
        fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
        return fitted.fit(rows[["x1", "x2"]], rows["y"]).coef_[0]

    pooled = alone(frame)
    averaged = np.average(
        [alone(rows) for _, rows in frame.groupby("hospital", sort=False)],
        axis=0,
        weights=list(SIZES.values()),
    )
    print(f"pooled     {pooled.round(6)}")
    print(f"polyclinic {ours.round(6)}")
    print(f"averaged   {averaged.round(6)}")
    np.testing.assert_allclose(ours, pooled, rtol=1e-6)


if __name__ == "__main__":
    main()
