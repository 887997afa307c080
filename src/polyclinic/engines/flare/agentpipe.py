"""The agent of a hospital, as its network process sees it: a command with a pipe in and out.

A frame is a number (u64), a length (u64), and bytes; replies come in any order, none to number 0.
An agent that ends is started again; what it was asked is answered AGENT_LOST, and nothing is asked
twice.
"""

from __future__ import annotations

import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import IO

from polyclinic.core import codec
from polyclinic.engines.flare import wire

LOST = codec.encode({"code": "AGENT_LOST"})
PAUSES = (0.2, 1.0, 5.0, 30.0)  # seconds before the next start, longer and longer
LIVED = 60.0  # seconds of life after which a start counts as a good one
LOG_BYTES = 5_000_000
NOTE = 0  # number of a frame that is told, not asked
_FRAME = struct.Struct("<QQ")
_PIPE, _SHORT = 1 << 20, 4096


class AgentPipe:
    """Runs the agent; `ask` from any thread.

    Parameters
    ----------
    command : of the agent; it ends when its standard input does.
    log : file for what it says; read at the hospital only.
    changed : called with the agent's number when there is one, with 0 when it has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path | None = None,
        changed: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self.command, self._log, self._changed = list(command), log, changed
        self._state = threading.Condition()
        self._writing = threading.Lock()
        self._asked: dict[int, Future[wire.Bytes]] = {}
        self._number = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._over = False
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    @property
    def pid(self) -> int:
        """The agent's number, 0 when it does not run."""
        process = self._process
        return 0 if process is None else process.pid

    def start(self) -> None:
        """Start the agent, and again whenever it has ended."""
        self._thread.start()

    def ask(self, message: wire.Bytes) -> Future[wire.Bytes]:
        """The reply to come; AGENT_LOST when there is no agent, or when it ends before."""
        promise: Future[wire.Bytes] = Future()
        with self._state:
            self._state.wait_for(lambda: self._process is not None or self._over, PAUSES[1])
            process = self._process
            if process is None:
                promise.set_result(LOST)
                return promise
            self._number += 1
            number = self._number
            self._asked[number] = promise
        if len(message) < _SHORT:
            self._write(process, number, message)
        else:  # the pipe may be full until the agent has read
            work = (process, number, message)
            threading.Thread(target=self._write, args=work, daemon=True).start()
        return promise

    def note(self, about: bytes) -> None:
        """Have the agent write something into the hospital's log; lost where there is no agent."""
        process = self._process
        if process is not None:
            self._write(process, NOTE, about)

    def stop(self, seconds: float = 5.0) -> None:
        """Let the agent end by closing its input; kill it when it does not."""
        with self._state:
            self._over = True
            process = self._process
            self._state.notify_all()
        if process is not None:
            with suppress(OSError, ValueError):
                if process.stdin is not None:
                    process.stdin.close()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()

    def _run(self) -> None:
        failures = 0
        while not self._over:
            born = time.monotonic()
            with suppress(OSError):
                self._live()
            failures = 0 if time.monotonic() - born > LIVED else failures + 1
            with self._state:
                pause = PAUSES[min(max(failures, 1), len(PAUSES)) - 1]
                self._state.wait_for(lambda: self._over, pause)

    def _live(self) -> None:
        """One life of the agent."""
        log = self._open_log()
        try:
            process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        finally:
            os.close(log)
        _widen(process)
        with self._state:
            self._process = process
            self._state.notify_all()
        self._changed(process.pid)
        try:
            self._read(process)
        finally:
            with self._state:
                self._process = None
                lost, self._asked = self._asked, {}
            process.kill()
            process.wait()
            for promise in lost.values():
                promise.set_result(LOST)
            self._changed(0)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Replies until the agent ends, or says something that is no reply."""
        pipe = process.stdout
        if pipe is None:
            return
        while (head := _exactly(pipe, _FRAME.size)) is not None:
            number, length = _FRAME.unpack(head)
            with self._state:
                promise = self._asked.pop(number, None)
            if promise is None or length > wire.LARGEST:
                if promise is not None:
                    promise.set_result(LOST)
                return
            data = _exactly(pipe, length)
            promise.set_result(LOST if data is None else data)

    def _write(self, process: subprocess.Popen[bytes], number: int, message: wire.Bytes) -> None:
        try:
            with self._writing:
                if process.stdin is not None:
                    _all(process.stdin.fileno(), _FRAME.pack(number, len(message)))
                    _all(process.stdin.fileno(), message)
        except (OSError, ValueError):  # it has ended, or is ending: _live answers
            with suppress(OSError):
                process.kill()

    def _open_log(self) -> int:
        if self._log is None:
            return os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError):
            if self._log.stat().st_size > LOG_BYTES:
                self._log.replace(self._log.with_suffix(".log.1"))
        return os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Larger pipes, where the system knows how: fewer turns for a long message."""
    with suppress(ImportError, AttributeError, OSError):
        from fcntl import F_SETPIPE_SZ, fcntl

        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                fcntl(pipe.fileno(), F_SETPIPE_SZ, _PIPE)


def _all(handle: int, data: wire.Bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _exactly(pipe: IO[bytes], n: int) -> memoryview | None:
    data, at = codec.room(n), 0
    while at < n:
        got = pipe.readinto(data[at:])  # type: ignore[attr-defined]
        if not got:
            return None
        at += got
    return data
