"""The conformance kit on the network engine: secure sums over real processes, the same bytes.

Each hospital's rows lie in a file of its own folder; its agent cuts them into partitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare")

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.federation import Engine
from polyclinic.core.fit import fit
from polyclinic.engines.embedded import Sums
from polyclinic.engines.federated import federation
from polyclinic.governance.paper import Paper
from polyclinic.models.glm import Solver, glm
from polyclinic.privacy.policy import Policy
from tests.network.conftest import SITES, Network
from tests.network.test_federated_engine import COORDINATOR, paper_of
from tests.study.test_conformance import ALGORITHMS, partition, spec

pytestmark = pytest.mark.slow
CUTS = (0, 250, 480, 700)
SLICES = {site: slice(a, b) for site, (a, b) in zip(SITES, pairwise(CUTS), strict=True)}
SECONDS = 60.0

# Thousands of rounds say no more about a network than some do.
soon = Solver("gd", tolerance=1e-2)
ROUNDED = "logistic, gd rounded"
LINES = dict(ALGORITHMS)
for name, solver in (("logistic, gd", soon), (ROUNDED, replace(soon, compress="int8"))):
    made = partial(spec, "event", "binomial", 2, solver=solver)
    LINES[name] = replace(ALGORITHMS[name], algorithm=lambda made=made: glm(made()))


@pytest.fixture(scope="module")
def paper(network: Network) -> Paper:
    """A paper that names the agents' keys, and each hospital's rows in its folder."""
    for site, rows in SLICES.items():
        np.savez(rows_of(network, site), **partition(rows).columns)
    found = paper_of(network.line.ask(dict.fromkeys(SITES, b"key:"), SECONDS))
    offer = codec.encode([found.signed(COORDINATOR).hex(), COORDINATOR.public.hex()])
    tell(network, dict.fromkeys(SITES, b"paper:" + offer))
    return found


@pytest.fixture(scope="module", params=[1, 3, 7])
def cut(request: pytest.FixtureRequest, network: Network, paper: Paper) -> Iterator[int]:
    """So many partitions at each hospital."""
    letters = {
        site: b"rows:" + codec.encode([str(rows_of(network, site)), request.param])
        for site in SITES
    }
    tell(network, letters)
    yield request.param
    tell(network, dict.fromkeys(SITES, b"rows:" + codec.encode(["", 1])))


def rows_of(network: Network, site: str) -> Any:
    return network.kits.state(site).with_name("rows.npz")


def tell(network: Network, letters: dict[str, bytes]) -> None:
    assert network.line.ask(letters, SECONDS) == dict.fromkeys(SITES, b"taken")


def near(partitions: int, sums: Sums) -> Engine:
    """The same hospitals as objects of this process."""
    parts = {site: partition(rows, site) for site, rows in SLICES.items()}
    makers = {site: (lambda cohort, part=part: part) for site, part in parts.items()}
    return pc.Embedded(partitions).federation(makers, dict.fromkeys(parts, Policy()), sums=sums)


def numbers(name: str, engine: Engine) -> bytes:
    line = LINES[name]
    return np.asarray(line.numbers(fit(line.algorithm(), engine).model)).tobytes()


@pytest.mark.parametrize("name", LINES)
def test_the_bytes_of_the_embedded_engine(
    name: str, cut: int, network: Network, paper: Paper
) -> None:
    sums: Sums = "clear" if name == ROUNDED else "secure"  # masked numbers are not rounded
    far = federation(paper, network.line, COORDINATOR, sums=sums, timeout=SECONDS)
    assert numbers(name, far) == numbers(name, near(cut, sums))
    assert far.summing.secure is (sums == "secure")
