"""What a FLARE process starts from: private, closed, and refused once someone has edited it."""

from __future__ import annotations

import json
import shutil
import ssl
import stat
import subprocess

import pytest
from cryptography import x509

from polyclinic.core.errors import InputError
from polyclinic.engines.flare import kit, pki
from tests.network.conftest import Kits


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return Kits(tmp_path_factory.mktemp("kits"), ("a",))


@pytest.fixture
def kits(written, tmp_path):
    """Copies that a test may spoil, in the place of the written ones: paths stand in a kit."""
    kept = tmp_path / "kept"
    shutil.copytree(written.folder, kept)
    yield written
    shutil.rmtree(written.folder)
    shutil.copytree(kept, written.folder)


def refused(folder):
    with pytest.raises(InputError) as found:
        kit.check_kit(folder)
    assert found.value.code == "KIT_CHANGED"
    return found.value.what


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_kit_is_private_and_passes(written):
    for folder in (written.hub, written.folder / "a"):
        kit.check_kit(folder)
        for path in (folder, *folder.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path


def test_nobody_has_a_right_and_no_job_may_name_a_class(written):
    for folder, component in ((written.hub, "HubComponent"), (written.folder / "a", "SiteComp")):
        rights = json.loads((folder / "local/authorization.json").read_text())
        assert rights == {"format_version": "1.0", "permissions": {"project_admin": "none"}}
        resources = json.loads((folder / "local/resources.json").read_text())
        assert resources["class_list_enforcement_mode"] == "enforce"
        (allowed,) = resources["class_allow_list"]
        assert component in allowed
        assert resources["allow_log_streaming"] is False
        resources["components"].pop()  # ours, with paths of its own
        places = [text for text in strings(resources) if text.startswith("/") and len(text) > 1]
        assert all(text.startswith(f"{folder}/") for text in places)


def test_a_kit_that_was_moved_is_written_anew_with_its_own_keys(written, tmp_path):
    for name, kind in (("hub", "server"), ("a", "client")):
        old = written.hub if name == "hub" else written.folder / name
        new = tmp_path / name
        shutil.copytree(old, new)
        key = (new / f"startup/{kind}.key").read_bytes()
        arguments = {"state": "elsewhere"}
        kit.settle_kit(new, arguments)
        kit.check_kit(new)
        assert kit.read_kit(new)["arguments"] == arguments
        assert (new / f"startup/{kind}.key").read_bytes() == key
        assert str(old) not in "".join(p.read_text() for p in new.rglob("*.json"))


class Killed(BaseException):
    pass


def test_wherever_the_writing_of_a_moved_kit_is_cut_off_the_next_start_ends_it(
    written, tmp_path, monkeypatch
):
    real, arguments = kit.write_atomic, {"state": "elsewhere"}
    for old in (written.hub, written.folder / "a"):
        for last in range(1, 9):
            new, left = tmp_path / f"{old.name}{last}", [last]
            shutil.copytree(old, new)

            def dying(path, data, private=False, left=left):
                if not left[0]:
                    path.with_name(f"{path.name}.part").write_bytes(data[:9])
                    raise Killed
                left[0] -= 1
                real(path, data, private)

            with monkeypatch.context() as patch:
                patch.setattr(kit, "write_atomic", dying)
                with pytest.raises(Killed):
                    kit.settle_kit(new, arguments)
            assert "unfinished" in refused(new)
            assert kit.settle_kit(new, arguments) == kit.UNFINISHED
            kit.check_kit(new)
            assert kit.read_kit(new)["arguments"] == arguments
            assert not list(new.glob("*/*.part"))


def test_drafts_of_its_own_files_are_taken_out_and_no_others(kits):
    folder = kits.folder / "a"
    before = everything(folder)
    for path in ("local/resources.json", "startup/client.key"):
        (folder / f"{path}.part").write_bytes(b"{")
    assert settled(folder) is None and everything(folder) == before
    (folder / "local/privacy.json.part").write_text("{}")
    with pytest.raises(InputError, match=r"privacy\.json\.part is not a file of the kit"):
        settled(folder)


def test_a_kit_that_was_moved_and_edited_is_refused(written, tmp_path):
    shutil.copytree(written.hub, tmp_path / "hub")
    edit(tmp_path / "hub/local/resources.json", lambda v: v.update(allow_log_streaming=True))
    before = (tmp_path / "hub/local/resources.json").read_bytes()
    with pytest.raises(InputError, match="KIT_CHANGED") as found:
        kit.settle_kit(tmp_path / "hub", {})
    assert "allow_log_streaming" in found.value.what
    assert (tmp_path / "hub/local/resources.json").read_bytes() == before


def strings(value):
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in strings(one)]


RESOURCES = "local/resources.json"
LOOSENED = {
    "rights": (
        "local/authorization.json",
        lambda v: v["permissions"].update(project_admin="any"),
        "permissions.project_admin",
    ),
    "role": (
        "local/authorization.json",
        lambda v: v["permissions"].update(lead={"byoc": "any"}),
        "permissions.lead",
    ),
    "warn": (
        RESOURCES,
        lambda v: v.update(class_list_enforcement_mode="warn"),
        "class_list_enforcement_mode",
    ),
    "any class": (RESOURCES, lambda v: v.update(class_allow_list=["*"]), "class_allow_list"),
    "one more": (
        RESOURCES,
        lambda v: v["class_allow_list"].append("subprocess.Popen"),
        "class_allow_list",
    ),
    "default list": (RESOURCES, lambda v: v.pop("class_allow_list"), "class_allow_list"),
    "logs": (RESOURCES, lambda v: v.update(allow_log_streaming=True), "allow_log_streaming"),
    "component": (
        RESOURCES,
        lambda v: v["components"].append({"id": "x", "path": "os.system", "args": {}}),
        "components",
    ),
    "arguments": (
        RESOURCES,
        lambda v: v["components"][-1]["args"].update(agent=["sh"]),
        "components[3].args.agent",
    ),
    "plain": (
        "startup/fed_client.json",
        lambda v: v["client"].update(connection_security="clear"),
        "client.connection_security",
    ),
    "identity": (
        "startup/fed_client.json",
        lambda v: v["servers"][0].pop("identity"),
        "servers[0].identity",
    ),
}


@pytest.mark.parametrize("name", LOOSENED)
def test_a_loosened_file_is_named_with_its_key(kits, name):
    path, change, key = LOOSENED[name]
    edit(kits.folder / "a" / path, change)
    assert f"{path}, {key}" in refused(kits.folder / "a")


@pytest.mark.parametrize(
    "path",
    ["local/privacy.json", "local/custom/x.py", "startup/more__resources.json", "local/a.default"],
)
def test_a_file_that_flare_would_read_beside_ours_is_refused(kits, path):
    new = kits.folder / "a" / path
    new.parent.mkdir(mode=0o700, exist_ok=True)
    new.write_text("{}")
    assert path.rpartition("/")[0].split("/x")[0] in refused(kits.folder / "a")


def test_open_modes_links_and_missing_files_are_refused(kits):
    folder = kits.folder / "a"
    (folder / "startup/client.key").chmod(0o640)
    assert "startup/client.key has mode 0640" in refused(folder)
    (folder / "startup/client.key").chmod(0o600)
    folder.chmod(0o755)
    assert "the folder has mode 0755" in refused(folder)
    folder.chmod(0o700)
    (folder / "startup/client.crt").rename(kits.folder / "elsewhere")
    assert "startup/client.crt is missing" in refused(folder)
    (folder / "startup/client.crt").symlink_to(kits.folder / "elsewhere")
    assert "is a link" in refused(folder)


def written_by(folder, version):
    edit(folder / "kit.json", lambda v: v.update(version=version))


def settled(folder):
    return kit.settle_kit(folder, kit.read_kit(folder)["arguments"])


def everything(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["hub", "a"])
def test_a_kit_of_another_version_is_written_anew_with_its_keys(kits, name):
    folder = kits.folder / name
    before = everything(folder)
    edit(folder / RESOURCES, lambda v: v.update(setting_of_before=1))
    (folder / "local/privacy.json").write_text("{}")
    written_by(folder, "0.0.9")
    assert "written by Polyclinic 0.0.9" in refused(folder)
    assert settled(folder) == "0.0.9"
    kit.check_kit(folder)
    assert everything(folder) == before
    assert settled(folder) is None


@pytest.mark.parametrize("name", LOOSENED)
def test_who_edits_the_version_of_a_loosened_kit_gains_nothing(kits, name):
    folder = kits.folder / "a"
    before = everything(folder)
    path, change, _ = LOOSENED[name]
    edit(folder / path, change)
    with pytest.raises(InputError, match="KIT_CHANGED"):
        settled(folder)  # of this version: left as it is
    refused(folder)
    (folder / "local/custom").mkdir()
    (folder / "local/custom/x.py").write_text("import os")
    (folder / "startup/more__resources.json").symlink_to("/etc/passwd")
    written_by(folder, "9.9")
    settled(folder)
    assert everything(folder) == before
    kit.check_kit(folder)


def test_a_kit_whose_key_others_could_read_is_not_taken_over(kits):
    folder = kits.folder / "a"
    for spoil in (
        lambda: (folder / "startup/client.key").chmod(0o640),
        lambda: (folder / "local").chmod(0o755),
    ):
        written_by(folder, "0.0.9")
        spoil()
        with pytest.raises(InputError, match="KIT_CHANGED"):
            settled(folder)


def test_the_process_itself_refuses_a_loosened_kit(kits):
    folder = kits.folder / "a"
    edit(folder / RESOURCES, lambda v: v.update(class_allow_list=["*"]))
    found = subprocess.run(kit.client_command(folder), capture_output=True, text=True, timeout=30)
    assert found.returncode == 2
    assert "KIT_CHANGED" in found.stderr and "class_allow_list" in found.stderr


def test_how_long_a_certificate_lasts_is_known(written, monkeypatch, tmp_path):
    for folder in (written.hub, written.folder / "a"):
        assert kit.certificate_days(folder) == pki.DAYS - 1
    assert kit.certificate_days(tmp_path) is None
    assert pki.days_left(b"no certificate") is None
    monkeypatch.setattr(pki, "DAYS", 0)  # and an hour before, as clocks differ
    ca, key = pki.make_ca("h")
    assert pki.days_left(pki.sign_server(ca, key, "localhost")[0]) == -1


def test_no_kit():
    with pytest.raises(InputError) as found:
        kit.check_kit(pki.__file__)
    assert found.value.code == "NO_KIT"


def test_a_certificate_of_another_name_is_not_written(written, tmp_path):
    request, key = pki.make_request("z")
    cert = pki.sign_request(request, written.ca, written.ca_key, "z")
    with pytest.raises(InputError) as found:
        written.client("y", cert, key)
    assert found.value.code == "BAD_CERTIFICATE"
    assert not (written.folder / "y").exists()


def test_a_certificate_has_the_name_that_is_signed_not_the_one_that_is_asked(written):
    request, _ = pki.make_request("va")
    cert = pki.sign_request(request, written.ca, written.ca_key, "cleveland")
    assert pki.name_of(cert) == "cleveland"
    found = x509.load_pem_x509_certificate(cert)
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(written.ca))
    assert (found.not_valid_after_utc - found.not_valid_before_utc).days == 825
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_request_without_proof_of_its_key_is_not_signed(written):
    request, _ = pki.make_request("va")
    lines = request.splitlines()
    at = len(lines) - 3  # within the signature
    lines[at] = (b"A" if lines[at][:1] != b"A" else b"B") + lines[at][1:]
    for bad in (b"", b"no request", b"\n".join(lines)):
        with pytest.raises(InputError) as found:
            pki.sign_request(bad, written.ca, written.ca_key, "va")
        assert found.value.code == "BAD_REQUEST"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_certificate_is_taken_by_strict_tls(written, host):
    cert, key = pki.sign_server(written.ca, written.ca_key, host)
    (written.folder / "s.pem").write_bytes(cert + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(written.folder / "s.pem")
    client = ssl.create_default_context(cadata=written.ca.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=host)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert one.getpeercert()["issuer"][0] == (("commonName", "heart"),)
