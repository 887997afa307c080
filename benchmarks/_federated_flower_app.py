"""Flower's side of the rounds: the file of its app, as the SuperLink hands it to every node."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
client = ClientApp()


@client.train()
def echo(message: Message, context: Context) -> Message:
    values = message.content.array_records["x"]["values"].numpy()
    return Message(record(values), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    from benchmarks._federated_peers import SITES, conduct

    while len(list(grid.get_node_ids())) < len(SITES):
        time.sleep(0.1)

    def ask(values: np.ndarray) -> list[np.ndarray]:
        messages = [Message(record(values), node, "train") for node in grid.get_node_ids()]
        return [reading(reply) for reply in grid.send_and_receive(messages)]

    conduct(str(context.run_config["plan"]), ask)


def record(values: np.ndarray) -> RecordDict:
    return RecordDict({"x": ArrayRecord({"values": Array(values)})})


def reading(reply: Any) -> np.ndarray:
    if reply.has_error():
        raise RuntimeError(f"a node answered error {reply.error.code}: {reply.error.reason}")
    return reply.content.array_records["x"]["values"].numpy()
