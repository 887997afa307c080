"""Runs of a hub: submit, look on, cancel, read; and a session's papers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polyclinic.core.checkpoint import write_atomic
from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.formula import formula_columns
from polyclinic.governance.paper import Paper
from polyclinic.governance.study_data import Data
from polyclinic.governance.study_file import Session, Study, load_study
from polyclinic.study import hubstore
from polyclinic.study.connected import no_leaving_out
from polyclinic.study.hub import HubHome, Locked
from polyclinic.study.hubevents import Events
from polyclinic.study.hubstore import HubRun

RESULT = (
    "model.pcm",
    "coefficients.csv",
    "importance.csv",
    "metrics.json",
    "plans.json",
    "network.csv",
    "study.json",
    "report.html",
)


def of_hub(study: Study, base: Path, hub: str) -> tuple[Study, Codebook]:
    """A study as hospitals of a hub are asked, and its codebook; paths are relative to `base`.

    Raises
    ------
    InputError : NO_SCHEMA, WRONG_VALUE, and what a formula or a codebook may be wrong in.
    """
    if study.data.schema_ is None:
        raise InputError(
            "the study names no codebook",
            code="NO_SCHEMA",
            rule="hospitals of a hub read their data by an agreed codebook",
            next='[data] schema = "codebook.toml"',
        )
    if study.cohort.empty_site == "leave_out":
        raise no_leaving_out()
    codebook = Codebook.load(base / study.data.schema_)
    formula_columns(study.model.formula, codebook)
    data = Data.model_validate({"schema": study.data.schema_, "hub": hub})
    return study.model_copy(update={"data": data}), codebook


def paper_of(home: HubHome, study: Study | Session, codebook: Codebook) -> Paper:
    """The study as it is offered to the hospitals that it names, or to all that have joined.

    Raises
    ------
    InputError : UNKNOWN_SITE, NO_SITES; WRONG_VALUE for `required` that does not fit them.
    """
    members = home.store.members()
    wanted: Sequence[str] = study.federation.sites or list(members)
    unknown = [site for site in wanted if site not in members]
    if unknown or not wanted:
        raise InputError(
            f"{', '.join(unknown)} has not joined hub {home.name}"
            if unknown
            else f"no hospital has joined hub {home.name}",
            code="UNKNOWN_SITE" if unknown else "NO_SITES",
            rule=f"hospitals of the hub: {', '.join(members) or 'none'}",
            next="polyclinic hub invite HOSPITAL, or correct [federation] sites",
        )
    study.federation.check_against(wanted)
    keys = {site: members[site].public for site in sorted(set(wanted))}
    return Paper(study, codebook, keys, home.name, home.identity.public)


def submit(home: HubHome, study: Study | str | Path) -> HubRun:
    """Hand a study in; one that is there and not finished goes on.

    One that failed or was refused goes on as well, from what it has kept.

    Raises
    ------
    InputError : what `of_hub` and `paper_of` raise.
    """
    paper = _paper(home, study)
    last = home.store.last_of(paper.hash)
    if last is not None and last.state in (hubstore.FAILED, hubstore.REFUSED):
        home.store.again(last.id)
        return home.store.run(last.id)
    if last is not None and not last.finished:
        return last
    name = paper.study.study.name
    return home.store.add_run(hubstore.STUDY, name, paper.hash, paper.signed(home.identity))


def resume(home: HubHome, study: Study | str | Path) -> HubRun:
    """The run of a study that is not over, or that failed or was refused and goes on now.

    Raises
    ------
    InputError : NOTHING_TO_RESUME, and what `submit` raises.
    """
    paper = _paper(home, study)
    last = home.store.last_of(paper.hash)
    if last is None or last.state in (hubstore.DONE, hubstore.CANCELLED):
        found = f"its last one, {last.id}, is {last.state}" if last else "there is none"
        raise InputError(
            f"no run of {paper.study.study.name} can go on; {found}",
            code="NOTHING_TO_RESUME",
            rule="runs of a hub go on by themselves after a loss or a restart; --resume looks on "
            "at one that is not over",
            next="without --resume the study is handed in; polyclinic hub runs lists all runs",
            kept="nothing was changed",
        )
    return submit(home, study)


def _paper(home: HubHome, study: Study | str | Path) -> Paper:
    base = Path.cwd() if isinstance(study, Study) else Path(study).resolve().parent
    study = study if isinstance(study, Study) else load_study(study)
    return paper_of(home, *of_hub(study, base, home.name))


def cancel(home: HubHome, run: str, why: str = hubstore.AT_HUB) -> HubRun:
    """End a run: its driver does, or this process where there is none.

    A session is told with its next question.

    Raises
    ------
    InputError : NO_RUN, or RUN_FINISHED.
    """
    found = home.store.run(run)
    if found.finished:
        raise InputError(
            f"{run} is {found.state}",
            code="RUN_FINISHED",
            rule="what has ended cannot be cancelled",
            next="polyclinic hub runs",
            kept="nothing was changed",
        )
    home.store.cancel(run, why)
    why = home.store.why(run)
    with Locked(home.run_folder(run)).hold() as mine:
        mine = mine or found.kind == hubstore.SESSION
        if mine and home.store.set_state(run, hubstore.CANCELLED, why):
            events_of(home, run).add("state", state=hubstore.CANCELLED, detail=why)
    return home.store.run(run)


def events_of(home: HubHome, run: str) -> Events:
    """What happened in a run."""
    return Events(home.run_folder(run) / "events.jsonl")


def follow(
    home: HubHome, run: str, *, timeout: float | None = None, every: float = 0.2
) -> Iterator[dict[str, Any]]:
    """The events of a run, those before and those to come, until it is finished.

    Raises
    ------
    InputError : NO_RUN. TimeoutError : not finished after `timeout` seconds.
    """
    until = None if timeout is None else time.monotonic() + timeout
    home.store.run(run)
    events, offset = events_of(home, run), 0
    while True:
        finished = home.store.run(run).finished
        found, offset = events.read(offset)
        yield from found
        if finished:
            return
        if until is not None and time.monotonic() > until:
            raise TimeoutError(run)
        time.sleep(every)


def folder_of(home: HubHome, run: HubRun) -> Path:
    """Where the study says that its result goes, from the working folder."""
    study = Paper.open(run.paper, home.identity.public).study
    folder = study.output.folder if isinstance(study, Study) else "runs"
    return Path(folder) / study.study.name


def fetch(home: HubHome, run: str, folder: Path) -> Path:
    """Copy the result of a finished run to `folder`.

    Raises
    ------
    InputError : RUN_EXISTS where there is a run of another study, NOT_DONE. Stopped : CANNOT_WRITE.
    """
    source = home.run_folder(run) / "result"
    found = home.store.run(run)
    if found.state != hubstore.DONE:
        raise InputError(
            f"{run} is {found.state}",
            code="NOT_DONE",
            rule="a result is there when a run is done",
            next=f"polyclinic attach {run}",
            kept="nothing was changed",
        )
    mark = folder / "study.json"
    if mark.exists() and mark.read_bytes() != (source / "study.json").read_bytes():
        raise InputError(
            f"{folder} holds a run of another study, or of this one before it was changed",
            code="RUN_EXISTS",
            rule="what was computed is not thrown away",
            next="--out names another folder",
            kept=f"the result is kept at the hub: {source}",
        )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in RESULT:
        if (source / name).is_file():
            write_atomic(folder / name, (source / name).read_bytes())
    return folder
