"""What a FLARE process still does when it is told to end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

_last: list[Callable[[], None]] = []
_once = threading.Lock()


def at_end(work: Callable[[], None]) -> None:
    """Do `work` when the process is told to end."""
    _last.append(work)


def end_on_signals() -> None:
    """On SIGTERM and SIGINT end in order, at once: FLARE's own way waits for its threads."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=end).start())


def end(code: int = 0) -> None:
    """Do what is left to do, then end this process."""
    if not _once.acquire(blocking=False):
        return
    for work in reversed(_last):
        with suppress(Exception):
            work()
    os._exit(code)
