"""What a FLARE process takes from the network: our questions, and what keeps a connection alive.

FLARE's processes would do far more for each other: read files for an administrator, run jobs, pass
messages from one hospital to the next, stop. Who asks, and with which rights, the sender writes
into the message himself. Nothing of it is needed here, so every message is judged before FLARE
reads it, nobody but the hub and its hospitals is spoken to, and no second port is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

ASK = ("polyclinic", "ask")
BYE = ("cellnet.channel", "bye")
TO_HUB = frozenset(("task", name) for name in ("challenge", "register", "quit", "heart_beat"))
SERVER, STRANGER = "server", "not a hospital of this hub"
MEMBERS = "members.json"  # of the hub: a hospital's name -> SHA-256 of its certificate
TURNED_AWAY = "polyclinic turned away"  # a hub's last message to who is no hospital of it
CLOSE_AFTER = 1.0  # seconds in which that message travels
LONGEST = 5_000_000
EVERY = 1.0  # seconds for which refusals of one kind are counted before they are written
Refusals = Callable[[Mapping[str, Any]], None]


class Border:
    """Judges messages.

    Parameters
    ----------
    members : file of a hub with the certificates of its hospitals; None: this is a hospital. Where
        there is no such file, every hospital with a certificate of the hub's authority is let in.
    """

    def __init__(self, members: Path | None = None) -> None:
        self.heard = 0.0  # when a message was taken last, by the clock
        self.turned_away = False  # the hub's last word was that it does not take this hospital
        self._members = members
        self._read: tuple[Any, dict[str, str] | None] = (None, None)
        self._lock = threading.Lock()
        self._count: Counter[tuple[str, ...]] = Counter()
        self._tell: list[Refusals] = []

    def why_not(self, own: str, peer: str, certificate: str, headers: Mapping[str, Any]) -> str:
        """Why a message is not taken; "": it is.

        Parameters
        ----------
        own : name of this process among FLARE's.
        peer : name of the connection's other end; FLARE has compared it with the certificate.
        certificate : SHA-256 of the other end's, where this end is the hub.
        """
        kind, origin, to = (headers.get(key) for key in ("msg_type", "origin", "destination"))
        what = (headers.get("channel"), headers.get("topic"))
        if not peer or origin != peer:
            return "sent in another's name"
        if to != own:
            return "for somebody else"
        if self._members is None and peer != SERVER:
            return "not from the hub"
        administrator = peer.startswith("_")  # FLARE does not compare such a name with anything
        if self._members is not None and (administrator or not self.knows(peer, certificate)):
            return STRANGER
        wanted = {BYE, *(TO_HUB if self._members is not None else (ASK,))}
        if kind == "reply":
            return "" if self._members is None or what == ASK else "no answer to a question"
        return "" if kind == "req" and what in wanted else "nothing that is done here"

    def knows(self, site: str, certificate: str | None = None) -> bool:
        """Whether a hospital may take part, with this certificate where one is given."""
        known = self._known()
        if known is None:
            return True
        return known.get(site) == certificate if certificate is not None else site in known

    def _known(self) -> dict[str, str] | None:
        if self._members is None:
            return None
        try:
            now = self._members.stat()
        except FileNotFoundError:
            return None
        except OSError:
            return {}
        mark = (now.st_ino, now.st_size, now.st_mtime_ns)
        if self._read[0] != mark:
            self._read = mark, _members(self._members)
        return self._read[1]

    def tell(self, refusals: Refusals) -> None:
        """Have refusals told, in bundles of a second: why, peer, origin, channel, topic, times."""
        self._tell.append(refusals)
        if len(self._tell) == 1:
            threading.Thread(target=self._telling, name="border", daemon=True).start()

    def refused(self, why: str, peer: str, headers: Mapping[str, Any]) -> None:
        """Count a refusal."""
        names = ("origin", "channel", "topic")
        about = (why, peer, *(str(headers.get(name, ""))[:64] for name in names))
        with self._lock:
            if about in self._count or len(self._count) < 100:
                self._count[about] += 1
            else:  # a flood of different ones
                self._count[why, peer, "", "", ""] += 1

    def _telling(self) -> None:
        while True:
            time.sleep(EVERY)
            with self._lock:
                found, self._count = self._count, Counter()
            for (why, peer, origin, channel, topic), times in found.items():
                about = {"why": why, "peer": peer, "origin": origin}
                for one in list(self._tell):
                    one({**about, "channel": channel, "topic": topic, "times": times})


here = Border()  # of this process


def close(members: Path | None = None) -> None:
    """Put the border around FLARE, before any part of it begins."""
    from nvflare.fuel.f3.cellnet.core_cell import CoreCell

    here.__init__(members)  # type: ignore[misc]
    inner = CoreCell.process_message

    def process_message(
        cell: Any, endpoint: Any, connection: Any, app_id: int, message: Any
    ) -> None:
        headers = _plain(message)
        peer = str(getattr(endpoint, "name", "") or "")
        certificate = "" if members is None else _certificate(connection)
        why = here.why_not(cell.get_fqcn(), peer, certificate, headers)
        if members is None and peer == SERVER and headers["msg_type"] == TURNED_AWAY:
            here.turned_away = True
            return
        if not why:
            here.heard, here.turned_away = time.time(), False
            inner(cell, endpoint, connection, app_id, message)
            return
        here.refused(why, peer, headers)
        if why == STRANGER and connection is not None:
            _turn_away(cell, endpoint, connection)

    CoreCell.process_message = process_message
    # FLARE would listen for its jobs' processes on this machine, to whoever comes. There are none.
    CoreCell._create_internal_listener = lambda *_: None


def _turn_away(cell: Any, endpoint: Any, connection: Any) -> None:
    """Say once that nothing is taken, so that a hospital does not take it for a loss, and close."""
    from nvflare.fuel.f3.message import Message

    if getattr(connection, "polyclinic_turned_away", False):
        return
    connection.polyclinic_turned_away = True
    with suppress(Exception):  # a stranger that is gone
        cell.communicator.send(endpoint, cell.APP_ID, Message(_headers(TURNED_AWAY), b""))
    closing = threading.Timer(CLOSE_AFTER, connection.close)
    closing.daemon = True
    closing.start()


def _headers(kind: str) -> dict[str, Any]:
    from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey as Key

    return {Key.MSG_TYPE: kind, Key.ORIGIN: SERVER}


def to_file(path: Path) -> Refusals:
    """Writes refusals down, a JSON line each; the lines before the last 5 MB are let go."""

    def write(about: Mapping[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(OSError):
            if path.exists() and path.stat().st_size > LONGEST:
                path.replace(path.with_suffix(".jsonl.1"))
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "ab") as file:
                file.write(json.dumps({"at": at, **about}).encode() + b"\n")

    return write


def certificate_hash(pem: bytes) -> str:
    """Under what a certificate stands in a hub's file of hospitals."""
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    return hashlib.sha256(der).hexdigest()


def _plain(message: Any) -> dict[str, Any]:
    """The headers that FLARE itself reads, by their short names."""
    from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey as Key

    names = ("MSG_TYPE", "ORIGIN", "DESTINATION", "CHANNEL", "TOPIC")
    return {name.lower(): message.get_header(getattr(Key, name)) for name in names}


def _certificate(connection: Any) -> str:
    """SHA-256 of the certificate with which the other end has connected; "": none."""
    found = getattr(connection, "polyclinic_certificate", None)
    if found is None:
        context = getattr(connection, "context", None)
        pems = [] if context is None else context.auth_context().get("x509_pem_cert", [])
        found = certificate_hash(pems[0]) if pems else ""
        connection.polyclinic_certificate = found
    return str(found)


def _members(path: Path) -> dict[str, str]:
    """What the file says; nobody where it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
