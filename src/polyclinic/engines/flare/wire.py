"""How bytes are cut, packed and framed on their way between a hub and its hospitals.

Between the hub's server process and a hospital's client process a message travels in chunks of at
most 2 MB. Every chunk names its message, so that one that was lost on the way is sent again, and a
message reaches the hospital's agent once.
"""

from __future__ import annotations

import socket as sockets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.core import codec
from polyclinic.core.errors import PolyclinicError

try:
    import zstandard as _zstandard
except ImportError:  # an extra: without it messages travel as they are
    _zstandard = None  # type: ignore[assignment]

zstandard: Any = _zstandard
Bytes = codec.Bytes
CHUNK = 2_000_000  # measured: larger ones wait for each other, smaller ones cost more calls
LARGEST = codec.LONGEST  # bytes of a message, compressed or not
_SAMPLE, _SMALLEST, _WORTH = 65536, 4096, 0.9

# a chunk on its way to a hospital, and the answer to it
MAGIC = b"PCW1"
PUT, GET, DROP = 1, 2, 3
SQUEEZED, PACKS = 1, 2  # the message is compressed; the sender can read compressed replies
RUNNING, READY, WANTED, REFUSED, BUSY = 1, 2, 3, 4, 5
_CHUNK = struct.Struct("<4sBB16sQQd")
_REPLY = struct.Struct("<4sBBQQ")
_FRAME = struct.Struct("<IQ")
_LONGEST_HEAD = 1_000_000


class WireError(PolyclinicError):
    """Bytes that no sender of this version makes: BAD_MESSAGE."""


@dataclass(frozen=True)
class Chunk:
    """A part of a message, or a question for a part of its reply.

    id      of the message, 16 random bytes
    total   bytes of the whole message
    offset  of `data` in the message; in a GET, of the wanted part in the reply
    wait    seconds for which the reply may be waited for
    """

    do: int
    id: bytes
    total: int = 0
    offset: int = 0
    data: Bytes = b""
    flags: int = 0
    wait: float = 0.0

    def to_bytes(self) -> bytes:
        """As it travels."""
        head = _CHUNK.pack(MAGIC, self.do, self.flags, self.id, self.total, self.offset, self.wait)
        return b"".join((head, self.data))

    @staticmethod
    def open(data: object) -> Chunk:
        """Raises WireError for anything that is not a chunk."""
        if not isinstance(data, (bytes, bytearray, memoryview)) or len(data) < _CHUNK.size:
            raise bad("a chunk is cut short")
        magic, do, flags, id, total, offset, wait = _CHUNK.unpack_from(data)
        body = memoryview(data)[_CHUNK.size :]
        if magic != MAGIC or do not in (PUT, GET, DROP) or flags > SQUEEZED | PACKS:
            raise bad("no chunk of this version")
        if len(body) > CHUNK or total > LARGEST or not 0.0 <= wait <= 60.0:
            raise bad("a message or a chunk is too long")
        if do == PUT and (offset + len(body) > total or not (body or total == 0)):
            raise bad("a chunk lies outside its message")
        return Chunk(do, id, total, offset, body, flags, wait)


@dataclass(frozen=True)
class Reply:
    """What a hospital's client process says to a chunk; `data` is a part of the agent's reply."""

    state: int
    total: int = 0
    offset: int = 0
    data: Bytes = b""
    squeezed: bool = False

    def to_bytes(self) -> bytes:
        """As it travels."""
        head = _REPLY.pack(MAGIC, self.state, self.squeezed, self.total, self.offset)
        return b"".join((head, self.data))

    @staticmethod
    def open(data: object) -> Reply:
        """Raises WireError for anything that is not a reply."""
        if not isinstance(data, (bytes, bytearray, memoryview)) or len(data) < _REPLY.size:
            raise bad("a reply is cut short")
        magic, state, squeezed, total, offset = _REPLY.unpack_from(data)
        body = memoryview(data)[_REPLY.size :]
        known = magic == MAGIC and RUNNING <= state <= BUSY and squeezed in (0, 1)
        if not known or total > LARGEST or len(body) > CHUNK or offset + len(body) > total:
            raise bad("no reply of this version")
        return Reply(state, total, offset, body, bool(squeezed))


def can_squeeze() -> bool:
    """Whether this process can compress."""
    return zstandard is not None


def squeezed(data: Bytes) -> tuple[Bytes, bool]:
    """The bytes, compressed where a sample of them shrinks: masked vectors do not."""
    if zstandard is None or len(data) < _SMALLEST:
        return data, False
    packer = zstandard.ZstdCompressor(level=1)
    if len(data) > 4 * _SAMPLE:
        view, middle = memoryview(data), len(data) // 2
        sample = bytes(view[middle : middle + _SAMPLE])
        if len(packer.compress(sample)) > _WORTH * len(sample):
            return data, False
    packed = packer.compress(data)
    return (packed, True) if len(packed) < _WORTH * len(data) else (data, False)


def unsqueezed(data: Bytes, packed: bool) -> Bytes:
    """The bytes as they were. Raises WireError where they would be too many."""
    if not packed:
        return data
    if zstandard is None:
        raise bad("compressed, and zstandard is not installed")
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= LARGEST:
            raise bad("a compressed message does not say how long it is, or is too long")
        return bytes(zstandard.ZstdDecompressor().decompress(data, max_output_size=size))
    except zstandard.ZstdError as error:
        raise bad("a compressed message is damaged") from error


def send_frame(connection: sockets.socket, header: Mapping[str, Any], body: Bytes = b"") -> None:
    """Send a header and a body."""
    head = codec.encode(dict(header))
    start = _FRAME.pack(len(head), len(body)) + head
    if len(body) < 65536:
        connection.sendall(start + bytes(body))
        return
    connection.sendall(start)
    connection.sendall(body)


def receive_frame(connection: sockets.socket) -> tuple[dict[str, Any], memoryview]:
    """A header and a body. Raises EOFError at the end, WireError for anything else."""
    size, length = _FRAME.unpack(receive(connection, _FRAME.size))
    if size > _LONGEST_HEAD or length > LARGEST:
        raise bad("a frame is too long")
    header = codec.decode(bytes(receive(connection, size)))
    if not isinstance(header, dict):
        raise bad("a frame has another header")
    return header, receive(connection, length)


def receive(connection: sockets.socket, n: int) -> memoryview:
    """Exactly `n` bytes. Raises EOFError."""
    data, at = codec.room(n), 0
    while at < n:
        got = connection.recv_into(data[at:], min(n - at, 1 << 20))
        if not got:
            raise EOFError
        at += got
    return data


def bad(what: str) -> WireError:
    """Bytes of another form."""
    return WireError(what, code="BAD_MESSAGE", rule="messages are canonical bytes of plain data")
