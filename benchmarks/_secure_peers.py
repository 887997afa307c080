"""The peers of the secure sum: Flower and CKKS, each by its own code over the same numbers."""

from __future__ import annotations

import copy
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BOUND = 8.0  # Flower's default clipping range; every value stays inside it


@dataclass
class Round:
    """CPU seconds by site and by repeat, what left each site, and the opened sum."""

    key_bits: int
    setup: list[float] = field(default_factory=list)
    site: list[float] = field(default_factory=list)
    coordinator: list[float] = field(default_factory=list)
    upload: float = 0.0
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))


class Clock:
    """CPU seconds of this process, threads included, summed by name."""

    def __init__(self) -> None:
        self.spent: defaultdict[Any, float] = defaultdict(float)

    @contextmanager
    def of(self, name: Any, sign: int = 1) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.spent[name] += sign * (time.process_time() - start)


def values(site: int, size: int) -> np.ndarray:
    """The numbers of one site: standard normal, far inside the bound."""
    return np.clip(np.random.default_rng(site).standard_normal(size), -BOUND, BOUND)


class Grid:
    """Flower's grid without a network: each message goes through the mod of its node."""

    def __init__(self, sites: int, size: int, clock: Clock) -> None:
        from flwr.app import Context, RecordDict

        self.size, self.clock, self.replies, self.upload = size, clock, [], 0
        self.contexts = {
            node: Context(run_id=0, node_id=node, node_config={}, state=RecordDict(), run_config={})
            for node in range(1, sites + 1)
        }

    def send_and_receive(self, messages: list[Any], timeout: Any = None) -> list[Any]:
        from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
        from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS

        out = []
        for shared in messages:
            message = copy.deepcopy(shared)  # as the wire does: the mod takes its message apart
            node = message.metadata.dst_node_id
            with self.clock.of(node):
                reply = secaggplus_mod(message, self.contexts[node], self.fit)
            record = reply.content.config_records[RECORD_KEY_CONFIGS]
            self.upload += sum(weigh(value) for value in record.values())
            out.append(reply)
        self.replies.append(out)
        return out

    def fit(self, message: Any, context: Any) -> Any:
        """The training that the mod wraps: its time is not the secure sum's."""
        from flwr.app import Message
        from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
        from flwr.compat.common.recorddict_compat import fitres_to_recorddict

        with self.clock.of(context.node_id, -1):
            parameters = ndarrays_to_parameters([values(context.node_id - 1, self.size)])
            result = FitRes(Status(Code.OK, ""), parameters, 1, {})
            return Message(fitres_to_recorddict(result, False), reply_to=message)


class Replay:
    """The same replies again, so that the coordinator alone is timed."""

    def __init__(self, replies: list[list[Any]]) -> None:
        self.replies = iter(replies)

    def send_and_receive(self, messages: list[Any], timeout: Any = None) -> list[Any]:
        return next(self.replies)


class Mean:
    """A strategy that asks every site and keeps the opened mean."""

    def __init__(self, sites: int) -> None:
        self.sites, self.opened = sites, np.zeros(0)

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
        from types import SimpleNamespace

        from flwr.common import FitIns

        return [
            (SimpleNamespace(node_id=node), FitIns(parameters, {}))
            for node in range(1, self.sites + 1)
        ]

    def aggregate_fit(self, server_round: int, results: list[Any], failures: list[Any]) -> Any:
        from flwr.common import parameters_to_ndarrays

        if failures or len(results) != self.sites:
            raise RuntimeError(f"Flower opened {len(results)} of {self.sites} sites: {failures}")
        self.opened = parameters_to_ndarrays(results[0][1].parameters)[0]
        return None, {}


def weigh(value: Any) -> int:
    """Bytes of a value in a Flower record."""
    if isinstance(value, bytes):
        return len(value)
    return sum(weigh(v) for v in value) if isinstance(value, list) else 8


def flower(shares: int | float, threshold: int | float) -> Callable[[int, int, int], Round]:
    def run(sites: int, size: int, repeats: int) -> Round:
        clock = Clock()
        grid = Grid(sites, size, clock)
        done = Round(key_bits=flower_seed_bits())
        with clock.of("all"):
            opened = flower_workflow(grid, sites, shares, threshold)
        done.total = opened * sites  # it opens the mean of sites that weigh 1 each
        done.site = [clock.spent[node] for node in grid.contexts]
        done.upload = grid.upload / sites
        for _ in range(repeats):
            again = Clock()
            with again.of("coordinator"):
                flower_workflow(Replay(grid.replies), sites, shares, threshold)
            done.coordinator.append(again.spent["coordinator"])
        return done

    return run


def flower_workflow(grid: Any, sites: int, shares: float, threshold: float) -> np.ndarray:
    import logging

    from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
    from flwr.server.compat.legacy_context import LegacyContext
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 0
    logging.getLogger("flwr").setLevel(logging.ERROR)
    state = RecordDict({"parameters": ArrayRecord(), "config": ConfigRecord({"current_round": 1})})
    bare = Context(run_id=0, node_id=0, node_config={}, state=state, run_config={})
    strategy = Mean(sites)
    random.seed(0)  # the workflow shuffles the neighbours: the same ones in every repeat
    SecAggPlusWorkflow(shares, threshold, max_weight=1.0, clipping_range=BOUND)(
        grid, LegacyContext(bare, strategy=strategy)
    )
    return strategy.opened


def flower_seed_bits() -> int:
    """Bits that ever differ in the 32-bit seeds Flower folds its pairwise keys into."""
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.supercore.primitives.asymmetric import generate_key_pairs

    _, public = generate_key_pairs()
    ones, zeros = 0, 0
    for _ in range(64):
        key = np.frombuffer(generate_shared_key(generate_key_pairs()[0], public), dtype="<u4")
        seed = int(np.bitwise_xor.reduce(key))
        ones, zeros = ones | seed, zeros | ~seed
    return (ones & zeros & 0xFFFFFFFF).bit_count()


def ckks(sites: int, size: int, repeats: int) -> Round:
    """Encrypt at the site, add at the coordinator (public context), decrypt at the site."""
    import tenseal as ts

    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.generate_relin_keys()
    context.global_scale = 2**40
    server = ts.context_from(context.serialize(save_secret_key=False))
    done, clock, uploads = Round(key_bits=128), Clock(), []
    for site in range(sites):
        x = values(site, size)
        with clock.of(site):
            uploads.append(ts.ckks_vector(context, x).serialize())
    done.upload = statistics.fmean(len(upload) for upload in uploads)
    for repeat in range(repeats):
        with clock.of(f"coordinator {repeat}"):
            total = ts.ckks_vector_from(server, uploads[0])
            for upload in uploads[1:]:
                total = total + ts.ckks_vector_from(server, upload)
            answer = total.serialize()
        done.coordinator.append(clock.spent[f"coordinator {repeat}"])
    for site in range(3):
        with clock.of(f"open {site}"):
            opened = np.array(ts.ckks_vector_from(context, answer).decrypt())
    done.total = opened
    opening = statistics.median(clock.spent[f"open {site}"] for site in range(3))
    done.site = [clock.spent[site] + opening for site in range(sites)]
    return done
