"""A hub and hospitals as real processes whose power, network and disks fail on demand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from polyclinic.cli.stage import Stage
from polyclinic.core.errors import PolyclinicError
from polyclinic.governance.home import SiteHome
from polyclinic.governance.paper import APPROVED
from polyclinic.site.inbox import Inbox
from polyclinic.study import hubservice, hubstore
from polyclinic.study.hub import HubHome
from tests.network.proxy import Proxy

HUB = "hub"
PARTS = {
    "server": "polyclinic.engines.flare.process",
    "client": "polyclinic.engines.flare.process",
    "agent": "polyclinic.site.agent",
    "driver": "polyclinic.study.driver",
    "supervisor": "polyclinic.study.supervisor",
}
DISK_MB = 96
# Seconds for which a look at the hub may be behind what has just happened.
RUN_LATE, SITE_LATE, HUB_LATE = 4.0, 6.0, 4.0


class Chaos(Stage):
    """See the module. Hospitals join through a proxy each; with `disks` some have a small disk."""

    def __init__(
        self, folder: Path, files: Mapping[str, Path], schema: Path, disks: Sequence[str] = ()
    ) -> None:
        super().__init__(folder, files, schema)
        self.hub_home = HubHome(folder / "hub" / "hubs" / self.hub)
        self.proxies = {site: Proxy(self.port) for site in files}
        self.disks: dict[str, Path] = {}
        self._wanted = tuple(disks)
        self._homes: dict[str, SiteHome] = {}
        self.eyes = Eyes(self)

    def home(self, site: str) -> Path:
        return self.folder / "disks" / site / "home"

    def do(self, *arguments: str, site: str = "", check: bool = True) -> str:
        said = super().do(*arguments, site=site, check=check)
        if arguments[:2] == ("hub", "invite"):
            invite = Path(arguments[arguments.index("--out") + 1])
            there = f"port = {self.proxies[arguments[2]].port}"
            invite.write_text(
                re.sub(r"^port = \d+$", there, invite.read_text("utf-8"), flags=re.M), "utf-8"
            )
        return said

    def open(self) -> Iterator[str]:
        for who in self._wanted:
            self._small_disk(who)
        yield from super().open()
        self.eyes.start()

    def close(self) -> None:
        self.eyes.stop()
        for proxy in self.proxies.values():
            proxy.mend()
        for who in self.disks:
            self.make_room(who)
        super().close()
        for proxy in self.proxies.values():
            proxy.close()
        for path in self.disks.values():
            subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)

    # disks

    def _small_disk(self, who: str) -> None:
        path = self.folder / "hub" if who == HUB else self.folder / "disks" / who
        path.mkdir(parents=True, exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0700", "none", str(path)]
        if subprocess.run(words, check=False, capture_output=True).returncode == 0:
            self.disks[who] = path

    def fill(self, who: str) -> None:
        """Leave not one byte on a disk."""
        with open(self.disks[who] / "filler", "ab", buffering=0) as file, suppress(OSError):
            for size in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while file.write(b"\0" * size) == size:
                        pass

    def make_room(self, who: str) -> None:
        """Take away what fills a disk."""
        (self.disks[who] / "filler").unlink(missing_ok=True)

    # processes

    def pids(self, who: str, part: str = "") -> list[int]:
        """Processes of the hub or of a hospital; of one part of it."""
        mark = str(self.hub_home.folder if who == HUB else self.home(who))
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                words = _command(entry)
                if "-m" in words[:-1] and any(word.startswith(mark) for word in words):
                    module = words[words.index("-m") + 1]
                    known = module in PARTS.values() or module == "polyclinic.study.enrol"
                    if known and (not part or module == PARTS[part]):
                        found.append(int(entry.name))
        return found

    def kill(self, who: str, part: str = "") -> int:
        """kill -9 of all processes of one machine, or of one part; how many."""
        hit = 0
        for pid in self.pids(who, part):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                hit += 1
        return hit

    def driven(self) -> set[str]:
        """Runs that a living process drives."""
        found = set()
        for entry in Path("/proc").iterdir():
            words = _command(entry) if entry.name.isdigit() else []
            if PARTS["driver"] in words and str(self.hub_home.folder) in words:
                found.add(words[-1])
        return found

    def raise_up(self, who: str, seconds: float = 90.0) -> int:
        """Start again what does not run, as a service manager does; the attempts that it took."""
        words = ("hub", "start", self.hub) if who == HUB else ("site", "start")
        until, tries = time.monotonic() + seconds, 0
        while not self.pids(who, "server" if who == HUB else "client"):
            tries += 1
            try:
                self.do(*words, site="" if who == HUB else who)
            except subprocess.CalledProcessError as error:
                if time.monotonic() > until:
                    raise AssertionError(f"{who} does not start: {error.stderr}") from error
                time.sleep(1.0)
        return tries

    # officers

    def approve(self, site: str, name: str) -> bool:
        """Sign as `polyclinic site approve` does; False where it is not there yet."""
        if site not in self._homes:
            self._homes[site] = SiteHome.open(self.home(site))
        inbox = Inbox(self._homes[site])
        try:
            inbox.decide(inbox.find(name), APPROVED)
        except PolyclinicError:  # not offered yet, or a full disk
            return False
        return True


def _command(entry: Path) -> list[str]:
    """The words of a living process; nothing of one that has ended."""
    try:
        return (entry / "cmdline").read_bytes().decode().split("\0")[:-1]
    except (OSError, UnicodeDecodeError):
        return []


class Eyes:
    """Looks at `polyclinic hub status` all the time; `lies` are where it is not as it says."""

    def __init__(self, stage: Chaos) -> None:
        self.stage, self.lies, self.looks = stage, list[str](), 0
        self._since: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(30.0)

    def _run(self) -> None:
        while not self._over.wait(0.8):
            began = time.monotonic()
            try:
                found = hubservice.status(self.stage.hub_home)
            except Exception as error:
                self._say("status", f"raises {error!r}", 0.0)
                continue
            if (took := time.monotonic() - began) > 20.0:
                self._say("slow", f"the status took {took:.0f} s", 0.0)
            self._compare(found)
            self.looks += 1

    def _compare(self, found: Mapping[str, Any]) -> None:
        stage, wrong = self.stage, dict[str, tuple[str, float]]()
        driven = stage.driven()
        for run in found["runs"]:
            asleep = (hubservice.STARTING, hubservice.STOPPED_RUN)
            if not run["finished"] and run["state"] not in asleep and run["id"] not in driven:
                wrong[f"run {run['id']}"] = f"{run['state']!r} without a driver", RUN_LATE
        if found["up"] is not None and not stage.pids(HUB, "server"):
            wrong[HUB] = "up without a server", HUB_LATE
        for one in found["hospitals"]:
            if one["state"] == "connected" and not stage.pids(one["name"], "client"):
                wrong[one["name"]] = "connected without a process", SITE_LATE
        for name in [name for name in self._since if name not in wrong]:
            del self._since[name]
        for name, (what, late) in wrong.items():
            self._say(name, what, late)

    def _say(self, name: str, what: str, late: float) -> None:
        now = time.monotonic()
        ago = now - self._since.setdefault(name, now)
        if ago >= late:
            self.lies.append(f"{name}: {what}, for {ago:.1f} s")


def finished(stage: Chaos, run: str) -> str:
    """The state of a run that is over, else ""."""
    try:
        found = stage.hub_home.store.run(run)
    except PolyclinicError:
        return ""
    return found.state if found.state in hubstore.FINISHED else ""
