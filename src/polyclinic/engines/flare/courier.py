"""The hub's end of the line to one hospital: cuts a message, sends it until its reply is whole.

A chunk or an answer that is lost on the way is asked for again under the same name, so that a
connection may break in mid-message; a hospital that is away is waited for until the deadline.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from polyclinic.core import codec
from polyclinic.engines.flare import wire
from polyclinic.engines.flare.wire import Chunk, Reply

Send = Callable[[bytes, float], "object | None"]  # chunk, seconds -> reply, None: not reached
AT_ONCE = 4  # chunks on their way to one hospital
LONG_POLL = 2.0  # seconds for which a reply may become ready before it is asked for again
TRY, SLOWEST = 2.0, 50_000  # a chunk is answered in so many seconds, and one per so many bytes
PAUSE, LONGEST_PAUSE = 0.1, 1.0


class Away(Exception):
    """The hospital did not answer before the deadline, or nobody wants the answer any more."""


@dataclass
class Courier:
    """Carries messages to one hospital.

    send  one request over the network
    over  True: nobody waits for the answer any more
    """

    send: Send
    over: Callable[[], bool] = lambda: False

    def carry(
        self, message: wire.Bytes, squeezed: bool, packs: bool, end: float
    ) -> tuple[wire.Bytes, bool]:
        """The reply, and whether it is compressed. Raises Away at `end` (monotonic)."""
        id = secrets.token_bytes(16)
        flags = (wire.SQUEEZED if squeezed else 0) | (wire.PACKS if packs else 0)
        first = self._ask(id, memoryview(message), flags, end)
        try:
            if first.total == len(first.data):
                return bytes(first.data), first.squeezed
            return self._fetch(id, first, end), first.squeezed
        finally:
            if max(len(message), first.total) > wire.CHUNK:  # short ones are pushed out by others
                self.send(Chunk(wire.DROP, id).to_bytes(), 5.0)

    def _ask(self, id: bytes, view: memoryview, flags: int, end: float) -> Reply:
        """Bring the message there, once more where the hospital has forgotten it."""
        while True:
            reply = self._put(id, view, flags, end)
            while reply.state == wire.RUNNING:
                reply = self._once(Chunk(wire.GET, id, wait=_poll(end)), end)
            if reply.state in (wire.READY, wire.REFUSED):
                return reply
            self._rest(end)

    def _put(self, id: bytes, view: memoryview, flags: int, end: float) -> Reply:
        offsets = list(range(0, len(view), wire.CHUNK)) or [0]

        def put(offset: int) -> Reply:
            part = view[offset : offset + wire.CHUNK]
            wait = min(LONG_POLL, max(end - time.monotonic(), 0.0))
            return self._once(Chunk(wire.PUT, id, len(view), offset, part, flags, wait), end)

        replies = self._several(put, offsets)
        best = [reply for reply in replies if reply.state != wire.WANTED]
        return best[-1] if best else Reply(wire.WANTED)

    def _fetch(self, id: bytes, first: Reply, end: float) -> memoryview:
        def get(offset: int) -> Reply:
            return self._once(Chunk(wire.GET, id, offset=offset, wait=_poll(end)), end)

        reply = codec.room(first.total)
        reply[: len(first.data)] = first.data
        offsets = list(range(len(first.data), first.total, wire.CHUNK))
        for offset, part in zip(offsets, self._several(get, offsets), strict=True):
            whole = len(part.data) == min(wire.CHUNK, first.total - offset)
            same = part.total == first.total and part.offset == offset
            if part.state != wire.READY or not (same and whole):
                raise Away("the reply was forgotten on the way")
            reply[offset : offset + len(part.data)] = part.data
        return reply

    def _several(self, work: Callable[[int], Reply], offsets: list[int]) -> list[Reply]:
        """In order, a few at once."""
        if len(offsets) == 1:
            return [work(offsets[0])]
        helpers = ThreadPoolExecutor(AT_ONCE, "chunk")
        try:
            return list(helpers.map(work, offsets))
        finally:
            helpers.shutdown(wait=False, cancel_futures=True)

    def _once(self, chunk: Chunk, end: float) -> Reply:
        """The answer to a chunk, however often it must be sent."""
        data, unanswered = chunk.to_bytes(), 0
        for attempt in range(sys.maxsize):
            left = end - time.monotonic()
            if left <= 0 or self.over():
                raise Away
            patience = chunk.wait + TRY * 2 ** min(unanswered, 6) + len(data) / SLOWEST
            begun = time.monotonic()
            answer = self.send(data, min(left, patience))
            if answer is not None:
                return Reply.open(answer)
            unanswered += time.monotonic() - begun >= patience  # else it was known to be away
            self._rest(end, attempt)
        raise Away

    def _rest(self, end: float, attempt: int = 0) -> None:
        pause = min(PAUSE * 2 ** min(attempt, 10), LONGEST_PAUSE)
        if self.over() or time.monotonic() + pause > end:
            raise Away
        time.sleep(pause)


def _poll(end: float) -> float:
    return min(LONG_POLL, max(end - time.monotonic(), 0.0))
