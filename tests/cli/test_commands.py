"""The command line: what it prints, its exit codes, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

from polyclinic.cli import main
from tests.cli.line import here, process

CODEBOOK = Path(__file__).resolve().parents[2] / "examples" / "heart.toml"
DEAD = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def demo(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, process("demo", cwd=folder)


def test_demo_prints_the_numbers_and_writes_the_report(demo):
    folder, done = demo
    assert done.returncode == 0, done.stderr
    for line in (
        "switzerland        117            109   6",
        "hungarian          293            106   under 5",
        "sex             1.402     0.235    5.97   <0.001    0.942   to  1.862",
        "switzerland      0.748    0.539 to 0.956         93          71  ! too low here",
        "all              0.877    0.853 to 0.900         55          55",
        "report runs/demo/report.html",
    ):
        assert line in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert (folder / "runs/demo/report.html").stat().st_size > 50_000
    assert done.stdout.isascii()


def test_demo_again_and_as_json(demo):
    folder, _ = demo
    done = here("demo", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["model"]["n"] == 857
    stored = json.loads((folder / "runs/demo/metrics.json").read_text())
    assert results == stored


def test_demo_without_data_and_network_says_what_it_uses(tmp_path):
    done = process("demo", cwd=tmp_path, POLYCLINIC_DATA="", POLYCLINIC_CACHE=str(tmp_path), **DEAD)
    assert done.returncode == 0, done.stderr
    assert "Breast Cancer" in done.stdout and "made-up hospitals" in done.stdout


def test_report_and_predict_from_the_run(demo, data_dir, tmp_path):
    folder, _ = demo
    report = folder / "runs/demo/report.html"
    before = report.read_bytes()
    report.unlink()
    assert here("report", "runs/demo", cwd=folder).returncode == 0
    assert report.read_bytes() == before
    data = data_dir / "heart-disease" / "processed.va.data"
    done = here(
        "predict", "runs/demo", data, "--site", "va", "--out", tmp_path / "p.csv", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "p.csv")
    assert len(table) == 200 and table.risk.notna().sum() == 144
    assert table.risk.dropna().between(0, 1).all()


def test_check_lists_findings_and_no_rows(data_dir, tmp_path):
    data = data_dir / "heart-disease" / "processed.va.data"
    done = here("check", data, "--schema", CODEBOOK, "--site", "va", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'trestbps         57   "?" 56, 0 1' in done.stdout
    assert "2 values left, the minimum is 5: unusable" in done.stdout
    shared = here("check", data, "--schema", CODEBOOK, "--site", "va", "--share", cwd=tmp_path)
    assert '"?" 56, 0 1' not in shared.stdout
    assert json.loads(here("check", data, "--schema", CODEBOOK, "--json", cwd=tmp_path).stdout)


def test_lists_and_explanations(tmp_path):
    assert "heart_disease" in process("datasets", cwd=tmp_path).stdout
    done = process("explain", "TOO_FEW_PATIENTS", cwd=tmp_path)
    assert "rule" in done.stdout and done.returncode == 0


STUDY = """
format = 1
[study]
name = "heart"
[data]
dataset = "heart_disease"
[model]
kind = "logistic"
formula = "disease ~ age + sex"
"""


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        (("kind", "knid"), 2, "UNKNOWN_KEY"),
        (("~ age", "~ agee"), 2, "UNKNOWN_COLUMN"),
        (("[model]", "[privacy]\nmin_patients = 200\n[model]"), 3, "LEVEL_TOO_SMALL"),
    ],
)
def test_errors_in_words_with_exit_codes(data_dir, tmp_path, change, code, word):
    study = tmp_path / "study.toml"
    study.write_text(STUDY.replace(*change))
    done = here("run", study.name, cwd=tmp_path)
    assert done.returncode == code
    places = [done.stderr.index(f"\n{label}  ") for label in ("rule", "next", "kept")]
    assert done.stderr.startswith("error  ") and word in done.stderr and places == sorted(places)
    assert "Traceback" not in done.stderr and max(map(len, done.stderr.splitlines())) <= 80
    assert "Traceback" in here("run", study.name, "--debug", cwd=tmp_path).stderr


def test_wrong_options_and_unwritable_folder(data_dir, tmp_path):
    assert process("run", "--colour", cwd=tmp_path).returncode == 2
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "file").write_text("in the way")
    done = process("run", "study.toml", "--out", "file/run", cwd=tmp_path)
    assert done.returncode == 4 and "CANNOT_WRITE" in done.stderr


def test_the_version_is_said(tmp_path):
    done = process("--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == f"polyclinic {version('polyclinic')}\n"


def test_a_folder_of_another_account_is_named(tmp_path):
    done = process("hub", "init", "heart", cwd=tmp_path, POLYCLINIC_HOME="/sys/nobody")
    assert done.returncode == 2 and "/sys/nobody" in done.stderr and "NO_ACCESS" in done.stderr


@pytest.mark.parametrize(
    ("number", "step"),
    [(errno.EACCES, "owner and mode"), (errno.EROFS, "whatever"), (errno.EBUSY, "whatever")],
)
def test_only_where_owner_and_mode_matter_are_they_named(capsys, number, step):
    with pytest.raises(SystemExit, match="2"):
        main._unplanned(OSError(number, os.strerror(number), "/data/site"))
    said = " ".join(capsys.readouterr().err.split())
    assert f"/data/site: {os.strerror(number)}" in said and step in said
    assert ("owner" in said) == (number == errno.EACCES)


def test_ctrl_c_leaves_a_run_that_goes_on(data_dir, tmp_path):
    (tmp_path / "study.toml").write_text(
        STUDY
        + "[solver]\nname = 'sgd'\nbatch = 0.5\nmax_rounds = 25\n[evaluation]\nvalidate = 'none'\n"
    )
    run = [sys.executable, "-m", "polyclinic.cli.main", "run", "study.toml"]
    running = subprocess.Popen(
        run, cwd=tmp_path, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
    )
    checkpoint = tmp_path / "runs/heart/checkpoints/fit.pcm"
    limit = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "INTERRUPTED" in said and "--resume" in said
    again = process("run", "study.toml", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    whole = process("run", "study.toml", "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    for name in ("model.pcm", "metrics.json", "report.html"):
        assert (tmp_path / "runs/heart" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()
