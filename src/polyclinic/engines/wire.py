"""Exposures and errors as plain data, between the processes of one trust domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from polyclinic.core.contribution import Sum
from polyclinic.core.errors import (
    NOTHING_LEFT,
    EmptySite,
    InputError,
    PolyclinicError,
    Refused,
    Stopped,
)
from polyclinic.core.exposure import Exposure, Members, Shares, packed, unpacked
from polyclinic.core.ring import RingError
from polyclinic.engines.workers import added

NONE = np.zeros(0, dtype=np.int64)
KINDS = {
    kind.__name__: kind
    for kind in (PolyclinicError, InputError, EmptySite, Refused, Stopped, RingError)
}


def exposures_to_data(seen: Iterable[Exposure]) -> dict[str, Any]:
    """One or more exposures, added; the patients of each are packed as they come, so that those of
    many rows are never held as numbers."""
    total: Any = None
    members: list[list[dict[str, Any]]] = []
    for one in seen:
        ordinals = [member.patients for member in one.members]
        bare = replace(one, members=tuple(replace(m, patients=NONE) for m in one.members))
        total = bare if total is None else total + bare
        members = members or [[] for _ in ordinals]
        for pieces, patients in zip(members, ordinals, strict=bool(ordinals)):
            pieces.append(packed(patients))
    data = exposure_to_data(total)
    for member, pieces in zip(data["members"], members, strict=True):
        member["patients"] = pieces
    return data


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


def answers_added(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum, or the exposure, of one or more answers."""
    if "exposure" in answers[0]:
        seen = added(exposure_from_data(one["exposure"]) for one in answers)
        return {"exposure": exposure_to_data(seen)}
    return {"sum": added(Sum.from_data(one["sum"]) for one in answers).to_data()}


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


def error_to_data(error: Exception) -> dict[str, Any]:
    """An error of ours with its words; of any other its kind alone: its words may hold values."""
    if isinstance(error, PolyclinicError):
        names = ("what", "code", "rule", "next", "kept", "site", "step")
        words = {name: getattr(error, name, None) for name in names}
        return {"kind": type(error).__name__, **words}
    return {"kind": "", "what": type(error).__name__}


def error_from_data(data: Mapping[str, Any]) -> Exception:
    """The error that a worker has met."""
    words = dict(data)
    kind = KINDS.get(words.pop("kind"))
    if kind is None:
        return RuntimeError(f"a worker failed ({words['what']}); its own log says where")
    what, kept = words.pop("what"), words.pop("kept", None) or NOTHING_LEFT
    return kind(what, kept=kept, **words)
