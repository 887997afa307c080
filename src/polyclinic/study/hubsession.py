"""A session: questions of an analyst over a hub, within what the hospitals have approved."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from polyclinic.core.errors import InputError, Stopped
from polyclinic.data.codebook import Codebook
from polyclinic.data.toml import validate
from polyclinic.engines.embedded import common_threshold
from polyclinic.governance.paper import Paper
from polyclinic.governance.study_file import Session
from polyclinic.study import hubstore
from polyclinic.study.connected import Connected
from polyclinic.study.driver import PATIENT, declined, line_of, still
from polyclinic.study.hub import HubHome, Locked
from polyclinic.study.hublobby import Line, Lobby
from polyclinic.study.hubrun import paper_of

ALGORITHMS = ("logistic", "linear", "poisson", "gamma", "descriptive", "evaluation")
_OPEN = ExitStack()  # locks of the sessions of this process: they are open as long as it lives


def open_session(
    hub: str | None,
    wanted: Mapping[str, Any],
    until: float | None,
    show: Callable[[str], None],
    line: Line | None = None,
) -> Connected:
    """Offer a session, wait for the decisions, and give the hospitals as `Sites`.

    `wanted` holds columns, algorithms, purpose, schema, sites, name and round_timeout as
    `connect` has them; `until` is a moment of the monotonic clock.
    """
    home = HubHome.named(hub)
    codebook = _codebook(home, wanted["schema"])
    content = {
        "format": 1,
        "study": {"name": wanted["name"], "purpose": wanted["purpose"]},
        "data": {"schema": codebook.name, "hub": home.name},
        "session": {
            "columns": list(codebook.usable if wanted["columns"] is None else wanted["columns"]),
            "algorithms": list(
                ALGORITHMS if wanted["algorithms"] is None else wanted["algorithms"]
            ),
        },
        "federation": {
            "sites": list(wanted["sites"]),
            "round_timeout": wanted["round_timeout"],
        },
    }
    session = validate(content, Session, "pc.connect")
    for column in session.session.columns:
        codebook.spec(column)
    paper = paper_of(home, session, codebook)
    with ExitStack() as lock:
        run = _record(home, paper, lock)
        lobby = Lobby(line or line_of(home), home.identity, paper)
        _approved(home, run, lobby, until, show)
        said = lobby.hello()
        least = {site: one.min_patients for site, one in said.items()}
        threshold = common_threshold(one.threshold for one in said.values())
        _not_cancelled(home, run)
        home.store.set_state(run, hubstore.RUNNING)
        _OPEN.push(lock.pop_all())
    return Connected(
        lobby.line,
        paper,
        home.identity,
        least=least,
        threshold=threshold,
        before=lambda: _not_cancelled(home, run),
    )


def _not_cancelled(home: HubHome, run: str) -> None:
    """Raises Stopped SESSION_CANCELLED where the session was ended at the hub."""
    record = home.store.run(run)
    if record.cancel or record.finished:
        why = home.store.why(run) if record.cancel else record.detail
        raise Stopped(
            f"session {run} is over: {why}",
            code="SESSION_CANCELLED",
            rule="a session ends when it is cancelled, or a hospital of it is put out of the hub",
            next="connect again; without that hospital: pc.connect(..., sites=[...])",
            kept="what was released before, in the hospitals' ledgers",
        )


def _codebook(home: HubHome, schema: Any) -> Codebook:
    if isinstance(schema, Codebook):
        return schema
    if schema is not None:
        return Codebook.load(schema)
    runs = home.store.runs()
    if not runs:
        raise InputError(
            "which codebook the hospitals use is not known here yet",
            code="NO_SCHEMA",
            rule="columns and levels come from the codebook that the hospitals agreed on",
            next='give it: pc.connect(..., schema="codebook.toml")',
        )
    return Paper.open(runs[-1].paper, home.identity.public).codebook


def _record(home: HubHome, paper: Paper, lock: ExitStack) -> str:
    """The session's line among the runs: the one of before where nobody has it open."""
    last = home.store.last_of(paper.hash)
    if last is None or last.finished or last.cancel or _held(home, last.id):
        name = paper.study.study.name
        signed = paper.signed(home.identity)
        last = home.store.add_run(hubstore.SESSION, name, paper.hash, signed)
    lock.enter_context(Locked(home.run_folder(last.id)).hold())
    home.store.set_pid(last.id, os.getpid())
    home.store.set_state(last.id, hubstore.WAITING_APPROVAL)
    return last.id


def _held(home: HubHome, run: str) -> bool:
    return Locked(home.run_folder(run)).holder() != 0


def _approved(
    home: HubHome, run: str, lobby: Lobby, until: float | None, show: Callable[[str], None]
) -> None:
    """Wait until all have approved, and say who has not when that changes."""
    said, attempt = "", 0
    while True:
        _not_cancelled(home, run)
        found = lobby.offer()
        for site, (decision, signed) in found.decisions.items():
            home.store.decide(run, site, decision.verdict, decision.why, signed)
        try:
            declined(found)
        except Exception as error:
            home.store.set_state(run, hubstore.REFUSED, str(error))
            raise
        text = "; ".join(still(found).splitlines())
        if not text:
            return
        if text != said:
            said = text
            show(f"session {lobby.paper.short_hash} waits for the hospitals; {text}")
            home.store.set_state(run, hubstore.WAITING_APPROVAL, text)
        pause = PATIENT[min(attempt, len(PATIENT) - 1)]
        attempt += 1
        if until is not None and time.monotonic() + pause > until:
            raise Stopped(
                f"not every hospital has decided; {text}",
                code="NOT_DECIDED",
                rule="a session begins when every hospital of it has approved it",
                next="at the hospital: polyclinic site review; then the same call again goes on",
                kept="what was decided, and the offer",
            )
        time.sleep(pause)
