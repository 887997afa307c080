"""FLARE's side of the rounds: a workflow on its task controller, and an executor that echoes."""

from __future__ import annotations

from typing import Any

import numpy as np
from nvflare.apis.dxo import from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.workflows.model_controller import ModelController

from benchmarks._federated_peers import conduct


class Rounds(ModelController):
    """One task for each round, sent to all sites and waited for, as FedAvg does it."""

    def __init__(self, plan: str, **options: Any) -> None:
        super().__init__(persistor_id="", **options)
        self.plan = plan

    def run(self) -> None:
        conduct(self.plan, self.ask)

    def ask(self, values: np.ndarray) -> list[np.ndarray]:
        model = FLModel(params_type=ParamsType.FULL, params={"values": values})
        return [reply.params["values"] for reply in self.send_model_and_wait(data=model)]


class Echo(Executor):
    """The site: unpacks the array and sends it back."""

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        return from_shareable(shareable).to_shareable()
