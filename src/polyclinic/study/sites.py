"""`Sites`: hospitals whose rows a study may ask about, and the cohort that is fixed for it."""

from __future__ import annotations

import copy
import difflib
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from polyclinic.core.errors import EmptySite, InputError
from polyclinic.core.federation import Federation
from polyclinic.core.partition import Partition
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import Cohort, rows_of
from polyclinic.data.scan import Scan, Selected
from polyclinic.data.table import Table
from polyclinic.engines.books import Books
from polyclinic.engines.clusters import Cluster
from polyclinic.engines.embedded import About, Embedded, Make, Sums
from polyclinic.engines.workers import Held
from polyclinic.privacy.budget import Budget
from polyclinic.privacy.policy import Policy
from polyclinic.study.describe import Described

if TYPE_CHECKING:
    from polyclinic.engines.dask_arrays import DaskMatrix


class Sites(Described):
    """Hospitals of one study, each behind a gate of its own. Rows are never shown.

    Made by `pc.read`, `pc.split` and `pc.datasets`; `cohort` fixes which rows a study is about.
    """

    def __init__(
        self,
        tables: Mapping[str, Table | Scan],
        codebook: Codebook,
        *,
        policy: Policy | Mapping[str, Policy] | None = None,
        fixed: Cohort | None = None,
        empty_site: str = "error",
        source: str = "",
        books: Mapping[str, Books] | None = None,
        on: Mapping[str, Embedded | None] | None = None,
    ) -> None:
        self._tables = dict(tables)
        self._on = dict(on or {})
        self._books = dict(books) if books else {site: Books.in_memory() for site in tables}
        self.codebook = codebook
        self.fixed = fixed
        self.empty_site = empty_site
        self.source = source
        self.policies = _policies(policy, self._tables)

    def _with(self, **changes: Any) -> Self:
        """The same hospitals with some attributes changed."""
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tables)

    @property
    def engine(self) -> str:
        """Name of the engine that the hospitals are on; "": that of the study."""
        return ""

    @property
    def federation_part(self) -> dict[str, Any] | None:
        """Over a hub: which hospitals take part, and which do not and why."""
        return None

    def n_rows(self, site: str) -> int | None:
        """Rows of a hospital's table; None where it is not on this machine."""
        return self._tables[site].n_rows

    @property
    def table(self) -> Callable[[str], Table]:
        """The table of a site that is in this process. Raises InputError ROWS_IN_FILES."""
        return self._held

    def _held(self, site: str) -> Table:
        found = self._tables[site]
        if isinstance(found, Table):
            return found
        raise InputError(
            f"{site}: its rows stay in their files",
            code="ROWS_IN_FILES",
            site=site,
            rule="a scan is read in parts, and nothing of it is held here",
            next="ask for sums; or read one of the files with polyclinic.read",
        )

    def at_home(self, folder: str | Path) -> Self:
        """The same hospitals, each with its ledger, log and signed policy in `folder`/NAME.

        What was released before, also by an earlier process, counts: see `Policy`. A policy that a
        folder holds already is the one that counts.
        """
        from polyclinic.study.homes import open_homes

        name = self.codebook.name
        books, policies = open_homes(Path(folder), self._tables, self.policies, name)
        return self._with(policies=policies, _books=books)

    def cohort(
        self,
        where: str | None = None,
        *,
        missing: str | Mapping[str, str] = "drop",
        columns: Sequence[str] | None = None,
        empty_site: str = "error",
    ) -> Self:
        """The same hospitals with the rows fixed: every later number is about these patients.

        Parameters
        ----------
        where : condition on columns, for example ``"age >= 18 and not (sex is missing)"``.
        missing : "drop" rows without a value, "mean" (pooled, plus a 0/1 column), or "error"; one
            for all, or by column with a "default".
        columns : the columns that must be complete; None: all of the codebook.
        empty_site : "error", or "leave_out" a hospital without a patient.
        """
        rules = {"default": missing} if isinstance(missing, str) else dict(missing)
        wanted = tuple(columns) if columns is not None else self._columns_in_use()
        fixed = Cohort(where=where, columns=wanted, missing=rules)
        return self._with(fixed=fixed, empty_site=empty_site)

    def with_policy(self, policy: Policy | Mapping[str, Policy]) -> Self:
        """The same hospitals under another policy; one that a mapping leaves out keeps its own.

        Raises
        ------
        InputError : UNKNOWN_SITE, WRONG_VALUE; POLICY_SIGNED at a site that has signed its policy.
        """
        given = _policies(policy, self._tables, self.policies)
        for site in self._tables:
            if self._books[site].log is not None and given[site] != self.policies[site]:
                raise InputError(
                    f"{site} has a signed policy in its folder",
                    code="POLICY_SIGNED",
                    rule="in a hospital's folder the policy counts that it has signed itself",
                    next="give the policy before at_home, or edit policy.toml in the folder and "
                    "sign it: polyclinic site policy --sign",
                )
        return self._with(policies=given)

    def _columns_in_use(self) -> tuple[str, ...]:
        return tuple(next(iter(self._tables.values())).columns)

    def rows(self, site: str, cohort: Cohort | None) -> Partition:
        """The rows of `site` that `cohort` selects, a patient's rows side by side."""
        return rows_of(self._held(site), cohort)

    def _selected(self, site: str, cohort: Cohort | None) -> Partition | Selected:
        """The same, or where they lie."""
        found = self._tables[site]
        return Selected(found, cohort) if isinstance(found, Scan) else self.rows(site, cohort)

    def federation(
        self,
        engine: Embedded | None = None,
        cohort: Cohort | None = None,
        *,
        sums: Sums = "auto",
        about: About = About(),
    ) -> Federation:
        """The hospitals as they answer: each computes on the rows of `cohort` behind its gate.

        Parameters
        ----------
        engine : where to compute; None: this process.
        cohort : the rows; None: those of `cohort()`, or all.
        sums : "clear", "secure", or "auto": secure where a hospital may not release alone.
        about : what the hospitals read of the study.

        Raises
        ------
        EmptySite : a hospital has no complete row (unless `empty_site` is "leave_out"). Under a
            condition the hospitals' gates say so themselves, of none as of a few.
        """
        cohort = cohort or self.fixed
        ready = self._found(engine or Embedded(), cohort)
        empty = self._without_patients(cohort, ready)
        if empty and (self.empty_site != "leave_out" or len(empty) == len(self.names)):
            raise self._empty(empty[0], cohort)
        data = None if cohort is None else cohort.to_data()
        makers = {
            site: self._maker(site, data, ready.get(site))
            for site in self.names
            if site not in empty
        }
        return (engine or Embedded()).federation(
            makers, self.policies, data, books=self._books, sums=sums, about=about
        )

    def _found(self, engine: Embedded, cohort: Cohort | None) -> dict[str, Held]:
        """The workers over rows that stay in files. What is wrong with a file is said here, in
        words: later only a code crosses the gate."""
        scans = {site: one for site, one in self._tables.items() if isinstance(one, Scan)}
        return {
            site: (self._on.get(site) or engine).workers(Selected(one, cohort))
            for site, one in scans.items()
        }

    def _without_patients(self, cohort: Cohort | None, ready: Mapping[str, Held]) -> list[str]:
        """Hospitals with nobody to ask about; under a condition those with fewer than they show."""
        conditional = cohort is not None and bool(cohort.where)
        if conditional and self.empty_site != "leave_out":
            return []
        least = {site: self.policies[site].min_subset if conditional else 1 for site in self.names}
        rows = {
            site: ready[site].rows if site in ready else self.rows(site, cohort)
            for site in self.names
        }
        return [site for site in self.names if rows[site].n_patients < least[site]]

    def _maker(self, site: str, fixed: Mapping[str, Any] | None, ready: Held | None) -> Make:
        def make(cohort: Mapping[str, Any] | None) -> Partition | Selected | Held:
            if ready is not None and cohort == fixed:
                return ready
            rows = self._selected(site, None if cohort is None else Cohort.from_data(cohort))
            on = self._on.get(site)
            return rows if on is None else on.workers(rows)

        return make

    def _empty(self, site: str, cohort: Cohort | None) -> EmptySite:
        table = self._tables[site]
        worst = (
            []
            if isinstance(table, Scan)
            else [
                f"{name}: {int(np.isnan(table.columns[name]).sum())} of {table.n_rows} missing"
                for name in (cohort.with_rule("drop") if cohort else ())
                if np.isnan(table.columns[name]).all()
            ]
        )
        return EmptySite(
            f"{site} has no complete row" + (f" ({'; '.join(worst)})" if worst else ""),
            code="EMPTY_SITE",
            site=site,
            rule="no hospital is lost without saying so",
            next='leave the column out, use missing = "mean" for it, or empty_site = "leave_out"',
        )

    def check(self) -> pd.DataFrame:
        """Missing values per hospital and column, as counts; small ones are hidden.

        `polyclinic check` shows all findings of one hospital's file.
        """
        lines = {
            site: {name: int(np.isnan(values).sum()) for name, values in table.columns.items()}
            for site, table in zip(self.names, map(self._held, self.names), strict=True)
        }
        frame = pd.DataFrame(lines)
        return frame.mask((frame > 0) & (frame < 5)).astype("Int64")

    def local(self, site: str) -> pd.DataFrame:
        """The rows of one hospital on this machine, in the codebook's units and codes."""
        table = self._held(site)
        frame = {}
        for name, values in table.columns.items():
            codes = self.codebook.level_names(name)
            if codes:
                known = np.where(np.isnan(values), 0, values).astype(int)
                frame[name] = pd.Series(np.array(codes, dtype=object)[known]).mask(np.isnan(values))
            else:
                frame[name] = pd.Series(values)
        return pd.DataFrame(frame)

    def left_out(self, site: str, cohort: Cohort) -> dict[str, int]:
        """Patients of `site` outside the cohort, by reason; for the site's own eyes. Nothing where
        its rows stay in their files."""
        found = self._tables[site]
        return {} if isinstance(found, Scan) else cohort.left_out(found)

    def fingerprints(self) -> dict[str, str]:
        """Name of the content of each hospital whose rows stay in files."""
        scans = {site: one for site, one in self._tables.items() if isinstance(one, Scan)}
        return {site: one.fingerprint for site, one in scans.items()}

    def unread(self) -> list[str]:
        """What could not be read of hospitals' files and is left out, in words."""
        scans = [one for one in self._tables.values() if isinstance(one, Scan)]
        return list(dict.fromkeys(one.left_out for one in scans if one.left_out))

    def ledgers(self) -> dict[str, dict[str, Any]]:
        """What each hospital's ledger says: patients behind each step, refusals, budget."""
        found = {}
        for site, books in self._books.items():
            behind: dict[str, list[int]] = {}
            for row in books.ledger.rows():
                counts = [*behind.get(row["step"], []), row["patients"]]
                behind[row["step"]] = [min(counts), max(counts)]
            refused = [[row["step"], row["code"]] for row in books.ledger.refusals()]
            policy = self.policies[site]
            events = books.ledger.spent(books.budget or books.dataset)
            spent = Budget(policy.epsilon or 0.0, policy.delta).spent(events)
            found[site] = {
                "patients": behind,
                "refused": [list(one) for one in dict.fromkeys(map(tuple, refused))],
                "budget": [spent, policy.epsilon, policy.delta],
            }
        return found

    def refuse_not_comparable(self, columns: Sequence[str]) -> None:
        """Raise when a column does not mean the same at every site."""
        from polyclinic.data.codebook import refuse_not_comparable

        refuse_not_comparable(self.codebook, self.names, columns)

    def __repr__(self) -> str:
        counts = [table.n_patients for table in self._tables.values() if isinstance(table, Table)]
        patients = f"{sum(counts)} patients" if len(counts) == len(self._tables) else "in files"
        target = f", target {self.codebook.target.column}" if self.codebook.target else ""
        columns = len(self.codebook.columns)
        return f"Sites({len(self._tables)} hospitals, {patients}, {columns} columns{target})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th scope='row'>{html.escape(site)}</th><td>{_patients(table)}</td>"
            f"<td>at least {self.policies[site].min_patients}</td></tr>"
            for site, table in self._tables.items()
        )
        return (
            f"<p>{html.escape(repr(self))}</p><table><thead><tr><th scope='col'>hospital</th>"
            "<th scope='col'>patients</th><th scope='col'>behind every number</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )


class Scanned(Sites):
    """One hospital whose rows stay in their files; see `polyclinic.scan`."""

    @property
    def scan(self) -> Scan:
        """Where the rows are."""
        (found,) = self._tables.values()
        if not isinstance(found, Scan):
            raise TypeError("its rows are in this process")
        return found

    @property
    def on(self) -> Embedded | None:
        """The engine that computes for it wherever it takes part."""
        return next(iter(self._on.values()), None)

    def matrix(self, formula: str, engine: Embedded | None = None) -> DaskMatrix:
        """The rows as Dask arrays at the workers of a cluster, for libraries that train on Dask.

        There is no gate before them: they are for the hospital itself, and what is computed from
        them is no release of Polyclinic's. Without a cohort of its own the scan gives its rows that
        are complete in the formula's columns; with ``missing="keep"`` gaps are NaN.

        Parameters
        ----------
        formula : ``"outcome ~ terms"`` or ``"~ terms"``, with ``weights(column)`` if need be.
        engine : a `polyclinic.cluster`; None: that of the scan.

        Raises
        ------
        InputError : WRONG_VALUE, COLUMN_NOT_IN_COHORT, and as a formula of a fit; as a scan.
        """
        where = engine or self.on
        if not isinstance(where, Cluster) or where.name != "dask":
            raise InputError(
                "there is no cluster of Dask to hold the arrays",
                code="WRONG_VALUE",
                rule="they lie at the workers of polyclinic.cluster",
                next="engine=polyclinic.cluster(...)",
            )
        from polyclinic.engines.dask_arrays import dask_matrix
        from polyclinic.study.formula import from_formula

        data = from_formula(self, formula, where, gaps=True)
        return dask_matrix(where, Selected(self.scan, data.cohort), data.design)


def _patients(table: Table | Scan) -> str:
    return f"{table.n_patients:,}" if isinstance(table, Table) else "in files"


def _policies(
    policy: Policy | Mapping[str, Policy] | None,
    sites: Mapping[str, Any],
    before: Mapping[str, Policy] | None = None,
) -> dict[str, Policy]:
    """The policy of each site; one that a mapping leaves out has that of `before`, or the default.

    Raises
    ------
    InputError : UNKNOWN_SITE, WRONG_VALUE.
    """
    if not isinstance(policy, Mapping):
        policy = dict.fromkeys(sites, Policy() if policy is None else policy)
    for site, given in policy.items():
        if site not in sites:
            close = difflib.get_close_matches(str(site).lower(), list(sites), 1, 0.5)
            raise InputError(
                f"policy: there is no hospital {site!r}",
                code="UNKNOWN_SITE",
                rule=f"hospitals: {', '.join(sites)}",
                next=f'did you mean "{close[0]}"?' if close else "correct the name",
            )
        if not isinstance(given, Policy):
            raise InputError(
                f"policy: that of {site} is a {type(given).__name__}",
                code="WRONG_VALUE",
                rule=f"a policy is a Policy, one for all or by hospital: {', '.join(sites)}",
                next="write pc.Policy(min_patients=10), or the rules that are wanted",
            )
    return {site: policy.get(site, (before or {}).get(site, Policy())) for site in sites}
