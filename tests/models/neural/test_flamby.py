"""FLamby's published numbers of Fed-Heart-Disease, of one strategy and seed."""

from __future__ import annotations

import pytest


def test_one_seed_is_the_published_one(rows, data_dir, monkeypatch):
    flamby = pytest.importorskip("benchmarks.flamby")
    monkeypatch.setattr(flamby, "DATA", data_dir)
    if not (data_dir / "flamby-protocol").is_dir():
        pytest.skip("FLamby's table is not among the data here")
    found = flamby.heart().federated("FedAdam", 42)
    assert found == pytest.approx(flamby.published()["FedAdam"][42], abs=1e-9)
    assert found["Pooled Test"] == pytest.approx(0.7756, abs=1e-4)
