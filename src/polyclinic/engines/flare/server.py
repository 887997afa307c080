"""The hub's part inside FLARE's server process: a door for this machine, a line to every site."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.utils import new_cell_message

from polyclinic.engines.flare import border, ending
from polyclinic.engines.flare.children import Children
from polyclinic.engines.flare.door import Door
from polyclinic.engines.flare.kit import HEARTBEAT

CHANNEL, TOPIC = "polyclinic", "ask"
SILENT = 4 * HEARTBEAT  # seconds without a sign of life after which a site counts as away


class HubComponent(FLComponent):  # type: ignore[misc]
    """Carries bytes between the socket and the sites; starts and watches the hub's other processes.

    Parameters
    ----------
    socket : path of the Unix socket.
    children : commands that run as long as this process does.
    """

    def __init__(self, socket: str, children: Sequence[Sequence[str]] = ()) -> None:
        super().__init__()
        self._door = Door(Path(socket), self._sites, self._send)
        self._children = Children(children)
        self._engine: Any = None
        self._refused = Path(socket).with_name("refused.jsonl")

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin when FLARE is up."""
        if event_type == EventType.SYSTEM_START and self._engine is None:
            self._engine = fl_ctx.get_engine()
            border.here.tell(border.to_file(self._refused))
            self._door.open()
            self._children.start()
            ending.at_end(self._stop)

    def _stop(self) -> None:
        self._door.close()
        self._children.stop()

    def _clients(self) -> dict[str, Any]:
        clients = self._engine.get_clients()
        return {client.name: client for client in clients if border.here.knows(client.name)}

    def _sites(self) -> dict[str, dict[str, Any]]:
        now = time.time()
        heard = {name: now - client.last_connect_time for name, client in self._clients().items()}
        linked = self._engine.get_cell().core_cell.agents
        return {
            name: {"heard": max(ago, 0.0)}
            for name, ago in heard.items()
            if ago < SILENT and self._clients()[name].get_fqcn() in linked
        }

    def _send(self, site: str, data: bytes, seconds: float) -> object | None:
        client = self._clients().get(site)
        if client is None:
            return None
        reply = self._engine.get_cell().core_cell.send_request(
            channel=CHANNEL,
            topic=TOPIC,
            target=client.get_fqcn(),
            request=new_cell_message({}, data),
            timeout=seconds,
            optional=True,
        )
        if reply is None or reply.get_header(MessageHeaderKey.RETURN_CODE) != ReturnCode.OK:
            return None
        client.last_connect_time = max(client.last_connect_time, time.time())
        payload: object = reply.payload
        return payload
