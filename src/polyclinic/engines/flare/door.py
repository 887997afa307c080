"""The hub's door for its own machine: a Unix socket that only the hub's own account may use."""

from __future__ import annotations

import os
import socket as sockets
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from polyclinic.core.errors import PolyclinicError
from polyclinic.engines.flare import wire
from polyclinic.engines.flare.courier import Away, Courier
from polyclinic.engines.hubline import reachable

LONGEST = 7 * 24 * 3600.0  # seconds for which anybody may wait
Sites = Callable[[], Mapping[str, Mapping[str, Any]]]
Send = Callable[[str, bytes, float], "object | None"]


class Door:
    """Answers `HubLine`.

    Parameters
    ----------
    path : of the socket; its folder is made private.
    sites : who is connected, and when each was heard.
    send : one request to a hospital within some seconds; None: it was not reached.
    """

    def __init__(self, path: Path, sites: Sites, send: Send) -> None:
        self.path, self._sites, self._send = Path(path), sites, send
        self._listener: sockets.socket | None = None

    def open(self) -> None:
        """Listen, in place of whoever listened before."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.parent.chmod(0o700)
        self.path.unlink(missing_ok=True)
        listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        with reachable(self.path) as short:
            listener.bind(short)
        self.path.chmod(0o600)
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="door", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.close()
            self.path.unlink(missing_ok=True)

    def _accept(self, listener: sockets.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: sockets.socket) -> None:
        with connection, suppress(OSError, EOFError, PolyclinicError, KeyError, TypeError):
            if not _same_account(connection):
                return
            header, _ = wire.receive_frame(connection)
            if header["do"] == "sites":
                sites = {name: dict(about) for name, about in self._sites().items()}
                wire.send_frame(connection, {"sites": sites})
            elif header["do"] == "ask":
                _Asking(self, connection, header).run()

    def courier(self, site: str, over: Callable[[], bool]) -> Courier:
        """To one hospital."""
        return Courier(lambda data, seconds: self._send(site, data, seconds), over)


class _Asking:
    """One question to some hospitals, until all have answered, its time is over, or the asker."""

    def __init__(self, door: Door, connection: sockets.socket, header: Mapping[str, Any]) -> None:
        self._door, self._connection = door, connection
        self._end = time.monotonic() + min(max(float(header["timeout"]), 0.0), LONGEST)
        self._wanted = len(header["sites"])
        self._sending = threading.Lock()
        self._over = threading.Event()
        self._done = threading.Condition()
        self._left = self._wanted

    def run(self) -> None:
        for _ in range(self._wanted):
            header, body = wire.receive_frame(self._connection)
            work = (str(header["site"]), body, bool(header["squeezed"]), bool(header["packs"]))
            threading.Thread(target=self._carry, args=work, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        with self._done:
            self._done.wait_for(
                lambda: self._left == 0 or self._over.is_set(),
                max(self._end + 0.5 - time.monotonic(), 0.0),
            )
        self._over.set()
        with self._sending:
            wire.send_frame(self._connection, {"end": True})
        with suppress(OSError):
            self._connection.shutdown(sockets.SHUT_RDWR)

    def _carry(self, site: str, body: memoryview, squeezed: bool, packs: bool) -> None:
        try:
            courier = self._door.courier(site, self._over.is_set)
            reply, packed = courier.carry(body, squeezed, packs, self._end)
            with self._sending:
                if not self._over.is_set():
                    wire.send_frame(self._connection, {"site": site, "squeezed": packed}, reply)
        except (Away, OSError, PolyclinicError):
            pass
        finally:
            with self._done:
                self._left -= 1
                self._done.notify_all()

    def _watch(self) -> None:
        """Until the asker closes its end."""
        with suppress(OSError):
            while self._connection.recv(1):
                pass
        self._over.set()
        with self._done:
            self._done.notify_all()


def _same_account(connection: sockets.socket) -> bool:
    who = connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
    _, account, _ = struct.unpack("3i", who)
    return bool(account == os.getuid())
