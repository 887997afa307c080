"""The documented commands with real processes: enrol, review, approve, run; killed and cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("nvflare")

from polyclinic.cli.stage import Stage
from polyclinic.governance.study_file import load_study
from polyclinic.study.run import run

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SITES = ("cleveland", "hungarian", "switzerland", "va")
STUDY = """format = 1
seed = 2026
[study]
name = "{name}"
purpose = "a test"
[data]
schema = "{schema}"
{source}
[cohort]
where = "age >= 18"
[model]
kind = "logistic"
formula = "disease ~ age + sex + C(cp) + thalach + exang + oldpeak"
[privacy]
secure_sums = true
[evaluation]
validate = "{validate}"
[federation]
round_timeout = "60 s"
"""


@pytest.fixture(scope="module")
def stage(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    files = {site: data_dir / f"heart-disease/processed.{site}.data" for site in SITES}
    with Stage(tmp_path_factory.mktemp("stage"), files, EXAMPLES / "heart.toml") as stage:
        yield stage


def study(stage: Stage, name: str, validate: str = "none", hub: bool = True) -> Path:
    """A study file, over the hub or over the hospitals' files on this machine."""
    files = ", ".join(f'{site} = "{path}"' for site, path in stage.files.items())
    source = f'hub = "{stage.hub}"' if hub else f"sites = {{ {files} }}"
    path = stage.folder / f"{name}{'' if hub else '-here'}.toml"
    text = STUDY.format(name=name, schema=stage.schema, source=source, validate=validate)
    path.write_text(text, encoding="utf-8")
    return path


def approve(stage: Stage, name: str) -> None:
    for site in stage.files:
        for _ in range(100):
            try:
                stage.do("site", "approve", name, "--yes", name, site=site)
                break
            except subprocess.CalledProcessError as error:
                last = error
                time.sleep(0.3)
        else:
            raise AssertionError(f"{site}: {last.stderr}")


def folder_of(stage: Stage, name: str) -> Path:
    """The results of a run at the hub."""
    return stage.folder / "hub" / "hubs" / stage.hub / "runs" / name / "result"


def same_bytes(stage: Stage, name: str, validate: str) -> None:
    here = run(load_study(study(stage, name, validate, hub=False)), stage.folder / f"{name}-here")
    there = folder_of(stage, name)
    for file in ("model.pcm", "coefficients.csv"):
        assert (there / file).read_bytes() == (here.folder / file).read_bytes()
    mine, theirs = (
        json.loads((folder / "metrics.json").read_bytes()) for folder in (here.folder, there)
    )
    assert mine.get("evaluation") == theirs.get("evaluation")
    assert mine["model"] == theirs["model"]


def test_a_study_over_the_network_has_the_bytes_of_one_machine(stage: Stage) -> None:
    running = stage.begin("run", str(study(stage, "whole", "cross-validation")), "--hub", stage.hub)
    approve(stage, "whole")
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert "exang" in said
    same_bytes(stage, "whole", "cross-validation")
    carried = pd.read_csv(stage.folder / "runs" / "whole" / "network.csv")
    assert set(carried["hospital"]) == set(SITES) and carried["round"].max() > 20
    assert (carried[["bytes to it", "bytes back"]] > 0).all(axis=None)
    for site in SITES:
        assert "chain unbroken" in stage.do("site", "audit", "verify", site=site)
        assert "total of 4" in stage.do("site", "ledger", site=site)


def test_a_refusal_ends_the_run_with_the_words(stage: Stage) -> None:
    running = stage.begin("run", str(study(stage, "unwanted")), "--hub", stage.hub)
    for _ in range(100):
        try:
            stage.do("site", "refuse", "unwanted", "--why", "not our question", site="va")
            break
        except subprocess.CalledProcessError:
            time.sleep(0.3)
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 3, said
    assert "va" in said and "not our question" in said


def pids(stage: Stage, who: str) -> list[int]:
    """Processes of the hub or of a hospital, by what stands in their command lines."""
    mark = str(stage.folder / "hub") if who == "hub" else str(stage.home(who))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except (OSError, UnicodeDecodeError):
                continue
            if "-m" in words and any(word.startswith(mark) for word in words):
                found.append(int(entry.name))
    return found


def kill(stage: Stage, who: str) -> None:
    """kill -9, all its processes at once."""
    for pid in pids(stage, who):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("who", ["va", "hub", "both"])
def test_killed_in_mid_run_it_goes_on_with_the_same_bytes(stage: Stage, who: str) -> None:
    name = f"killed-{who}"
    running = stage.begin("run", str(study(stage, name, "cross-validation")), "--hub", stage.hub)
    approve(stage, name)
    waited = time.monotonic() + 120
    while not (folder_of(stage, name) / "checkpoints" / "fit.pcm").exists():
        assert time.monotonic() < waited
        time.sleep(0.05)
    killed = ("va", "hub") if who == "both" else (who,)
    for one in killed:
        kill(stage, one)
    if "hub" in killed:
        stage.do("hub", "start", stage.hub)
    if "va" in killed:
        stage.do("site", "start", site="va")
    running.communicate(timeout=300)
    if running.returncode:  # the command lost the hub; the run did not
        said = stage.begin("attach", name, "--hub", stage.hub)
        text, _ = said.communicate(timeout=300)
        assert said.returncode == 0, text
    same_bytes(stage, name, "cross-validation")
