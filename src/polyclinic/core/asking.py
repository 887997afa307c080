"""Questions to single sites, of which whichever is answered first counts.

A question is of one site, which has one at a time. Each waits in a thread of its own, so a site
that is slow, or is lost, keeps nobody waiting. The questions of a state follow from that state
alone: after a resume the same ones are asked again, and a site gives the same answers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from polyclinic.core.contribution import Total
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.plan import Plan

AWAY = frozenset({"SITE_LOST", "AGENT_LOST"})  # codes of a site that others do not wait for


@dataclass(frozen=True)
class FirstOf:
    """What each site is to answer by itself; those that were asked before go on.

    plans  by site, in the order in which they were asked; each says in `to` whom it asks
    """

    plans: Mapping[str, Plan]


Answer = Callable[[], Total]


class Outstanding:
    """The questions that are asked and not yet answered, one of a site at most."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[Plan, threading.Thread]] = {}
        self._come: queue.SimpleQueue[tuple[str, Total | BaseException]] = queue.SimpleQueue()

    def __reduce__(self) -> tuple[type[Outstanding], tuple[()]]:
        """A copy has asked nobody."""
        return Outstanding, ()

    @property
    def sites(self) -> frozenset[str]:
        """Who has a question."""
        return frozenset(self._asked)

    def ask(self, site: str, plan: Plan, answer: Answer) -> None:
        """Ask a site by calling `answer` in a thread, unless it has a question."""
        if site in self._asked:
            return

        def work() -> None:
            try:
                self._come.put((site, answer()))
            except BaseException as error:  # whatever it was, it is raised where it is waited for
                self._come.put((site, error))

        thread = threading.Thread(target=work, name=f"ask {site}", daemon=True)
        self._asked[site] = plan, thread
        thread.start()

    def first(self) -> tuple[Plan, Total]:
        """The next answer, of whichever site; of one that is lost a total without values.

        Raises what the answer has raised.
        """
        site, found = self._come.get()
        plan, _ = self._asked.pop(site)
        if not isinstance(found, BaseException):
            return plan, found
        if code := _away(found):
            return plan, Total({}, (site,), lost=code)
        raise found

    def wait(self, sites: Collection[str]) -> None:
        """Until none of these sites has a question any more; what they answer is let go."""
        for site in sorted(self.sites & set(sites)):
            _, thread = self._asked.pop(site)
            thread.join()
        kept = []
        while not self._come.empty():
            kept.append(self._come.get())
        for site, found in kept:
            if site in self._asked:
                self._come.put((site, found))


def _away(error: BaseException) -> str:
    """The code of a loss that is this site's alone; ""."""
    if not isinstance(error, PolyclinicError) or error.code not in AWAY:
        return ""
    return error.code
