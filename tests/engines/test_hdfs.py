"""Hadoop's file system, where POLYCLINIC_TEST_HDFS names one: see scripts/hdfs."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.errors import PolyclinicError
from polyclinic.data.kept import PREFIX
from tests.engines.near import BOOK, FORMULA, SCHEMA, near, visits, write

ADDRESS = os.environ.get("POLYCLINIC_TEST_HDFS", "")
if not ADDRESS:
    reason = "POLYCLINIC_TEST_HDFS names no Hadoop file system: scripts/hdfs python -m pytest ..."
    pytest.skip(reason, allow_module_level=True)

fs = pytest.importorskip("pyarrow.fs")
NAMES = ["v0.parquet", "v1.parquet", "v2.parquet"]


@pytest.fixture(scope="module")
def system():
    return fs.FileSystem.from_uri(f"{ADDRESS}/")[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Visits in a folder of this machine."""
    write(visits(), folder := tmp_path_factory.mktemp("visits"))
    return folder


@pytest.fixture
def below(system, files):
    """A folder of Hadoop's with the same files in visits/2026."""
    root = f"/polyclinic-test-{uuid.uuid4().hex}"
    system.create_dir(f"{root}/visits/2026")
    fs.copy_files(str(files), f"{root}/visits/2026", destination_filesystem=system)
    yield root
    system.delete_dir(root)


def fitted(data, engine=None):
    model = pc.LogisticRegression().fit(data, FORMULA, engine=engine)
    return model.summary().to_numpy().tobytes()


def named(pattern):
    return [path.rpartition("/")[2] for path in pc.scan(pattern, BOOK).scan.lake.files]


def put(system, path, content):
    with system.open_output_stream(path) as out:
        out.write(content)


def refused(what, *more):
    """The error of a scan."""
    with pytest.raises(PolyclinicError) as caught:
        pc.scan(what, BOOK, *more)
    return caught.value


def test_one_process_and_two_workers_give_the_bytes_of_a_local_folder(files, below, tmp_path):
    pytest.importorskip("distributed")
    expected = fitted(pc.scan(files, BOOK), pc.Embedded(3))
    for place in ("visits", "visits/2026/v*.parquet"):
        assert fitted(pc.scan(f"{ADDRESS}{below}/{place}", BOOK), near(tmp_path, 3)) == expected
    data = pc.scan(f"{ADDRESS}{below}/visits/**/*.parquet", BOOK)
    assert fitted(data, pc.Embedded(3)) == expected
    with pc.cluster(workers=2, partitions=3) as cluster:
        assert fitted(data, cluster) == expected
        assert len(cluster.worker_pids()) == 2


def test_a_study_on_the_command_line_has_the_result_of_local_files(files, below, tmp_path):
    (tmp_path / "visits.toml").write_text(SCHEMA)
    for name, where in (("here", files.as_uri()), ("there", f"{ADDRESS}{below}/visits")):
        (tmp_path / f"{name}.toml").write_text(f"""
            format = 1
            study.name = "visits"
            data = {{ schema = "visits.toml", sites = {{ north = "{where}/**/*.parquet" }} }}
            model = {{ kind = "logistic", formula = "{FORMULA}" }}
            evaluation = {{ validate = "none", alone = false }}
            output.report = []
        """)
    here, there = tmp_path / "here", tmp_path / "there"
    pc.run(tmp_path / "here.toml", here)
    command = [sys.executable, "-m", "polyclinic.cli.main", "run", f"{there}.toml", "--out", there]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = [(out / "coefficients.csv").read_bytes() for out in (here, there)]
    assert one == two


def test_a_pattern_and_a_folder_name_what_is_whole(files, below, system):
    """Not what Spark is at writing, nor what is hidden; names may have blanks."""
    for hidden in ("visits/2026/_temporary/0", "visits/2026/.old", "my visits/a b"):
        system.create_dir(f"{below}/{hidden}")
        fs.copy_files(str(files), f"{below}/{hidden}", destination_filesystem=system)
    place = f"{ADDRESS}{below}"
    for pattern in (
        "visits",
        "visits/2026/",
        "**/2026/*.parquet",
        "visits/**/v*",
        "visits/2026/_temporary/0/*",
        "my visits/**/*.parquet",
        "my%20visits/a%20b/v*",
        "m*/a b/v*",
    ):
        assert named(f"{place}/{pattern}") == NAMES
    assert named(f"{place}/visits/2026/v1.parquet") == ["v1.parquet"]
    assert named(f"{place}/visits/2026/*2*") == ["v2.parquet"]
    for nothing in ("none", "none/*.parquet", "*.parquet", "visits/*.parquet"):
        error = refused(f"{place}/{nothing}")
        assert (error.code, "names no Parquet file" in str(error)) == ("NO_FILE", True)


def test_an_address_without_a_name_node_is_that_of_hadoops_own_settings(below):
    if fs.HadoopFileSystem("default").get_file_info([below])[0].type != fs.FileType.Directory:
        pytest.skip("fs.defaultFS is another file system")
    data = pc.scan(f"hdfs://{below}/visits/**/*.parquet", BOOK)
    assert fitted(data) == fitted(pc.scan(f"{ADDRESS}{below}/visits", BOOK))


def test_the_account_in_an_address_is_who_reads(below, files):
    private = f"{ADDRESS}{below}/private"
    system, path = fs.FileSystem.from_uri(f"{private}?fs.permissions.umask-mode=077")
    system.create_dir(path)
    fs.copy_files(str(files), path, destination_filesystem=system)
    assert named(f"{private}/*.parquet") == NAMES
    other = private.replace("://", "://somebody.else@")
    for closed in (f"{other}/*.parquet", f"{other}/v0.parquet", f"{private}?user=somebody.else"):
        error = refused(closed)
        assert (error.code, "PermissionError" in str(error)) == ("NO_FILE", True)
    assert refused(private.replace("://", "://me:secret@")).code == "PASSWORD_SHOWN"


def test_size_and_time_of_each_file_are_compared_at_every_read(below, system, files):
    data = pc.scan(f"{ADDRESS}{below}/visits", BOOK)
    size, changed, rows = data.scan.lake.marks[1]
    assert (size, rows) == ((files / "v1.parquet").stat().st_size, 233)
    assert abs(time.time_ns() - changed) < 600e9
    put(system, f"{below}/visits/2026/v1.parquet", (files / "v0.parquet").read_bytes())
    with pytest.raises(PolyclinicError) as caught:
        fitted(data)
    assert (caught.value.code, "v1.parquet" in str(caught.value)) == ("SOURCE_CHANGED", True)
    system.delete_file(f"{below}/visits/2026/v0.parquet")
    with pytest.raises(PolyclinicError) as caught:
        fitted(data)
    assert (caught.value.code, "FileNotFoundError" in str(caught.value)) == ("UNREADABLE", True)


def test_what_cannot_be_read_is_named_with_its_row_group_or_left_out(below, system, files):
    from pyarrow import parquet

    whole = (files / "v1.parquet").read_bytes()
    at = parquet.ParquetFile(io.BytesIO(whole)).metadata.row_group(1).column(0).data_page_offset
    torn = np.frombuffer(whole, dtype=np.uint8).copy()
    torn[at : at + 40] ^= 0xFF
    put(system, f"{below}/visits/2026/v1.parquet", torn.tobytes())
    put(system, f"{below}/visits/2026/v2.parquet", whole[: len(whole) // 2])
    place = f"{ADDRESS}{below}/visits"
    error = refused(place)
    assert (error.code, "v2.parquet cannot be read" in str(error)) == ("NO_FILE", True)
    with pytest.warns(pc.DataWarning, match=r"v2.parquet; v1.parquet, row group 1"):
        rest = pc.scan(place, BOOK, unreadable="leave out")
    assert rest.scan.n_rows == 233 + 130
    system.delete_file(f"{below}/visits/2026/v2.parquet")
    with pytest.raises(PolyclinicError, match=r"v1.parquet, row group 1 cannot be read") as caught:
        fitted(pc.scan(place, BOOK))
    assert caught.value.code == "UNREADABLE"


class Way(socketserver.ThreadingTCPServer):
    """A port of this machine that leads to the NameNode until it is closed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Forward)
        self.address = f"hdfs://127.0.0.1:{self.server_address[1]}"
        self.ends: list[socket.socket] = []

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        for one in self.ends:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Forward(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        host, port = ADDRESS.partition("://")[2].split(":")
        with socket.create_connection((host, int(port))) as there, self.request as here:
            self.server.ends += [here, there]
            back = threading.Thread(target=self.copy, args=(there, here))
            back.start()
            self.copy(here, there)
            back.join()

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_name_node_that_is_gone_is_said_soon_and_no_rows_are_left_out_for_it(below):
    way = Way()
    threading.Thread(target=way.serve_forever, kwargs={"poll_interval": 0.05}).start()
    data = pc.scan(f"{way.address}{below}/visits", BOOK)
    way.close()
    began = time.monotonic()
    with pytest.raises(PolyclinicError, match="row group") as caught:
        fitted(data)
    assert caught.value.code == "UNREADABLE"
    with pytest.raises(PolyclinicError) as caught:
        data.scan.readable()
    assert caught.value.code == "UNREADABLE"
    error = refused(f"{way.address}{below}/visits")
    assert (error.code, "no NameNode answers at 127" in str(error)) == ("NO_FILE", True)
    assert time.monotonic() - began < 30


def test_rows_in_another_order_may_lie_there_until_nothing_uses_them(files, below, system):
    data = pc.scan(files, BOOK, order="patient", folder=f"{ADDRESS}{below}/shared")
    assert fitted(data) == fitted(pc.scan(files, BOOK, order="patient"))
    there = system.get_file_info(fs.FileSelector(f"{below}/shared", recursive=True))
    assert [PREFIX in one.path for one in there] == [True] * 3
    del data
    gone(system, f"{below}/shared")


def gone(system, folder):
    gc.collect()
    for _ in range(40):
        if not system.get_file_info(fs.FileSelector(folder)):
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder} is not empty")


def test_spark_reads_and_writes_there_what_has_the_bytes_of_local_files(files, below, system):
    pytest.importorskip("pyspark")
    from pyspark.sql import SparkSession

    expected = fitted(pc.scan(files, BOOK, order="patient"))
    with pc.spark("local[2]") as engine:
        session = SparkSession.getActiveSession()
        frame = session.read.parquet(f"{ADDRESS}{below}/visits/2026")
        assert fitted(pc.from_spark(frame, BOOK)) == expected
        data = pc.from_spark(frame, BOOK, folder=f"{ADDRESS}{below}/shared")
        assert fitted(data, engine) == expected
        del data
        gone(system, f"{below}/shared")


def run(code, **environment):
    """What a process with such an environment prints, and how it ends."""
    kept = {n: v for n, v in (os.environ | environment).items() if v is not None}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_a_machine_without_hadoop_says_what_it_lacks(below):
    code = f"""if True:
        import polyclinic as pc
        from tests.engines.near import BOOK
        try: pc.scan("{ADDRESS}{below}/visits", BOOK)
        except pc.InputError as error: print(error.what, error.next)"""
    for lacks, said in (("CLASSPATH", "CLASSPATH is not set"), ("ARROW_LIBHDFS_DIR", "libhdfs")):
        status, printed = run(code, **{lacks: None})
        assert status == 0 and said in printed and "JAVA_HOME" in printed


def test_ctrl_c_is_for_python_to_answer(below):
    code = f"""if True:
        import os, signal, time
        import polyclinic as pc
        from tests.engines.near import BOOK
        pc.scan("{ADDRESS}{below}/visits", BOOK)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)
        except KeyboardInterrupt: print("stopped")"""
    assert run(code) == (0, "stopped\n")
