"""What a site refuses, and what it still knows after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from polyclinic.core import codec, ring
from polyclinic.core.errors import InputError
from polyclinic.privacy.secure import (
    Identity,
    MemoryJournal,
    Roster,
    SecureSite,
    SecureSumError,
    SiteRefused,
    SQLiteJournal,
)
from polyclinic.privacy.secure.envelope import Place, sign
from tests.privacy.secure.world import RUN, World, code, edited, exact


def stopped(world, before, name="s00"):
    """`world` after a round that was cut off before `before`, and the request that did not come."""
    kept = []

    def ask(messages):
        if codec.decode(next(iter(messages.values())))["kind"] == before:
            kept.append(messages)
            raise KeyboardInterrupt
        return World.ask(world, messages)

    world.ask = ask
    with pytest.raises(KeyboardInterrupt):
        world.total()
    del world.ask
    return kept[0][name]


def refuse(world, message, edit=None, name="s00"):
    return code(world.deliver(name, message if edit is None else edited(message, edit)))


def body(**fields):
    return lambda message: message["body"].update(fields)


@pytest.mark.parametrize("kind", ["KEYS", "SHARES", "PLAN", "SURVIVORS", "PROOF", "RESULT"])
def test_asking_again_gives_the_same_bytes_also_after_a_restart(kind):
    world = World(4)
    message = stopped(world, kind)
    first = world.deliver("s00", message)
    assert code(first) is None
    assert world.deliver("s00", message) == first
    world.sites["s00"] = world.site("s00")
    assert world.deliver("s00", message) == first


def test_one_index_hides_one_vector():
    world = World(4)
    plan = stopped(world, "PLAN")
    assert code(world.deliver("s00", plan)) is None
    for edit in (
        body(plan={"n": 1}),
        lambda m: m.update(attempt=1),
        lambda m: m.update(round=1),
    ):
        assert refuse(world, plan, edit) == "INDEX_REUSED"
    world.values["s00"] = world.values["s00"] + 1
    first = world.deliver("s00", plan)
    world.site("s00")
    assert world.deliver("s00", plan) == first


def test_a_later_attempt_ends_the_one_before():
    world = World(4)
    survivors = stopped(world, "SURVIVORS")
    plan = world.messages("PLAN", "s00")[0][0]
    batch = codec.decode(plan)["body"]["batch"]
    assert world.state("s00", batch) == "UPLOADED"
    again = edited(edited(plan, lambda m: m.update(attempt=1)), body(index=1))
    assert code(world.deliver("s00", again)) is None
    assert world.state("s00", batch) == "CLOSED"
    assert refuse(world, survivors) == "DEADLINE"
    assert refuse(world, plan) == "INDEX_REUSED"
    late = edited(edited(plan, lambda m: m.update(attempt=1)), body(index=2))
    assert refuse(world, late) == "DEADLINE"


def test_a_round_stands_for_one_plan():
    world = World(4)
    stopped(world, "SURVIVORS")
    plan = world.messages("PLAN", "s00")[0][0]
    other = edited(edited(plan, lambda m: m.update(attempt=1)), body(index=1, plan={"n": 5}))
    assert refuse(world, other) == "INDEX_REUSED"


def keys_edit(change):
    def edit(message):
        change(message["body"]["adverts"])

    return edit


def test_keys_are_the_signed_ones_of_enough_sites():
    world = World(4)
    keys = stopped(world, "KEYS")
    stranger = Identity.generate()

    def resigned(adverts, **fields):
        changed = {**adverts["s01"]["body"], **fields}
        return sign(world.identities["s01"], "s01", "ADVERTISE", Place(RUN), changed)

    def own(adverts):
        adverts["s00"] = resigned(adverts)

    def forged(adverts):
        changed = sign(stranger, "s01", "ADVERTISE", Place(RUN), adverts["s01"]["body"])
        adverts["s01"] = changed

    def unknown(adverts):
        adverts["s09"] = adverts.pop("s01")

    def copied(adverts):
        adverts["s01"] = resigned(adverts, exchange=adverts["s02"]["body"]["exchange"])

    def weaker(adverts):
        adverts["s01"] = resigned(adverts, threshold="majority")

    def few(adverts):
        del adverts["s01"], adverts["s02"]

    for change, wanted in [
        (own, "KEY_SUBSTITUTED"),
        (forged, "BAD_SIGNATURE"),
        (unknown, "BAD_SIGNATURE"),
        (copied, "KEY_SUBSTITUTED"),
        (weaker, "BELOW_THRESHOLD"),
        (few, "BELOW_THRESHOLD"),
    ]:
        assert refuse(world, keys, keys_edit(change)) == wanted, change.__name__
    assert code(world.deliver("s00", keys)) is None

    def one_less(adverts):
        del adverts["s01"]

    assert refuse(world, keys, keys_edit(one_less)) == "KEY_SUBSTITUTED"


def test_shares_that_do_not_open_are_refused():
    world = World(4)
    shares = stopped(world, "SHARES")

    def sealed(message):
        message["body"]["sealed"]["s01"][3] ^= 1

    def row(message):
        message["body"]["rows"]["s01"][0, 0, 0] ^= 1

    for edit in (sealed, row):
        assert refuse(world, shares, edit) == "SHARE_INVALID"
    assert code(world.deliver("s00", shares)) is None


def test_survivors_are_enough_members_and_this_sites_own_upload():
    world = World(5, membership="survivors")
    message = stopped(world, "SURVIVORS")
    asked = codec.decode(message)["body"]["survivors"]
    three = {n: asked[n] for n in ("s00", "s01", "s02")}
    for survivors, wanted in [
        (three, "BELOW_THRESHOLD"),
        ({**asked, "s00": "0" * 64}, "U2_EQUIVOCATION"),
        ({n: d for n, d in asked.items() if n != "s00"}, "U2_EQUIVOCATION"),
        ({**asked, "x": "0" * 64}, "MEMBERSHIP_CHANGED"),
        ({**asked, "s01": "zz"}, "BAD_MESSAGE"),
    ]:
        assert refuse(world, message, body(survivors=survivors)) == wanted
    assert code(world.deliver("s00", message)) is None
    four = {n: asked[n] for n in world.names[:4]}
    assert refuse(world, message, body(survivors=four)) == "U2_EQUIVOCATION"


def test_shares_leave_for_the_agreed_set_only_and_never_both():
    world = World(5, membership="survivors")
    world.lost = {"PLAN": {"s04"}}
    message = stopped(world, "PROOF")
    asked = codec.decode(message)["body"]
    agrees, all_sites = asked["agrees"], {**asked["survivors"], "s04": "0" * 64}
    other = {"agrees": dict(list(agrees.items())[:3])}
    for fields, wanted in [
        ({"lost": ["s04", "s00"]}, "OVERLAPPING_UNMASK"),
        ({"survivors": all_sites, "lost": []}, "U2_EQUIVOCATION"),
        ({"lost": []}, "BAD_MESSAGE"),
        (other, "BELOW_THRESHOLD"),
        ({"agrees": {**agrees, "s01": agrees["s02"]}}, "BAD_SIGNATURE"),
    ]:
        assert refuse(world, message, body(**fields)) == wanted
    reply = codec.decode(world.deliver("s00", message))["body"]
    assert set(reply["seed"]) == {"s00", "s01", "s02", "s03"}
    assert set(reply["mask"]) == {"s04"}
    swapped = body(survivors=all_sites, lost=[])
    assert refuse(world, message, swapped) == "OVERLAPPING_UNMASK"


def test_steps_out_of_order_are_refused():
    world = World(4)
    plan = stopped(world, "PLAN")
    head = {"batch": codec.decode(plan)["body"]["batch"], "index": 0}
    for kind, fields in [
        ("SURVIVORS", {"survivors": {}}),
        ("PROOF", {"survivors": {}, "lost": [], "agrees": {}}),
        ("RESULT", {"survivors": [], "total": "0" * 64}),
        ("NOTHING", {}),
    ]:
        change = {"kind": kind, "body": {**head, **fields}}
        assert refuse(world, plan, lambda m, change=change: m.update(change)) == "BAD_MESSAGE"


def test_version_run_and_form_are_checked_first():
    world = World(3)
    plan = stopped(world, "PLAN")
    for edit, wanted in [
        (lambda m: m.update(version=2), "VERSION_MISMATCH"),
        (lambda m: m.update(run="other"), "BAD_MESSAGE"),
        (lambda m: m.update(more=1), "BAD_MESSAGE"),
        (lambda m: m.update(round=-1), "BAD_MESSAGE"),
        (lambda m: m.update(round=True), "BAD_MESSAGE"),
        (body(index=4), "BAD_MESSAGE"),
        (body(batch="0" * 32), "BAD_MESSAGE"),
        (body(members=["s00"]), "MEMBERSHIP_CHANGED"),
        (body(members=[np.zeros(2)]), "MEMBERSHIP_CHANGED"),
        (body(size=-1), "SCHEMA_MISMATCH"),
    ]:
        assert refuse(world, plan, edit) == wanted
    for at in range(0, len(plan), 7):
        assert code(world.deliver("s00", plan[:at])) == "BAD_MESSAGE"


def test_keys_are_erased_when_they_are_used():
    world = World(3)
    result = stopped(world, "RESULT")
    site = world.sites["s00"]
    batch = codec.decode(result)["body"]["batch"]
    rows = [site.records.row("secret", batch, i).value for i in range(2)]
    assert rows[0] is None
    assert len(rows[1]["own"]) == 2
    assert site.records.row("batch", batch).value["exchange"] is None
    assert site.records.reply(batch, 0, "MASKED") is not None
    world.deliver("s00", result)
    assert world.state("s00", batch) == "CLOSED"
    assert site.records.reply(batch, 0, "MASKED") is None
    site.end()
    assert site.records.row("secret", batch, 1).value is None


def test_own_secrets_are_erased_with_the_upload_and_shares_stay():
    world = World(3)
    survivors = codec.decode(stopped(world, "SURVIVORS"))
    row = world.sites["s00"].records.row("secret", survivors["body"]["batch"], 0).value
    assert row["own"] is None
    assert set(row["shares"]) == set(world.names)


def test_a_site_is_the_one_in_its_roster():
    world = World(3)
    for name, identity in [("s00", Identity.generate()), ("x", world.identities["s00"])]:
        with pytest.raises(InputError):
            SecureSite(name, identity, world.roster, MemoryJournal(), run=RUN)
    consortium = Identity.generate()
    signed = world.roster.signed(consortium)
    settings = {"run": RUN, "consortium": consortium.public}
    SecureSite("s00", world.identities["s00"], signed, MemoryJournal(), **settings)
    with pytest.raises(SecureSumError):
        SecureSite("s00", world.identities["s00"], signed, MemoryJournal(), run=RUN)


def test_no_number_of_a_site_is_in_any_of_its_messages():
    world = World(3, size=3)
    world.values["s00"] = np.array([1234.5678, 98765.4321, 5e-3])
    world.total()
    marks = [v.tobytes() for v in world.values["s00"]]
    marks += [row.tobytes() for row in ring.encode(world.values["s00"])]
    out = b"".join(reply for _, name, _, reply in world.sent if name == "s00")
    assert not any(mark in out for mark in marks)


_CRASH = """
import os, signal, sys
from polyclinic.privacy.secure import Identity, Roster, SecureSite, SQLiteJournal
from polyclinic.core import ring
import numpy as np, pathlib
folder, at, when = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

class Killing(SQLiteJournal):
    count = 0
    def write(self, changes, seen):
        Killing.count += 1
        if Killing.count == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = super().write(changes, seen)
        if Killing.count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

identity = Identity.from_private_bytes((folder / "key").read_bytes())
keys = (folder / "roster").read_text().split()
roster = Roster(dict(zip(keys[::2], map(bytes.fromhex, keys[1::2]))))
site = SecureSite("s00", identity, roster, Killing(folder / "journal"), run="run")
values = np.frombuffer((folder / "values").read_bytes())
for line in sys.stdin:
    reply = site.receive(bytes.fromhex(line), lambda plan: ring.encode(values))
    print(reply.hex(), flush=True)
"""


class Process:
    """Site s00 in a process of its own, which is killed at one of its journal's steps."""

    def __init__(self, world, folder):
        self.folder = folder
        (folder / "key").write_bytes(world.identities["s00"].private_bytes())
        keys = (f"{n} {world.roster.public(n).hex()}" for n in world.names)
        (folder / "roster").write_text(" ".join(keys))
        (folder / "values").write_bytes(world.values["s00"].tobytes())

    def start(self, at, when):
        self.running = subprocess.Popen(
            [sys.executable, "-c", _CRASH, str(self.folder), str(at), when],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def receive(self, message):
        self.running.stdin.write(message.hex() + "\n")
        self.running.stdin.flush()
        line = self.running.stdout.readline()
        return bytes.fromhex(line) if line else None

    def stop(self):
        self.running.stdin.close()
        self.running.stdout.close()
        return self.running.wait()


@pytest.mark.parametrize(
    ("at", "when"),
    [*((at, "after") for at in range(1, 9)), (2, "before"), (5, "before"), (7, "before")],
)
def test_a_killed_site_goes_on_with_the_same_bytes(at, when, tmp_path):
    world = World(3, batch=1)
    process = Process(world, tmp_path)
    process.start(at, when)
    deliver, killed, uploads = world.deliver, [], []

    def lossy(name, message):
        if name != "s00":
            return deliver(name, message)
        reply = process.receive(message)
        if reply is None:
            killed.append(process.stop())
            process.start(0, "never")
            reply = process.receive(message)
            assert process.receive(message) == reply
        if codec.decode(message)["kind"] == "PLAN":
            uploads.append(reply)
        return reply

    world.deliver = lossy
    opened = world.total()
    process.stop()
    assert ring.decode(opened.words).tolist() == exact(world.values.values())
    assert killed == [-signal.SIGKILL]
    assert len(set(uploads)) == 1
    journal = SQLiteJournal(tmp_path / "journal")
    journal.close()
    assert os.path.getsize(tmp_path / "journal") > 0


class Filed(World):
    """A world whose journals are files."""

    def __init__(self, folder, *args, **settings):
        self.folder = folder
        names = [f"s{i:02d}" for i in range(args[0])]
        journals = {name: SQLiteJournal(folder / name) for name in names}
        super().__init__(*args, journals=journals, **settings)

    def restart(self, name):
        """The site in another process: nothing is left but its file."""
        self.journals[name].close()
        self.journals[name] = SQLiteJournal(self.folder / name)
        self.sites[name] = self.site(name)


@pytest.mark.parametrize("told", [True, False])
def test_a_site_that_starts_again_knows_over_which_sites_a_total_was_opened(tmp_path, told):
    """Also where the coordinator has kept the result of the first round to itself."""
    world = Filed(tmp_path, 5, membership="survivors")
    world.lost = {} if told else {"RESULT": set(world.names)}
    assert world.total(0).sites == tuple(world.names)
    for name in world.names:
        world.restart(name)
    world.coordinator = world.new_coordinator()
    world.lost = {"PLAN": {"s04"}}
    with pytest.raises(SecureSumError) as caught:
        world.total(1)
    assert caught.value.code == "MEMBERSHIP_CHANGED"
    refusals = [code(reply) for kind, _, _, reply in world.sent if kind == "SURVIVORS"]
    assert refusals[-4:] == ["MEMBERSHIP_CHANGED"] * 4
    with pytest.raises(SiteRefused) as refused:
        world.total(2, sites=world.names[:4])
    assert set(refused.value.refusals.values()) == {"MEMBERSHIP_CHANGED"}
    world.lost = {}
    assert world.total(3).sites == tuple(world.names)


@pytest.mark.parametrize("before", ["SURVIVORS", "RESULT"])
def test_a_run_stays_with_its_sites_when_the_roster_has_changed(tmp_path, before):
    """From the first upload on: other sites may have opened a total since."""
    world = Filed(tmp_path, 5)
    stopped(world, before)
    fewer = world.names[:4]
    world.roster = Roster({name: world.roster.public(name) for name in fewer})
    for name in fewer:
        world.restart(name)
    world.coordinator = world.new_coordinator()
    with pytest.raises(SiteRefused) as refused:
        world.total(1)
    assert refused.value.refusals == dict.fromkeys(fewer, "MEMBERSHIP_CHANGED")
