"""When a run goes on without hospitals that do not answer, and the words for it.

A total with and a total without a hospital show its own numbers. So this happens only before
anything was computed; whether it is so, every hospital that goes on says for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from polyclinic.governance.paper import Paper
from polyclinic.study.hubevents import Events

CHANGED = "MEMBERSHIP_CHANGED"


class Fewer:
    """Who is missed in a run, since when, and whether that was long enough.

    Parameters
    ----------
    first : the paper that all hospitals have approved.
    events : of the run.
    clock : tells the time in seconds.
    """

    def __init__(self, first: Paper, events: Events, clock: Callable[[], float]) -> None:
        self.first, self.clock, self._events = first, clock, events
        self._rules = first.study.federation
        self._since: dict[str, float] = {}
        fixed = events.first("fixed")
        self._fixed: list[str] = fixed["sites"] if fixed else []

    def missed(self, sites: Iterable[str], since: float = 0.0) -> None:
        """Who is missed now; those who were missed before are so since then.

        Another process counts anew: nobody has heard the hospitals meanwhile.
        """
        self._since = {site: self._since.get(site, since) for site in sites}

    def next(self, paper: Paper, kept: int) -> Paper | None:
        """What to offer now instead of `paper`; None: wait."""
        if self._fixed or kept or not self._since or not self._enough(paper):
            return None
        if any(self.clock() - since < self._rules.seconds for since in self._since.values()):
            return None
        return self.first.over(self._rest(paper))

    def refused(self, codes: Mapping[str, str]) -> bool:
        """Whether a hospital has shown numbers already: the run then stays as it is."""
        sites = sorted(site for site, code in codes.items() if code == CHANGED)
        if sites:
            self._fixed = sites
            self._events.add("fixed", sites=sites)
        return bool(sites)

    def without(self, paper: Paper) -> list[str]:
        """The hospitals without which `paper` goes on."""
        return [site for site in self.first.sites if site not in paper.sites]

    def why(self, paper: Paper) -> str:
        """Why hospitals were left out; "": none was."""
        gone = self.without(paper)
        if not gone:
            return ""
        return (
            f"without {', '.join(gone)}, which did not answer for {self._rules.round_timeout} "
            f"before anything was computed; the study allows {self._rules.required_words}"
        )

    def outlook(self, paper: Paper, kept: int) -> str:
        """What becomes of a run that waits, as a further line; "": it only waits."""
        if not self._rules.may_restart or kept:
            return ""
        if self._fixed:
            return f"\nnot without: {', '.join(self._fixed)} had begun to answer before the loss"
        if not self._enough(paper):
            return f"\nnot without: the study asks for {self._rules.required_words}"
        return (
            f"\nor without, after {self._rules.round_timeout}: no round is kept yet, and the study "
            f"allows {self._rules.required_words}"
        )

    def _rest(self, paper: Paper) -> list[str]:
        return [site for site in paper.sites if site not in self._since]

    def _enough(self, paper: Paper) -> bool:
        return self._rules.allows(self._rest(paper), self.first.sites)
