"""Folders in which the sites of a study keep their own books: ledger, log, key and policy.

Each site has a folder of its own. It belongs to the hospital: nothing in it is for sharing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.data.scan import Scan
from polyclinic.data.table import Table
from polyclinic.engines.books import Books
from polyclinic.governance.chain import Verified
from polyclinic.governance.home import SiteHome
from polyclinic.governance.officer import Spent, ledger_data, ledger_text
from polyclinic.governance.witness import heads_text, read_heads
from polyclinic.governance.witness import sites_below as homes_below
from polyclinic.privacy.budget import Budget
from polyclinic.privacy.ledger import Ledger
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import MemoryJournal


def open_homes(
    folder: Path, tables: Mapping[str, Table | Scan], policies: Mapping[str, Policy], data: str
) -> tuple[dict[str, Books], dict[str, Policy]]:
    """Books and policy of every site, from its folder below `folder`.

    A folder that is not there yet is made, with `policies` signed by the new site's own key. In one
    that is there only a signed policy counts; without it the site refuses every plan.

    data  name of the data, whatever their version: what noise has cost is kept under it
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
            table.fingerprint,
            data,
        )
    return books, held


def _home(folder: Path, site: str, policy: Policy) -> SiteHome:
    if folder.exists():
        return SiteHome.open(folder)
    return SiteHome(folder).init(site, policy)


def ledger_of(folder: str | Path, *, share: bool = False, data: bool = False) -> Any:
    """The ledger of the site in `folder` as text, or with `data` as plain data.

    Raises
    ------
    InputError : NO_SITE.
    """
    home = SiteHome(folder)
    verified = home.verify_log()
    ledger = Ledger(home.ledger_path)
    try:
        show = ledger_data if data else ledger_text
        return show(ledger.rows(), ledger.refusals(), _spent(home, ledger), verified, share=share)
    finally:
        ledger.close()


def _spent(home: SiteHome, ledger: Ledger) -> Spent:
    """What noise has cost here; of how much the policy says, or the one that was signed last."""
    standing = home.policy()
    policy = standing.policy if standing.signed else home.signed_policy()
    limit = None if policy is None else policy.epsilon
    delta = (policy or Policy()).delta
    measure = Budget(limit or 0.0, delta)
    spent = max((measure.spent(ledger.spent(name)) for name in ledger.datasets()), default=0.0)
    return Spent(spent, limit, standing.code, standing.reason, delta)


def ledgers_below(run: str | Path) -> dict[str, Path]:
    """The folders of the sites of the run in `run`, by name.

    Raises
    ------
    InputError : NO_RUN.
    """
    folder = Path(run)
    found = homes_below(folder / "sites")
    if found:
        return found
    if not folder.is_dir():
        what, next = "there is no folder here", "check the path"
    elif homes_below(folder):
        what, next = "the sites of a run are here", f"polyclinic ledger {folder.parent}"
    elif (folder / "site.toml").is_file():
        what, next = "this is one site's folder", f"polyclinic site ledger --home {folder}"
    else:
        what, next = "no hospital has a ledger here", "check the path, or run a study first"
    raise InputError(
        f"{folder}: {what}",
        code="NO_RUN",
        rule="a run folder has a folder for each hospital below sites",
        next=next,
        kept="nothing was changed",
    )


def verify_log(folder: str | Path, heads: Sequence[str | Path] = ()) -> Verified:
    """The check of the log of the site in `folder`.

    heads  files with heads of this log; those that sites beside it hold count as well

    Raises
    ------
    InputError : NO_SITE, NO_HEAD.
    """
    home = SiteHome(folder)
    return home.verify_log([head for path in heads for head in read_heads(path, home.name)])


def heads_of(folder: str | Path) -> str:
    """The last signed heads of other sites that the log of the site in `folder` holds."""
    home = SiteHome(folder)
    return heads_text(home.audit_path, home.name)
