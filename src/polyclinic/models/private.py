"""What every analysis under differential privacy needs to know about the noise in its totals."""

from __future__ import annotations

from polyclinic.core.contribution import Total
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.privacy.noisy import noise_of

BLOCK_CELLS = 1 << 21  # numbers that are computed at once
LOGISTIC_CURVATURE = 3.33  # k: m^2 + k^2 m^2 (1 - m)^2 <= 1 for all m in [0, 1]
UNDECLARED = 2.0**20  # what stands for a bound where the codebook gives none


def noise_variance(total: Total, leaf: Leaf, plan: Plan) -> float:
    """Variance of the noise in each entry of `leaf` in the total of `plan`.

    Seen alone, each of K hospitals has added all of sigma^2. In a secure sum each adds sigma^2 / t,
    where t are those that could open it; Laplace noise is added whole by everyone.

    Raises
    ------
    PolyclinicError : NO_NOISE for rows that were summed without a hospital's gate.
    """
    sites, noise = len(total.sites), noise_of(plan)
    if not sites or noise is None:
        raise PolyclinicError(
            "the sums came without noise",
            code="NO_NOISE",
            rule="a hospital's gate adds the noise; rows in one trust domain have no gate",
            next="fit over sites, made with pc.read or pc.split",
        )
    leaves = lookup(plan.task, plan.version).leaves(plan)
    times = noise.share_of(sites, total.opened_by) if total.opened_by else float(sites)
    return times * noise.variance(leaf, leaves)
