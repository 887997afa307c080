"""The folder from which a FLARE process starts, and the check that nobody has opened it wider.

No FLARE job ever runs here. FLARE carries bytes between our two components; nobody has a right to
anything else, and of classes that a job may name only our component is allowed. All files but keys
and certificates follow from ``kit.json``; the check writes them anew in memory and compares. A kit
that another version of Polyclinic has written is written anew before a start.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from polyclinic.core.checkpoint import PART, write_atomic
from polyclinic.core.errors import InputError
from polyclinic.engines.flare.pki import (
    CLIENT,
    SERVER,
    days_left,
    make_ca,
    make_request,
    name_of,
    sign_request,
    sign_server,
)

__all__ = [
    "check_kit",
    "client_command",
    "client_environment",
    "make_ca",
    "make_request",
    "server_command",
    "server_environment",
    "settle_kit",
    "sign_request",
    "sign_server",
    "write_client_kit",
    "write_server_kit",
]
FORMAT = 1
VERSION = version("polyclinic")
UNFINISHED = f"{VERSION}, unfinished"  # stamp of a kit whose files are being written anew
HEARTBEAT = 4  # seconds between signs of life of a site
COMPONENTS = {
    SERVER: "polyclinic.engines.flare.server.HubComponent",
    CLIENT: "polyclinic.engines.flare.client.SiteComponent",
}
_KIT = "kit.json"
_STARTUP = {SERVER: "startup/fed_server.json", CLIENT: "startup/fed_client.json"}
_RESOURCES, _RIGHTS, _LOG = (
    f"local/{name}.json" for name in ("resources", "authorization", "log_config")
)
_ROOT = "startup/rootCA.pem"


def write_server_kit(
    folder: Path,
    *,
    name: str,
    host: str,
    port: int,
    ca: bytes,
    cert: bytes,
    key: bytes,
    socket: str | Path,
    children: Sequence[Sequence[str]] = (),
) -> None:
    """Write the folder of a hub's server process, or write it anew.

    Parameters
    ----------
    name : of the hub.
    host, port : where hospitals reach it; a loopback host is listened to on loopback only.
    ca, cert, key : PEM.
    socket : where this machine's own processes ask it.
    children : commands that run as long as the server does.
    """
    arguments = {"socket": str(socket), "children": [list(command) for command in children]}
    about = {"kind": SERVER, "hub": name, "host": host, "port": port, "arguments": arguments}
    _write(folder, about, ca, cert, key)


def write_client_kit(
    folder: Path,
    *,
    hub: str,
    site: str,
    host: str,
    port: int,
    ca: bytes,
    cert: bytes,
    key: bytes,
    agent: list[str],
    state: str | Path,
) -> None:
    """Write the folder of a hospital's client process, or write it anew.

    Parameters
    ----------
    hub, site : names.
    host, port : of the hub.
    ca, cert, key : PEM; the certificate is for `site`.
    agent : command of the process that holds the rows.
    state : file in which the process says how it is.
    """
    arguments = {"agent": list(agent), "state": str(state)}
    about = {"kind": CLIENT, "hub": hub, "host": host, "port": port, "site": site}
    _write(folder, {**about, "arguments": arguments}, ca, cert, key)


def server_command(folder: Path) -> list[str]:
    """What starts the server; it checks the folder first. SIGTERM ends it."""
    module = "polyclinic.engines.flare.process"
    return [sys.executable, "-P", "-m", module, str(Path(folder).absolute())]


client_command = server_command


def server_environment(folder: Path) -> dict[str, str]:
    """What the process needs in its environment: nothing beyond what every process has."""
    return {}


client_environment = server_environment


def settle_kit(folder: Path, arguments: Mapping[str, Any]) -> str | None:
    """Write the kit anew, with its keys and certificates, where this version or place is another.

    What another version has written is not compared with anything: whatever else lies in the kit is
    taken out, so that who edits the version gains nothing. Gives the version that had written it,
    None where it was this one.

    Parameters
    ----------
    arguments : what the process is started with from here.

    Raises
    ------
    InputError : NO_KIT; KIT_CHANGED, of a kit of this version as it was written in its old place,
        of another one where keys cannot be taken over.
    """
    folder = Path(folder).absolute()
    about = read_kit(folder)
    before = about.get("version")
    if before != VERSION:
        _purge(folder, about)
    else:
        _without_drafts(folder, about)
        check_kit(folder, Path(about["folder"]))
    if (before, about["folder"], about["arguments"]) != (VERSION, str(folder), arguments):
        pems = [(folder / path).read_bytes() for path in _pems(about)]
        if before == VERSION:  # cut off from here on, nothing would fit what stands in kit.json
            write_atomic(folder / _KIT, _text({**about, "version": UNFINISHED}), private=True)
        _write(folder, {**about, "arguments": dict(arguments)}, *pems)
    return None if before == VERSION else str(before or "an earlier version")[:64]


def _without_drafts(folder: Path, about: Mapping[str, Any]) -> None:
    """Take out what a write that was cut off has left beside the files of the kit."""
    for path in (*_files(folder, about), *_pems(about)):
        draft = folder / f"{path}{PART}"
        if draft.is_file() or draft.is_symlink():
            draft.unlink()


def _purge(folder: Path, about: Mapping[str, Any]) -> None:
    """Take out all but keys and certificates. Raises KIT_CHANGED where others can read those."""
    for path in (".", _KIT, "startup", "local", *_pems(about)):
        _private(folder, path)
    for below in ("startup", "local"):
        for found in (folder / below).iterdir():
            if found.relative_to(folder).as_posix() in _pems(about):
                continue
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()


def check_kit(folder: Path, written_in: Path | None = None) -> None:
    """See that the folder is as it was written, and nobody else can read it.

    Parameters
    ----------
    written_in : the place where it was written, None: where it lies now.

    Raises
    ------
    InputError : NO_KIT when there is none; KIT_CHANGED naming the file and the key.
    """
    folder = Path(folder)
    about = read_kit(folder)
    if about.get("version") != VERSION:
        other = about.get("version", "another version")
        stale = "it is written anew when it is stopped and started again"
        raise _changed(folder, f"written by Polyclinic {str(other)[:64]}, not {VERSION}", stale)
    expected = _files(written_in or folder, about)
    for path, wanted in expected.items():
        _same(folder, path, wanted)
    known = {*expected, *_pems(about), "startup", "local"}
    for below in ("startup", "local"):
        for found in _below(folder / below):
            path = found.relative_to(folder).as_posix()
            if path not in known:
                raise _changed(folder, f"{path} is not a file of the kit", "it was put there")
    for path in (_KIT, *known):
        _private(folder, path)
    _private(folder, ".")


def read_kit(folder: Path) -> dict[str, Any]:
    """What the kit was written from. Raises NO_KIT."""
    here = str(Path(folder).absolute())
    try:
        about = json.loads((Path(folder) / _KIT).read_bytes())
        about.setdefault("folder", here)
        kinds = {"kind": str, "hub": str, "host": str, "port": int}
        kinds |= {"arguments": dict, "folder": str}
        known = about["format"] == FORMAT and about["kind"] in COMPONENTS
        if known and all(type(about[key]) is kind for key, kind in kinds.items()):
            return dict(about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(
        f"{folder}: there is no network kit here",
        code="NO_KIT",
        rule="the kit is written when a hub is made, or when a site joins one",
        next="polyclinic hub start NAME writes a hub's; a site joins again with a new invite",
    )


def _write(folder: Path, about: dict[str, Any], ca: bytes, cert: bytes, key: bytes) -> None:
    folder = Path(folder).absolute()
    about = {**about, "format": FORMAT, "version": VERSION, "folder": str(folder)}
    kind = about["kind"]
    if kind == CLIENT and name_of(cert) != about["site"]:
        raise InputError(
            f"the certificate is for {name_of(cert)}, not for {about['site']}",
            code="BAD_CERTIFICATE",
            rule="a site's certificate carries its name",
            next="join again with the invitation for this site",
        )
    for path in (folder, folder / "startup", folder / "local"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    pems = dict(zip(_pems(about), (ca, cert, key), strict=True))
    texts = {**_files(folder, about), _KIT: about}  # its version last: what broke off is done again
    for name, data in {**pems, **{name: _text(value) for name, value in texts.items()}}.items():
        write_atomic(folder / name, data, private=True)


def certificate_days(folder: Path) -> int | None:
    """Days until the certificate of a kit ends; None where there is none."""
    for kind in (SERVER, CLIENT):
        if (found := folder / "startup" / f"{kind}.crt").is_file():
            return days_left(found.read_bytes())
    return None


def _pems(about: Mapping[str, Any]) -> tuple[str, str, str]:
    """The authority's certificate, the own one, and its key."""
    kind = about["kind"]
    return _ROOT, f"startup/{kind}.crt", f"startup/{kind}.key"


def _files(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    folder = Path(folder).absolute()
    kind = about["kind"]
    startup, resources = (_server if kind == SERVER else _client)(folder, about)
    component = {"id": "polyclinic", "path": COMPONENTS[kind], "args": about["arguments"]}
    resources["components"].append(component)
    policy = {
        "format_version": 2,
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": [COMPONENTS[kind]],
        "allow_log_streaming": False,
    }
    return {
        _STARTUP[kind]: {"format_version": 2, **startup},
        _RESOURCES: {**policy, **resources},
        _RIGHTS: {"format_version": "1.0", "permissions": {"project_admin": "none"}},
        _LOG: _logging(),
    }


def _server(folder: Path, about: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    host, port = about["host"], about["port"]
    service = {
        "name": about["hub"],
        "service": {"target": f"{host}:{port}", "scheme": "grpc"},
        "admin_server": host,
        "admin_port": port,  # the same: nobody may administrate, so that no second port is open
        **_tls(SERVER),
    }
    storage = "nvflare.app_common.storages.filesystem_storage.FilesystemStorage"
    resources = {
        "servers": [
            {
                "admin_storage": str(folder / "transfer"),
                "max_num_clients": 100,
                "heart_beat_timeout": 60,
                "admin_timeout": 10.0,
                "download_job_url": "http://none/",
            }
        ],
        "snapshot_persistor": {
            "path": "nvflare.app_common.state_persistors.storage_state_persistor"
            ".StorageStatePersistor",
            "args": {
                "uri_root": "/",
                "storage": {
                    "path": storage,
                    "args": {"root_dir": str(folder / "snapshots"), "uri_root": "/"},
                },
            },
        },
        "components": [
            _component(
                "job_scheduler",
                "job_schedulers.job_scheduler.DefaultJobScheduler",
                {"max_jobs": 1},
            ),
            {
                "id": "job_manager",
                "path": "nvflare.apis.impl.job_def_manager.SimpleJobDefManager",
                "args": {"uri_root": str(folder / "jobs"), "job_store_id": "job_store"},
            },
            {"id": "job_store", "path": storage, "args": {}},
            _component(
                "process_launcher",
                "job_launcher.server_process_launcher.ServerProcessJobLauncher",
            ),
        ],
    }
    return {"servers": [service]}, resources


def _client(folder: Path, about: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    target = {"target": f"{about['host']}:{about['port']}", "scheme": "grpc"}
    startup = {
        "servers": [{"name": about["hub"], "service": target, "identity": SERVER}],
        "client": {"fqsn": about["site"], "is_leaf": True, **_tls(CLIENT)},
    }
    no_gpu = {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 0, "expiration_period": 300}
    resources = {
        "client": {
            "retry_timeout": 30,
            "compression": "Gzip",
            "communication_timeout": 30.0,
            "maint_msg_timeout": 8.0,  # a sign of life to a hub that has just ended waits as long
        },
        "components": [
            _component(
                "resource_manager",
                "resource_managers.gpu_resource_manager.GPUResourceManager",
                no_gpu,
            ),
            _component(
                "resource_consumer", "resource_consumers.gpu_resource_consumer.GPUResourceConsumer"
            ),
            _component(
                "process_launcher",
                "job_launcher.client_process_launcher.ClientProcessJobLauncher",
            ),
        ],
    }
    return startup, resources


def _tls(kind: str) -> dict[str, str]:
    return {
        "ssl_private_key": f"{kind}.key",
        "ssl_cert": f"{kind}.crt",
        "ssl_root_cert": "rootCA.pem",
        "connection_security": "mtls",
    }


def _component(name: str, path: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"id": name, "path": f"nvflare.app_common.{path}", "args": dict(arguments or {})}


def _logging() -> dict[str, Any]:
    text = "%(asctime)s %(name)s %(levelname)s %(message)s"
    handler = {
        "class": "logging.handlers.RotatingFileHandler",
        "level": "INFO",
        "formatter": "plain",
        "filename": "network.log",
        "maxBytes": 5_000_000,
        "backupCount": 3,
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": text}},
        "handlers": {"file": handler},
        "root": {"level": "INFO", "handlers": ["file"]},
    }


def _text(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _same(folder: Path, path: str, wanted: Any) -> None:
    try:
        found = json.loads((folder / path).read_bytes())
    except (OSError, ValueError):
        raise _changed(folder, f"{path} is missing or cannot be read", "") from None
    for key, what in _differences(wanted, found, ""):
        raise _changed(folder, f"{path}, {key}: {what}", "")


def _differences(wanted: Any, found: Any, key: str) -> Iterator[tuple[str, str]]:
    """Where two JSON values differ, with what stands there."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name in {**wanted, **found}:
            below = f"{key}.{name}" if key else str(name)
            if name not in found:
                yield below, "is missing"
            elif name not in wanted:
                yield below, "was added"
            else:
                yield from _differences(wanted[name], found[name], below)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for n, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from _differences(one, other, f"{key}[{n}]")
    elif type(wanted) is not type(found) or wanted != found:
        yield key, f"is {json.dumps(found)[:60]}, was written as {json.dumps(wanted)[:60]}"


def _below(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.rglob("*"))


def _private(folder: Path, path: str) -> None:
    try:
        found = os.lstat(folder / path)
    except OSError:
        raise _changed(folder, f"{path} is missing", "") from None
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        raise _changed(folder, f"{path} is a link", "")
    if mode & 0o077 or found.st_uid != os.getuid():
        shown = "the folder" if path == "." else path
        what = f"{shown} has mode {mode:04o}" if mode & 0o077 else f"{shown} is someone else's"
        raise _changed(folder, what, "chmod -R go= on the folder, after a look at who could read")


def _changed(folder: Path, what: str, next: str) -> InputError:
    return InputError(
        f"{folder}: {what}",
        code="KIT_CHANGED",
        rule="nothing starts from a kit that was edited or that others can read: its two policy "
        "files are what keeps foreign code out",
        next=next
        or "restore the file; or have the kit written anew: a site joins again with a "
        "new invite, a hub is started after this folder was moved away",
        kept="nothing was started",
    )
