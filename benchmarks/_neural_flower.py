"""Flower's simulation of the softmax, on its Ray backend: a script of its own environment."""

from __future__ import annotations

import json
import sys
import time

BEGUN = time.time()

import numpy as np  # noqa: E402
from _neural_work import CLASSES, ROWS, WIDTH, data, softmax  # noqa: E402
from flwr.client import ClientApp, NumPyClient  # noqa: E402
from flwr.common import ndarrays_to_parameters  # noqa: E402
from flwr.server import ServerApp, ServerAppComponents, ServerConfig  # noqa: E402
from flwr.server.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

ENDS: list[float] = []
CLIENTS, SHARE, ROUNDS, CORES = (int(given) for given in sys.argv[1:5])


class Client(NumPyClient):
    def __init__(self, place: int) -> None:
        rows = slice(place * ROWS, (place + 1) * ROWS)
        self.x, self.y = (one[rows] for one in data(CLIENTS))  # made once in a worker process

    def fit(self, parameters: list, config: dict) -> tuple[list, int, dict]:
        order = np.random.default_rng().permutation(ROWS)
        return list(softmax(*parameters, self.x, self.y, order)), ROWS, {}


class Timed(FedAvg):
    def aggregate_fit(self, *given):
        found = super().aggregate_fit(*given)
        ENDS.append(time.time())
        return found


def client(context):
    return Client(int(context.node_config["partition-id"])).to_client()


def server(context):
    first = [np.zeros((WIDTH, CLASSES), np.float32), np.zeros(CLASSES, np.float32)]
    strategy = Timed(
        fraction_fit=SHARE / CLIENTS,
        fraction_evaluate=0.0,
        min_available_clients=CLIENTS,
        initial_parameters=ndarrays_to_parameters(first),
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS + 2))


run_simulation(
    ServerApp(server_fn=server),
    ClientApp(client_fn=client),
    num_supernodes=CLIENTS,
    backend_config={
        "client_resources": {"num_cpus": 1, "num_gpus": 0},
        "init_args": {"num_cpus": CORES},
    },
)
each = np.diff(ENDS[1:])  # the first round waits for the nodes, and the workers for rows
print(json.dumps({"seconds": each.tolist(), "first": ENDS[0] - BEGUN}))
