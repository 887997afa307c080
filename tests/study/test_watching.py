"""Watching a fit: a line, and logs for TensorBoard."""

from __future__ import annotations

import io
import struct

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc


def read(path):
    """The numbers of an event file by name and step: a parser of just this form."""
    data, at, found = path.read_bytes(), 0, {}
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        record = data[at + 12 : at + 12 + length]
        at += 16 + length
        if b"brain.Event" in record:
            continue
        step, rest = (record[10], record[11:]) if record[9] == 0x10 else (0, record[9:])
        value = rest[4:]  # summary, its length, value, its length
        name = value[2 : 2 + value[1]].decode()
        (number,) = struct.unpack("<f", value[-4:])
        found[name, step] = number
    return found


@pytest.fixture(scope="module")
def rows():
    x = np.random.default_rng(0).normal(size=(150, 2))
    return x, x[:, 0] > 0, np.arange(150) % 3


def network(rounds=5, **more):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return pc.NeuralNetwork("linear", strategy=pc.FedAvg(rounds=rounds, **more), validation=0.2)


def test_logs_hold_every_round(rows, tmp_path):
    x, y, sites = rows
    done = []
    model = network().fit(x, y, sites=sites, callbacks=[pc.TensorBoard(tmp_path), done.append])
    (path,) = tmp_path.iterdir()
    found, history = read(path), model.history_
    for name, column in (("loss/training", "loss"), ("loss/held out", "validation_loss")):
        got = [found[name, step] for step in range(1, 6)]
        np.testing.assert_allclose(got, history[column], rtol=1e-6)
    assert {step for _, step in found} == {1, 2, 3, 4, 5}
    assert all(found["round/seconds", step] > 0 for step in range(1, 6))
    assert found["round/bytes of a hospital", 3] == sum(one["bytes"] for one in done[-1].left)


def test_logs_of_a_regression_and_of_a_full_disk(rows, tmp_path):
    x, y, _ = rows
    pc.PoissonRegression().fit(x, y * 1.0, callbacks=[pc.TensorBoard(tmp_path / "a")])
    (path,) = (tmp_path / "a").iterdir()
    assert {name for name, _ in read(path)} >= {"loss/training", "round/seconds"}
    (tmp_path / "file").write_text("")
    with pytest.raises(pc.Stopped) as error:
        pc.PoissonRegression().fit(x, y * 1.0, callbacks=[pc.TensorBoard(tmp_path / "file")])
    assert error.value.code == "CANNOT_WRITE"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_says_how_far_it_is(rows):
    x, y, sites = rows
    frame = pc.split(
        pd.DataFrame(x, columns=["a", "b"]).assign(y=y.astype(int), h=sites),
        by="h",
    )
    plain, moving = io.StringIO(), Terminal()
    lines = [pc.ProgressLine(plain), pc.ProgressLine(moving)]
    network(20).fit(frame, "y ~ a + b", callbacks=lines)
    said = plain.getvalue().splitlines()
    assert len(said) == 10 and said[0].startswith("round 2 of 20   loss 0.")
    assert "   3 hospitals   " in said[-1] and said[-1].endswith("   0.0 s left")
    assert moving.getvalue().count("\r") == 21 and moving.getvalue().endswith("\n")
    assert max(map(len, said)) <= 80


def test_who_trained_is_counted(rows):
    x, y, sites = rows
    done = []
    network(4, clients=0.34).fit(x, y, sites=sites, callbacks=[done.append])
    assert [one.figures["sites"] for one in done[1:]] == [1, 1, 1, 1]
