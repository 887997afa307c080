"""pfl-research's simulation of the softmax, on PyTorch: a script of its own environment."""

from __future__ import annotations

import json
import sys
import time

BEGUN = time.time()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from _neural_work import BATCH, CLASSES, LR, ROWS, WIDTH, data  # noqa: E402
from pfl.aggregate.simulate import SimulatedBackend  # noqa: E402
from pfl.algorithm.base import NNAlgorithmParams  # noqa: E402
from pfl.algorithm.federated_averaging import FederatedAveraging  # noqa: E402
from pfl.callback.base import TrainingProcessCallback  # noqa: E402
from pfl.data.dataset import Dataset  # noqa: E402
from pfl.data.federated_dataset import FederatedDataset  # noqa: E402
from pfl.data.sampling import get_user_sampler  # noqa: E402
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams  # noqa: E402
from pfl.metrics import Metrics, Weighted  # noqa: E402
from pfl.model.pytorch import PyTorchModel  # noqa: E402

ENDS: list[float] = []
CLIENTS, SHARE, ROUNDS, CORES = (int(given) for given in sys.argv[1:5])
torch.set_num_threads(1)  # quicker than two for so small a network


class Softmax(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.layer(x)

    def loss(self, x, y, eval=False):
        self.train(not eval)
        return torch.nn.functional.cross_entropy(self(x), y)

    def metrics(self, x, y, eval=True):
        return {"loss": Weighted(float(self.loss(x, y)) * len(y), len(y))}


class Timed(TrainingProcessCallback):
    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        ENDS.append(time.time())
        return False, Metrics()


x, y = (torch.from_numpy(one) for one in data(CLIENTS))


def rows_of(user: int) -> Dataset:
    rows = slice(user * ROWS, (user + 1) * ROWS)
    return Dataset(raw_data=(x[rows], y[rows]))


users = FederatedDataset(rows_of, get_user_sampler("minimize_reuse", list(range(CLIENTS))))
network = Softmax()
model = PyTorchModel(
    model=network,
    local_optimizer_create=torch.optim.SGD,
    central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
)
backend = SimulatedBackend(training_data=users, val_data=users)
FederatedAveraging().run(
    algorithm_params=NNAlgorithmParams(
        central_num_iterations=ROUNDS + 1,
        evaluation_frequency=10**9,
        train_cohort_size=SHARE,
        val_cohort_size=None,
    ),
    backend=backend,
    model=model,
    model_train_params=NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH
    ),
    model_eval_params=NNEvalHyperParams(local_batch_size=BATCH),
    callbacks=[Timed()],
)
print(json.dumps({"seconds": np.diff(ENDS).tolist(), "first": ENDS[0] - BEGUN}))
