"""Sites that keep their books in folders: what was released counts for every later process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import polyclinic as pc
from polyclinic.governance.chain import entries
from polyclinic.study.homes import homes_below, ledger_of, verify_log

FORMULA = "disease ~ age + sex"
COLUMNS = ["age", "sex", "disease"]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "sites"


def test_a_folder_per_site_with_a_signed_policy(heart, home):
    sites = heart.at_home(home)
    assert set(homes_below(home)) == set(sites.names)
    pc.LogisticRegression().fit(sites, FORMULA)
    for folder in homes_below(home).values():
        assert oct((folder / "keys").stat().st_mode)[-3:] == "700"
        text = ledger_of(folder)
        assert "Newton round" in text and "chain unbroken" in text
        assert max(len(line) for line in text.splitlines()) <= 80
        assert ledger_of(folder, data=True)["left"]["numbers"] > 50


def test_the_next_process_gets_the_same_releases_and_refuses_near_cohorts(heart, home):
    cohort = heart.at_home(home).cohort("age >= 18", columns=COLUMNS)
    first = pc.LogisticRegression().fit(cohort, FORMULA)
    again = pc.LogisticRegression().fit(
        heart.at_home(home).cohort("age >= 18", columns=COLUMNS), FORMULA
    )
    assert again.coef_.tobytes() == first.coef_.tobytes()
    rows = ledger_of(home / "va", data=True)["left"]["rows"]
    assert {row["times"] for row in rows} >= {2}
    near = heart.at_home(home).cohort("age >= 18", columns=[*COLUMNS, "restecg"])
    with pytest.raises(pc.Refused, match="COHORT_TOO_CLOSE"):
        pc.LogisticRegression().fit(near, FORMULA)


def test_other_data_are_another_question(heart_files, home, tmp_path):
    def fit(files):
        sites = pc.read(files, schema=CODEBOOK).at_home(home)
        return pc.LogisticRegression().fit(sites, FORMULA)

    from tests.study.conftest import CODEBOOK

    first = fit(heart_files)
    shorter = tmp_path / "va.data"
    shorter.write_text("\n".join(heart_files["va"].read_text().splitlines()[:-30]) + "\n")
    second = fit({**heart_files, "va": shorter})
    moments = [model.result_.scale.moments.n for model in (first, second)]
    assert moments[1] == moments[0] - 30


def test_a_policy_that_was_edited_after_signing_refuses_everything(heart, home):
    heart.at_home(home)
    policy = home / "va" / "policy.toml"
    policy.write_text(policy.read_text().replace("min_patients = 5", "min_patients = 1"))
    with pytest.raises(pc.Refused) as found:
        pc.LogisticRegression().fit(heart.at_home(home), FORMULA)
    assert found.value.refusals == {"va": "ALGORITHM_NOT_ALLOWED"}


def test_the_policy_in_the_folder_counts_not_the_callers(heart, home):
    heart.with_policy(pc.Policy(min_patients=150)).at_home(home)
    later = heart.with_policy(pc.Policy(min_patients=1)).at_home(home)
    assert {policy.min_patients for policy in later.policies.values()} == {150}


def test_heads_of_the_logs_stand_in_the_other_logs(heart, home):
    pc.LogisticRegression().fit(heart.at_home(home), FORMULA)
    assert verify_log(home / "va").ok
    log = home / "va" / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-12]))  # the chain itself is whole
    found = verify_log(home / "va")
    assert not found.ok and "missing at the end" in found.problem


def test_a_log_holds_decisions_and_hashes_only(heart, home):
    pc.LogisticRegression().fit(heart.at_home(home), FORMULA + " + C(cp)")
    events = list(entries(home / "switzerland" / "audit.jsonl"))
    assert {"released", "refused", "policy_signed"} <= {event["event"] for event in events}
    known = {"plan", "step", "seen_as", "code", "site", "seq", "hash", "head", "sha256"}
    known |= {"fingerprint", "public", "key", "signature", "format"}
    assert set().union(*(event["details"] for event in events)) <= known


def command(*args, cwd, **more):
    run = [sys.executable, "-m", "polyclinic.cli.main", *map(str, args)]
    return subprocess.run(run, cwd=cwd, capture_output=True, text=True, timeout=120, **more)


def test_the_officers_commands(heart, tmp_path):
    home = tmp_path / "north"
    made = command("site", "init", "north", "--home", home, cwd=tmp_path)
    assert made.returncode == 0 and "refuses every plan" in made.stdout
    before = command("site", "policy", "--home", home, cwd=tmp_path)
    assert "POLICY_UNSIGNED" in before.stdout
    signed = command("site", "policy", "--sign", "--home", home, cwd=tmp_path)
    assert "signed and in force" in signed.stdout
    ledger = command("site", "ledger", "--home", home, cwd=tmp_path)
    assert "nothing has left this hospital" in ledger.stdout
    data = command("site", "ledger", "--json", "--home", home, cwd=tmp_path)
    assert json.loads(data.stdout)["left"]["rows"] == []
    checked = command("site", "audit", "verify", "--home", home, cwd=tmp_path)
    assert checked.returncode == 0 and "chain unbroken" in checked.stdout
    log = home / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"north", b"south", 1))
    broken = command("site", "audit", "verify", "--home", home, cwd=tmp_path)
    assert broken.returncode == 2 and "LOG_DAMAGED" in broken.stderr
    absent = command("site", "ledger", "--home", tmp_path / "nobody", cwd=tmp_path)
    assert absent.returncode == 2 and "NO_SITE" in absent.stderr
    twice = command("site", "init", "north", "--home", home, cwd=tmp_path)
    assert twice.returncode == 2 and "SITE_EXISTS" in twice.stderr
