"""Joining a hub: over HTTPS with an invitation that is good once, for one name."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time

import pytest

from polyclinic.engines.flare import pki
from polyclinic.governance.paper import PROTOCOL
from polyclinic.privacy.secure import Identity
from polyclinic.study import enrol
from polyclinic.study.hublobby import VERSION
from tests.study.hub_world import hub_home


@pytest.fixture(scope="module")
def keys():
    """Certificates are slow to make: an authority, a server, two hospitals' requests."""
    ca, ca_key = pki.make_ca("test")
    return ca, ca_key, pki.sign_server(ca, ca_key, "localhost"), pki.make_request("va")[0]


@pytest.fixture
def hub(tmp_path, keys):
    ca, ca_key, (cert, key), _ = keys
    home = hub_home(tmp_path / "hubs" / "test")
    (home.folder / "ca.crt").write_bytes(ca)
    (home.folder / "keys" / "ca.key").write_bytes(ca_key)
    (home.kit / "startup").mkdir(parents=True)
    (home.kit / "startup" / "server.crt").write_bytes(cert)
    (home.kit / "startup" / "server.key").write_bytes(key)
    found = enrol.server(home, ("127.0.0.1", 0))
    thread = threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    home.port_now, home.server = found.server_address[1], found
    yield home
    found.shutdown()
    found.server_close()
    thread.join()


def post(hub, content, *, ca=None):
    context = ssl.create_default_context(cadata=(ca or hub.ca).decode())
    with contextlib.closing(
        http.client.HTTPSConnection("localhost", hub.port_now, timeout=20, context=context)
    ) as line:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        line.request("POST", "/enrol", body)
        reply = line.getresponse()
        return reply.status, json.loads(reply.read())


def request(token, keys, **changes):
    return {
        "site": "va",
        "token": token,
        "csr": keys[3].decode(),
        "public": Identity.generate().public.hex(),
        "version": VERSION,
        "protocol": PROTOCOL,
        **changes,
    }


def codes(hub):
    found, _ = enrol.Events(hub.folder / "enrol.jsonl").read()
    return [one.get("code", one["event"]) for one in found]


def test_an_invitation_holds_no_private_key_and_is_good_once(hub, keys):
    import tomllib

    text = hub.invite("va")
    assert "PRIVATE" not in text
    invite = tomllib.loads(text)
    assert set(invite) == {
        *("format", "hub", "host", "port", "enrol_port", "ca", "coordinator", "site", "token"),
        "expires",
    }
    assert invite["coordinator"] == hub.identity.public.hex() and len(invite["token"]) == 32
    assert invite["token"].encode() not in (hub.folder / "store.sqlite").read_bytes()
    asked = request(invite["token"], keys)
    status, answer = post(hub, asked)
    assert status == 200
    assert pki.name_of(answer["cert"].encode()) == "va"
    member = hub.store.members()["va"]
    assert (member.public.hex(), member.version) == (asked["public"], VERSION)
    assert post(hub, asked) == (403, {"code": "INVITE_REFUSED"})
    assert codes(hub) == ["joined", "INVITE_REFUSED"]


def test_another_name_an_old_or_a_void_token_is_refused(hub, keys):
    token, _ = hub.store.invite("va", 60.0)
    assert post(hub, request(token, keys, site="cleveland"))[1] == {"code": "INVITE_REFUSED"}
    assert post(hub, request("0" * 32, keys))[1] == {"code": "INVITE_REFUSED"}
    newer, _ = hub.store.invite("va", 60.0)
    assert post(hub, request(token, keys))[1] == {"code": "INVITE_REFUSED"}
    late, _ = hub.store.invite("hungarian", -1.0)
    assert post(hub, request(late, keys, site="hungarian"))[1] == {"code": "INVITE_REFUSED"}
    assert post(hub, request(newer, keys))[0] == 200
    assert codes(hub) == ["INVITE_REFUSED"] * 4 + ["joined"]


def test_another_version_is_named_and_the_invitation_stays_good(hub, keys):
    token, _ = hub.store.invite("va", 60.0)
    for change in ({"version": "0.0.9"}, {"protocol": PROTOCOL + 1}):
        status, answer = post(hub, request(token, keys, **change))
        assert (status, answer["code"]) == (403, "VERSION_DIFFERS")
        assert (answer["version"], answer["protocol"]) == (VERSION, PROTOCOL)
    assert post(hub, request(token, keys))[0] == 200


def test_a_name_keeps_its_key_until_it_is_revoked(hub, keys):
    first = request(hub.store.invite("va", 60.0)[0], keys)
    assert post(hub, first)[0] == 200
    again = request(hub.store.invite("va", 60.0)[0], keys)
    assert post(hub, again)[1] == {"code": "SITE_EXISTS"}
    assert post(hub, {**again, "public": first["public"]})[0] == 200  # the same key: a new paper
    stolen = request(hub.store.invite("other", 60.0)[0], keys, site="other")
    assert post(hub, {**stolen, "public": first["public"]})[1] == {"code": "KEY_SUBSTITUTED"}
    assert hub.store.revoke("va") and not hub.store.revoke("va")
    assert "va" not in hub.store.members()
    anew = request(hub.store.invite("va", 60.0)[0], keys)
    assert post(hub, anew)[0] == 200 and "va" in hub.store.members()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff" * 100,
        b"[" * 60_000,
        b'{"site": "va"}',
        json.dumps(dict.fromkeys(enrol.FIELDS, 1)).encode(),
        json.dumps({**dict.fromkeys(enrol.FIELDS, "x"), "protocol": True}).encode(),
    ],
    ids=range(8),
)
def test_what_is_no_request_is_refused(hub, body):
    assert post(hub, body) == (403, {"code": "BAD_MESSAGE"})
    assert codes(hub) == ["BAD_MESSAGE"]


def test_a_request_without_proof_of_its_key_is_refused(hub, keys):
    token, _ = hub.store.invite("va", 60.0)
    assert post(hub, request(token, keys, csr="nonsense"))[1] == {"code": "BAD_REQUEST"}
    assert post(hub, request(token, keys, public="00"))[1] == {"code": "BAD_REQUEST"}
    assert not hub.store.members()


def test_too_long_and_other_methods_are_refused(hub):
    for length in (enrol.LONGEST + 1, enrol.READ):  # what is still on its way does not hide why
        assert post(hub, b"x" * length) == (413, {"code": "BAD_MESSAGE"})
    context = ssl.create_default_context(cadata=hub.ca.decode())
    with contextlib.closing(
        http.client.HTTPSConnection("localhost", hub.port_now, timeout=20, context=context)
    ) as line:
        line.request("GET", "/")
        assert line.getresponse().status == 501
    assert codes(hub) == ["BAD_MESSAGE"] * 3


def test_a_stranger_authority_is_not_believed(hub, keys):
    other, _ = pki.make_ca("test")
    with pytest.raises(ssl.SSLCertVerificationError):
        post(hub, b"{}", ca=other)


def test_a_guesser_is_slowed_down(hub, keys):
    hub.server.pace = enrol.Pace(per_second=0.01, burst=3.0)
    found = [post(hub, request(f"{n:032x}", keys))[0] for n in range(6)]
    assert found == [403, 403, 403, 429, 429, 429]
    assert codes(hub)[-1] == "TOO_MANY"


def test_who_is_slow_or_speaks_no_tls_is_cut_off(hub, monkeypatch):
    monkeypatch.setattr(enrol, "SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", hub.port_now)) as silent:
        silent.settimeout(5.0)
        assert silent.recv(1) == b""
    with socket.create_connection(("127.0.0.1", hub.port_now)) as plain:
        plain.settimeout(5.0)
        plain.sendall(b"POST / HTTP/1.1\r\n\r\n" + b"x" * 64)
        with contextlib.suppress(ConnectionResetError):
            while plain.recv(4096):
                pass
    until = time.monotonic() + 5.0
    while len(codes(hub)) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert codes(hub) == ["BAD_MESSAGE"] * 2
