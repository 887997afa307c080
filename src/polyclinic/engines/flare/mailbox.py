"""The hospital's end of the line: puts chunks together, asks the agent once, hands out replies."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet

from polyclinic.core import codec
from polyclinic.engines.flare import wire
from polyclinic.engines.flare.wire import Chunk, Reply, WireError

MESSAGES = 32  # kept at once
STALE = 600.0  # seconds after which a message that nobody asks about any more is forgotten
BAD = codec.encode({"code": "BAD_MESSAGE"})


class _Message:
    """One message: its chunks until it is whole, then the reply until it is fetched."""

    def __init__(self, total: int, flags: int) -> None:
        self.total, self.flags = total, flags
        self.data = codec.room(total)
        self.chunks: dict[int, int] = {}  # offset -> bytes there
        self.held = 0
        self.reply: Future[tuple[wire.Bytes, bool]] | None = None
        self.touched, self.fetched = time.monotonic(), False

    def put(self, chunk: Chunk) -> bool:
        """Keep a chunk; whether the message is whole."""
        if chunk.offset not in self.chunks:
            end = chunk.offset + len(chunk.data)
            self.data[chunk.offset : end] = chunk.data
            self.chunks[chunk.offset] = len(chunk.data)
            self.held += len(chunk.data)
        return self.held >= self.total

    def whole(self) -> wire.Bytes:
        """The message, once. Raises WireError when the chunks do not meet."""
        at = 0
        for offset in sorted(self.chunks):
            if offset != at:
                raise wire.bad("chunks do not meet")
            at += self.chunks[offset]
        data, self.data = self.data, codec.room(0)
        return wire.unsqueezed(data, bool(self.flags & wire.SQUEEZED))

    @property
    def bytes(self) -> int:
        done = self.reply is not None and self.reply.done() and not self.reply.exception()
        return len(self.reply.result()[0]) if done and self.reply else self.total


class Mailbox:
    """Answers chunks; whatever they hold, the answer is bytes and no exception.

    Parameters
    ----------
    ask : the agent: from a message to its reply, in any order.
    """

    def __init__(self, ask: Callable[[wire.Bytes], Future[wire.Bytes]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._messages: OrderedDict[bytes, _Message] = OrderedDict()

    def answer(self, data: object) -> bytes:
        """The answer to a chunk."""
        try:
            chunk = Chunk.open(data)
            if chunk.do == wire.DROP:
                with self._lock:
                    self._messages.pop(chunk.id, None)
                return Reply(wire.READY).to_bytes()
            if chunk.do == wire.PUT:
                state = self._put(chunk)
                if state != wire.RUNNING:
                    return Reply(state).to_bytes()
            return self._get(chunk).to_bytes()
        except WireError:
            return Reply(wire.REFUSED, len(BAD), 0, BAD).to_bytes()

    def _put(self, chunk: Chunk) -> int:
        with self._lock:
            message = self._messages.get(chunk.id)
            if message is None:
                if not self._room(chunk):
                    return wire.BUSY
                message = self._messages[chunk.id] = _Message(chunk.total, chunk.flags)
            message.touched = time.monotonic()
            if message.reply is not None:
                return wire.RUNNING
            if (message.total, message.flags) != (chunk.total, chunk.flags):
                raise wire.bad("a chunk is of another message")
            if not message.put(chunk):
                return wire.WANTED
            message.reply = Future()
        self._start(message)
        return wire.RUNNING

    def _start(self, message: _Message) -> None:
        promise = message.reply
        try:
            whole = message.whole()
        except WireError:
            _keep(promise, BAD, False)
            return
        packs = bool(message.flags & wire.PACKS)
        self._ask(whole).add_done_callback(lambda done: _keep(promise, done.result(), packs))

    def _room(self, chunk: Chunk) -> bool:
        """Whether there is space, once what has been fetched or is stale is forgotten."""
        now = time.monotonic()
        fetched = [id for id, message in self._messages.items() if message.fetched]
        for id in fetched[: -(MESSAGES // 2)]:
            del self._messages[id]
        for id, message in list(self._messages.items()):
            if now - message.touched > STALE:
                del self._messages[id]
        held = sum(message.bytes for message in self._messages.values())
        return len(self._messages) < MESSAGES and held + chunk.total <= 2 * wire.LARGEST

    def _get(self, chunk: Chunk) -> Reply:
        with self._lock:
            message = self._messages.get(chunk.id)
        if message is None or message.reply is None:
            return Reply(wire.WANTED)
        message.touched = time.monotonic()
        try:
            data, squeezed = message.reply.result(chunk.wait)
        except NotYet:
            return Reply(wire.RUNNING)
        offset = chunk.offset if chunk.do == wire.GET else 0
        if offset > len(data):
            raise wire.bad("a part beyond the end")
        part = memoryview(data)[offset : offset + wire.CHUNK]
        message.fetched = message.fetched or offset + len(part) == len(data)
        return Reply(wire.READY, len(data), offset, part, squeezed)


def _keep(promise: Future[tuple[wire.Bytes, bool]] | None, reply: wire.Bytes, packs: bool) -> None:
    if len(reply) > wire.LARGEST:
        reply = codec.encode({"code": "SITE_FAILED"})
    if promise is not None:
        promise.set_result(wire.squeezed(reply) if packs else (reply, False))
