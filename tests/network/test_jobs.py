"""Nobody brings code: not even with an administrator's certificate of the hub's own authority.

FLARE's own client is used as it comes, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import DNSName
from cryptography.x509.oid import ExtendedKeyUsageOID

from polyclinic.engines.flare import kit, pki
from tests.network.conftest import SITES, Kits, Network, wait

ATTEMPT = """
import json, sys
from nvflare.fuel.flare_api.flare_api import new_secure_session
said = {}
try:
    session = new_secure_session("admin", sys.argv[1], timeout=10.0)
except Exception as error:
    print(json.dumps({"login": repr(error)}))
    raise SystemExit
said["login"] = "ok"
for job in sys.argv[2:]:
    try:
        said[job] = "taken " + str(session.submit_job(job))
    except Exception as error:
        said[job] = repr(error)
for command in ("cat server network.log", "ls server", "check_status client", "shutdown client"):
    said[command] = json.dumps(session.api.do_command(command), default=str)
try:
    said["jobs"] = session.list_jobs()
except Exception as error:
    said["jobs"] = repr(error)
print(json.dumps(said, default=str))
import os
sys.stdout.flush()
os._exit(0)
"""


def admin(kits, folder):
    """The folder of an administrator, signed by the hub's authority."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=pki.BITS)
    subject = pki._subject("admin", "project_admin")
    names = [DNSName("admin")]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    cert = pki._signed(kits.ca, kits.ca_key, subject, key.public_key(), names, purposes)
    (folder / "startup").mkdir(parents=True)
    (folder / "local").mkdir()
    (folder / "startup/client.crt").write_bytes(cert)
    (folder / "startup/client.key").write_bytes(pki._key_pem(key))
    (folder / "startup/rootCA.pem").write_bytes(kits.ca)
    about = {
        "project_name": "heart",
        "server_identity": "server",
        "scheme": "grpc",
        "connection_security": "mtls",
        "host": "localhost",
        "port": kits.port,
        "client_key": "client.key",
        "client_cert": "client.crt",
        "ca_cert": "rootCA.pem",
        "uid_source": "cert",
        "username": "admin",
        "upload_dir": str(folder / "transfer"),
        "download_dir": str(folder / "transfer"),
        "with_debug": False,
    }
    settings = {"format_version": 1, "admin": about}
    (folder / "startup/fed_admin.json").write_text(json.dumps(settings))
    (folder / "local/resources.json").write_text(json.dumps({"format_version": 1, "admin": {}}))
    return folder


def job(folder, path, code=""):
    """A job whose executor is `path`, with its own code where there is some."""
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    about = {"name": folder.name, "min_clients": 1, "resource_spec": {}}
    (folder / "meta.json").write_text(json.dumps({**about, "deploy_map": {"app": ["@ALL"]}}))
    server = {"format_version": 2, "workflows": [{"id": "w", "path": path, "args": {}}]}
    client = {
        "format_version": 2,
        "executors": [{"tasks": ["x"], "executor": {"path": path, "args": {"args": ["id"]}}}],
    }
    (config / "config_fed_server.json").write_text(json.dumps(server))
    (config / "config_fed_client.json").write_text(json.dumps(client))
    if code:
        (folder / "app" / "custom").mkdir()
        (folder / "app" / "custom" / "evil.py").write_text(code)
    return folder


OPEN = """
import sys
from pathlib import Path
from polyclinic.engines.flare import border, process
border.close = lambda members: None
process.main(Path(sys.argv[1]))
"""


def attempt(folder, jobs, cwd, seconds=100):
    """What FLARE's own client says; nothing where it is still waiting after so many seconds."""
    words = [sys.executable, "-W", "ignore", "-c", ATTEMPT, str(folder), *map(str, jobs)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, cwd=cwd)
    except subprocess.TimeoutExpired:
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def two_jobs(folder):
    """A job with code of its own, which would leave a mark, and one that names a foreign class."""
    mark = folder / "ran"
    code = f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n"
    jobs = [job(folder / "code", "evil.Evil", code), job(folder / "foreign", "subprocess.Popen")]
    return jobs, mark


def test_an_administrator_is_not_let_in(network, tmp_path):
    jobs, mark = two_jobs(tmp_path)
    said = attempt(admin(network.kits, tmp_path / "admin"), jobs, tmp_path, seconds=12)
    assert said.get("login") != "ok"
    log = network.kits.socket.with_name("refused.jsonl")
    lines = wait(lambda: [json.loads(line) for line in log.read_text().splitlines()])
    found = [one for one in lines if one["peer"].startswith("_admin_")]
    assert found and {one["why"] for one in found} == {"not a hospital of this hub"}
    assert not mark.exists() and not any((network.kits.hub / "jobs").iterdir())
    messages = dict.fromkeys(SITES, b"still here")
    assert network.line.ask(messages, 20) == messages


def test_behind_the_border_no_job_is_taken_and_no_command_obeyed(tmp_path):
    """What FLARE's own policy files refuse, were someone to reach it."""
    pytest.importorskip("nvflare")
    jobs, mark = two_jobs(tmp_path)
    alone = Network(Kits(tmp_path / "hub-alone", sites=()))
    words = [sys.executable, "-c", OPEN, str(alone.kits.hub)]
    with open(tmp_path / "said", "wb") as out:
        alone.processes["hub"] = subprocess.Popen(words, stdout=out, stderr=out)
    try:
        wait(lambda: alone.kits.socket.exists())
        said = attempt(admin(alone.kits, tmp_path / "admin"), jobs, tmp_path)
    finally:
        alone.stop()
    assert said["login"] == "ok", said
    for name in map(str, jobs):
        assert "authoriz" in said[name].lower() and not said[name].startswith("taken"), said
    for word in ("cat server", "ls server"):
        (answer,) = (text for asked, text in said.items() if asked.startswith(word))
        assert "authoriz" in answer.lower(), (word, answer)
    assert not mark.exists() and not any((alone.kits.hub / "jobs").iterdir())
    written = (alone.kits.hub / "audit.log").read_text()
    assert "_cert_login admin" in written  # all that FLARE writes down of it


@pytest.mark.parametrize("whose", ["another authority", "another name"])
def test_a_stranger_is_not_let_in(network, whose):
    """A certificate of someone else's authority, or of this one for another name."""
    kits = network.kits
    ca, ca_key = pki.make_ca("heart") if whose == "another authority" else (kits.ca, kits.ca_key)
    request, key = pki.make_request("a")
    folder = kits.folder / "stranger"
    kit.write_client_kit(
        folder,
        hub="heart",
        site="a",
        host="localhost",
        port=kits.port,
        ca=kits.ca,
        cert=pki.sign_request(request, ca, ca_key, "a"),
        key=key,
        agent=["cat"],
        state=folder / "state.json",
    )
    if whose == "another name":
        request, key = pki.make_request("stranger")
        cert = pki.sign_request(request, ca, ca_key, "stranger")
        (folder / "startup/client.crt").write_bytes(cert)
        (folder / "startup/client.key").write_bytes(key)
    joined = (kits.hub / "network.log").read_text().count("client a@")
    network.start("stranger")
    try:
        wait(lambda: (folder / "network.log").exists(), 30)
        for _ in range(5):  # a site that is let in is there within two of these seconds
            time.sleep(1)
            assert network.line.ask({"a": b"really you?"}, 20) == {"a": b"really you?"}
        state = folder / "state.json"
        assert not (state.exists() and json.loads(state.read_text())["connected"])
        assert (kits.hub / "network.log").read_text().count("client a@") == joined
    finally:
        network.kill("stranger")
