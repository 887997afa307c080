"""Where hospitals join: a small HTTPS server that trades an invitation for a certificate.

``python -m polyclinic.study.enrol HUBHOME`` runs until its standard input ends. A hospital sends
its name, the token of its invitation, a request for a certificate (its key stays at home), its
public signing key and its version. Every refusal is written down.
"""

from __future__ import annotations

import json
import re
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from polyclinic.core.errors import PolyclinicError
from polyclinic.governance.paper import PROTOCOL
from polyclinic.governance.signing import unhex
from polyclinic.study.hub import HubHome
from polyclinic.study.hubevents import Events
from polyclinic.study.hublobby import VERSION
from polyclinic.study.hubstore import hash_of

LONGEST = 64_000  # bytes of a request
READ = 1 << 20  # bytes taken off the line: a refusal is not heard by one who is still sending
SECONDS = 10.0  # for one request, from the first byte to the last
AT_ONCE = 16
LOOPBACK = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1"}
PER_SECOND, BURST = 5.0, 40.0
FIELDS = {"site": str, "token": str, "csr": str, "public": str, "version": str, "protocol": int}
_LENGTH = re.compile(r"[0-9]{1,12}")
_TOKEN = re.compile(r"[0-9a-f]{32}")
_VERSION = re.compile(r"[0-9A-Za-z.+!-]{1,64}")
Sign = Callable[[bytes, str], bytes]  # request and name -> certificate


class No(Exception):
    """A refusal: its code, and what else the hospital may know."""

    def __init__(self, code: str, **more: Any) -> None:
        super().__init__(code)
        self.code, self.more = code, more


class Enrolment:
    """Decides about requests; knows nothing of sockets.

    sign  makes a certificate of a request and a name; raises ValueError for a bad request
    """

    def __init__(self, home: HubHome, sign: Sign) -> None:
        self._home, self.store, self._sign = home, home.store, sign
        self.log = Events(home.folder / "enrol.jsonl")

    def answer(self, body: bytes, address: str) -> tuple[int, dict[str, Any]]:
        """HTTP status and content for the body of a request."""
        value: Any = None
        try:
            value = _fields(body)
            certificate = self._enrol(value)
        except No as refusal:
            return 403, self.refused(refusal, address, value)
        except PolyclinicError as error:  # a full disk
            return 503, self.refused(No(error.code), address, value)
        self.log.add("joined", site=value["site"], address=address, version=value["version"])
        return 200, {"cert": certificate.decode()}

    def _enrol(self, value: dict[str, Any]) -> bytes:
        site, digest = value["site"], hash_of(value["token"])
        if self.store.invited(digest) != site:
            raise No("INVITE_REFUSED")
        if (value["version"], value["protocol"]) != (VERSION, PROTOCOL):
            raise No("VERSION_DIFFERS", version=VERSION, protocol=PROTOCOL)
        public = unhex(value["public"])
        known = self.store.members(revoked=True)
        self._check_key(site, public, known)
        try:
            certificate = self._sign(value["csr"].encode(), site)
        except (ValueError, PolyclinicError):
            raise No("BAD_REQUEST") from None
        if not self.store.enrol(digest, site, public, certificate, value["version"]):
            raise No("INVITE_REFUSED")
        self._home.publish()
        return certificate

    def _check_key(self, site: str, public: bytes, known: dict[str, Any]) -> None:
        """A name keeps its key unless the coordinator has put it out, and a key its name."""
        if len(public) != 32:
            raise No("BAD_REQUEST")
        before = known.get(site)
        if before is not None and before.public != public and before.revoked is None:
            raise No("SITE_EXISTS")
        if any(one.public == public for name, one in known.items() if name != site):
            raise No("KEY_SUBSTITUTED")

    def refused(self, refusal: No, address: str, value: Any = None) -> dict[str, Any]:
        """Write a refusal down; what the other side is told."""
        site = value["site"][:64] if isinstance(value, dict) else ""
        with suppress(PolyclinicError):
            self.log.add("refused", code=refusal.code, site=site, address=address, **refusal.more)
        return {"code": refusal.code, **refusal.more}


def _fields(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise No("BAD_MESSAGE") from None
    if not isinstance(value, dict) or set(value) != set(FIELDS):
        raise No("BAD_MESSAGE")
    if any(type(value[name]) is not kind for name, kind in FIELDS.items()):
        raise No("BAD_MESSAGE")
    if not _TOKEN.fullmatch(value["token"]) or not _VERSION.fullmatch(value["version"]):
        raise No("BAD_MESSAGE")
    return value


class Pace:
    """So many requests a second, with a reserve for the first ones."""

    def __init__(self, per_second: float = PER_SECOND, burst: float = BURST) -> None:
        self._rate, self._most, self._left = per_second, burst, burst
        self._at, self._lock = time.monotonic(), threading.Lock()

    def take(self) -> bool:
        """Whether one more may come now."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._most, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True


class Server(ThreadingHTTPServer):
    """HTTPS; the handshake is made in the thread of its connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], enrolment: Enrolment, tls: ssl.SSLContext) -> None:
        self.enrolment, self.pace, self._tls = enrolment, Pace(), tls
        self._room = threading.BoundedSemaphore(AT_ONCE)
        super().__init__(address, _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, in a thread of its own, for at most `SECONDS`."""
        if not self._room.acquire(blocking=False):
            self.enrolment.refused(No("TOO_MANY"), str(client_address[0]))
            return self.shutdown_request(request)
        clock = threading.Timer(SECONDS, _cut, [request])
        clock.daemon = True
        clock.start()
        try:
            request.settimeout(SECONDS)
            tls = self._tls.wrap_socket(request, server_side=True)
            try:
                self.finish_request(tls, client_address)
            finally:
                self.shutdown_request(tls)
        except OSError:  # a stranger who does not speak TLS, or was too slow
            self.enrolment.refused(No("BAD_MESSAGE"), str(client_address[0]))
            self.shutdown_request(request)
        finally:
            clock.cancel()
            self._room.release()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "polyclinic", ""
    timeout = SECONDS

    def do_POST(self) -> None:
        address = str(self.client_address[0])
        given = self.headers.get("Content-Length", "")
        length = int(given) if _LENGTH.fullmatch(given) else None
        body = self.rfile.read(min(length or 0, READ))
        if not self.server.pace.take():
            return self._send(429, self.server.enrolment.refused(No("TOO_MANY"), address))
        if length is None or length > LONGEST:
            return self._send(413, self.server.enrolment.refused(No("BAD_MESSAGE"), address))
        self._send(*self.server.enrolment.answer(body, address))

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        refusal = No("BAD_MESSAGE")
        content = self.server.enrolment.refused(refusal, str(self.client_address[0]))
        self.request_version = getattr(self, "request_version", "HTTP/1.1")
        self._send(code, content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Refusals are in the hub's own log; nothing else is said."""


def _cut(connection: Any) -> None:
    import socket

    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def server(home: HubHome, address: tuple[str, int] | None = None) -> Server:
    """The server of a hub, bound to `address`; None: every address, the hub's own port."""
    from polyclinic.engines.flare.pki import sign_request

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(home.kit / "startup" / "server.crt", home.kit / "startup" / "server.key")

    def sign(request: bytes, site: str) -> bytes:
        certificate: bytes = sign_request(request, home.ca, home.ca_key, site)
        return certificate

    here = LOOPBACK.get(home.host, "")  # a hub on loopback is for this machine only
    return Server(address or (here, home.enrol_port), Enrolment(home, sign), tls)


def main() -> None:
    """Serve until standard input ends."""
    found = server(HubHome(Path(sys.argv[1])))
    threading.Thread(target=found.serve_forever, daemon=True).start()
    print(f"enrolment on port {found.server_address[1]}", file=sys.stderr, flush=True)
    while sys.stdin.buffer.read(4096):
        pass


if __name__ == "__main__":
    main()
