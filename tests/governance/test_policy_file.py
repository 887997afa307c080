from __future__ import annotations

import dataclasses
import tomllib
import types
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.core.errors import InputError
from polyclinic.governance import policy_file
from polyclinic.privacy.policy import Policy

KINDS = typing.get_type_hints(Policy)
FIELDS = [field.name for field in dataclasses.fields(Policy)]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
DEFAULT = policy_file.template(Policy())


RANGES = {
    "delta": st.floats(0, 1, exclude_min=True, exclude_max=True),
    **dict.fromkeys(
        ["max_share", "max_two_shares", "max_column_share", "max_leverage"], st.floats(0, 1)
    ),
}


def values(kind):
    """Any value of a field's type."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.none() | st.one_of(*(values(one) for one in inside if one is not type(None)))
    if origin is typing.Literal:
        return st.sampled_from(inside)
    if origin is tuple:
        return st.lists(values(inside[0]), max_size=4).map(tuple)
    if origin is not None:
        return st.dictionaries(values(inside[0]), values(inside[1]), max_size=3)
    plain = {
        bool: st.booleans(),
        int: st.integers(0, 2**63 - 1),
        float: st.floats(0, allow_nan=False, allow_infinity=False),
        str: TEXTS,
    }
    return plain[kind]


POLICIES = st.builds(
    Policy, **{name: RANGES[name] if name in RANGES else values(KINDS[name]) for name in FIELDS}
)


@settings(max_examples=150, deadline=None)
@given(POLICIES)
def test_every_policy_comes_back_from_its_text(policy):
    text = policy_file.template(policy)
    again = policy_file.parse(text)
    assert again == policy
    assert policy_file.template(again) == text
    for name in FIELDS:
        assert type(getattr(again, name)) is type(getattr(policy, name)), name


def test_every_rule_stands_once_below_its_words():
    lines = DEFAULT.splitlines()
    for name in FIELDS:
        found = [
            at
            for at, line in enumerate(lines)
            if line.startswith(f"{name} = ") or line == f"[allow.{name}]"
        ]
        assert len(found) == 1, name
        above = lines[found[0] - 1]
        assert above.startswith("# ") and len(above) > 20, (name, above)
    assert max(map(len, lines)) <= 90
    assert "patients behind every number, cell and level" in DEFAULT
    content = tomllib.loads(DEFAULT)
    assert content["rules"]["min_patients"] == 5
    assert content["budget"] == {"epsilon": 10.0, "delta": 1e-6}
    comments = [line for line in lines if line.startswith("# ")]
    assert len(set(comments)) == len(comments)
    assert "# different cohorts that the sums of one column are about\nmax_cohorts" in DEFAULT
    assert "None" not in DEFAULT and "False" not in DEFAULT
    assert content["allow"]["columns"] == {"*": ["*"]}
    assert set(content) == {"format", "allow", "rules", "budget"}


def refused(text, code, *words):
    with pytest.raises(InputError) as caught:
        policy_file.parse(text, "policy.toml")
    error = caught.value
    assert error.code == code, error
    assert "policy.toml" in error.what and error.rule and error.next and "refuses" in error.kept
    for word in words:
        assert word in str(error), error


@pytest.mark.parametrize("name", FIELDS)
def test_a_rule_left_out_is_not_filled_in(name):
    lines = DEFAULT.splitlines()
    at = next(
        i for i, x in enumerate(lines) if x.startswith(f"{name} = ") or x == f"[allow.{name}]"
    )
    end = at + 2 if lines[at].startswith("[") else at + 1
    refused("\n".join(lines[:at] + lines[end:]), "WRONG_VALUE", name)


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("min_patients = 5", "min_patient = 5", "UNKNOWN_KEY", ['did you mean "min_patients"']),
        ("min_patients = 5", "min_patients = 5\nextra = 1", "UNKNOWN_KEY", ["extra", "[rules]"]),
        ("[budget]", "[budgets]", "UNKNOWN_KEY", ['did you mean "budget"']),
        ("min_patients = 5", "min_patients = 5.0", "WRONG_VALUE", ["whole number"]),
        ("min_patients = 5", "min_patients = true", "WRONG_VALUE", ["whole number"]),
        ("min_patients = 5", 'min_patients = "5"', "WRONG_VALUE", ["min_patients"]),
        ("min_patients = 5", "min_patients = -1", "WRONG_VALUE", ["min_patients", "0 or more"]),
        ("min_patients = 5", 'min_patients = "none"', "WRONG_VALUE", ["min_patients"]),
        ("max_share = 0.5", "max_share = nan", "WRONG_VALUE", ["max_share", "0 and 1"]),
        ("max_share = 0.5", "max_share = 1.5", "WRONG_VALUE", ["max_share", "0 and 1"]),
        ("min_effective = 10.0", "min_effective = inf", "WRONG_VALUE", ["min_eff", "finite"]),
        ("delta = 1e-06", "delta = 0.0", "WRONG_VALUE", ["delta", "above 0"]),
        ("epsilon = 10.0", "epsilon = nan", "WRONG_VALUE", ["epsilon", "finite"]),
        ("exact = true", 'exact = true\nwhen_lost = "abort"', "UNKNOWN_KEY", ["when_lost"]),
        (
            'threshold = "two_thirds"',
            'threshold = "half"',
            "WRONG_VALUE",
            ["two_thirds", "majority"],
        ),
        ("release_alone = true", "release_alone = 1", "WRONG_VALUE", ["true or false"]),
        ('algorithms = ["*"]', 'algorithms = "*"', "WRONG_VALUE", ["algorithms", "list"]),
        ('algorithms = ["*"]', "algorithms = [1]", "WRONG_VALUE", ["algorithms", "text"]),
        ('"*" = ["*"]', '"*" = "*"', "WRONG_VALUE", ["columns.*", "list"]),
        ("epsilon = 10.0", 'epsilon = "many"', "WRONG_VALUE", ["epsilon", "number"]),
        ("format = 1", "format = 2", "WRONG_VALUE", ["format"]),
        ("format = 1", "", "WRONG_VALUE", ["format"]),
        ("format = 1", "format = true", "WRONG_VALUE", ["format"]),
        ("[rules]", "[[rules]]", "WRONG_VALUE", ["rules"]),
        ("format = 1", "format = ", "BAD_TOML", ["line 1"]),
        ("min_patients = 5", "min_patients = 5\nmin_patients = 1", "BAD_TOML", ["overwrite"]),
    ],
)
def test_what_is_wrong_is_named_with_file_key_and_rule(old, new, code, words):
    assert old in DEFAULT
    refused(DEFAULT.replace(old, new, 1), code, *words)


def test_a_whole_number_serves_where_a_number_is_asked():
    policy = policy_file.parse(DEFAULT.replace("epsilon = 10.0", "epsilon = 3"))
    assert policy.epsilon == 3.0 and type(policy.epsilon) is float
    assert policy_file.parse(DEFAULT.replace("epsilon = 10.0", 'epsilon = "none"')).budget is None


def test_a_text_that_is_no_text_is_not_written():
    with pytest.raises(InputError, match="WRONG_VALUE"):
        policy_file.template(Policy(algorithms=("\ud800",)))


@pytest.fixture
def signed(tmp_path, identity):
    path = tmp_path / "policy.toml"
    policy_file.save(path, Policy(min_patients=7))
    policy_file.sign(path, identity)
    return path


def test_a_signed_policy_is_read(signed, identity):
    assert policy_file.load_signed(signed, identity.public) == Policy(min_patients=7)
    assert policy_file.load(signed) == Policy(min_patients=7)


def test_a_changed_byte_of_policy_or_signature_is_refused(signed, identity):
    beside = signed.with_name("policy.toml.sig")
    accepted = 0
    for path, allowed in (
        (signed, {"POLICY_CHANGED"}),
        (beside, {"BAD_SIGNATURE", "POLICY_CHANGED"}),
    ):
        data = path.read_bytes()
        for at in range(0, len(data), 5 if path == signed else 1):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            try:
                policy_file.load_signed(signed, identity.public)
                accepted += 1
            except InputError as error:
                assert error.code in allowed
        path.write_bytes(data)
    assert accepted == 0
    policy_file.load_signed(signed, identity.public)


def test_an_invalid_policy_cannot_be_signed(tmp_path, identity):
    path = tmp_path / "policy.toml"
    for content in (b"", b"min_patients = 0", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(InputError):
            policy_file.sign(path, identity)
        assert not path.with_name("policy.toml.sig").exists()
    with pytest.raises(InputError, match="NO_FILE"):
        policy_file.sign(tmp_path / "absent.toml", identity)
    with pytest.raises(InputError, match="NO_FILE"):
        policy_file.load(tmp_path / "absent.toml")


def test_what_was_signed_is_known_and_compared(signed, identity, stranger):
    text = signed.read_text()
    assert policy_file.signed_text(signed, identity.public) == text
    assert policy_file.difference(signed, identity.public) == []
    signed.write_text(text.replace("min_patients = 7", "min_patients = 1"))
    found = policy_file.difference(signed, identity.public)
    assert found[:2] == [f"--- {signed} as it was signed", f"+++ {signed} as it is"]
    assert found[3:] == ["-min_patients = 7", "+min_patients = 1"]
    assert policy_file.signed_text(signed, stranger.public) is None
    assert policy_file.difference(signed, stranger.public) == []
    policy_file.sign(signed, identity)
    assert policy_file.difference(signed, identity.public) == []


def test_a_copy_that_was_changed_too_is_not_shown_as_what_was_signed(signed, identity):
    copy = signed.with_name("policy.toml.signed")
    for path in (signed, copy):
        path.write_text(path.read_text().replace("min_patients = 7", "min_patients = 1"))
    assert policy_file.signed_text(signed, identity.public) is None
    copy.unlink()
    assert policy_file.signed_text(signed, identity.public) is None


def test_a_difference_cannot_command_the_terminal(signed, identity):
    signed.write_bytes(b"\x1b[2J\xff\n" + signed.read_bytes() + b"\r")
    found = policy_file.difference(signed, identity.public)
    assert "+\\u001b[2J\\xff" in found and all(line.isascii() for line in found)
    assert all(line.isprintable() for line in found)
    signed.unlink()
    assert "-min_patients = 7" in policy_file.difference(signed, identity.public)
