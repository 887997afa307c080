"""Many sites of one process trained at once: their networks stand side by side as one stack.

A layer is one batched product over all sites, and a step moves all their weights. A site's weights
rest on its own rows only, so the gradient of the sum of the sites' losses holds each site's own.
What comes of it is what `train` finds site by site, up to rounding in single precision.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.neural.architectures import architecture_of, torch
from polyclinic.models.neural.batches import batches
from polyclinic.models.neural.inputs import Inputs
from polyclinic.models.neural.lanes import cores
from polyclinic.models.neural.network import Network, enough_memory
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.strategy import Strategy
from polyclinic.models.neural.train import Question, classes_of, optimizer_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Single = NDArray[np.float32]
Tensor = Any
STRATEGIES = ("fedavg", "fedsgd", "fedprox", "scaffold", "fedadam", "fedyogi", "fedadagrad")
HELD = 8_000_000  # numbers of a stack and of its batch that are held at once
COPIES = 4  # of the weights: themselves, their gradients, what an optimizer remembers
FEWEST = 4  # sites of a stack; fewer gain nothing
LANE = 500_000  # numbers of a stack and of its batch for which another lane is worth its thread


def stackable(spec: NeuralSpec, network: Network) -> bool:
    """Whether sites can be trained together: rows and sites do not rest on each other, nothing is
    drawn at random on the way, and nothing stays at a site but a control."""
    nn, linear = torch().nn, []
    for module in network.module.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return False
        if type(module) is nn.Linear:
            linear += list(module.parameters())
    known = [id(p) for p in linear] == [id(p) for p in network.parameters]
    small = FEWEST * COPIES * sum(p.numel() for p in linear) <= HELD
    row = architecture_of(spec.architecture, spec.version).stacks and not network.loss.together
    strategy = spec.strategy
    unlike = bool(strategy.site_steps or strategy.local_seconds or strategy.compress)
    common = strategy.name in STRATEGIES and not unlike
    return known and small and row and common and not network.buffers


class Stack:
    """Networks of one form, each with weights of its own."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.loss, self.options = network.loss, network.spec.loss_options
        self.shapes = [tuple(p.shape) for p in network.parameters]
        self.module = _replaced(copy.deepcopy(network.module))
        self._layers = [m for m in self.module.modules() if isinstance(m, _linears())]
        self.module.train()

    def cut(self, flat: Tensor) -> list[Tensor]:
        """Views of the weights of networks, (sites, n_weights), in the parameters' shapes."""
        parts = flat.split([math.prod(shape) for shape in self.shapes], dim=1)
        each = zip(parts, self.shapes, strict=True)
        return [part.view(len(flat), *shape) for part, shape in each]

    def hold(self, parameters: Sequence[Tensor]) -> None:
        """Compute with these weights."""
        rest = list(parameters)
        for layer in self._layers:
            layer.weight = rest.pop(0)
            layer.bias = rest.pop(0) if layer.biased else None

    def losses(self, inputs: Inputs, rows: Ints) -> Tensor:
        """Loss of each of `rows` (sites, n) by its site's network."""
        flat = rows.reshape(-1)
        outputs = self.module(inputs.batch(flat))
        return self.loss.rows(outputs, inputs.targets(flat), self.options).reshape(rows.shape)


@dataclass(frozen=True)
class Trained:
    """What came of a round, by site: weights of the network (sites, n_weights), and as in
    `train.Answer` loss, weight and steps, (sites,)."""

    weights: Single
    loss: Floats
    weight: Floats
    steps: Ints


def lanes_of(spec: NeuralSpec, weights: int, rows: Sequence[Ints]) -> int:
    """How many lanes train sites with these rows."""
    if not rows:
        return 1
    width, most = _width(spec), _most(spec, rows)
    numbers = weights * len(rows) + width * int(most.sum())
    held = HELD // (COPIES * weights + 2 * width * int(most.max()))
    return max(1, min(cores(), len(rows) // FEWEST, numbers // LANE, held))


def stacks(spec: NeuralSpec, weights: int, rows: Sequence[Ints], lanes: int = 1) -> Iterator[Ints]:
    """Which sites are trained together, so that they have about as many steps and rows of a step,
    that every lane has a stack, and that so many numbers are held at once by all of them; sites of
    `rows` by their places."""
    sizes, most = np.array([len(one) for one in rows]), _most(spec, rows)
    share, held = math.ceil(len(rows) / lanes), HELD // lanes
    begin, order = 0, np.argsort(-sizes, kind="stable")
    while begin < len(order):
        each = COPIES * weights + 2 * _width(spec) * int(most[order[begin]])
        end = begin + max(1, min(share, held // each))
        alike = 2 * most[order[begin:end]] >= most[order[begin]]
        end = begin + int(np.count_nonzero(alike))
        yield order[begin:end]
        begin = end


def _width(spec: NeuralSpec) -> int:
    """Numbers of a row."""
    return spec.table + sum(math.prod(shape) for shape in spec.shapes.values())


def _most(spec: NeuralSpec, rows: Sequence[Ints]) -> Ints:
    """Rows of a step at each site."""
    sizes, size = np.array([len(one) for one in rows], dtype=np.int64), spec.strategy.batch_size
    return np.minimum(sizes, size) if size else sizes


def train_stack(
    stack: Stack,
    spec: NeuralSpec,
    inputs: Inputs,
    rows: Sequence[Ints],
    asked: Question,
    controls: Single | None = None,
) -> Trained:
    """Local steps of sites with `rows` each, one at least, those with most rows first; `controls`
    (sites, n_weights) are the sites' own of Scaffold."""
    library = torch()
    chosen = _batches(spec, inputs, rows, asked.round)
    steps = np.array([len(each) for each in chosen])
    flat = library.from_numpy(np.tile(asked.weights.astype(np.float32), (len(rows), 1)))
    descent = optimizer_of(spec, stack.cut(flat), asked.lr)
    pulls = _Pulls(stack, spec.strategy, asked, controls)
    total, seen = np.zeros(len(rows)), np.zeros(len(rows))
    with enough_memory():
        for step in range(steps[0]):
            left = int(np.count_nonzero(steps > step))
            descent.first(left)
            stack.hold(descent.parameters)
            places, weight = _padded([each[step] for each in chosen[:left]], inputs.weight)
            losses = stack.losses(inputs, places) * library.from_numpy(weight)
            sums = weight.sum(axis=1)
            over = library.from_numpy(np.maximum(sums, np.float32(1e-12)))
            (losses.sum(1) / over).sum().backward()
            pulls.add(descent.parameters)
            descent.step()
            total[:left] += losses.detach().sum(1).numpy()
            seen[:left] += sums
    held = np.array([inputs.weight[one].sum() for one in rows], dtype=np.float64)
    return Trained(flat.numpy(), total * held / np.maximum(seen, 1e-12), held, steps)


class _Pulls:
    """What a strategy adds to the gradients of a local step."""

    def __init__(
        self, stack: Stack, strategy: Strategy, asked: Question, controls: Single | None
    ) -> None:
        make = torch().from_numpy
        self.mu = strategy.mu if strategy.name == "fedprox" else 0.0
        self.start = stack.cut(make(asked.weights.astype(np.float32)[None]))
        self.shift: list[Tensor] = []
        if controls is not None:
            common = asked.extra["control"].astype(np.float32)
            self.shift = stack.cut(make(common - controls))

    def add(self, parameters: Sequence[Tensor]) -> None:
        """Onto the gradients of the first sites."""
        for i, one in enumerate(parameters):
            if self.mu:
                one.grad.add_(one.detach() - self.start[i], alpha=self.mu)
            if self.shift:
                one.grad.add_(self.shift[i][: len(one)])


def _batches(
    spec: NeuralSpec, inputs: Inputs, rows: Sequence[Ints], round: int
) -> list[list[Ints]]:
    """The mini-batches of every site; those of one size are in the same order."""
    if spec.sampling == "balanced":
        return [
            list(batches(spec.strategy, one, round, spec.seed, None, classes_of(spec, inputs, one)))
            for one in rows
        ]
    places = {
        n: list(batches(spec.strategy, np.arange(n), round, spec.seed))
        for n in {len(one) for one in rows}
    }
    return [[one[place] for place in places[len(one)]] for one in rows]


def _padded(parts: Sequence[Ints], weight: Single) -> tuple[Ints, Single]:
    """Batches as one array (sites, rows) and their rows' weights; a short one is filled up with its
    first row, which weighs nothing."""
    lengths = np.array([len(part) for part in parts])
    found = np.repeat(np.array([part[0] for part in parts])[:, None], lengths.max(), axis=1)
    for line, part in zip(found, parts, strict=True):
        line[: len(part)] = part
    inside = np.arange(found.shape[1]) < lengths[:, None]
    return found, np.where(inside, weight[found], np.float32(0))


def _replaced(module: Any) -> Any:
    """The module with a stack in the place of each linear layer."""
    if type(module) is torch().nn.Linear:
        return _linears()(module.bias is not None)
    for name, child in list(module.named_children()):
        setattr(module, name, _replaced(child))
    return module


@cache
def _linears() -> Any:
    library, product = torch(), _product()

    class Linears(library.nn.Module):  # type: ignore[misc,name-defined]
        """Linear layers of as many sites: rows (sites * n, inputs), those of a site together."""

        def __init__(self, biased: bool) -> None:
            super().__init__()
            self.biased = biased
            self.weight: Any = None
            self.bias: Any = None

        def forward(self, rows: Tensor) -> Tensor:
            sites, out, width = self.weight.shape
            found = product.apply(rows.reshape(sites, -1, width), self.weight)
            if self.biased:
                found = found + self.bias[:, None]
            return found.reshape(-1, out)

    return Linears


@cache
def _product() -> Any:
    library = torch()

    class Product(library.autograd.Function):  # type: ignore[misc,name-defined]
        """Rows (sites, n, inputs) times weights (sites, outputs, inputs). By numpy, whose products
        of small matrices are several times as quick as `torch.bmm` on a CPU."""

        @staticmethod
        def forward(context: Any, rows: Tensor, weight: Tensor) -> Tensor:
            context.save_for_backward(rows, weight)
            return _times(rows, weight.transpose(1, 2))

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
            rows, weight = context.saved_tensors
            needed = context.needs_input_grad[0]
            return (
                _times(gradient, weight) if needed else None,
                _times(gradient.transpose(1, 2), rows),
            )

    return Product


def _times(a: Tensor, b: Tensor) -> Tensor:
    with np.errstate(over="ignore", invalid="ignore"):  # a run that explodes is refused at the end
        return torch().from_numpy(np.matmul(a.detach().numpy(), b.detach().numpy()))
