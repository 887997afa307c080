"""An S3 server on this machine (moto, in an environment of its own), and workers that read it."""

from __future__ import annotations

import gc
import os
import subprocess
import time
from pathlib import Path

import pytest

import polyclinic as pc
from polyclinic.data.kept import PREFIX
from tests.engines.near import BOOK, FORMULA, near, visits, write

pytest.importorskip("distributed")
fs = pytest.importorskip("pyarrow.fs")

PYTHON = Path(os.environ.get("POLYCLINIC_MOTO", Path(__file__).parents[2] / ".venv-s3/bin/python"))
SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def endpoint():
    """Where the server listens, on this machine only; the keys are those that any client names."""
    if not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON} with moto, see .ci/run")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([PYTHON, "-c", SERVER], text=True, **pipes) as server:
        port = server.stdout.readline().strip()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (
                ("ACCESS_KEY_ID", "a-key"),
                ("SECRET_ACCESS_KEY", "geheim"),
                ("DEFAULT_REGION", "us-east-1"),
                ("EC2_METADATA_DISABLED", "true"),
            ):
                patch.setenv(f"AWS_{name}", value)
            yield f"127.0.0.1:{port}"
        server.stdin.close()


@pytest.fixture(scope="module")
def lake(endpoint, tmp_path_factory):
    """Visits in a bucket."""
    folder = tmp_path_factory.mktemp("visits")
    write(visits(), folder)
    system = fs.S3FileSystem(
        endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    system.create_dir("lake")
    fs.copy_files(str(folder), "lake/visits/2026", destination_filesystem=system)
    return folder


def fitted(data, engine=None):
    model = pc.LogisticRegression().fit(data, FORMULA, engine=engine)
    return model.summary().to_numpy().tobytes()


def test_two_workers_read_a_bucket_themselves(endpoint, lake, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{endpoint}")
    data = pc.scan("s3://lake/visits/**/*.parquet", BOOK)
    assert [path.rpartition("/")[2] for path in data.scan.lake.files] == [
        "v0.parquet",
        "v1.parquet",
        "v2.parquet",
    ]
    with pc.cluster(workers=2, partitions=3) as cluster:
        found = fitted(data, cluster)
        assert len(cluster.worker_pids()) == 2
    assert found == fitted(pc.scan(lake, BOOK), pc.Embedded(3))


def test_an_address_may_name_its_server(endpoint, lake, tmp_path):
    options = f"?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    for place in ("s3://lake/visits/2026/v*.parquet", "s3://lake/visits"):
        assert fitted(pc.scan(place + options, BOOK), near(tmp_path)) == fitted(pc.scan(lake, BOOK))
    for nothing in ("s3://lake/none", "s3://no-bucket-of-ours/visits"):
        with pytest.raises(pc.InputError) as caught:
            pc.scan(nothing + options, BOOK)
        assert caught.value.code == "NO_FILE"


def test_rows_that_are_written_anew_may_lie_in_a_bucket_until_nothing_uses_them(endpoint, lake):
    options = f"?endpoint_override={endpoint}&scheme=http&region=us-east-1"
    data = pc.scan(lake, BOOK, order="patient", folder=f"s3://lake/shared{options}")
    system, _ = fs.FileSystem.from_uri(f"s3://lake/shared{options}")

    def there():
        found = system.get_file_info(fs.FileSelector("lake", recursive=True))
        return [one.path for one in found if PREFIX in one.path and one.path.endswith(".parquet")]

    assert len(there()) == 1
    assert fitted(data) == fitted(pc.scan(lake, BOOK, order="patient"))
    del data
    gc.collect()
    for _ in range(20):
        if not there():
            break
        time.sleep(0.05)
    assert not there()
