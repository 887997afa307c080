"""NVIDIA FLARE as a peer: a provisioned server, three sites, a job on its task controller."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._federated_peers import SITES, Bench, Found, free_ports, tool

ADMIN = "admin@example.org"
JOB = "benchmarks._federated_flare_job"
PACE = 0.05  # seconds, where the two keys of a job that set its pace are tuned
SUBMIT = """
import os, sys
from nvflare.fuel.flare_api.flare_api import new_secure_session
session = new_secure_session(sys.argv[1], sys.argv[2])
print(session.submit_job(sys.argv[3]), flush=True)
os._exit(0)  # a session's threads linger
"""
PROJECT = {
    "api_version": 3,
    "name": "rounds",
    "description": "rounds",
    "builders": [
        {
            "path": "nvflare.lighter.impl.workspace.WorkspaceBuilder",
            "args": {"template_file": "master_template.yml"},
        },
        {
            "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
            "args": {"config_folder": "config"},
        },
        {"path": "nvflare.lighter.impl.cert.CertBuilder"},
        {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
    ],
}


def flare(tuned: bool) -> Callable[[Bench], Found]:
    """Rounds on FLARE's task controller, with its defaults or with the job's pace tuned."""

    def run(bench: Bench) -> Found:
        kits = provision(bench)
        job = write_job(bench, tuned)
        begun = time.time()
        start_kit(bench, "server", kits / "localhost", "org=example")
        for site in SITES:
            start_kit(bench, "client", kits / site, f"uid={site}", "org=example")
        bench.wait("three sites", lambda: registered(bench), pause=0.2)
        start = time.time() - begun
        submitted = time.time()
        bench.call(sys.executable, "-c", SUBMIT, ADMIN, kits / ADMIN, job)
        found = bench.follow(submitted)
        found.start = start
        return found

    return run


def provision(bench: Bench) -> Path:
    """Kits by FLARE's own tool; its state kept in the folder, the job's two classes allowed."""
    port = free_ports(1)[0]
    people = [{"name": "localhost", "type": "server", "org": "example", "fed_learn_port": port}]
    people += [{"name": site, "type": "client", "org": "example"} for site in SITES]
    people += [{"name": ADMIN, "type": "admin", "org": "example", "role": "project_admin"}]
    project = bench.folder / "project.yml"  # JSON is YAML
    project.write_text(json.dumps({**PROJECT, "participants": people}))
    bench.call(tool("nvflare"), "provision", "-p", project, "-w", bench.folder / "kits")
    kits = bench.folder / "kits" / "rounds" / "prod_00"
    for name in ("localhost", *SITES):
        given = (kits / name / "local" / "resources.json.default").read_text()
        given = given.replace("/tmp/nvflare", str(bench.folder / "state"))
        resources = json.loads(given)
        resources["class_allow_list"] += [f"{JOB}.Rounds", f"{JOB}.Echo"]
        (kits / name / "local" / "resources.json").write_text(json.dumps(resources))
    return kits


def start_kit(bench: Bench, kind: str, kit: Path, *options: str) -> None:
    module = f"nvflare.private.fed.app.{kind}.{kind}_train"
    command = [sys.executable, "-u", "-m", module, "-m", kit, "-s", f"fed_{kind}.json"]
    bench.start(kit.name, *command, "--set", "secure_train=true", "config_folder=config", *options)


def registered(bench: Bench) -> bool:
    """The server's own log says that every site is there."""
    log = (bench.folder / "localhost.out").read_text(errors="replace")
    return all(f"New client {site}@" in log for site in SITES)


def write_job(bench: Bench, tuned: bool) -> Path:
    folder = bench.folder / "job"
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    workflow = {"plan": bench.plan()} | ({"task_check_period": PACE} if tuned else {})
    server: dict[str, Any] = {
        "format_version": 2,
        "workflows": [{"id": "rounds", "path": f"{JOB}.Rounds", "args": workflow}],
    }
    if tuned:
        server["server"] = {"task_request_interval": PACE}
    site = {
        "format_version": 2,
        "executors": [{"tasks": ["train"], "executor": {"path": f"{JOB}.Echo"}}],
    }
    (config / "config_fed_server.json").write_text(json.dumps(server))
    (config / "config_fed_client.json").write_text(json.dumps(site))
    meta = {
        "name": "rounds",
        "min_clients": len(SITES),
        "resource_spec": {},
        "deploy_map": {"app": ["@ALL"]},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder
