"""The hub's server process: started, stopped, and looked at; and the truth about every run."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from polyclinic.core.errors import InputError, PolyclinicError, Stopped
from polyclinic.governance.paper import PROTOCOL
from polyclinic.study import hubstore
from polyclinic.study.driver import line_of
from polyclinic.study.hub import HubHome, Locked, take
from polyclinic.study.hublobby import VERSION, Line, hellos

START_SECONDS, STOP_SECONDS, LOOK_SECONDS = 60.0, 15.0, 3.0
STARTING, STOPPED_RUN = "starting again", "stopped"
OPEN, CLOSED = "open", "closed"


def running(home: HubHome) -> int:
    """The number of the hub's server process, 0 when there is none."""
    return Locked(home.folder / "socket").holder()


def start(home: HubHome, *, foreground: bool = False) -> int:
    """Start the server process and wait until it answers; its number.

    With `foreground` this process becomes the server and does not come back.

    Raises
    ------
    InputError : HUB_RUNNING; KIT_CHANGED when someone has edited what the server starts from.
    Stopped : HUB_NOT_STARTED, with the file where it says why.
    """
    from polyclinic.engines.flare.kit import server_command, server_environment

    command, environment = server_command(home.kit), {**os.environ, **server_environment(home.kit)}
    handle = _lock(home)
    try:
        _see_to_kit(home)
        home.publish()
        if foreground:
            os.set_inheritable(handle, True)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            os.execvpe(command[0], command, environment)
        log = os.open(home.folder / "hub.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            child = subprocess.Popen(
                command,
                env=environment,
                cwd=home.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(handle,),
            )
        finally:
            os.close(log)
        os.pwrite(handle, str(child.pid).encode(), 0)
    finally:
        os.close(handle)
    _wait_for(home, child)
    return child.pid


def _see_to_kit(home: HubHome) -> None:
    """Have the kit fit this version and place, and check it. Raises KIT_CHANGED."""
    from polyclinic.engines.flare.kit import check_kit

    if before := home.settle():
        log = os.open(home.folder / "hub.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(log, "a") as file:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            file.write(f"{now} the kit of Polyclinic {before} was written anew by {VERSION}\n")
    check_kit(home.kit)


def _lock(home: HubHome) -> int:
    """The lock that the server process inherits and holds as long as it lives."""
    path = home.folder / "socket" / "lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not take(handle, fcntl.LOCK_EX, tries=5):
        os.close(handle)
        raise InputError(
            f"hub {home.name} is running",
            code="HUB_RUNNING",
            rule="a hub has one server process",
            next=f"polyclinic hub status {home.name}",
            kept="nothing was changed",
        )
    os.ftruncate(handle, 0)
    return handle


def _wait_for(home: HubHome, child: subprocess.Popen[bytes]) -> None:
    until, line = time.monotonic() + START_SECONDS, line_of(home)
    while child.poll() is None and time.monotonic() < until:
        with suppress(PolyclinicError, OSError):
            line.sites()
            return
        time.sleep(0.1)
    if child.poll() is None:
        os.kill(child.pid, signal.SIGKILL)
    raise Stopped(
        f"hub {home.name} did not start",
        code="HUB_NOT_STARTED",
        rule=f"the server listens on port {home.port} and for this machine in {home.socket}",
        next=f"read the end of {home.folder / 'hub.log'}; is the port taken?",
        kept="all runs",
    )


def stop(home: HubHome) -> bool:
    """Stop the server process and the drivers of runs; False when there was none."""
    there = running(home)
    for run in home.store.unfinished():
        _end(Locked(home.run_folder(run.id)))
    _end(Locked(home.folder / "socket"))
    return bool(there)


def _end(lock: Locked) -> None:
    """Have the process that holds a lock end, first by asking."""
    for how, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
        process = lock.holder()
        if process <= 0:
            return
        with suppress(ProcessLookupError):
            os.kill(process, how)
        if lock.wait_free(seconds):
            return


def status(home: HubHome, line: Line | None = None) -> dict[str, Any]:
    """What is true now: of the hub, of every hospital, and of every run that is not over.

    up         seconds since the server process was started, or None
    certificate_days  until the server's ends, or None where it was never started
    hospitals  name, state, heard (seconds ago, or None), version, note, certificate_days
    runs       id, kind, state, round, since (seconds ago), detail
    """
    from polyclinic.engines.flare.kit import certificate_days

    up = line is not None or running(home) != 0
    line = line or line_of(home)
    connected: dict[str, Any] = {}
    if up:
        try:
            connected = dict(line.sites())
        except (PolyclinicError, OSError):
            up = False
    since = (home.folder / "socket" / "lock").stat().st_mtime if running(home) else None
    return {
        "hub": home.name,
        "up": None if not up else time.time() - (since or time.time()),
        "version": VERSION,
        "certificate_days": certificate_days(home.kit),
        "hospitals": _hospitals(home, line, connected),
        "runs": [_run(home, run, up) for run in home.store.runs()],
    }


def _hospitals(home: HubHome, line: Line, connected: dict[str, Any]) -> list[dict[str, Any]]:
    from polyclinic.engines.flare.pki import days_left

    members, seen = home.store.members(revoked=True), home.store.last_seen()
    said = {}
    if there := [name for name in members if name in connected]:
        with suppress(PolyclinicError, OSError):
            said = hellos(line, there, LOOK_SECONDS)
    found: list[dict[str, Any]] = []
    for name, member in members.items():
        version, note = member.version, ""
        if member.revoked is not None:
            state, heard = "revoked", None
        elif name in connected:
            state, heard = "connected", float(connected[name].get("heard", 0.0))
            hello = said.get(name)
            if hello is None:
                state, note = "no answer", "its network process is there, its own one is not"
            else:
                version = hello.version
                if not hello.same_version:
                    note = (
                        f"version {version} (protocol {hello.protocol}) is not the hub's "
                        f"{VERSION} (protocol {PROTOCOL}): it takes part in no run"
                    )
        else:
            state = "lost" if name in seen else "not seen yet"
            heard = time.time() - seen[name] if name in seen else None
        days = None if member.revoked is not None else days_left(member.certificate)
        found.append(
            {"name": name, "state": state, "heard": heard, "version": version, "note": note}
            | {"certificate_days": days}
        )
    for name in home.store.waiting_invites():
        if name not in members:
            found.append(
                {"name": name, "state": "invited", "heard": None, "version": "", "note": ""}
                | {"certificate_days": None}
            )
    return found


def _run(home: HubHome, run: hubstore.HubRun, up: bool) -> dict[str, Any]:
    state, detail = run.state, run.detail
    if not run.finished:
        driven = Locked(home.run_folder(run.id)).holder() != 0
        if run.kind == hubstore.SESSION:
            state = state if driven and state != hubstore.RUNNING else OPEN if driven else CLOSED
        elif not driven:
            state = STARTING if up else STOPPED_RUN
            detail = "" if up else f"goes on with the hub: polyclinic hub start {home.name}"
    return {
        "id": run.id,
        "kind": run.kind,
        "study": run.study,
        "hash": run.hash,
        "state": state,
        "finished": run.finished or state == CLOSED,
        "round": run.round,
        "since": time.time() - run.since,
        "detail": detail,
    }


def revoke(home: HubHome, site: str) -> None:
    """Put a hospital out: its certificate is worth nothing from now on, its unfinished runs end.

    Raises
    ------
    InputError : UNKNOWN_SITE.
    """
    from polyclinic.governance.paper import Paper
    from polyclinic.study.hubrun import cancel

    if not home.store.revoke(site):
        raise InputError(
            f"{site} is not in hub {home.name}",
            code="UNKNOWN_SITE",
            rule=f"hospitals of the hub: {', '.join(home.store.members()) or 'none'}",
            next="correct the name",
            kept="nothing was changed",
        )
    home.publish()
    for run in (one for one in home.store.runs() if not one.finished):
        if site in Paper.open(home.store.paper(run.id), home.identity.public).sites:
            cancel(home, run.id, f"{site} was put out of the hub")
