"""A torch module as two vectors: its weights, which are trained, and its buffers, which are not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.device import CPU
from polyclinic.core.errors import Refused
from polyclinic.models.neural.architectures import architecture_of, options_of, torch
from polyclinic.models.neural.device import Device, device_of, draws, forget, repeatable
from polyclinic.models.neural.inputs import Inputs
from polyclinic.models.neural.losses import LOSSES
from polyclinic.models.neural.spec import NeuralSpec

Floats = NDArray[np.float32]
EVALUATED = 512  # rows that are scored at once
SHORT = ("memory", "ALLOC_FAILED")  # what torch, cuBLAS and cuDNN say without any
_last = threading.local()  # the spec and device that were asked for, and their network
_lock = threading.RLock()  # torch's random numbers and its mode are the process's


class Network:
    """A network of a spec, with first weights drawn from the spec's seed, on a device.

    draws  whether training it draws random numbers, as dropout does; None: not known
    """

    def __init__(self, spec: NeuralSpec, device: str = CPU) -> None:
        one = architecture_of(spec.architecture, spec.version)
        whole = replace(spec, options=options_of(one, spec.options))
        with seeded(spec.seed):  # drawn by the processor, so that they are the same everywhere
            self.module = one.build(whole)
        self.device = device_of(device)
        with enough_memory():
            self.module.to(self.device)
        self.spec, self.loss = spec, LOSSES[spec.loss]
        self.draws: bool | None = None

    @property
    def parameters(self) -> list[Any]:
        """What is trained, in the module's order."""
        return [p for p in self.module.parameters() if p.requires_grad]

    @property
    def buffers(self) -> list[Any]:
        """Numbers beside them, running means for one; counters are left out."""
        return [b for b in self.module.buffers() if b.is_floating_point()]

    def weights(self) -> Floats:
        """All that is trained, (n_weights,)."""
        return _flat(self.parameters)

    def beside(self) -> Floats:
        """All buffers, (n_buffers,)."""
        return _flat(self.buffers)

    def load(self, weights: Floats, beside: Floats) -> Network:
        """Set all numbers. Raises ValueError for another number of them."""
        _fill(self.parameters, weights)
        _fill(self.buffers, beside)
        return self

    @contextmanager
    def training(self, seed: int) -> Iterator[None]:
        """Training mode, and `seeded`, where it is not known to draw nothing, and on a card."""
        self.module.train()
        plain = self.draws is False and self.device.type == CPU
        with nullcontext() if plain else seeded(seed, self.device):
            yield

    def drawing(self, inputs: Inputs, rows: NDArray[np.int64]) -> bool:
        """Whether training it draws random numbers: tried once, on two of `rows`. On a card it is
        taken to do so, as its settings are the process's too."""
        if self.device.type != CPU:
            return True
        if self.draws is None:
            generator = torch().default_generator
            with self.training(0), torch().no_grad(), enough_memory():
                before = generator.get_state()
                self.module(inputs.batch(rows[:2]))
                self.draws = not before.equal(generator.get_state())
        return self.draws

    def rows(self, inputs: Inputs, rows: NDArray[np.int64]) -> tuple[Any, Any]:
        """Outputs (n, outputs) and losses (n,) of rows, with their gradient's graph."""
        batch = self._batch(inputs, rows)
        with _steady(self.module, len(rows)):
            outputs = self.module(batch)
        target = inputs.targets(rows).to(self.device)
        return outputs, self.loss.rows(outputs, target, self.spec.loss_options)

    def outputs(
        self, inputs: Inputs, chosen: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Outputs of all rows, or of those chosen, in evaluation mode, (n_rows, outputs)."""
        places = np.arange(len(inputs)) if chosen is None else chosen
        found = []
        with self._scoring():
            for start in range(0, len(places), EVALUATED):
                rows = places[start : start + EVALUATED]
                found.append(array(self.module(self._batch(inputs, rows))))
        return (
            np.concatenate(found)
            if found
            else np.zeros((0, *(self.spec.output or (self.spec.outputs,))))
        )

    def losses(self, inputs: Inputs, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Loss of each of `rows` in evaluation mode, (n,)."""
        found, size = [], max(len(rows), 1) if self.loss.together else EVALUATED
        with self._scoring():
            for start in range(0, len(rows), size):
                _, losses = self.rows(inputs, rows[start : start + size])
                found.append(array(losses))
        return np.concatenate(found) if found else np.zeros(0)

    def tensor(self, values: NDArray[Any]) -> Any:
        """An array as a tensor on the network's device."""
        return torch().from_numpy(values).to(self.device)

    def _batch(self, inputs: Inputs, rows: NDArray[np.int64]) -> dict[str, Any]:
        return {name: one.to(self.device) for name, one in inputs.batch(rows).items()}

    @contextmanager
    def _scoring(self) -> Iterator[None]:
        alone = _lock, evaluating(self.module), torch().no_grad()
        with ExitStack() as stack:
            for one in (*alone, enough_memory(), repeatable(self.device)):
                stack.enter_context(one)
            yield


def network_of(spec: NeuralSpec, device: str = CPU) -> Network:
    """A network of this form; its numbers are whatever they were, so load them first.

    device  where it computes, "" as the process's environment says; see `device.device_of`
    """
    last: tuple[NeuralSpec, str, Network] | None = getattr(_last, "made", None)
    if last is None or last[0] is not spec or last[1] != device:
        fixed = {**spec.to_data(), "rows": {}, "sites": []}
        there = str(device_of(device))
        made = _made(codec.encode(fixed), there, threading.get_ident())
        last = _last.made = spec, device, made
    return last[2]


@lru_cache(maxsize=8)
def _made(spec: bytes, device: str, thread: int) -> Network:
    return Network(NeuralSpec.from_data(codec.decode(spec)), device)


def sizes(spec: NeuralSpec) -> tuple[int, int]:
    """Number of weights and of buffers."""
    made = network_of(spec)
    return sum(p.numel() for p in made.parameters), sum(b.numel() for b in made.buffers)


@contextmanager
def seeded(seed: int, device: Device | None = None) -> Iterator[None]:
    """torch's random numbers from `seed`, and as they were afterwards; one user at a time.

    device  that computes meanwhile; None: the processor
    """
    device = torch().device(CPU) if device is None else device
    with _lock, draws(device, seed), repeatable(device):
        yield


def array(tensor: Any) -> NDArray[np.float64]:
    """A tensor of any device in double precision, which not every device has."""
    found: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return found


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The module without dropout and with its running statistics."""
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)


@contextmanager
def _steady(module: Any, rows: int) -> Iterator[None]:
    """A batch of one row is normalised by the running statistics: it has none of its own."""
    norms: list[Any] = []
    if rows == 1 and module.training:
        batch = torch().nn.modules.batchnorm._BatchNorm
        norms = [one for one in module.modules() if isinstance(one, batch)]
    for one in norms:
        one.eval()
    try:
        yield
    finally:
        for one in norms:
            one.train()


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises Refused (OUT_OF_MEMORY) where torch finds no memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in SHORT):
            raise
        forget()
        raise Refused(
            "the memory here is too small for a batch of this network",
            code="OUT_OF_MEMORY",
            rule="a batch and what the network makes of it are held at once",
            next="use smaller batches, smaller images, or a smaller network",
        ) from None


def _flat(tensors: list[Any]) -> Floats:
    if not tensors:
        return np.zeros(0, dtype=np.float32)
    whole = torch().cat([t.detach().reshape(-1) for t in tensors])
    found: Floats = whole.float().cpu().numpy()
    return found


def _fill(tensors: list[Any], values: Floats) -> None:
    library, at = torch(), 0
    if sum(t.numel() for t in tensors) != len(values):
        raise ValueError("another number of weights")
    whole = library.from_numpy(np.array(values, dtype=np.float32))
    with library.no_grad():
        for tensor in tensors:
            tensor.copy_(whole[at : at + tensor.numel()].reshape(tensor.shape))
            at += tensor.numel()
