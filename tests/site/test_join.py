"""Joining a hub through its real enrolment server, and the data that a hospital may have."""

from __future__ import annotations

import json
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from polyclinic.core.errors import InputError, Stopped
from polyclinic.data.codebook import Codebook
from polyclinic.data.read import read_table
from polyclinic.engines.flare.kit import check_kit, settle_kit
from polyclinic.governance.chain import entries
from polyclinic.governance.home import SiteHome
from polyclinic.site import service
from polyclinic.site.agent import Agent
from polyclinic.site.data import Joined
from polyclinic.site.join import join, read_invite
from polyclinic.study import hubservice
from polyclinic.study.enrol import server
from polyclinic.study.hub import HubHome
from tests.site.world import SCHEMA, rows


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub whose enrolment server listens; only that, no network of FLARE."""
    home = HubHome(tmp_path_factory.mktemp("hubs") / "heart").init("127.0.0.1", 8002)
    found = server(home, ("127.0.0.1", 0))
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield home, found.server_address[1]
    found.shutdown()
    found.server_close()


@pytest.fixture
def here(tmp_path, hub):
    """The coordinator's file and the hospital's own, as they lie before a join."""
    home, port = hub
    (tmp_path / "wards.toml").write_text(SCHEMA)
    (tmp_path / "north.csv").write_text(rows(1))

    def invite(site="north", **changed):
        text = home.invite(site)
        changed = {"enrol_port": port, **changed}
        lines = [
            f"{key} = {changed[key]!r}".replace("'", '"') if key in changed else line
            for line in text.splitlines()
            for key in [line.partition(" = ")[0]]
        ]
        path = tmp_path / f"{site}.invite"
        path.write_text("\n".join(lines) + "\n")
        return path

    def go(path, **more):
        asked = {"home": tmp_path / "home", **more}
        data = asked.pop("data", tmp_path / "north.csv")
        return join(path, data, tmp_path / "wards.toml", **asked)

    return tmp_path, invite, go


@pytest.fixture(autouse=True)
def fresh_hub(hub):
    """Every test begins with a hub that knows no hospital."""
    home, _ = hub
    yield
    for site in home.store.members():
        home.store.revoke(site)


def test_a_join_makes_keys_here_and_a_kit_that_checks(here, hub):
    folder, invite, go = here
    path = invite()
    assert "PRIVATE" not in path.read_text()
    done = go(path)
    home = done.home
    assert (done.table.n_rows, len(done.findings.columns)) == (120, 5)
    assert done.joined == Joined.load(home.folder)
    assert done.joined.data == (folder / "north.csv").resolve()
    assert done.joined.coordinator == hub[0].identity.public
    check_kit(home.folder / "kit")
    assert hub[0].store.members()["north"].public == home.identity.public
    open_to_others = [p for p in home.folder.rglob("*") if p.stat().st_mode & 0o077]
    assert open_to_others == [] and home.folder.stat().st_mode & 0o077 == 0
    assert not home.policy().signed and home.policy().code == "POLICY_UNSIGNED"
    agent = Agent(home.folder)
    assert agent.table.n_rows == 120
    agent.close()


def test_a_hospital_says_on_what_its_networks_compute(here):
    pytest.importorskip("torch")
    folder, invite, go = here
    path = invite()
    for device, code in (("gpu", "WRONG_VALUE"), ("cuda:99", "NO_DEVICE")):
        with pytest.raises(InputError) as found:
            go(path, device=device)
        assert found.value.code == code and not (folder / "home").exists()
    home = go(path, device="cpu").home
    assert Joined.load(home.folder).device == "cpu"
    agent = Agent(home.folder)
    assert agent._rows(None).rows.device == "cpu"
    agent.close()


def test_a_start_after_an_upgrade_writes_the_kit_anew_and_says_so_in_the_log(here, hub):
    _, invite, go = here
    home = go(invite()).home
    both = ((home.folder / "kit", lambda: service._see_to_kit(home)),)
    both += ((hub[0].kit, lambda: hubservice._see_to_kit(hub[0])),)
    for kit, see in both:
        rights = kit / "local/authorization.json"
        good = rights.read_bytes()
        rights.write_bytes(good.replace(b"none", b"any"))
        with pytest.raises(InputError, match="KIT_CHANGED"):  # loosened under this version
            see()
        about = json.loads((kit / "kit.json").read_bytes())
        (kit / "kit.json").write_text(json.dumps({**about, "version": "0.0.9"}))
        see()
        see()
        assert rights.read_bytes() == good
    renewed = [line for line in entries(home.audit_path) if line["event"] == "kit_renewed"]
    assert [line["details"]["before"] for line in renewed] == ["0.0.9"]
    assert (hub[0].folder / "hub.log").read_text().count("the kit of Polyclinic 0.0.9") == 1


def test_a_busy_hub_says_so_and_the_invite_is_still_good(here, monkeypatch):
    _, invite, go = here
    path = invite()
    with monkeypatch.context() as patch:
        patch.setattr("polyclinic.study.enrol.Pace.take", lambda pace: False)
        with pytest.raises(InputError) as found:
            go(path)
    assert found.value.code == "TOO_MANY" and "a second" in found.value.rule
    assert found.value.next.startswith("wait a minute")
    go(path)


def test_an_invite_is_for_one_hospital_once_and_in_time(here, tmp_path):
    _, invite, go = here
    path = invite()
    go(path)
    with pytest.raises(InputError) as found:
        go(path)
    assert found.value.code == "INVITE_REFUSED"
    go(invite())  # a new invite for the same folder and key
    with pytest.raises(InputError) as found:
        go(invite("west"))
    assert found.value.code == "WRONG_SITE" and "north" in found.value.what
    with pytest.raises(InputError) as found:
        go(invite(), home=tmp_path / "elsewhere")
    assert found.value.code == "SITE_EXISTS"
    late = (datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="seconds")
    with pytest.raises(InputError) as found:
        go(invite(expires=late))
    assert found.value.code == "INVITE_EXPIRED"
    with pytest.raises(InputError) as found:
        go(invite("nobody", token="0" * 32), home=tmp_path / "nobody")
    assert found.value.code == "INVITE_REFUSED"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"coordinator": "zz"}, "WRONG_VALUE"),
        ({"coordinator": "00"}, "WRONG_VALUE"),
        ({"expires": "tomorrow"}, "WRONG_VALUE"),
        ({"expires": "2031-01-01T00:00:00"}, "WRONG_VALUE"),
        ({"port": 0}, "WRONG_VALUE"),
        ({"port": "8002"}, "WRONG_VALUE"),
        ({"format": 2}, "WRONG_VALUE"),
    ],
)
def test_an_invite_of_another_form_is_refused(here, changed, code):
    _, invite, _ = here
    with pytest.raises(InputError) as found:
        read_invite(invite(**changed))
    assert found.value.code == code


def test_a_broken_or_foreign_file_is_no_invite(here):
    folder, invite, _ = here
    path = invite()
    text = path.read_text()
    for bad, code in (
        (text.replace("hub = ", "hobby = "), "UNKNOWN_KEY"),
        (text.replace('hub = "heart"\n', ""), "WRONG_VALUE"),
        ("not toml [", "BAD_TOML"),
    ):
        path.write_text(bad)
        with pytest.raises(InputError) as found:
            read_invite(path)
        assert found.value.code == code
    with pytest.raises(InputError) as found:
        read_invite(folder / "absent")
    assert found.value.code == "NO_FILE"


def test_a_failed_join_leaves_nothing_half_done_and_can_be_repeated(here, hub, monkeypatch):
    folder, invite, go = here
    path = invite()
    with pytest.raises(InputError) as found:
        go(path, data=folder / "absent.csv")
    assert found.value.code == "NO_FILE" and not (folder / "home").exists()
    text = path.read_text()
    path.write_text(text.replace(f"enrol_port = {hub[1]}", "enrol_port = 1"))
    with pytest.raises(Stopped) as lost:
        go(path)
    assert lost.value.code == "HUB_LOST" and not (folder / "home" / "data.toml").exists()
    with pytest.raises(InputError) as found:
        Agent(folder / "home")
    assert found.value.code == "NOT_JOINED"
    path.write_text(text)
    monkeypatch.setattr("polyclinic.site.join.version", lambda name: "0.0.9")
    with pytest.raises(InputError) as found:
        go(path)
    assert found.value.code == "VERSION_DIFFERS" and "0.0.9" in found.value.what
    monkeypatch.undo()
    key = SiteHome(folder / "home").identity.public
    assert go(path).home.identity.public == key


def test_a_server_that_the_invite_does_not_name_gets_nothing(here, tmp_path_factory):
    folder, invite, go = here
    stranger = HubHome(tmp_path_factory.mktemp("hubs") / "heart").init("127.0.0.1", 8002)
    found = server(stranger, ("127.0.0.1", 0))
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        with pytest.raises(InputError) as refused:
            go(invite(enrol_port=found.server_address[1]))
        assert refused.value.code == "BAD_SIGNATURE"
        port = {"host": "localhost"}  # the certificate is for 127.0.0.1
        with pytest.raises(InputError) as refused:
            go(invite(**port))
        assert refused.value.code == "BAD_SIGNATURE" and not (folder / "home/data.toml").exists()
    finally:
        found.shutdown()
        found.server_close()


def test_joining_again_keeps_the_keys_of_other_hospitals(here):
    _, invite, go = here
    home = go(invite()).home
    pinned = {"west": b"\1" * 32}
    joined = Joined.load(home.folder)
    Joined(**{**vars(joined), "pinned": pinned}).save(home.folder)
    assert go(invite()).joined.pinned == pinned


def test_a_folder_with_other_things_is_not_taken(here, tmp_path):
    _, invite, go = here
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "va.invite").write_text("in the way")
    with pytest.raises(InputError, match="SITE_EXISTS"):
        go(invite(), home=tmp_path / "full")


def test_a_folder_restored_elsewhere_is_whole_by_itself(here, tmp_path):
    _, invite, go = here
    old = go(invite()).home.folder
    new = SiteHome(shutil.copytree(old, tmp_path / "restored"))
    shutil.rmtree(old)
    joined = Joined.load(new.folder)
    assert joined.schema == new.folder / "codebook.toml" and joined.codebook().columns
    settle_kit(service.kit_of(new), service.kit_arguments(new.folder))
    check_kit(service.kit_of(new))
    written = "".join(path.read_text() for path in (new.folder / "kit").rglob("*.json"))
    assert str(old) not in written and str(new.folder) in written


def test_rows_that_the_account_may_not_read_are_named(here, monkeypatch):
    folder, _, _ = here
    codebook = Codebook.load(folder / "wards.toml")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="may not be read by this account"):
        read_table(folder / "north.csv", codebook, "north")


def test_rows_come_from_a_folder_or_a_database(here):
    folder, _, _ = here
    codebook = Codebook.load(folder / "wards.toml")
    whole = read_table(folder / "north.csv", codebook, "north")
    head, *lines = (folder / "north.csv").read_text().splitlines()
    several = folder / "several"
    several.mkdir()
    (several / "b.csv").write_text("\n".join([head, *lines[70:]]) + "\n")
    (several / "a.csv").write_text("\n".join([head, *lines[:70]]) + "\n")
    (several / "notes.md").write_text("not a table")
    assert read_table(several, codebook, "north").fingerprint == whole.fingerprint
    base = folder / "omop.duckdb"
    with duckdb.connect(str(base)) as database:
        sql = f"SELECT * FROM read_csv('{folder / 'north.csv'}')"
        database.execute(f"CREATE TABLE visits AS {sql}")
        parts = folder / "parts"
        parts.mkdir()
        for i in (0, 1):
            part = f"{sql} LIMIT 60 OFFSET {60 * i}"
            database.execute(f"COPY ({part}) TO '{parts / f'{i}.parquet'}' (FORMAT parquet)")
    before = base.read_bytes()
    assert read_table(base, codebook, "north").fingerprint == whole.fingerprint
    assert read_table(base, codebook, "north", "visits").fingerprint == whole.fingerprint
    assert read_table(parts, codebook, "north").fingerprint == whole.fingerprint
    assert base.read_bytes() == before
    with duckdb.connect(str(base)) as database:
        database.execute("CREATE TABLE other AS SELECT 1 AS x")
    for table, code in (("", "NO_TABLE"), ("absent", "NO_TABLE"), ('x" UNION', "NO_TABLE")):
        with pytest.raises(InputError) as found:
            read_table(base, codebook, "north", table)
        assert found.value.code == code
    assert read_table(base, codebook, "north", "main.visits").fingerprint == whole.fingerprint


def test_a_folder_is_one_table(here):
    folder, _, _ = here
    codebook = Codebook.load(folder / "wards.toml")
    several = folder / "several"
    several.mkdir()
    with pytest.raises(InputError) as found:
        read_table(several, codebook, "north")
    assert found.value.code == "NO_FILE"
    shutil.copy(folder / "north.csv", several / "a.csv")
    other = (folder / "north.csv").read_text().replace("sex,age", "age,sex", 1)
    (several / "b.csv").write_text(other)
    with pytest.raises(InputError) as found:
        read_table(several, codebook, "north")
    assert found.value.code == "BAD_FILE" and "b.csv" in found.value.what
    (several / "b.csv").unlink()
    (several / "c.parquet").write_bytes(b"")
    with pytest.raises(InputError) as found:
        read_table(several, codebook, "north")
    assert found.value.code == "BAD_FILE"
