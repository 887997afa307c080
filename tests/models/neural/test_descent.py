"""Local steps are those of torch.optim."""

from __future__ import annotations

import pytest

from polyclinic.models.neural.descent import Descent


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("adam", "momentum"), [(False, 0.0), (False, 0.9), (True, 0.0)])
def test_steps_are_those_of_torch(adam, momentum, weight_decay):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.ones(3, 2, requires_grad=True), torch.zeros(2, requires_grad=True),
                     torch.ones(1, requires_grad=True)] for _ in range(2))  # fmt: skip
    descent = Descent(ours, 0.05, momentum, weight_decay, adam)
    known = torch.optim.Adam(theirs, lr=0.05, weight_decay=weight_decay)
    if not adam:
        known = torch.optim.SGD(theirs, lr=0.05, momentum=momentum, weight_decay=weight_decay)
    for _ in range(6):
        x, y = torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)
        for optimizer, (w, b, _unused) in ((descent, ours), (known, theirs)):
            optimizer.zero_grad()
            ((x @ w + b - y) ** 2).sum().backward()
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    assert float((ours[0] - 1).abs().max().detach()) > 0.1
