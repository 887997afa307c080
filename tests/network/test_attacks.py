"""Attacks on a hub and its hospitals through FLARE, with certificates that are good or were.

A hub with two hospitals as real processes. One hospital turns against the other, the certificate of
one that was put out is used, the hub's own server is taken over, a neighbour sits on the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from polyclinic.cli.stage import Stage
from polyclinic.engines.hubline import HubLine
from polyclinic.governance.chain import entries, verify

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
HELLO = b"PCM1\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"kind":"HELLO"}'


@pytest.fixture(scope="module")
def stage(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    files = {s: data_dir / f"heart-disease/processed.{s}.data" for s in ("cleveland", "va")}
    schema = ROOT / "examples/heart.toml"
    with Stage(tmp_path_factory.mktemp("attacks"), files, schema) as stage:
        yield stage


def hub(stage: Stage) -> Path:
    return stage.folder / "hub/hubs" / stage.hub


def attack(stage: Stage, startup: Path, who: dict[str, Any], sends: list[Any], **more: Any) -> Any:
    """What an attacker with the certificate in `startup` is answered."""
    about = {"startup": str(startup), "port": stage.port, "hub": stage.hub, "wait": 10.0, **who}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.network.attacker"],
        input=json.dumps({"who": about, "sends": sends, **more}),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def refused(stage: Stage, peer: str) -> set[tuple[str, str]]:
    """What the hub has written down about `peer`: why, and topic."""
    time.sleep(1.5)
    lines = (hub(stage) / "socket/refused.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {(one["why"], one["topic"]) for one in found if one["peer"] == peer}


def answers(stage: Stage) -> dict[str, bytes]:
    line = HubLine(hub(stage) / "socket/hub.sock")
    return {site: bytes(said) for site, said in line.ask({"va": HELLO}, 30).items()}


def orders(stage: Stage, **more: Any) -> list[dict[str, Any]]:
    """What nobody but a hub's administrator could want of a hospital."""
    key = stage.home("va") / "keys/site.key"
    shell = [f"head -n 1 {file}" for file in (key, stage.files["va"])]
    found = [{"what": ["admin", "sys.shell"], "command": text} for text in shell]
    found.append({"what": ["admin", "train.shutdown"], "command": "now"})
    found += [{"what": ["polyclinic", "ask"]}, {"what": ["_net_manager", "stop_cell"]}]
    found.append({"what": ["cellnet.channel", "bulk"]})
    return [{**one, "to": "va", **more} for one in found]


def test_a_hospital_reaches_neither_another_one_nor_more_of_the_hub(stage: Stage) -> None:
    stage.do("site", "stop", site="cleveland")
    own = stage.home("cleveland") / "kit/startup"
    kept = hub(stage).parent / "old"
    shutil.copytree(own, kept)
    # A token of before is still signed by the hub, but bound to nobody: it may name any sender.
    sends = [*orders(stage), *orders(stage, origin="server", token=1)]
    sends += [{"what": ["_net_manager", "stop_cell"]}, {"what": ["task", "report_job_failure"]}]
    me = {"kind": "client", "name": "cleveland"}
    said = attack(stage, own, me, sends, register=2)
    assert said[:2] == ["registered", "registered"]
    assert said[2:] == [None] * len(sends), said
    written = refused(stage, "cleveland")
    assert ("for somebody else", "sys.shell") in written
    assert ("sent in another's name", "sys.shell") in written
    assert ("nothing that is done here", "stop_cell") in written
    assert b'"site":"va"' in answers(stage)["va"]


def test_a_hospital_cannot_connect_in_the_name_of_another(stage: Stage) -> None:
    own = stage.home("cleveland") / "kit/startup"
    said = attack(stage, own, {"kind": "client", "name": "va"}, orders(stage)[:1], register=1)
    assert said == [None, None]
    assert b'"site":"va"' in answers(stage)["va"]


def test_nobody_listens_for_the_neighbours_on_the_machine(stage: Stage) -> None:
    """FLARE would open a port without TLS in every process, for its jobs."""
    numbers = {int((hub(stage) / "socket/lock").read_text())}
    numbers.add(int((stage.home("va") / "site.pid").read_text()))
    for number in numbers:
        links = [os.readlink(f) for f in Path(f"/proc/{number}/fd").iterdir() if f.is_symlink()]
        mine = {link[8:-1] for link in links if link.startswith("socket:[")}
        ports = set()
        for table in ("tcp", "tcp6"):
            for row in Path(f"/proc/{number}/net/{table}").read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == "0A" and fields[9] in mine:
                    ports.add(int(fields[1].rsplit(":", 1)[1], 16))
        assert ports <= {stage.port}


def says(stage: Stage, words: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while words not in (said := stage.do("site", "status", site="cleveland")):
        assert time.monotonic() < until, said
        time.sleep(0.5)


def test_a_hospital_that_was_put_out_is_not_heard_and_its_old_certificate_never_again(
    stage: Stage,
) -> None:
    if "does not run" in stage.do("site", "status", site="cleveland"):
        stage.do("site", "start", site="cleveland")
    says(stage, "  connected", 40.0)
    stage.do("hub", "revoke", "cleveland", "--hub", stage.hub)
    says(stage, "the hub does not take this site any more", 15.0)
    stage.do("site", "stop", site="cleveland")
    stage.do("site", "start", site="cleveland")  # as one that was away
    says(stage, "the hub does not take this site any more", 30.0)
    stage.do("site", "stop", site="cleveland")
    own = stage.home("cleveland") / "kit/startup"
    me = {"kind": "client", "name": "cleveland"}
    assert attack(stage, own, me, [], register=1) == [None]
    assert ("not a hospital of this hub", "challenge") in refused(stage, "cleveland")
    invite = stage.folder / "again.invite"
    stage.do("hub", "invite", "cleveland", "--hub", stage.hub, "--out", str(invite))
    where = ("--data", str(stage.files["cleveland"]), "--schema", str(stage.schema))
    stage.do("site", "join", str(invite), *where, site="cleveland")
    assert attack(stage, hub(stage).parent / "old", me, [], register=1) == [None]
    assert attack(stage, own, me, [], register=1) == ["registered"]


def test_strangers_who_speak_no_tls_or_nonsense_change_nothing(stage: Stage) -> None:
    for port in (stage.port, stage.port + 1):
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + os.urandom(500), b""):
            with socket.create_connection(("localhost", port), 5) as line:
                line.sendall(data)
    assert b'"site":"va"' in answers(stage)["va"]


def test_whoever_takes_over_the_hubs_server_gets_nothing_from_a_hospital(stage: Stage) -> None:
    stage.do("hub", "stop", stage.hub)
    me = {"kind": "server", "name": "server", "wait": 1.0}
    said = attack(stage, hub(stage) / "server/startup", me, orders(stage))
    heard = [one for one in said if one is not None]
    assert len(heard) == 1 and said[3] == heard[0], said  # our own channel: a code, and no more
    assert heard[0][0] == "ok"
    time.sleep(2)
    log = stage.home("va") / "audit.jsonl"
    found = [one["details"] for one in entries(log) if one["event"] == "network_refused"]
    assert {one["topic"] for one in found} >= {"sys.shell", "train.shutdown", "stop_cell"}
    assert verify(log).ok
    assert "va              runs" in stage.do("site", "status", site="va")
