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
from polyclinic.core.exposure import Exposure, packed
from polyclinic.core.exposure_data import exposure_from_data, exposure_to_data
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


def answers_added(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum, or the exposure, of one or more answers."""
    if "exposure" in answers[0]:
        seen = added(exposure_from_data(one["exposure"]) for one in answers)
        return {"exposure": exposure_to_data(seen)}
    return {"sum": added(Sum.from_data(one["sum"]) for one in answers).to_data()}


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
