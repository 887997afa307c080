"""Starting, stopping and looking at the process that keeps a hospital connected to its hub.

The process holds a lock on its pid file for as long as it lives, so a number that is left over
from an earlier one is never taken for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.governance.home import SiteHome
from polyclinic.governance.paper import Paper
from polyclinic.site.data import Joined
from polyclinic.site.inbox import Inbox

STOP_SECONDS = 20.0
STALE_SECONDS = 60.0


@dataclass(frozen=True)
class Status:
    """What `polyclinic site status` shows.

    pid        of the process; 0: it does not run
    connected  to the hub now; `heard` seconds ago, None: not known
    revoked    the hub has said that it does not take this hospital any more
    policy     "" when it is in force, else the code of why not
    certificate_days  until the one by which the hub knows this hospital ends; None: there is none
    studies    name, short hash and state of each
    """

    site: str
    hub: str
    pid: int
    connected: bool
    heard: float | None
    agent: bool
    version: str
    policy: str
    revoked: bool = False
    studies: tuple[tuple[str, str, str], ...] = field(default=())
    certificate_days: int | None = None


def kit_of(home: SiteHome) -> Path:
    """The folder of the site's FLARE client."""
    return home.folder.resolve() / "kit"


def kit_arguments(folder: Path) -> dict[str, Any]:
    """What the FLARE client of the site in `folder` is told: its agent, and where it reports."""
    folder = folder.resolve()
    agent = [sys.executable, "-P", "-m", "polyclinic.site.agent", str(folder)]
    return {"agent": agent, "state": str(folder / "log" / "state.json")}


def start(home: SiteHome, foreground: bool = False) -> int:
    """Start the process, and return its number; with `foreground` become it.

    Raises
    ------
    InputError : NOT_JOINED, KIT_CHANGED, ALREADY_RUNNING.
    """
    from polyclinic.engines.flare.kit import client_command, client_environment

    Joined.load(home.folder)
    handle = _locked(home, tries=5)
    if handle is None:
        raise InputError(
            f"{home.name} runs already, process {running(home)}",
            code="ALREADY_RUNNING",
            rule="one process for a site",
            next="polyclinic site status; polyclinic site stop",
            kept="it goes on",
        )
    try:
        _see_to_kit(home)
    except BaseException:
        os.close(handle)
        raise
    with suppress(OSError):
        (home.folder / "log" / "state.json").unlink()
    command = client_command(kit_of(home))
    environment = {**os.environ, **client_environment(kit_of(home))}
    os.set_inheritable(handle, True)  # the lock is the process's own, until it ends
    if foreground:
        os.pwrite(handle, f"{os.getpid():>20}".encode(), 0)
        os.execvpe(command[0], command, environment)
    log = home.folder / "log"
    log.mkdir(mode=0o700, exist_ok=True)
    file = os.open(log / "site.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=home.folder,
            start_new_session=True,
            pass_fds=(handle,),
        )
        os.pwrite(handle, f"{process.pid:>20}".encode(), 0)
        threading.Thread(target=process.wait, daemon=True).start()  # so that no zombie stays
    finally:
        os.close(file)
        os.close(handle)
    return process.pid


def _see_to_kit(home: SiteHome) -> None:
    """Have the kit fit this version and place, and check it. Raises KIT_CHANGED."""
    from polyclinic.engines.flare.kit import VERSION, check_kit, settle_kit

    if before := settle_kit(kit_of(home), kit_arguments(home.folder)):
        home.audit.append("kit_renewed", before=before, now=VERSION)
    check_kit(kit_of(home))


def _locked(home: SiteHome, tries: int = 1) -> int | None:
    """The pid file, locked; None where a living process has it.

    Who only looks holds it for a moment, so that a start tries several times.
    """
    handle = os.open(home.folder / "site.pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(tries):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        time.sleep(0.02)
    os.close(handle)
    return None


def running(home: SiteHome) -> int:
    """The number of the site's process; 0 when none runs."""
    path = home.folder / "site.pid"
    if not path.is_file():
        return 0
    handle = _locked(home)
    if handle is not None:
        os.close(handle)
        return 0
    try:
        return int(path.read_text() or 0)
    except ValueError:
        return 0


def stop(home: SiteHome, seconds: float = STOP_SECONDS) -> int:
    """End the process of this site, and no other; its number, 0 when none ran.

    Raises
    ------
    PolyclinicError : STILL_RUNNING when it does not end.
    """
    pid = running(home)
    if not pid:
        return 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not running(home):
                return pid
            time.sleep(0.05)
    raise PolyclinicError(
        f"{home.name}: process {pid} does not end",
        code="STILL_RUNNING",
        rule="a process ends when it is told to",
        next=f"look at process {pid}",
        kept="",
    )


def status(home: SiteHome) -> Status:
    """How things stand, from what is on this machine alone."""
    from polyclinic.engines.flare.kit import certificate_days

    joined, pid, state = Joined.load(home.folder), running(home), _state(home)
    heard = state.get("heard")
    ago = max(0.0, time.time() - heard) if isinstance(heard, (int, float)) and heard else None
    inbox = Inbox(home)
    studies = tuple(
        (paper.study.study.name, paper.short_hash, _standing(inbox, paper))
        for paper in inbox.papers()
    )
    recent = ago is not None and ago < STALE_SECONDS
    return Status(
        home.name,
        joined.hub,
        pid,
        bool(pid and state.get("connected") is True and recent),
        ago,
        bool(pid and state.get("agent")),
        str(state.get("version", "")),
        home.policy().code,
        bool(pid and state.get("turned_away") is True),
        studies,
        certificate_days(kit_of(home)),
    )


def _standing(inbox: Inbox, paper: Paper) -> str:
    """The state of a study, and without whom it goes on."""
    gone = inbox.left_out(paper)
    return inbox.state(paper.hash) + (f", without {', '.join(gone)}" if gone else "")


def _state(home: SiteHome) -> Mapping[str, Any]:
    """What the process has last written about itself."""
    try:
        found = json.loads((home.folder / "log" / "state.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
