"""A recurrent network over four kinds of intensive care unit: 48 hours of measurements as a series.

Only sums of what each unit's training changed leave it, as secure sums; then which variables the
network rests on, and a report with the learning curve.
"""

import tempfile
import warnings
from pathlib import Path

import polyclinic as pc

warnings.simplefilter("ignore", pc.DataWarning)  # they stand in the report
units = pc.datasets.physionet_2012(series=True)

strategy = pc.FedAvg(rounds=5, lr=0.02, optimizer="adam", batch_size=64)
network = pc.NeuralNetwork("gru", architecture_options={"hidden": 8}, strategy=strategy)
network.fit(units, "died ~ measured")
print(network.history_.round(3).to_string(index=False))

found = network.evaluate(validate="none", show_sites=False)
area = found.measures["all"]["auroc"]["value"]
print(f"AUROC on the same patients: {area:.3f}")
if area < 0.65:
    raise SystemExit("the network has learned nothing")

variables = ["GCS", "BUN", "HR", "Urine"]
rests = network.importance(parts={"measured": variables}, repeats=1)
print(rests.round(4).to_string())

folder = Path(tempfile.mkdtemp())
network.report(folder / "series.html", title="Deaths in intensive care", show_sites=False)
print(f"report in {folder}")
