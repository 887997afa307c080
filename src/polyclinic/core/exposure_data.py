"""Exposures as plain data, between the processes of one trust domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polyclinic.core.exposure import Exposure, Members, Shares, packed, unpacked


def exposure_to_data(found: Exposure) -> dict[str, Any]:
    """An exposure; patients in a few bits each."""
    return {
        "coefficients": int(found.coefficients),
        "slots": _ints(found.slots),
        "joint": _ints(found.joint),
        "values": {name: _ints(counts) for name, counts in found.values.items()},
        "columns": {name: vars(one) for name, one in found.columns.items()},
        "weights": None if found.weights is None else vars(found.weights),
        "crowd": found.crowd,
        "cells": {name: vars(one) for name, one in found.cells.items()},
        "leverage": np.array([found.leverage], dtype=np.float64),
        "levels": int(found.levels),
        "alone": bool(found.alone),
        "members": [_members_to_data(one) for one in found.members],
        "updates": int(found.updates),
    }


def exposure_from_data(data: Mapping[str, Any]) -> Exposure:
    """The exposure that `exposure_to_data` has written."""
    return Exposure(
        **{
            **data,
            "columns": {name: Shares(**one) for name, one in data["columns"].items()},
            "weights": None if data["weights"] is None else Shares(**data["weights"]),
            "cells": {name: Shares(**one) for name, one in data["cells"].items()},
            "leverage": float(data["leverage"][0]),
            "members": tuple(map(_members_from_data, data["members"])),
        }
    )


def _ints(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items()}


def _members_to_data(one: Members) -> dict[str, Any]:
    return {
        "columns": list(one.columns),
        "patients": [packed(one.patients)],
        "cell": None if one.cell is None else [one.cell[0], int(one.cell[1])],
        "candidate": None if one.candidate is None else int(one.candidate),
    }


def _members_from_data(data: Mapping[str, Any]) -> Members:
    cell = None if data["cell"] is None else (data["cell"][0], data["cell"][1])
    patients = np.concatenate([unpacked(piece) for piece in data["patients"]])
    return Members(tuple(data["columns"]), patients, cell, data["candidate"])
