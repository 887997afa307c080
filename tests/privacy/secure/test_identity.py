from __future__ import annotations

import pytest

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.privacy.secure import Identity, Roster, SecureSumError


def roster():
    return Roster({"a": Identity.generate().public, "b": Identity.generate().public})


def test_a_key_comes_back_from_its_bytes():
    one = Identity.generate()
    again = Identity.from_private_bytes(one.private_bytes())
    assert (again.public, again.sign(b"x")) == (one.public, one.sign(b"x"))
    assert one.private_bytes().hex() not in repr(one)
    with pytest.raises(InputError):
        Identity.from_private_bytes(bytes(31))


def test_a_signed_roster_opens_with_the_consortiums_key_only():
    consortium, mine = Identity.generate(), roster()
    data = mine.signed(consortium)
    assert Roster.open(data, consortium.public).digest == mine.digest
    with pytest.raises(SecureSumError) as caught:
        Roster.open(data, Identity.generate().public)
    assert caught.value.code == "BAD_SIGNATURE"
    for at in range(len(data) - 130, len(data)):
        with pytest.raises(PolyclinicError):
            Roster.open(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], consortium.public)


def test_a_signature_counts_for_its_site_and_data_only():
    one, two = Identity.generate(), Identity.generate()
    both = Roster({"a": one.public, "b": two.public})
    both.verify("a", one.sign(b"x"), b"x")
    for name, signature, data in [
        ("b", one.sign(b"x"), b"x"),
        ("a", one.sign(b"x"), b"y"),
        ("c", one.sign(b"x"), b"x"),
    ]:
        with pytest.raises(SecureSumError) as caught:
            both.verify(name, signature, data)
        assert (caught.value.code, caught.value.site) == ("BAD_SIGNATURE", name)


@pytest.mark.parametrize(
    "sites", [{"": bytes(32)}, {"a": bytes(31)}, {"a": b"k" * 32, "b": b"k" * 32}]
)
def test_an_unusable_roster_is_refused(sites):
    with pytest.raises(InputError) as caught:
        Roster(sites)
    assert caught.value.code == "BAD_ROSTER"


def test_the_digest_does_not_depend_on_the_order_of_sites():
    a, b = Identity.generate().public, Identity.generate().public
    assert Roster({"a": a, "b": b}).digest == Roster({"b": b, "a": a}).digest
    assert Roster({"a": a, "b": b}).digest != Roster({"a": b, "b": a}).digest
