"""A network between a hospital and its hub that can be slow, cut, or silent."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from queue import SimpleQueue

HOST = "127.0.0.1"


class Proxy:
    """Listens on `port` of its own and carries every connection to `target`.

    delay    seconds that everything takes on its way, in each direction
    """

    def __init__(self, target: int) -> None:
        self.target, self.delay = target, 0.0
        self._flows, self._open = threading.Event(), True
        self._flows.set()
        self._sockets: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and refuse new ones until `mend`."""
        self._open = False
        with self._guard:
            broken, self._sockets = self._sockets, set()
        for one in broken:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def hush(self) -> None:
        """Carry nothing more, and tell nobody: connections stay half open until `mend`."""
        self._flows.clear()

    def mend(self) -> None:
        """Carry again, at once, what still waits."""
        self.delay, self._open = 0.0, True
        self._flows.set()

    def close(self) -> None:
        """End."""
        self.cut()
        self._flows.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = self._reach() if self._open else None
            if far is None:
                near.close()
                continue
            with self._guard:
                self._sockets |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _reach(self) -> socket.socket | None:
        try:
            return socket.create_connection((HOST, self.target), timeout=5.0)
        except OSError:
            return None

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        late: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        threading.Thread(target=self._deliver, args=(late, sink), daemon=True).start()
        source.settimeout(None)
        data = b"?"
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            late.put((time.monotonic() + self.delay, data))
        with self._guard:
            self._sockets.discard(source)
        source.close()

    def _deliver(self, late: SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
        while True:
            due, data = late.get()
            time.sleep(max(due - time.monotonic(), 0.0))
            self._flows.wait()
            try:
                if data:
                    sink.sendall(data)
                    continue
                sink.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            return
