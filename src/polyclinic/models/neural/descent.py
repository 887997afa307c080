"""Local steps: stochastic gradient descent, and Adam (Kingma & Ba 2015), as torch.optim does them.

torch.optim imports torch's compiler on its first use, which takes longer than a small study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from polyclinic.models.neural.architectures import torch

Tensor = Any
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Descent:
    """Moves parameters along their gradients.

    adam          running means of the gradient and of its square; else plain steps with `momentum`
    weight_decay  weight of 1/2 |w|^2 beside the loss
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        adam: bool = False,
    ) -> None:
        self.parameters, self.lr = list(parameters), lr
        self.momentum, self.weight_decay, self.adam = momentum, weight_decay, adam
        self.steps = 0
        self._mean: dict[int, Tensor] = {}
        self._square: dict[int, Tensor] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def first(self, many: int) -> None:
        """Forget the gradients, and go on with the first `many` of stacked parameters."""
        held = [parameter.detach()[:many] for parameter in self.parameters]
        self.parameters = [one.requires_grad_() for one in held]
        self._mean = {i: one[:many] for i, one in self._mean.items()}
        self._square = {i: one[:many] for i, one in self._square.items()}

    def step(self) -> None:
        """One step of every parameter that has a gradient."""
        self.steps += 1
        with torch().no_grad():
            for i, parameter in enumerate(self.parameters):
                if parameter.grad is None:
                    continue
                gradient = parameter.grad
                if self.weight_decay:
                    gradient = gradient.add(parameter, alpha=self.weight_decay)
                if self.adam:
                    self._adam(i, parameter, gradient)
                    continue
                if self.momentum:
                    held = self._mean.get(i)
                    gradient = (
                        gradient.clone()
                        if held is None
                        else held.mul_(self.momentum).add_(gradient)
                    )
                    self._mean[i] = gradient
                parameter.add_(gradient, alpha=-self.lr)

    def _adam(self, i: int, parameter: Tensor, gradient: Tensor) -> None:
        if i not in self._mean:
            zeros = torch().zeros_like
            self._mean[i], self._square[i] = zeros(parameter), zeros(parameter)
        mean, square = self._mean[i], self._square[i]
        mean.lerp_(gradient, 1 - BETA1)
        square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        size = self.lr / (1 - BETA1**self.steps)
        root = (square.sqrt() / math.sqrt(1 - BETA2**self.steps)).add_(EPSILON)
        parameter.addcdiv_(mean, root, value=-size)
