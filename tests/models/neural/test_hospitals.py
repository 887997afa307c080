"""Federated averaging on real X-rays, of hospitals that differ in their share of pneumonia."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.hospitals import Proof, Rows, xrays

torch = pytest.importorskip("torch")


def test_x_rays_over_hospitals_are_learned_nearly_as_if_pooled():
    proof = xrays(rows_each=940, rounds=8)
    rows = proof.rows
    assert rows.y[rows.of("train", "hospital_4")].min() == 1  # pneumonia only
    assert proof.alone("hospital_4", 0) is None
    images = rows.x[..., ::2, ::2]  # a quarter of the pixels
    small = Rows(images, rows.y, rows.hospital, rows.part)
    proof = Proof("", small, "mlp", {"hidden": (32,)}, {**proof.given, "lr": 0.002}, 8)
    federated = proof.area(proof.federated(proof.strategy(), 0), "test")
    assert federated > 0.85
    assert federated > proof.area(proof.pooled(0), "test") - 0.05


def test_only_named_rows_are_trained_on():
    rows = xrays(rows_each=20, rounds=1).rows
    assert [len(rows.of("train", name)) for name in rows.hospitals] == [20] * 5
    assert len(rows.of("test")) == 624 and len(np.unique(rows.part)) == 3
