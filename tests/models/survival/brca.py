"""TCGA-BRCA: six regions, survival; and what lifelines and scikit-survival say of it."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import polyclinic as pc
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.federation import Domain, Federation, Inline
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.task import register
from polyclinic.data.datasets import tcga_brca
from polyclinic.models import tasks
from polyclinic.models.survival import CoxSpec
from polyclinic.privacy.policy import Policy

register(tasks)
GOLDEN = json.loads((Path(__file__).parent / "goldens" / "brca.json").read_text())
TERMS = tuple(GOLDEN["terms"])


@cache
def rows() -> Partition:
    """All patients, with the number of their region and a weight."""
    tables = tcga_brca().tables.values()
    names = (*TERMS, "T", "E")
    columns = {n: np.concatenate([table.columns[n] for table in tables]) for n in names}
    sizes = [len(table.columns["T"]) for table in tables]
    columns["site"] = np.repeat(np.arange(6.0), sizes)
    columns["w"] = 1.0 + np.arange(len(columns["T"])) % 3
    return Partition(columns)


@cache
def untied() -> Partition:
    """The same with times of which no two are alike, as the recipe makes them."""
    columns = dict(rows().columns)
    time, seen = columns["T"], Counter()  # type: ignore[var-annotated]
    rank = np.zeros(len(time))
    for i, t in enumerate(time):
        seen[t] += 1
        rank[i] = seen[t]
    columns["T"] = time + 0.5 * rank + 1e-3 * np.arange(len(time))
    return Partition(columns)


def design(terms: tuple[str, ...] = TERMS, **more: Any) -> Design:
    made = tuple(Term(n, (Factor("value", n),), 128.0 if n[:3] == "age" else 1.0) for n in terms)
    given: dict[str, Any] = {"event": "E", "response_bound": 15000.0, **more}
    return Design(made, "T", False, **given)


def sites(policy: Policy, sums: str = "clear", parts: int = 1) -> Federation:
    """The six regions as hospitals."""
    made = {}
    for k in range(6):
        inside = rows().columns["site"] == k
        columns = {n: v[inside] for n, v in rows().columns.items() if n != "site"}
        part = Partition(columns, site=f"s{k}")
        made[f"s{k}"] = lambda cohort, part=part: part
    return pc.Embedded(parts).federation(  # type: ignore[return-value]
        made, dict.fromkeys(made, policy), sums=sums
    )


def stratified(**more: Any) -> CoxSpec:
    return CoxSpec(design(strata=("site",)), levels=(6,), **{"least": 1, **more})


def fitted(spec: Any, partition: Partition | None = None) -> Any:
    """In one trust domain."""
    found = fit(spec.algorithm(), Domain(Inline(partition or rows()))).model
    return found[-1] if isinstance(found, list) else found
