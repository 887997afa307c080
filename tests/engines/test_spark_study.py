"""A study on the command line, on a Spark session that it starts in local mode."""

from __future__ import annotations

import shutil
import subprocess
import sys
from subprocess import PIPE, STDOUT

import pytest

import polyclinic as pc
from tests.engines.near import SCHEMA, visits, write

pytest.importorskip("pyspark")
if shutil.which("java") is None:
    pytest.skip("there is no Java", allow_module_level=True)

STUDY = """
format = 1
[study]
name = "visits"
[data]
schema = "visits.toml"
sites = { north = "visits/*.parquet" }
[model]
kind = "linear"
formula = "hba1c ~ age + C(sex)"
[evaluation]
validate = "none"
alone = false
[output]
report = []
"""


def test_a_study_runs_on_spark_and_its_result_is_that_of_one_process(tmp_path):
    write(visits(), tmp_path / "visits")
    (tmp_path / "visits.toml").write_text(SCHEMA)
    (tmp_path / "study.toml").write_text(STUDY)
    command = [sys.executable, "-m", "polyclinic.cli.main", "run", str(tmp_path / "study.toml")]
    there = [*command, "--out", str(tmp_path / "there"), "--engine", "spark", "--workers", "2"]
    with subprocess.Popen(there, stdout=PIPE, stderr=STDOUT, text=True) as running:
        pc.run(tmp_path / "study.toml", tmp_path / "here")
        said, _ = running.communicate()
    assert running.returncode == 0, said[-2000:]
    assert "engine spark" in said
    one, two = [(tmp_path / out / "coefficients.csv").read_bytes() for out in ("here", "there")]
    assert one == two
