"""Folders in which the sites of a study keep their own books: ledger, log, key and policy.

Each site has a folder of its own. It belongs to the hospital: nothing in it is for sharing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polyclinic.data.table import Table
from polyclinic.engines.books import Books
from polyclinic.governance import policy_file
from polyclinic.governance.chain import Verified, held_heads, verify
from polyclinic.governance.home import SiteHome
from polyclinic.governance.officer import ledger_data, ledger_text
from polyclinic.privacy.ledger import Ledger
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import MemoryJournal


def open_homes(
    folder: Path, tables: Mapping[str, Table], policies: Mapping[str, Policy]
) -> tuple[dict[str, Books], dict[str, Policy]]:
    """Books and policy of every site, from its folder below `folder`.

    A folder that is not there yet is made, with `policies` signed by the new site's own key. In one
    that is there only a signed policy counts; without it the site refuses every plan.
    """
    books, held = {}, {}
    for site, table in tables.items():
        home = _home(folder / site, site, policies[site])
        held[site] = home.policy().policy
        books[site] = Books(
            home.identity,
            Ledger(home.ledger_path),
            MemoryJournal(),  # sites and coordinator live and die with this process
            home.audit,
            dataset_of(table),
        )
    return books, held


def _home(folder: Path, site: str, policy: Policy) -> SiteHome:
    if folder.exists():
        return SiteHome.open(folder)
    home = SiteHome(folder).init(site)
    policy_file.save(home.policy_path, policy)
    home.sign_policy()
    return home


def dataset_of(table: Table) -> str:
    """Name of a table's content: changed data are other data."""
    hash = hashlib.sha256()
    for name in sorted(table.columns):
        hash.update(name.encode() + b"\0")
        hash.update(np.ascontiguousarray(table.columns[name]).data)
    hash.update(np.ascontiguousarray(table.patient).data)
    return hash.hexdigest()[:16]


def ledger_of(folder: str | Path, *, share: bool = False, data: bool = False) -> Any:
    """The ledger of the site in `folder` as text, or with `data` as plain data.

    Raises
    ------
    InputError : NO_SITE.
    """
    home = SiteHome.open(folder)
    policy, verified = home.policy().policy, verify(home.folder / "audit.jsonl")
    ledger = Ledger(home.ledger_path)
    try:
        budget = None
        if policy.budget is not None:
            spent = [policy.budget.spent(ledger.spent(name)) for name in ledger.datasets()]
            budget = (max(spent, default=0.0), policy.budget.epsilon)
        show = ledger_data if data else ledger_text
        return show(ledger.rows(), ledger.refusals(), budget, verified, share=share)
    finally:
        ledger.close()


def verify_log(folder: str | Path, heads: Sequence[bytes] = ()) -> Verified:
    """The check of the log of the site in `folder`.

    heads  signed heads of this log from outside; those that sites beside it hold count as well
    """
    home = SiteHome.open(folder)
    held = [
        head
        for path in homes_below(home.folder.resolve().parent).values()
        if path != home.folder.resolve()
        for head in held_heads(path / "audit.jsonl", home.name)
    ]
    return verify(home.folder / "audit.jsonl", home.identity.public, [*heads, *held])


def homes_below(folder: str | Path) -> dict[str, Path]:
    """Folders of sites directly below `folder`, by name."""
    found = sorted(path.parent for path in Path(folder).glob("*/site.toml"))
    return {path.name: path for path in found}
