from __future__ import annotations

import hashlib
import shutil
from importlib.metadata import entry_points

import pytest

from polyclinic.core.errors import InputError, Refused
from polyclinic.core.plan import Plan
from polyclinic.governance import policy_file, policy_text, signing
from polyclinic.governance.audit import entries, verify
from polyclinic.governance.home import SiteHome
from polyclinic.governance.witness import sites_below
from polyclinic.privacy.gate import Audience, Gate
from polyclinic.privacy.policy import Closed, Policy

KEY = "keys/site.key"


def test_a_new_site_has_a_key_a_log_and_no_policy(home):
    assert home.name == "va"
    assert home.folder.stat().st_mode & 0o777 == 0o700
    assert [entry["event"] for entry in entries(home.audit.path)] == ["log_started", "site_created"]
    last = list(entries(home.audit.path))[-1]["details"]
    assert last == {"site": "va", "fingerprint": signing.fingerprint(home.identity.public)}
    assert verify(home.audit.path, home.identity.public).ok
    assert sorted(file.name for file in home.folder.iterdir()) == [
        "audit.jsonl",
        "keys",
        "site.toml",
    ]
    assert not home.policy_path.exists()
    for path in (home.ledger_path, home.journal_path):
        assert path.parent == home.folder and not path.exists()


def test_a_site_opens_again_with_the_same_key_and_log(home):
    again = SiteHome.open(home.folder)
    assert again.identity.public == home.identity.public
    assert again.audit.append("approved") == 3
    assert home.audit.append("approved") == 4


def test_an_absent_and_a_foreign_folder_are_told(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "site.toml").write_text('name = "x"\n')
    (tmp_path / "file").write_text("")
    for name, word in (("absent", "no folder"), ("foreign", "no site's"), ("file", "no folder")):
        with pytest.raises(InputError, match="NO_SITE") as caught:
            SiteHome.open(tmp_path / name)
        assert word in caught.value.what
        home = SiteHome(tmp_path / name)
        for use in ("name", "identity", "audit", "policy_path", "ledger_path", "journal_path"):
            with pytest.raises(InputError, match="NO_SITE"):
                getattr(home, use)
        with pytest.raises(InputError, match="NO_SITE"):
            home.policy()


def test_a_folder_is_set_up_once_and_nothing_in_it_is_touched(home, tmp_path):
    with pytest.raises(InputError, match="SITE_EXISTS"):
        home.init("va")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(InputError, match="SITE_EXISTS"):
        SiteHome(tmp_path / "mine").init("va")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["letter"]
    (tmp_path / "empty").mkdir()
    assert SiteHome(tmp_path / "empty").init("va").name == "va"


@pytest.mark.parametrize("name", ["", "VA", "a b", "../x", "-a", "x" * 65, 'a"\nb'])
def test_a_site_has_a_plain_name(tmp_path, name):
    with pytest.raises(InputError, match="WRONG_VALUE"):
        SiteHome(tmp_path / "site").init(name)
    assert list(tmp_path.iterdir()) == []


def test_a_set_up_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polyclinic.governance.home.write_atomic", broken)
    with pytest.raises(OSError, match="No space"):
        SiteHome(tmp_path / "va").init("va")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_was_taken_away_is_not_begun_anew(home):
    path = home.audit.path
    path.unlink()
    with pytest.raises(InputError, match="LOG_DAMAGED"):
        SiteHome.open(home.folder)
    assert not path.exists()


def sign(home, policy=None):
    policy_file.save(home.policy_path, policy or Policy())
    return home.sign_policy()


def test_a_signed_policy_holds_and_its_hash_is_in_the_log(home):
    assert sign(home, Policy(min_patients=9)) == 3
    standing = home.policy()
    assert (standing.policy, standing.signed, standing.code) == (Policy(min_patients=9), True, "")
    last = list(entries(home.audit.path))[-1]
    assert last["event"] == "policy_signed" and len(last["details"]["sha256"]) == 64


def edited(home):
    sign(home)
    text = home.policy_path.read_text()
    home.policy_path.write_text(text.replace("min_patients = 5", "min_patients = 1"))


def edited_with_its_hash(home):
    sign(home)
    beside = home.policy_path.with_name("policy.toml.sig")
    old = hashlib.sha256(home.policy_path.read_bytes()).hexdigest()
    edited_text = home.policy_path.read_text().replace("min_patients = 5", "min_patients = 1")
    home.policy_path.write_text(edited_text)
    new = hashlib.sha256(edited_text.encode()).hexdigest()
    beside.write_text(beside.read_text().replace(old, new))


def replaced_key(home):
    sign(home)
    (home.folder / KEY).unlink()
    signing.generate(home.folder / KEY)


def signed_by_another_site(home):
    other = SiteHome(home.folder.with_name("other")).init("other")
    sign(other)
    for name in ("policy.toml", "policy.toml.sig"):
        shutil.copy(other.folder / name, home.folder / name)


def signature_of_another_policy(home):
    sign(home, Policy(min_patients=1))
    beside = home.policy_path.with_name("policy.toml.sig")
    kept = beside.read_bytes()
    sign(home)
    beside.write_bytes(kept)


def unsigned(home):
    policy_file.save(home.policy_path, Policy())


def signature_without_policy(home):
    sign(home)
    home.policy_path.unlink()


def empty_policy(home):
    sign(home)
    home.policy_path.write_bytes(b"")


def signature(content):
    def write(home):
        sign(home)
        home.policy_path.with_name("policy.toml.sig").write_bytes(content)

    return write


def signed_by_hand_without_a_rule(home):
    """Signed with the right key past `sign`, which would not have."""
    sign(home)
    text = policy_text.template(Policy()).replace("min_patients = 5\n", "")
    original, policy_file.parse = policy_file.parse, lambda *_: None
    try:
        home.policy_path.write_text(text)
        policy_file.sign(home.policy_path, home.identity)
    finally:
        policy_file.parse = original


def exposed_key(home):
    sign(home)
    (home.folder / KEY).chmod(0o644)


def lost_key(home):
    sign(home)
    (home.folder / KEY).unlink()


def folder_as_policy(home):
    home.policy_path.mkdir()


STATES = [
    (lambda home: None, "POLICY_UNSIGNED"),
    (unsigned, "POLICY_UNSIGNED"),
    (signature_without_policy, "POLICY_UNSIGNED"),
    (folder_as_policy, "POLICY_UNSIGNED"),
    (edited, "POLICY_CHANGED"),
    (empty_policy, "POLICY_CHANGED"),
    (signature_of_another_policy, "POLICY_CHANGED"),
    (edited_with_its_hash, "BAD_SIGNATURE"),
    (replaced_key, "BAD_SIGNATURE"),
    (signed_by_another_site, "BAD_SIGNATURE"),
    (signature(b""), "BAD_SIGNATURE"),
    (signature(b"\xff\x00"), "BAD_SIGNATURE"),
    (signature(b"signature = " + b"[" * 20_000), "BAD_SIGNATURE"),
    (signed_by_hand_without_a_rule, "WRONG_VALUE"),
    (exposed_key, "KEY_EXPOSED"),
    (lost_key, "NO_KEY"),
]


def plans():
    """Each installed step, seen alone, and added up by many."""
    tasks = [task for group in entry_points(group="polyclinic.tasks") for task in group.load()]
    assert len(tasks) > 10
    for task, combine in ((task, way) for task in tasks for way in ("sum", "collect")):
        plan = Plan(task.name, {}, version=task.version, combine=combine)
        yield plan, Audience()
        yield plan, Audience(sites=50, secure=True)


def admitted(policy):
    gate, count = Gate("va", policy), 0
    for plan, audience in plans():
        try:
            gate.admit(plan, audience)
        except Refused:
            continue
        count += 1
    return count


@pytest.mark.parametrize(("make", "code"), STATES, ids=lambda x: getattr(x, "__name__", x))
def test_without_a_valid_signed_policy_every_plan_is_refused(home, make, code):
    make(home)
    again = SiteHome(home.folder)
    standing = again.policy()
    assert (standing.signed, standing.code) == (False, code)
    assert standing.reason and standing.next and isinstance(standing.policy, Closed)
    assert admitted(standing.policy) == 0
    told = {"BAD_SIGNATURE": "POLICY_CHANGED"}.get(code, code)
    told = told if told.startswith("POLICY_") else "POLICY_UNREADABLE"
    with pytest.raises(Refused) as caught:
        Gate("va", standing.policy).admit(Plan("glm.scores", {}))
    assert caught.value.code == told and caught.value.what.endswith(standing.reason)
    assert "policy.toml" in standing.reason or code in ("KEY_EXPOSED", "NO_KEY")
    assert not standing.policy.allows_column("age", "")


def test_a_signed_policy_lets_plans_in_so_that_the_refusals_mean_something(home):
    sign(home)
    assert admitted(home.policy().policy) > 20


def test_an_edit_counts_at_once(home):
    sign(home)
    assert home.policy().signed
    home.policy_path.write_text(home.policy_path.read_text() + "\n")
    assert not home.policy().signed
    home.sign_policy()
    assert home.policy().signed


def test_the_signed_policy_is_known_while_it_is_out_of_force(home):
    assert home.signed_policy() is None
    sign(home, Policy(epsilon=3.0))
    home.policy_path.write_text(home.policy_path.read_text().replace("= 3.0", "= 9.0"))
    assert not home.policy().signed
    assert home.signed_policy() == Policy(epsilon=3.0)
    assert home.policy_difference()[3:] == ["-epsilon = 3.0", "+epsilon = 9.0"]
    signed_by_hand_without_a_rule(home)
    assert home.signed_policy() is None


def test_a_log_of_nothing_is_not_begun_anew(home):
    home.audit.path.write_bytes(b"")
    with pytest.raises(InputError, match="LOG_DAMAGED"):
        SiteHome.open(home.folder)
    assert home.audit.path.read_bytes() == b""


def test_a_site_is_set_up_with_its_policy_in_force_or_not_at_all(tmp_path, monkeypatch):
    home = SiteHome(tmp_path / "va").init("va", Policy(min_patients=9))
    assert home.policy().signed and home.policy().policy == Policy(min_patients=9)
    events = [entry["event"] for entry in entries(home.audit.path)]
    assert events == ["log_started", "site_created", "policy_signed"]

    def broken(*_):
        assert (tmp_path / "full").exists() is False
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polyclinic.governance.policy_file.sign", broken)
    with pytest.raises(OSError, match="No space"):
        SiteHome(tmp_path / "full").init("full", Policy())
    assert [path.name for path in tmp_path.iterdir()] == ["va"]
    (tmp_path / ".full.x").mkdir()  # as a process that was killed leaves it
    shutil.copy(home.folder / "site.toml", tmp_path / ".full.x" / "site.toml")
    assert list(sites_below(tmp_path)) == ["va"]
