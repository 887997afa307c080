"""A network over five hospitals' chest X-rays, a report and its learning curve.

The hospitals differ in their share of pneumonia: one has seen nothing else. Only sums of what each
training changed leave them, as secure sums.
"""

import tempfile
import warnings
from pathlib import Path

import polyclinic as pc

warnings.simplefilter("ignore", pc.DataWarning)  # they stand in the report
sites = pc.datasets.pneumonia_mnist(hospitals=5, by="label")
seen, unseen = sites.cohort("part != 'test'"), sites.cohort("part == 'test'")

strategy = pc.FedAvg(rounds=10, lr=0.001, optimizer="adam")
network = pc.NeuralNetwork("mlp", architecture_options={"hidden": (64,)}, strategy=strategy)
network.fit(seen, "pneumonia ~ xray")
print(network.history_.round(3).to_string(index=False))

found = network.evaluate(unseen, validate="none", show_sites=False)
area = found.measures["all"]["auroc"]["value"]
print(f"AUROC on images of the published test part: {area:.3f}")
if area < 0.8:
    raise SystemExit("the network has learned nothing")

print("loss that grows where a part of the image is another patient's:")
print(network.importance(unseen, parts={"xray": 2}, repeats=1).round(3).to_string())

folder = Path(tempfile.mkdtemp())
network.report(folder / "xrays.html", title="Pneumonia from chest X-rays", show_sites=False)
print(f"report in {folder}")
