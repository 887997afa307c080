"""The line to a hub: bytes to hospitals and back, through the hub's server process on this machine.

One question, one connection to the hub's Unix socket, so that any number of threads may ask. What
travels is in frames: lengths, a header in canonical form, bodies as they are. A body is compressed
(zstd) where a sample of it says that it helps.
"""

from __future__ import annotations

import os
import socket as sockets
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyclinic.core import codec
from polyclinic.core.errors import Stopped
from polyclinic.engines.flare import wire

GRACE = 1.5  # seconds beyond a deadline in which the hub must have said so


class HubLine:
    """Asks hospitals through the hub that listens on `socket`; thread-safe.

    `bytes` counts what travelled, compressed, by hospital: ``{"va": {"out": 120, "back": 80}}``.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = Path(socket)
        self.bytes: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def sites(self) -> dict[str, dict[str, Any]]:
        """Hospitals that are connected now, and how many seconds ago each was heard.

        Raises
        ------
        Stopped : HUB_LOST when the hub's server process is not there.
        """
        with self._connected(5.0) as connection:
            wire.send_frame(connection, {"do": "sites"})
            header, _ = wire.receive_frame(connection)
            return dict(header["sites"])

    def ask(self, messages: Mapping[str, bytes], timeout: float) -> dict[str, wire.Bytes]:
        """Replies of the hospitals that answered within `timeout` seconds, all together.

        Raises
        ------
        Stopped, WireError : as `answers`.
        """
        return dict(self.answers(messages, timeout))

    def answers(
        self, messages: Mapping[str, bytes], timeout: float
    ) -> Iterator[tuple[str, wire.Bytes]]:
        """Hospitals and their replies as they come, within `timeout` seconds.

        A hospital that is not connected is waited for until then.

        Raises
        ------
        Stopped : HUB_LOST when the hub's server process is not there, or ends meanwhile.
        WireError : for a message that no hospital would take.
        """
        if not messages:
            return
        if max(map(len, messages.values())) > wire.LARGEST:
            raise wire.bad("a message is longer than 1 GiB")
        end = time.monotonic() + timeout
        with self._connected(timeout + GRACE) as connection:
            self._send(connection, messages, timeout)
            for _ in messages:
                connection.settimeout(max(end + GRACE - time.monotonic(), 0.01))
                header, body = wire.receive_frame(connection)
                if header.get("end"):
                    break
                site = str(header["site"])
                self._count(site, "back", len(body))
                try:
                    reply = wire.unsqueezed(body, bool(header["squeezed"]))
                except wire.WireError as error:  # the hospital's fault, not the hub's
                    reply = codec.encode({"code": error.code})
                yield site, reply

    def _send(
        self, connection: sockets.socket, messages: Mapping[str, bytes], timeout: float
    ) -> None:
        start = {"do": "ask", "sites": list(messages), "timeout": float(timeout)}
        wire.send_frame(connection, start)
        last: tuple[bytes, tuple[wire.Bytes, bool]] | None = None
        for site, message in messages.items():
            if last is None or last[0] is not message:
                last = message, wire.squeezed(message)
            body, squeezed = last[1]
            self._count(site, "out", len(body))
            header = {"site": site, "squeezed": squeezed, "packs": wire.can_squeeze()}
            wire.send_frame(connection, header, body)

    def _count(self, site: str, way: str, n: int) -> None:
        with self._lock:
            self.bytes.setdefault(site, {"out": 0, "back": 0})[way] += n

    @contextmanager
    def _connected(self, timeout: float) -> Iterator[sockets.socket]:
        try:
            with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection:
                connection.settimeout(timeout)
                with reachable(self.socket) as path:
                    _own(self.socket)
                    connection.connect(path)
                yield connection
        except (OSError, EOFError, codec.CodecError, wire.WireError) as error:
            raise lost() from error


@contextmanager
def reachable(socket: Path) -> Iterator[str]:
    """A path of at most 100 characters to a socket, however deep its folder lies."""
    if len(os.fsencode(socket)) <= 100:
        yield str(socket)
        return
    folder = os.open(socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{socket.name}"
    finally:
        os.close(folder)


def _own(socket: Path) -> None:
    """Only a socket in a private folder of this account is the hub's."""
    found = os.stat(socket.parent)
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{socket.parent} is open to others")


def lost() -> Stopped:
    """The hub's server process is not there."""
    return Stopped(
        "the hub does not answer",
        code="HUB_LOST",
        rule="the hub's server process carries every question",
        next="polyclinic hub status; polyclinic hub start",
        kept="everything up to the last round",
    )
