from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from polyclinic.core.errors import InputError
from polyclinic.governance import signing


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "keys" / "site.key"
    return path, signing.generate(path)


def test_a_key_comes_back_from_its_file(key):
    path, made = key
    again = signing.load(path)
    assert (again.public, again.private_bytes()) == (made.public, made.private_bytes())
    assert signing.signed_by(made.public, again.sign(b"x"), b"x")
    assert not signing.signed_by(made.public, again.sign(b"x"), b"y")
    assert not signing.signed_by(b"short", again.sign(b"x"), b"x")


def test_other_tools_read_the_file(key):
    path, made = key
    loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(loaded, ed25519.Ed25519PrivateKey)
    assert loaded.public_key().public_bytes_raw() == made.public


def test_the_file_is_for_its_owner_only_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        signing.generate(tmp_path / "keys" / "site.key")
    finally:
        os.umask(before)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "site.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o601, 0o602, 0o604, 0o610, 0o620, 0o640, 0o644, 0o666])
def test_a_key_that_others_can_touch_is_not_read(key, mode):
    path, _ = key
    path.chmod(mode)
    with pytest.raises(InputError) as caught:
        signing.load(path)
    assert caught.value.code == "KEY_EXPOSED" and f"{mode:o}" in caught.value.rule
    path.chmod(0o400)
    signing.load(path)


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o750, 0o755, 0o777])
def test_a_key_in_a_folder_that_others_can_enter_is_not_read_or_made(key, mode):
    path, _ = key
    path.parent.chmod(mode)
    for use in (lambda: signing.load(path), lambda: signing.generate(path.with_name("new.key"))):
        with pytest.raises(InputError, match="KEY_EXPOSED"):
            use()
    assert not path.with_name("new.key").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_not_read(key, monkeypatch):
    path, _ = key
    os.chown(path, 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: path.parent.stat().st_uid + 1)
    with pytest.raises(InputError, match="KEY_EXPOSED"):
        signing.load(path)


def test_a_key_is_never_overwritten(key):
    path, made = key
    with pytest.raises(InputError, match="KEY_EXISTS"):
        signing.generate(path)
    assert signing.load(path).public == made.public


def test_an_absent_a_linked_and_a_foreign_key_are_told(key):
    path, _ = key
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    link = path.with_name("link.key")
    link.symlink_to(path)
    for target, code in ((path.with_name("absent"), "NO_KEY"), (link, "NO_KEY")):
        with pytest.raises(InputError, match=code):
            signing.load(target)
    for content in (other, b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="BAD_KEY"):
            signing.load(path)


def test_the_fingerprint_is_eight_bytes_in_groups_that_people_can_read_aloud():
    assert signing.fingerprint(b"") == "e3b0 c442 98fc 1c14"  # SHA-256 of nothing, FIPS 180-4
    assert signing.fingerprint(bytes(32)) != signing.fingerprint(bytes(31) + b"\1")
