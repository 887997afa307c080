"""The embedded engine: every site is an object in this process, with its own rows and gate.

Messages are the same bytes that a network would carry.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from polyclinic.core import codec
from polyclinic.core.device import checked
from polyclinic.core.federation import ClearSums, Cohort, Domain, Federation, Summing
from polyclinic.core.overlap import Overlap, nobody_waits
from polyclinic.core.partition import Partition
from polyclinic.data.scan import Selected
from polyclinic.engines.books import Books
from polyclinic.engines.replay import Replay
from polyclinic.engines.secure import AutoSums, SecureSums
from polyclinic.engines.site import Pinned, Site
from polyclinic.engines.workers import Held, ThreadWorkers, single_threaded_blas
from polyclinic.privacy.gate import Gate
from polyclinic.privacy.policy import Policy
from polyclinic.privacy.secure import Roster

Sums = Literal["auto", "clear", "secure"]
Make = Callable[[Cohort | None], Partition | Selected | Held]


@dataclass(frozen=True)
class About:
    """What sites read of a study: its name, and what it is for in its own words."""

    study: str = ""
    purpose: str = ""


@dataclass(frozen=True)
class Embedded:
    """The default engine. The result depends on its settings by rounding only.

    Parameters
    ----------
    partitions : contiguous parts into which each site's rows are cut.
    threads : at most so many at once; None: one per core.
    arrivals : of a strategy in which no site waits for another: seconds of a local step by site, or
        as a function of site and version, for simulated time over arrays in one trust domain; or
        the `events_` of an earlier fit, which is replayed; so are those of `sgd` with `staleness`
        on a cluster, in one trust domain. None: answers count as they come.
    device : on which networks compute: "auto" (a graphics card where there is one), "cpu", "cuda",
        "cuda:1", "mps"; or by name of site, as hospitals have different ones. "": as the
        environment's POLYCLINIC_DEVICE says, else "auto". It is in no plan.

    Raises
    ------
    InputError : WRONG_VALUE for another device.
    """

    partitions: int = 1
    threads: int | None = None
    arrivals: Any = field(default=None, compare=False)
    device: str | Mapping[str, str] = field(default="", compare=False)

    def __post_init__(self) -> None:
        named = self.device if isinstance(self.device, Mapping) else {"": self.device}
        for site, name in named.items():
            checked(name, f"device of {site}" if site else "device")

    @property
    def name(self) -> str:
        """As a study file and a report name it."""
        return "embedded"

    def workers(self, rows: Partition | Selected) -> Held:
        """Workers over rows in memory, or over rows that are read now."""
        scanned = isinstance(rows, Selected)
        whole = rows.gather() if isinstance(rows, Selected) else rows
        return ThreadWorkers(self.placed(whole), self.partitions, self.threads, scanned)

    def hold(self, rows: Any) -> Any:
        """Rows for many fits, as a cluster's workers keep them; here they are where they are used.

        Returns
        -------
        `rows` itself.
        """
        return rows

    def let_go(self, rows: Any) -> None:
        """Of rows that `hold` has given: nothing is kept here."""

    def placed(self, rows: Partition) -> Partition:
        """The rows with the device on which networks compute over them."""
        named = self.device
        device = named if isinstance(named, str) else named.get(rows.site, "")
        return replace(rows, device=device)

    def domain(self, rows: Partition | Selected) -> Domain:
        """One trust domain over `rows`."""
        workers = self.workers(rows)
        return Domain(workers, single_threaded_blas, partial(self.overlap, workers))

    def overlap(self, workers: Any) -> Overlap:
        """How rounds of a domain overlap: only as they did in an earlier fit, see `arrivals`.

        Raises
        ------
        InputError : WRONG_VALUE without `arrivals`, or with others.
        """
        if self.arrivals is None:
            raise nobody_waits()
        return Replay(workers, self.arrivals)

    def federation(
        self,
        rows: Mapping[str, Make],
        policies: Mapping[str, Policy],
        cohort: Cohort | None = None,
        *,
        books: Mapping[str, Books] | None = None,
        sums: Sums = "auto",
        about: About = About(),
    ) -> Federation:
        """Sites with a gate each.

        Parameters
        ----------
        rows : gives a site's rows for a cohort, or the workers that hold them.
        policies : what each site allows.
        cohort : the rows that all plans are about.
        books : what each site remembers; None: nothing beyond this federation.
        sums : "clear"; "secure"; or "auto": secure from the first round that a site may not
            release alone.
        about : what the sites read of the study.
        """
        books = books or {name: Books.in_memory() for name in rows}
        books = {name: books[name] for name in rows}
        roster = Roster({name: books[name].identity.public for name in rows})
        run = secrets.token_hex(16)
        sites = {
            name: Site(
                Gate(name, policies[name]),
                self._held(make),
                books[name],
                len(rows),
                about.study,
                Pinned(roster, run),
            )
            for name, make in rows.items()
        }
        threshold = common_threshold(policy.threshold for policy in policies.values())
        chosen = summing(sums, roster, run, threshold)
        witness = any(books[name].log is not None for name in sites)
        return Federation(InProcess(sites), list(sites), cohort, chosen, about.purpose, witness)

    def _held(self, make: Make) -> Callable[[Cohort | None], Held]:
        held: dict[str, Held] = {}

        def workers(cohort: Cohort | None) -> Held:
            key = codec.digest(cohort)
            if key not in held:
                made = make(cohort)
                if isinstance(made, Partition | Selected):
                    made = self.workers(made)
                held[key] = made
            return held[key]

        return workers


class InProcess:
    """The transport of the embedded engine: a call."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = dict(sites)

    def ask(self, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {name: self.sites[name].answer(message) for name, message in messages.items()}

    def apart(self, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The same."""
        return self.ask(messages)

    @contextmanager
    def session(self) -> Iterator[None]:
        with single_threaded_blas():
            yield


def summing(sums: Sums, roster: Roster, run: str, threshold: str = "two_thirds") -> Summing:
    """How the sites of a roster add up in the run of this name."""
    secure = SecureSums(roster, run, threshold)
    known: dict[str, Summing] = {"clear": ClearSums(), "secure": secure}
    return known.get(sums) or AutoSums(secure)


def common_threshold(thresholds: Iterable[str]) -> str:
    """What all sites have chosen; where they differ, the stricter rule, which some will refuse."""
    chosen = set(thresholds)
    return chosen.pop() if len(chosen) == 1 else "two_thirds"
