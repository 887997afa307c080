"""The officer's commands at a hospital that joins a hub."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout

import pytest

pytest.importorskip("nvflare")

from polyclinic.cli.main import main
from polyclinic.data.codebook import Codebook
from polyclinic.governance.home import SiteHome
from polyclinic.governance.paper import Paper
from polyclinic.privacy.secure import Identity
from polyclinic.site import service
from polyclinic.site.inbox import Inbox
from polyclinic.study.enrol import server
from polyclinic.study.hub import HubHome
from tests.site.world import PURPOSE, SCHEMA, rows, study


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A hospital's folder with its data, and a hub that takes requests; nothing is joined yet."""
    folder = tmp_path_factory.mktemp("desk")
    hub = HubHome(folder / "hubs" / "heart").init("127.0.0.1", 1)
    found = server(hub, ("127.0.0.1", 0))
    threading.Thread(target=found.serve_forever, daemon=True).start()
    text = hub.invite("north").replace("enrol_port = 2", f"enrol_port = {found.server_address[1]}")
    (folder / "north.invite").write_text(text)
    (folder / "wards.toml").write_text(SCHEMA)
    (folder / "north.csv").write_text(rows(1))
    yield Desk(folder, hub)
    found.shutdown()
    found.server_close()


class Desk:
    def __init__(self, folder, hub):
        self.folder, self.hub, self.home = folder, hub, folder / "north"
        self.others = {site: Identity.generate().public for site in ("east", "west")}

    def site(self, *args, code=0, typed=None):
        """What a command says, as it does in a process of its own."""
        out, left = io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(out):
            patched.setattr(sys, "argv", ["polyclinic", "site", *map(str, args)])
            patched.setattr(sys, "stdin", io.StringIO(typed or ""))
            patched.setenv("POLYCLINIC_SITE", str(self.home))
            patched.chdir(self.folder)
            try:
                main()
            except SystemExit as ended:
                left = ended.code
        said = out.getvalue()
        assert left in (code, None), said
        return " ".join(said.split())

    def offer(self, name):
        keys = {**self.others, "north": SiteHome(self.home).identity.public}
        book = Codebook.load(self.folder / "wards.toml")
        paper = Paper(study(name=name), book, keys, "heart", self.hub.identity.public)
        return Inbox(SiteHome(self.home)).offer(paper.signed(self.hub.identity))


def test_from_an_invite_to_an_approval_and_back(desk):
    where = ("--data", "north.csv", "--schema", "wards.toml")
    assert "NO_FILE" in desk.site("join", "absent.invite", *where, code=2)
    said = desk.site("join", "north.invite", *where)
    for words in (
        "keys made here; the private key never leaves this folder (mode 0700)",
        "hub heart, fingerprint ",
        "data 120 rows, 5 columns, 0 findings",
        "policy none: this site refuses every plan until you sign one",
        "then polyclinic site policy --sign",
    ):
        assert words in said, said
    assert "INVITE_REFUSED" in desk.site("join", "north.invite", *where, code=2)
    assert "120 rows" in desk.site("check")
    assert json.loads(desk.site("check", "--json"))["rows"] == 120
    assert desk.site("review") == "no study waits for a decision"
    paper = desk.offer("wards")
    said = desk.site("review")
    assert f"hash {paper.short_hash}" in said and PURPOSE in said
    assert "POLICY_UNSIGNED" in desk.site("approve", "wards", "--yes", "wards", code=1)
    assert "the study is not approved" in desk.site("approve", "wards", "--yes", "wards", code=1)
    desk.site("policy", "--sign")
    assert "NOT_SIGNED" in desk.site("approve", "wards", "--yes", "other", code=2)
    assert "NOT_SIGNED" in desk.site("approve", "wards", code=2, typed="yes\n")
    assert "UNKNOWN_STUDY" in desk.site("approve", "nothing", "--yes", "nothing", code=2)
    assert Inbox(SiteHome(desk.home)).state(paper.hash) == "waiting"
    said = desk.site("approve", "wards", typed="wards\n")
    assert f"This approves study {paper.short_hash} as reviewed" in said
    assert "signed audit entry" in said and "polyclinic site refuse wards" in said
    assert Inbox(SiteHome(desk.home)).state(paper.hash) == "approved"
    assert "nothing more of wards leaves" in desk.site("refuse", "wards", "--why", "no more")
    assert Inbox(SiteHome(desk.home)).state(paper.hash) == "refused"
    assert "chain unbroken" in desk.site("audit", "verify")
    assert "does not run" in desk.site("status")
    assert "was not running" in desk.site("stop")


def test_a_process_is_started_once_seen_and_stopped(desk):
    home = SiteHome(desk.home)
    desk.offer("second")
    (desk.home / "site.pid").write_text(f"{os.getpid():>20}")  # a number that is left over
    assert "does not run" in desk.site("status")
    assert "was not running" in desk.site("stop")
    assert "started north, process" in desk.site("start")
    pid = service.running(home)
    try:
        assert "ALREADY_RUNNING" in desk.site("start", code=2)
        found = json.loads(desk.site("status", "--json"))
        assert found["pid"] == pid != os.getpid() and found["connected"] is False
        assert ["second", "waiting"] in [[s[0], s[2]] for s in found["studies"]]
        said = desk.site("status")
        assert f"runs, process {pid}" in said and "next polyclinic site review" in said
        assert "! not connected" in said and "signed and in force" in said
    finally:
        assert f"process {pid}" in desk.site("stop")
    assert service.running(home) == 0
    assert (desk.home / "log" / "site.log").stat().st_mode & 0o077 == 0


def test_a_loosened_kit_is_not_started(desk):
    path = desk.home / "kit" / "local" / "authorization.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"none"', b'"any"'))
    try:
        said = desk.site("start", code=2)
        assert "KIT_CHANGED" in said and "authorization.json" in said
        assert service.running(SiteHome(desk.home)) == 0
    finally:
        path.write_bytes(before)


def test_a_site_without_a_hub_says_what_to_do(desk, tmp_path):
    desk.site("init", "alone", "--home", tmp_path / "alone")
    for command in ("start", "status", "check"):
        said = desk.site(command, "--home", tmp_path / "alone", code=2)
        assert "NOT_JOINED" in said and "polyclinic site join INVITE" in said
