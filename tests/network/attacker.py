"""Someone who speaks FLARE as he likes: `python -m tests.network.attacker`, a job as JSON on stdin.

What came back is printed as JSON, one entry for each thing that was tried; null is no answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey as Key
from nvflare.fuel.f3.cellnet.utils import decode_payload
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.f3.message import Message
from nvflare.private.admin_defs import Message as Command
from nvflare.private.defs import CellMessageHeaderKeys as Head
from nvflare.private.fed.authenticator import Authenticator
from nvflare.private.fed.utils.fed_utils import fobs_initialize

SECONDS = 2.0  # for answers


class Attacker:
    """A cell with the certificate in `startup`; `kind` is client or server."""

    def __init__(
        self, startup: str, kind: str, name: str, port: int, hub: str, wait: float
    ) -> None:
        self.name, self.hub, self.files, self.kind = name, hub, Path(startup), kind
        crt, key = f"{startup}/{kind}.crt", f"{startup}/{kind}.key"
        names = ("SERVER_CERT", "SERVER_KEY") if kind == "server" else ("CLIENT_CERT", "CLIENT_KEY")
        secrets = dict(zip([DriverParams[n].value for n in names], (crt, key), strict=True))
        secrets[DriverParams.CA_CERT.value] = f"{startup}/rootCA.pem"
        secrets[DriverParams.CONNECTION_SECURITY.value] = "mtls"
        url = f"grpc://localhost:{port}"
        self.cell = Cell(fqcn=name, root_url=url, secure=True, credentials=secrets)
        self.cell.start()
        self.core = self.cell.core_cell
        self.seen: list[Any] = []
        inner = self.core.process_message

        def listen(endpoint: Any, connection: Any, app: int, message: Any) -> Any:
            self.seen.append(message)
            return inner(endpoint, connection, app, message)

        self.core.process_message = listen
        self.tokens: list[tuple[str, str]] = [("", "")]
        self._until(lambda: "server" in self.core.agents or kind == "server", wait)

    def _until(self, what: Any, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not what():
            time.sleep(0.02)
        return bool(what())

    def register(self) -> str | None:
        who = Authenticator(
            cell=self.cell,
            project_name=self.hub,
            client_name=self.name,
            client_type="regular",
            expected_sp_identity="server",
            secure_mode=True,
            root_cert_file=str(self.files / "rootCA.pem"),
            private_key_file=str(self.files / "client.key"),
            cert_file=str(self.files / "client.crt"),
            msg_timeout=2.0,
            retry_interval=0.5,
            timeout=2.0,
        )
        try:
            token, signature, *_ = who.authenticate(FLContext(), Signal())
        except Exception:
            return None
        self.tokens.append((token, signature))
        return "registered"

    def send(
        self,
        what: list[str],
        to: str = "server",
        origin: str = "",
        command: str = "",
        token: int = -1,
    ) -> str:
        """One request, with every header as it is wanted; its number."""
        number, way = str(uuid.uuid4()), to if self.kind == "server" else "server"
        if not self._until(lambda: way in self.core.agents, 25):
            return number
        headers = {
            Key.CHANNEL: what[0],
            Key.TOPIC: what[1],
            Key.ORIGIN: origin or self.name,
            Key.DESTINATION: to,
            Key.FROM_CELL: self.name,
            Key.TO_CELL: way,
            Key.MSG_TYPE: "req",
            Key.REQ_ID: number,
            Key.REPLY_EXPECTED: True,
            Key.ROUTE: [(self.name, time.time())],
            Head.CLIENT_NAME: self.name,
            Head.TOKEN: self.tokens[token][0],
            Head.TOKEN_SIGNATURE: self.tokens[token][1],
            Head.PROJECT_NAME: self.hub,
        }
        payload = Command(what[1], command) if command else b"x" * 60
        self.core._send_to_endpoint(self.core.agents[way].endpoint, Message(headers, payload))
        return number

    def answer(self, number: str) -> Any:
        """What the answer to a request says."""
        for one in self.seen:
            if one.get_header(Key.REQ_ID) in (number, [number]):
                if isinstance(one.payload, (bytes, bytearray, memoryview)):
                    decode_payload(one)
                return [one.get_header(Key.RETURN_CODE), str(getattr(one.payload, "body", ""))]
        return None


def main() -> None:
    job = json.load(sys.stdin)
    fobs_initialize()
    attacker = Attacker(**job["who"])
    said = [attacker.register() for _ in range(job.get("register", 0))]
    numbers = [attacker.send(**one) for one in job["sends"]]
    time.sleep(SECONDS if numbers else 0.0)
    said += [attacker.answer(number) for number in numbers]
    print("\n" + json.dumps(said), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
