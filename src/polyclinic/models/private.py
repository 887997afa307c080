"""What every analysis under differential privacy needs to know about the noise in its totals."""

from __future__ import annotations

from polyclinic.core.contribution import Total
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.privacy.noisy import noise_of
from polyclinic.privacy.secure.keyring import threshold_of


def noise_variance(total: Total, leaf: Leaf, plan: Plan) -> float:
    """Variance of the noise in each entry of `leaf` in the total of `plan`.

    Seen alone, each of K hospitals has added all of sigma^2. In a secure sum each adds sigma^2 / t
    with t = floor(2K/3) + 1, and all K answered; Laplace noise is added whole by everyone.

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
    secure = total.seen.startswith("total of")
    times = noise.share_of(sites, threshold_of("two_thirds", sites)) if secure else float(sites)
    return times * noise.variance(leaf, leaves)
