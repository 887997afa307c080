"""Federated averaging on real X-rays and stays: near pooled training, above hospitals alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import polyclinic as pc
from benchmarks.hospitals import Proof, Rows, holds, xrays

torch = pytest.importorskip("torch")


def areas(proof: Proof) -> dict[str, list[float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pc.DataWarning)
        found = {name: way(0) for name, way in proof.ways().items()}
    return {name: [proof.area(one, "test")] for name, one in found.items() if one}


def test_x_rays_of_hospitals_that_differ_in_their_share_of_pneumonia():
    proof = xrays(rows_each=60, rounds=6)
    images = proof.rows.x[..., ::2, ::2]  # a quarter of the pixels
    rows = Rows(images, proof.rows.y, proof.rows.hospital, proof.rows.part)
    given = {**proof.given, "lr": 0.003, "batch_size": 8}
    found = areas(Proof("", rows, "mlp", {"hidden": (32,)}, given, 6))
    away, above = holds(found)
    assert found["FedAvg"][0] > 0.8
    assert away > -0.05 and above > -0.02, found
    assert "hospital_4 alone" not in found  # pneumonia only


def test_only_named_rows_are_trained_on():
    rows = xrays(rows_each=20, rounds=1).rows
    assert [len(rows.of("train", name)) for name in rows.hospitals] == [20] * 5
    assert len(rows.of("test")) == 624 and len(np.unique(rows.part)) == 3
