"""What a study would mean here, in plain words, for the officer who decides about it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from polyclinic.core.codes import RULES
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.data.cohort import Cohort, rows_of
from polyclinic.data.table import Table
from polyclinic.governance.home import SiteHome, Standing
from polyclinic.governance.officer import plain
from polyclinic.governance.paper import Paper
from polyclinic.governance.scope import Scope
from polyclinic.governance.signing import fingerprint
from polyclinic.governance.study_file import Session
from polyclinic.privacy.gate import MIN_SECURE, Audience, Gate
from polyclinic.site.data import Joined
from polyclinic.site.inbox import WAITING, Inbox

WIDTH, LABEL = 80, 14


def review(home: SiteHome, study: str) -> str:
    """The text of one study, by its name or hash; see `polyclinic.site.inbox.Inbox.find`."""
    inbox = Inbox(home)
    paper = inbox.find(study)
    joined = Joined.load(home.folder)
    return "\n".join(_lines(home, inbox, paper, joined)) + "\n"


def waiting(home: SiteHome) -> list[Paper]:
    """The studies that nobody has decided about."""
    inbox = Inbox(home)
    return [paper for paper in inbox.papers() if inbox.state(paper.hash) == WAITING]


def _lines(home: SiteHome, inbox: Inbox, paper: Paper, joined: Joined) -> Iterator[str]:
    scope, state, table = Scope.of(paper), inbox.state(paper.hash), joined.read(home.name)
    found, about = scope.summary(), paper.study.study
    since = inbox.since(paper.hash)
    head = f"{state} since {since:%Y-%m-%d %H:%M}, hash {paper.short_hash}"
    if state != WAITING:
        head = f"{state}, hash {paper.short_hash}"
    yield from textwrap.wrap(
        f"{plain(about.name):<32} {head}", WIDTH, subsequent_indent=" " * LABEL
    )
    key = fingerprint(paper.coordinator)
    yield from _line("asked by", f"the coordinator of {paper.hub}, fingerprint {key}")
    title = f"{about.title}; " if about.title and about.title != about.purpose else ""
    yield from _line("purpose", f"{title}{about.purpose or 'none is given'}")
    others = {site: key for site, key in paper.sites.items() if site != home.name}
    yield from _line("with", ", ".join(others))
    yield from _fewer(inbox, paper)
    new = [
        f"{site} {fingerprint(key)}" for site, key in others.items() if site not in joined.pinned
    ]
    if new:
        yield from _line("new keys", f"{'; '.join(new)}: compare them by telephone")
    patients = _patients(paper, scope, table)
    yield from _line("patients", _patients_text(paper, scope, table, patients))
    if not isinstance(paper.study, Session) and (aside := scope.agreed.judged) is not None:
        many = rows_of(table, aside).n_patients
        yield from _line("set aside", f"{many:,} more, to judge the model on: {aside.where}")
    yield from _line("reads", " ".join(found["reads"]))
    yield from _line("computes", "; ".join(found["computes"]))
    yield from _would_leave(paper, found, patients)
    yield from _line("never leaves", "rows, ids, dates, free text, error texts")
    yield from _line("privacy cost", _cost(home, found))
    standing = home.policy()
    yield from _policy(home, standing, paper, found, table)
    yield from _line("next", _next(standing, about.name, state))


def _fewer(inbox: Inbox, paper: Paper) -> Iterator[str]:
    """That the run may go on without hospitals, or that it does."""
    federation = paper.study.federation
    if paper.instead_of:
        gone = ", ".join(inbox.left_out(paper))
        first = inbox.paper(paper.instead_of)
        text = f"{gone}: approved here with study {first.short_hash}, which allows it"
        yield from _line("without", text)
    elif federation.may_restart:
        text = (
            f"the run may go on without hospitals that do not answer for "
            f"{federation.round_timeout}, with {federation.required_words} of these "
            f"{len(paper.sites)}, and asks you no more. Only before anything was computed: "
            "from its first number on this site answers over the same hospitals alone"
        )
        yield from _line("may shrink", text)


def _line(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        plain(text) or "-",
        WIDTH,
        initial_indent=f"{label:<{LABEL}}",
        subsequent_indent=" " * LABEL,
        break_long_words=True,
    )


def _patients(paper: Paper, scope: Scope, table: Table) -> int:
    if isinstance(paper.study, Session):
        return table.n_patients
    return rows_of(table, scope.cohort).n_patients


def _patients_text(paper: Paper, scope: Scope, table: Table, patients: int) -> str:
    if isinstance(paper.study, Session):
        return f"any of your {table.n_patients:,}, by conditions on the columns below"
    cohort: Cohort = scope.cohort
    parts = [cohort.where] if cohort.where else []
    complete = cohort.with_rule("drop")
    parts += [f"complete in {len(complete)} columns"] if complete else []
    filled = cohort.with_rule("mean")
    parts += [f"a mean in place of missing values of {', '.join(filled)}"] if filled else []
    return f"{patients:,} of your {table.n_patients:,}: {', '.join(parts)}"


def _would_leave(paper: Paper, found: dict[str, Any], patients: int) -> Iterator[str]:
    if isinstance(paper.study, Session):
        text = (
            "what the analyst asks, in any order: questions are open within these columns and "
            "algorithms. Sums over patients, and by name what your policy allows"
        )
        yield from _line("would leave", text)
        return
    secure = paper.study.privacy.secure_sums
    seen = {
        True: "seen only in the total",
        False: "seen by the coordinator",
        "auto": "seen only in the total where a rule of a hospital asks for it",
    }[secure]
    noise = " with noise" if found["cost"] else ""
    first = f"a round: {found['round']:,} sums{noise} over {patients:,} patients, {seen}"
    yield from _line("would leave", first)
    if found["rounded"]:
        text = f"gradients are rounded to {found['rounded']}; what is lost is sent later"
        yield from _line("", text)
    if found["apart"]:
        yield from _line("", f"each time of this site by itself: {found['apart']}")
    yield from _line("", f"once: {'; '.join(found['once'])}")
    yield from _line("", f"at most {found['rounds']:,} different questions")


def _cost(home: SiteHome, found: dict[str, Any]) -> str:
    if found["open"]:
        limit = home.policy().policy.epsilon
        budget = "any" if limit is None else f"epsilon {limit:g} of your policy in all"
        return f"none of exact sums; noisy ones: {budget}"
    return found["cost"] or "none (exact sums)"


def _policy(
    home: SiteHome, standing: Standing, paper: Paper, found: dict[str, Any], table: Table
) -> Iterator[str]:
    """A dry run: what the policy would say of each step."""
    if not standing.signed:
        yield from _line("your policy", f"refuses everything: {standing.reason}")
        return
    gate, refused = Gate(home.name, standing.policy), {}
    secure = len(paper.sites) >= MIN_SECURE
    for plan in found["steps"]:
        try:
            by_name = plan.combine == "collect"
            gate.admit(plan, Audience(len(paper.sites), secure and not by_name))
            gate.check_columns(plan, table.columns)
        except Refused as error:
            refused[error.code, plan.task] = error
    if not refused:
        yield from _line("your policy", "allows all of it")
        return
    text = "would refuse: " + "; ".join(f"{task} ({code})" for code, task in refused)
    yield from _line("your policy", text)
    for code in dict.fromkeys(code for code, _ in refused):
        yield from _line("", f"{code}: {RULES[code]}")


def _next(standing: Standing, name: str, state: str) -> str:
    if not standing.signed:
        return "polyclinic site policy --sign, after you have read it"
    if state == "approved":
        return f"nothing; take it back: polyclinic site refuse {name} --why TEXT"
    if state == "refused":
        return f"nothing; approve it after all: polyclinic site approve {name}"
    return f"polyclinic site approve {name}   (or refuse --why)"


def not_in_force(standing: Standing) -> PolyclinicError:
    """The error for an approval that would have no effect."""
    return PolyclinicError(
        f"this site's policy is not in force: {standing.reason}",
        code=standing.code,
        rule="an approved study is answered within a signed policy; without one all is refused",
        next="polyclinic site policy shows it; polyclinic site policy --sign puts it in force",
        kept="the study is not approved",
    )
