"""The folder of a hub: its keys, its hospitals, its runs, and the invitations that it writes."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from polyclinic.core.checkpoint import write_atomic
from polyclinic.core.errors import InputError
from polyclinic.governance import signing
from polyclinic.privacy.secure import Identity
from polyclinic.study.hubstore import HubStore

FORMAT = 1
PORT = 8102
INVITE_SECONDS = 14 * 24 * 3600.0
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SITE = re.compile(r"(?!(server|hub)$)[a-z0-9][a-z0-9_-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
_KEY, _CA_KEY, _CA = "keys/coordinator.key", "keys/ca.key", "ca.crt"


def hubs_folder() -> Path:
    """Where hubs lie: $POLYCLINIC_HOME/hubs, by default ~/.polyclinic/hubs."""
    return Path(os.environ.get("POLYCLINIC_HOME") or Path.home() / ".polyclinic") / "hubs"


class HubHome:
    """One hub's folder, made by `init`.

    Raises
    ------
    InputError : NO_HUB when the folder is absent or not a hub's.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()

    @classmethod
    def named(cls, name: str | None) -> HubHome:
        """The hub of this name; None: the only one that is here."""
        there = sorted(p.parent.name for p in hubs_folder().glob("*/hub.toml"))
        if name is None and len(there) == 1:
            name = there[0]
        if name is None or name not in there:
            raise InputError(
                f"there is no hub {name} here" if name else "which hub is not said",
                code="NO_HUB",
                rule=f"hubs in {hubs_folder()}: {', '.join(there) or 'none'}",
                next="name it: polyclinic hub start NAME, or --hub NAME"
                if there
                else "polyclinic hub init NAME",
                kept="nothing was changed",
            )
        return cls(hubs_folder() / name)

    @classmethod
    def create(cls, name: str, host: str = "localhost", port: int = PORT) -> HubHome:
        """A new hub of this name. Raises what `init` raises."""
        _check(name, _NAME, "name of a hub has a-z, 0-9 and -")
        return cls(hubs_folder() / name).init(host, port)

    def init(self, host: str = "localhost", port: int = PORT) -> HubHome:
        """Make the folder, whole or not at all: keys, authority, server kit, store.

        Raises
        ------
        InputError : HUB_EXISTS, WRONG_VALUE.
        """
        _check(self.folder.name, _NAME, "name of a hub has a-z, 0-9 and -")
        _check(host, _HOST, "host is a name or an address that hospitals can reach")
        if not 0 < port < 65535:
            raise _wrong(str(port), "port is a number below 65535; the one after it is used, too")
        if self.folder.exists():
            raise InputError(
                f"{self.folder}: there is a hub of this name",
                code="HUB_EXISTS",
                rule="a hub is set up once",
                next="choose another name, or go on with the hub that is here",
                kept="nothing was changed",
            )
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=f".{self.folder.name}."))
        try:
            self._fill(draft, host, port)
            os.rename(draft, self.folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        try:
            self._kit()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def _fill(self, draft: Path, host: str, port: int) -> None:
        from polyclinic.engines.flare.pki import make_ca

        signing.generate(draft / _KEY)
        ca, key = make_ca(self.folder.name)
        _private(draft / _CA_KEY, key)
        _private(draft / _CA, ca)
        text = (
            f'format = {FORMAT}\nname = "{self.folder.name}"\nhost = "{host}"\nport = {port}\n'
            f"enrol_port = {port + 1}\n"
        )
        _private(draft / "hub.toml", text.encode())
        for name in ("runs", "socket"):
            (draft / name).mkdir(mode=0o700)
        HubStore(draft / "store.sqlite")
        (draft / "store.sqlite").chmod(0o600)

    def settle(self) -> str | None:
        """Have what the server process starts from fit this version and place.

        It is made anew where it is absent. Gives the version that had written it, if another.

        Raises
        ------
        InputError : KIT_CHANGED.
        """
        from polyclinic.engines.flare.kit import settle_kit

        if (self.kit / "kit.json").exists():
            return settle_kit(self.kit, self._arguments)
        self._kit()
        return None

    def _kit(self) -> None:
        """What the server process starts from; its paths are those of the folder itself."""
        from polyclinic.engines.flare.kit import write_server_kit
        from polyclinic.engines.flare.pki import sign_server

        cert, key = sign_server(self.ca, self.ca_key, self.host)
        write_server_kit(
            self.kit,
            name=self.name,
            host=self.host,
            port=self.port,
            ca=self.ca,
            cert=cert,
            key=key,
            **self._arguments,
        )
        self.publish()

    @property
    def _arguments(self) -> dict[str, Any]:
        """What the server process is started with."""
        children = [
            [sys.executable, "-P", "-m", f"polyclinic.study.{name}", str(self.folder)]
            for name in ("enrol", "supervisor")
        ]
        return {"socket": str(self.socket), "children": children}

    def publish(self) -> None:
        """Tell the server process whose certificates it may take: of those who are in, the last."""
        from polyclinic.engines.flare.border import MEMBERS, certificate_hash

        self.kit.mkdir(mode=0o700, exist_ok=True)
        alone = os.open(self.kit, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(alone, fcntl.LOCK_EX)
            members = self.store.members().values()
            known = {m.name: certificate_hash(m.certificate) for m in members if m.certificate}
            write_atomic(self.kit / MEMBERS, json.dumps(known, indent=1).encode())
            (self.kit / MEMBERS).chmod(0o600)
        finally:
            os.close(alone)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What hub.toml says."""
        try:
            found: dict[str, Any] = tomllib.loads((self.folder / "hub.toml").read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            found = {}
        kinds = {"format": int, "name": str, "host": str, "port": int, "enrol_port": int}
        if found.get("format") != FORMAT or any(
            type(found.get(key)) is not kind for key, kind in kinds.items()
        ):
            raise InputError(
                f"{self.folder}: this is no hub's folder",
                code="NO_HUB",
                rule="a hub's folder is made once, by polyclinic hub init",
                next="check the path, or set the hub up first",
                kept="nothing was changed",
            )
        return found

    @property
    def name(self) -> str:
        """The hub's name."""
        return str(self.settings["name"])

    @property
    def host(self) -> str:
        """Where hospitals reach it."""
        return str(self.settings["host"])

    @property
    def port(self) -> int:
        """Where the hospitals' processes connect."""
        return int(self.settings["port"])

    @property
    def enrol_port(self) -> int:
        """Where hospitals join."""
        return int(self.settings["enrol_port"])

    @cached_property
    def identity(self) -> Identity:
        """The coordinator's key. Raises KEY_EXPOSED when others can read it."""
        return signing.load(self.folder / _KEY)

    @property
    def ca(self) -> bytes:
        """The certificate of the hub's own authority (PEM)."""
        return (self.folder / _CA).read_bytes()

    @property
    def ca_key(self) -> bytes:
        """The authority's key (PEM)."""
        return (self.folder / _CA_KEY).read_bytes()

    @property
    def kit(self) -> Path:
        """The folder of the server process."""
        return self.folder / "server"

    @property
    def socket(self) -> Path:
        """Where the server process listens for this machine."""
        return self.folder / "socket" / "hub.sock"

    @cached_property
    def store(self) -> HubStore:
        """What the hub remembers."""
        _ = self.settings
        return HubStore(self.folder / "store.sqlite")

    def run_folder(self, run: str) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / run

    def invite(self, site: str, lifetime: float = INVITE_SECONDS) -> str:
        """The text of an invitation for the hospital `site`; there is no private key in it."""
        _check(site, _SITE, "name of a hospital has a-z, 0-9, _ and -, and is not that of a server")
        token, expires = self.store.invite(site, lifetime)
        until = datetime.fromtimestamp(expires, UTC).isoformat(timespec="seconds")
        return (
            f'format = {FORMAT}\nhub = "{self.name}"\nhost = "{self.host}"\nport = {self.port}\n'
            f'enrol_port = {self.enrol_port}\nsite = "{site}"\ntoken = "{token}"\n'
            f'expires = "{until}"\ncoordinator = "{self.identity.public.hex()}"\n'
            f'ca = """\n{self.ca.decode()}"""\n'
        )


class Locked:
    """A lock on a folder, held by one process at a time; it ends with the process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Hold the lock, with this process' number in it; False when another one has it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not take(handle, fcntl.LOCK_EX, tries=5):
                yield False
                return
            with suppress(
                OSError
            ):  # a full disk: who holds it is then not known, that it is held is
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
            yield True
        finally:
            os.close(handle)

    def holder(self) -> int:
        """The process that holds it: its number, -1 when that is not known, 0 when none does."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            if take(handle, fcntl.LOCK_SH):
                return 0
            text = os.pread(handle, 20, 0)
            return int(text) if text.isdigit() else -1
        finally:
            os.close(handle)

    def wait_free(self, seconds: float) -> bool:
        """Wait until nobody holds it."""
        until = time.monotonic() + seconds
        while self.holder():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True


def take(handle: int, how: int, tries: int = 1) -> bool:
    """Take a lock; who only looks whether it is held holds it for a moment, hence several tries."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except OSError:
            if left:
                time.sleep(0.02)
            continue
        return True
    return False


def _private(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)


def write_invite(path: Path, text: str) -> None:
    """Write an invitation where only its owner can read it: there is a token in it."""
    write_atomic(path, text.encode())
    path.chmod(0o600)


def _check(text: str, pattern: re.Pattern[str], rule: str) -> None:
    if not pattern.fullmatch(text):
        raise _wrong(repr(text), rule)


def _wrong(what: str, rule: str) -> InputError:
    return InputError(
        f"{what} cannot be used",
        code="WRONG_VALUE",
        rule=f"the {rule}",
        next="correct it",
        kept="nothing was changed",
    )
