"""An estimator's parameters as a solver, checked before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.core.overlap import across_borders
from polyclinic.models.glm.spec import MASKED, MAX_ROUNDS, NOISY, Solver


def solver_of(
    name: str,
    max_rounds: int | None,
    tolerance: float,
    options: Mapping[str, Any] | None,
    *,
    secure: bool = False,
    noise: bool = False,
    borders: bool = False,
) -> Solver:
    """The solver of these settings.

    secure, noise  whether only totals are seen, and whether noise is added
    borders        whether rows are those of hospitals with a gate each

    Raises
    ------
    InputError : UNKNOWN_OPTION; WRONG_VALUE where sums cannot be rounded, or rounds not overlap.
    """
    given: dict[str, Any] = dict(options or {})
    rounds = max_rounds or MAX_ROUNDS.get(name, 25)
    try:
        solver = Solver(name, max_rounds=rounds, tolerance=tolerance, **given)
    except TypeError:
        raise InputError(
            f"solver_options: {', '.join(given)}",
            code="UNKNOWN_OPTION",
            rule="options: step, batch, decay, warm_rows, compress, staleness",
        ) from None
    if borders and solver.staleness is not None:
        raise across_borders()
    if solver.compress and (secure or noise):
        raise InputError(
            f"compress = {solver.compress!r} with {'secure sums' if secure else 'noise'}",
            code="WRONG_VALUE",
            rule=MASKED if secure else NOISY,
            next="leave one of them out",
        )
    return solver
