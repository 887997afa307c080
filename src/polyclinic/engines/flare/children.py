"""Commands that run as long as a process does: started again when they end, told when to stop."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

PAUSES = (0.5, 2.0, 10.0, 60.0)
LIVED = 60.0


class Children:
    """Runs commands. Their standard input is a pipe: its end, also by our death, means "stop"."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._over = threading.Event()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=(n, list(command)), daemon=True)
            for n, command in enumerate(commands)
        ]

    def start(self) -> None:
        """Start all."""
        for thread in self._threads:
            thread.start()

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [child.pid for child in list(self._running.values())]

    def stop(self, seconds: float = 5.0) -> None:
        """End all, first by asking."""
        self._over.set()
        running = list(self._running.values())
        for child in running:
            with suppress(OSError):
                if child.stdin is not None:
                    child.stdin.close()
        until = time.monotonic() + seconds
        for child in running:
            try:
                child.wait(max(until - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                child.kill()

    def _keep(self, n: int, command: list[str]) -> None:
        failures = 0
        while not self._over.is_set():
            born = time.monotonic()
            with suppress(OSError):
                child = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0
                )
                self._running[n] = child
                child.wait()
                if child.stdin is not None:
                    child.stdin.close()
                self._running.pop(n, None)
            failures = 1 if time.monotonic() - born > LIVED else failures + 1
            self._over.wait(PAUSES[min(failures, len(PAUSES)) - 1])
