"""Sites that keep their books in folders: what was released counts for every later process."""

from __future__ import annotations

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
    shorter = tmp_path / "hungarian.data"
    shorter.write_text("\n".join(heart_files["hungarian"].read_text().splitlines()[:-30]) + "\n")
    second = fit({**heart_files, "hungarian": shorter})
    moments = [model.result_.scale.moments.n for model in (first, second)]
    assert moments[1] == moments[0] - 30


def test_a_policy_that_was_edited_after_signing_refuses_everything(heart, home):
    heart.at_home(home)
    policy = home / "va" / "policy.toml"
    policy.write_text(policy.read_text().replace("min_patients = 5", "min_patients = 1"))
    with pytest.raises(pc.Refused) as found:
        pc.LogisticRegression().fit(heart.at_home(home), FORMULA)
    assert found.value.refusals == {"va": "POLICY_CHANGED"}
    assert "polyclinic site policy" in found.value.next
    (refusal,) = ledger_of(home / "va", data=True)["asked"]["refusals"]
    assert refusal["note"].endswith("va/policy.toml: the policy was edited after it was signed")
    (home / "va" / "policy.toml.sig").unlink()
    with pytest.raises(pc.Refused) as found:
        pc.LogisticRegression().fit(heart.at_home(home), FORMULA)
    assert found.value.refusals == {"va": "POLICY_UNSIGNED"}


def test_the_ledger_knows_the_budget_of_a_policy_that_is_out_of_force(heart, home):
    heart.with_policy(pc.Policy(epsilon=3.0)).at_home(home)
    policy = home / "va" / "policy.toml"
    policy.write_text(policy.read_text().replace("epsilon = 3.0", 'epsilon = "none"'))
    found = ledger_of(home / "va", data=True)
    assert found["budget"] == {"spent": 0.0, "total": 3.0, "left": 3.0}
    assert (found["policy"]["in_force"], found["policy"]["code"]) == (False, "POLICY_CHANGED")
    (home / "va" / "policy.toml.signed").unlink()
    text = ledger_of(home / "va")
    assert "epsilon 0 spent; of how much, no policy says" in text
    assert "! POLICY_CHANGED" in text and "sets no bound" not in text


DP = pc.DifferentialPrivacy(epsilon=2.0, delta=1e-6)


def test_the_budget_does_not_start_anew_when_the_data_change(heart_files, home, tmp_path):
    from tests.study.conftest import CODEBOOK

    def describe(files):
        sites = pc.read(files, schema=CODEBOOK, policy=pc.Policy(epsilon=2.5)).at_home(home)
        sites.describe(["age"], privacy=DP)

    describe(heart_files)
    spent = ledger_of(home / "va", data=True)["budget"]["spent"]
    assert 1.5 < spent <= 2.0
    shorter = tmp_path / "va.data"
    shorter.write_text("\n".join(heart_files["va"].read_text().splitlines()[:-30]) + "\n")
    with pytest.raises(pc.Refused) as found:
        describe({**heart_files, "va": shorter})
    assert found.value.refusals == {"va": "BUDGET_SPENT"}
    assert ledger_of(home / "va", data=True)["budget"]["spent"] == spent


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
    assert "! chain broken" in ledger_of(home / "va") and "unbroken" not in ledger_of(home / "va")
    assert "chain unbroken" in ledger_of(home / "cleveland")
    before = log.read_bytes()
    with pytest.raises(pc.InputError, match="LOG_DAMAGED"):
        heart.at_home(home)
    assert log.read_bytes() == before


def test_a_policy_is_given_to_hospitals_that_are_there(heart):
    strict = pc.Policy(min_patients=20)
    for wrong, code, words in (
        ({"VA": strict}, "UNKNOWN_SITE", ['did you mean "va"', "cleveland"]),
        ({"nowhere": strict}, "UNKNOWN_SITE", ["'nowhere'", "switzerland"]),
        ({"va": {"min_patients": 20}}, "WRONG_VALUE", ["va", "dict", "pc.Policy"]),
        ({"va": None}, "WRONG_VALUE", ["va", "NoneType"]),
        ("strict", "WRONG_VALUE", ["str", "pc.Policy"]),
        (pc.Policy, "WRONG_VALUE", ["type", "pc.Policy"]),
    ):
        with pytest.raises(pc.InputError) as found:
            heart.with_policy(wrong)
        assert found.value.code == code
        assert all(word in str(found.value) for word in words), found.value


def test_a_hospital_that_a_mapping_leaves_out_keeps_its_policy(heart):
    strict, stricter = pc.Policy(min_patients=20), pc.Policy(min_patients=30)
    sites = heart.with_policy(strict).with_policy({"va": stricter})
    assert sites.policies == {**dict.fromkeys(heart.names, strict), "va": stricter}
    assert heart.with_policy({"va": strict}).policies["cleveland"] == pc.Policy()


def test_a_signed_policy_is_not_replaced_by_the_callers(heart, home):
    sites = heart.at_home(home)
    with pytest.raises(pc.InputError, match="POLICY_SIGNED") as found:
        sites.with_policy({"va": pc.Policy(min_patients=1)})
    assert "va" in found.value.what and "before at_home" in found.value.next
    assert sites.with_policy(pc.Policy()).policies == sites.policies


def test_a_log_holds_decisions_and_hashes_only(heart, home):
    pc.LogisticRegression().fit(heart.at_home(home), FORMULA + " + C(cp)")
    events = list(entries(home / "switzerland" / "audit.jsonl"))
    assert {"released", "refused", "policy_signed"} <= {event["event"] for event in events}
    known = {"plan", "step", "seen_as", "code", "site", "seq", "hash", "head", "sha256"}
    known |= {"fingerprint", "public", "key", "signature", "format", "sites", "run", "kind"}
    known |= {"attempt", "round", "total_sha256"}
    assert set().union(*(event["details"] for event in events)) <= known
