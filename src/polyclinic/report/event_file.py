"""Event files that TensorBoard reads: numbers by name and step, appended one after the other.

A file is a row of records: the length of the data (8 bytes, little endian) and its checksum, the
data and its checksum. A checksum is the CRC-32C, turned by 15 bits, plus a constant. The data are
messages in the wire format of protocol buffers: `Event` with wall_time (1, double), step (2,
varint) and either file_version (3, string) or summary (5, message), which holds a value (1,
message) with tag (1, string) and simple_value (2, float).

Written here, because the libraries that do it bring a web server or protocol buffers with them.

Reference: TensorFlow, `record_writer.cc`, `event.proto` and `summary.proto`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

VERSION = b"brain.Event:2"
POLYNOMIAL = 0x82F63B78  # of CRC-32C, its bits turned around
MASK = 0xA282EAD8


class EventFile:
    """A new event file in a folder, which is made where it is missing."""

    def __init__(self, folder: Path, began: float | None = None) -> None:
        began = time.time() if began is None else began
        folder.mkdir(parents=True, exist_ok=True)
        self.path = _free(folder, f"events.out.tfevents.{int(began):010d}.polyclinic")
        self.path.write_bytes(_record(began, 0, _field(3, VERSION)))

    def add(self, step: int, numbers: Mapping[str, float], at: float | None = None) -> None:
        """Numbers of a step, by name; in the file when this returns."""
        at, found = time.time() if at is None else at, b""
        for name, number in numbers.items():
            value = _field(1, name.encode()) + b"\x15" + struct.pack("<f", number)
            found += _record(at, step, _field(5, _field(1, value)))
        with self.path.open("ab") as file:
            file.write(found)


def _record(at: float, step: int, what: bytes) -> bytes:
    data = b"\x09" + struct.pack("<d", at) + (b"\x10" + _varint(step) if step else b"") + what
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _free(folder: Path, name: str) -> Path:
    path, more = folder / name, 0
    while path.exists():
        more += 1
        path = folder / f"{name}.{more}"
    return path


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes, with its length."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


@cache
def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return tuple(found)


def _checksum(data: bytes) -> bytes:
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF)
