"""The commands for a hospital's own people."""

from __future__ import annotations

import json
import subprocess

import pytest

import polyclinic as pc
from polyclinic.governance.home import SiteHome
from tests.cli.line import here, process


def command(*args, cwd, code=0, how=here):
    done = how(*args, cwd=cwd)
    assert done.returncode == code, done.stderr
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    return " ".join(said.split())


def test_the_officers_commands(tmp_path):
    home = tmp_path / "north"

    def site(*args, code=0, how=here):
        return command("site", *args, "--home", home, cwd=tmp_path, code=code, how=how)

    assert "refuses every plan" in site("init", "north", how=process)
    before = site("policy", code=1, how=process)
    assert "POLICY_UNSIGNED" in before and "policy --sign" in before
    ledger = site("ledger")
    assert "! POLICY_UNSIGNED, every plan is refused" in ledger and "sets no bound" not in ledger
    assert "signed and in force" in site("policy", "--sign", how=process)
    assert "signed and in force" in site("policy")
    ledger = site("ledger")
    assert "nothing has left this hospital" in ledger and "epsilon 0 of 10 spent" in ledger
    assert json.loads(site("ledger", "--json"))["left"]["rows"] == []
    checked = site("audit", "verify")
    assert "chain unbroken" in checked and "no other site vouches" in checked
    log = home / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"north", b"south", 1))
    assert "LOG_DAMAGED" in site("audit", "verify", code=2, how=process)
    assert "! chain broken at line 2" in site("ledger")
    assert "LOG_DAMAGED" in site("policy", "--sign", code=2)
    assert "SITE_EXISTS" in site("init", "north", code=2)
    absent = command("site", "ledger", "--home", tmp_path / "nobody", cwd=tmp_path, code=2)
    assert "NO_SITE" in absent


def test_a_changed_policy_is_shown_beside_what_was_signed(tmp_path):
    home = tmp_path / "north"

    def policy(*args, code=0):
        return command("site", "policy", *args, "--home", home, cwd=tmp_path, code=code)

    command("site", "init", "north", "--home", home, cwd=tmp_path)
    policy("--sign")
    path = home / "policy.toml"
    signed = path.read_text()
    path.write_text(signed.replace("min_patients = 5", "min_patients = 1"))
    said = policy(code=1)
    for words in (
        "-min_patients = 5 +min_patients = 1",
        "POLICY_CHANGED",
        f"cp {path}.signed {path}",
        f"polyclinic site policy --sign --home {home}",
    ):
        assert words in said
    path.with_name("policy.toml.signed").replace(path)  # what the words say
    assert "in force" in policy()
    path.write_text(signed.replace("min_patients = 5", "min_patients = 9"))
    policy("--sign")
    path.with_name("policy.toml.signed").unlink()
    path.write_text(signed)
    said = policy(code=1)
    assert "POLICY_CHANGED" in said and "compare" in said and "+min_patients" not in said


@pytest.fixture(scope="module")
def study(data_dir, tmp_path_factory):
    """A run folder whose hospitals have told each other of their logs."""
    folder = tmp_path_factory.mktemp("run")
    pc.LogisticRegression().fit(
        pc.datasets.heart_disease().at_home(folder / "sites"), "disease ~ age"
    )
    return folder


def test_the_ledger_of_a_run_checks_each_log_with_the_heads_that_others_hold(study):
    said = command("ledger", study, cwd=study)
    assert said.count("chain unbroken") == 4 and "== va" in said
    log = study / "sites" / "va" / "audit.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    try:
        said = command("ledger", study, cwd=study)
        assert said.count("chain unbroken") == 3 and said.count("! chain broken, 5 entries") == 1
        assert "missing at the end: the head that cleveland holds" in said
        verified = command("site", "audit", "verify", "--home", log.parent, cwd=study, code=2)
        assert "missing at the end: the head that cleveland holds" in verified
    finally:
        log.write_bytes(whole)


def test_heads_are_carried_to_a_site_far_away(study, tmp_path):
    said = command(
        "site", "audit", "heads", "--home", study / "sites/va", "--out", tmp_path / "h", cwd=study
    )
    assert "3 sites' in" in said
    printed = command("site", "audit", "heads", "--home", study / "sites/va", cwd=study)
    assert " ".join((tmp_path / "h").read_text().split()) == printed
    away = tmp_path / "alone" / "cleveland"
    away.parent.mkdir()
    subprocess.run(["cp", "-a", study / "sites/cleveland", away], check=True)
    assert SiteHome(away).verify_log().witnessed == 0
    verify = ("site", "audit", "verify", "--home", away, "--head", tmp_path / "h")
    assert "other sites vouch for entries 1 to" in command(*verify, cwd=study)
    lines = (away / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (away / "audit.jsonl").write_bytes(b"".join(lines[:5]))
    assert "the head that va holds names line" in command(*verify, cwd=study, code=2)
    assert "NO_HEAD" in command(*verify[:-1], away / "policy.toml", cwd=study, code=2)


def test_a_folder_without_ledgers_is_told_with_what_to_do(study, tmp_path):
    for folder, words in (
        (tmp_path / "nowhere", "no folder here"),
        (tmp_path, "no hospital has a ledger here"),
        (study / "sites", f"next polyclinic ledger {study}"),
        (study / "sites" / "va", f"next polyclinic site ledger --home {study}/sites/va"),
    ):
        said = command("ledger", folder, cwd=study, code=2)
        assert "NO_RUN" in said and words in said.replace("\n", " "), said


STUDY = """
format = 1
[study]
name = "noisy"
[data]
dataset = "heart_disease"
[model]
kind = "logistic"
formula = "disease ~ age"
"""


@pytest.mark.parametrize(
    ("more", "key", "rule"),
    [
        ('[privacy]\nsecure_sums = "yes"', '"privacy.secure_sums"', 'true, false or "auto"'),
        ("[privacy]\nsecure_sums = 1", '"privacy.secure_sums"', 'true, false or "auto"'),
        ('[privacy]\nshow_sites = "no"', '"privacy.show_sites"', "boolean"),
        ('[privacy]\nmin_patients = "5"', '"privacy.min_patients"', "integer"),
        ("[privacy]\nepsilon = 6.0", '"privacy.delta"', "belong together"),
        ("[privacy]\ndelta = 1e-5", '"privacy.delta"', "belong together"),
        ("[privacy]\nepsilon = 6.0\ndelta = 1e-5", '"evaluation"', 'validate = "none"'),
    ],
)
def test_a_mistake_in_a_study_file_names_its_key(tmp_path, more, key, rule):
    path = tmp_path / "s5.toml"
    path.write_text(STUDY + more)
    with pytest.raises(pc.InputError) as found:
        pc.run(path)
    assert found.value.code == "WRONG_VALUE" and f": {key} has a value" in found.value.what
    assert rule in found.value.rule


@pytest.mark.parametrize("value", ["true", "false", '"auto"'])
def test_secure_sums_are_true_false_or_auto(tmp_path, value):
    from polyclinic.governance.study_file import load_study

    path = tmp_path / "study.toml"
    path.write_text(f"{STUDY}[privacy]\nsecure_sums = {value}")
    assert json.dumps(load_study(path).privacy.secure_sums) == value
