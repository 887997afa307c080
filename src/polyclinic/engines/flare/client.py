"""The hospital's part inside FLARE's client process: from the hub to the agent and back.

There are no rows in this process. It takes requests of the hub's server only, and hands them to the
agent, which decides.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.utils import make_reply

from polyclinic.core import codec
from polyclinic.core.checkpoint import write_atomic
from polyclinic.core.errors import Stopped
from polyclinic.engines.flare import border, ending
from polyclinic.engines.flare.agentpipe import AgentPipe
from polyclinic.engines.flare.kit import HEARTBEAT
from polyclinic.engines.flare.mailbox import Mailbox

CHANNEL, TOPIC = "polyclinic", "ask"
SILENT, LOOK = 4 * HEARTBEAT, 1.0
TO_REGISTER = 10.0


class SiteComponent(FLComponent):  # type: ignore[misc]
    """Runs the agent and answers the hub.

    Parameters
    ----------
    agent : command of the process that holds the rows.
    state : file that says how this process is: connected, turned_away (the hub does not take this
        hospital), heard (seconds since the epoch), agent and pid (process numbers), version.
    """

    def __init__(self, agent: list[str], state: str) -> None:
        super().__init__()
        self._state = Path(state)
        self._lock = threading.Lock()
        self._about: dict[str, Any] = {
            "connected": False,
            "turned_away": _turned_away_before(self._state),
            "heard": 0.0,
            "agent": 0,
            "pid": os.getpid(),
            "version": version("polyclinic"),
        }
        log = self._state.with_name("agent.log")
        self._agent = AgentPipe(agent, log, lambda pid: self._say(agent=pid))
        self._mailbox = Mailbox(self._agent.ask)
        self._begun = False
        self._registered = threading.Event()
        self._cell: Any = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin before FLARE registers; note every sign of the hub."""
        if event_type == EventType.BEFORE_CLIENT_REGISTER and not self._begun:
            self._begun = True  # before the hub knows that there is someone to ask
            cell = fl_ctx.get_engine().get_cell().core_cell  # no streams: chunks are ours
            self._cell = cell
            self._agent.start()
            border.here.tell(lambda about: self._agent.note(codec.encode(dict(about))))
            cell.register_request_cb(CHANNEL, TOPIC, self._answer)
            ending.at_end(self._stop)
            self._say()
            threading.Thread(target=self._watch, name="state", daemon=True).start()
        elif event_type in (EventType.SYSTEM_START, EventType.AFTER_CLIENT_HEARTBEAT):
            self._registered.set()
            self._heard()

    def _answer(self, message: Any) -> Any:
        if message.get_header(MessageHeaderKey.ORIGIN) != FQCN.ROOT_SERVER:
            return make_reply(ReturnCode.AUTHENTICATION_ERROR)
        self._registered.wait(TO_REGISTER)  # FLARE's server drops what it hears before
        return make_reply(ReturnCode.OK, "", self._mailbox.answer(message.payload))

    def _heard(self) -> None:
        """FLARE tells of a sign that failed, too: what counts is what came from the hub."""
        if self._linked() and time.time() - border.here.heard < SILENT:
            self._say(connected=True, turned_away=False, heard=border.here.heard)

    def _linked(self) -> bool:
        return FQCN.ROOT_SERVER in self._cell.agents and not border.here.turned_away

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK)
            if border.here.turned_away and not self._about["turned_away"]:
                self._say(connected=False, turned_away=True)
            silent = time.time() - self._about["heard"] > SILENT
            if self._about["connected"] and (silent or not self._linked()):
                self._say(connected=False)

    def _say(self, **news: Any) -> None:
        with self._lock:
            self._about.update(news)
            with suppress(Stopped):  # a full disk is no reason to stop answering
                write_atomic(self._state, json.dumps(self._about).encode())

    def _stop(self) -> None:
        self._agent.stop()
        self._say(connected=False, agent=0)


def _turned_away_before(state: Path) -> bool:
    """What the process of before has known, where FLARE's end has made it begin anew."""
    try:
        return json.loads(state.read_bytes()).get("turned_away") is True
    except (OSError, ValueError, AttributeError):
        return False
