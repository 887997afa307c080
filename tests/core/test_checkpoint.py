from __future__ import annotations

import errno
import os
import random
import subprocess

import numpy as np
import pytest

from polyclinic.core.checkpoint import Checkpoint
from polyclinic.core.codec import encode
from polyclinic.core.errors import InputError, Stopped

STATE = {"step": 3, "beta": np.arange(50.0), "names": ["a", "b"]}


@pytest.fixture
def saved(tmp_path):
    store = Checkpoint(tmp_path / "run" / "state")
    store.save(STATE)
    return store


def intact(store):
    return encode(store.load()) == encode(STATE)


def test_what_was_saved_is_loaded(saved):
    assert intact(saved)
    assert [file.name for file in saved.path.parent.iterdir()] == ["state"]


def test_nothing_saved_is_none(tmp_path):
    assert Checkpoint(tmp_path / "no" / "state").load() is None


def test_a_name_that_no_disk_takes_is_an_error_for_people(tmp_path):
    with pytest.raises(Stopped, match="CANNOT_WRITE"):
        Checkpoint(tmp_path / ("x" * 300)).save(STATE)


def test_every_flipped_bit_is_found(saved):
    whole, draw = saved.path.read_bytes(), random.Random(4)
    places = [*range(0, 64), *(draw.randrange(len(whole)) for _ in range(200)), len(whole) - 1]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << draw.randrange(8)
        saved.path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            saved.load()
        assert caught.value.code == "CHECKPOINT_DAMAGED"
        assert saved.path.read_bytes() == data, "the damaged file is left as it is"


@pytest.mark.parametrize("keep", [0, 1, 31, 32, 33, -1])
def test_a_truncated_file_is_found(saved, keep):
    saved.path.write_bytes(saved.path.read_bytes()[:keep])
    with pytest.raises(InputError) as caught:
        saved.load()
    assert caught.value.code == "CHECKPOINT_DAMAGED"


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_full_disk_keeps_the_checkpoint_before(saved, monkeypatch, step):
    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr("builtins.open", full)
        else:
            patch.setattr(os, step, full)
        with pytest.raises(Stopped) as caught:
            saved.save({"step": 4})
    assert caught.value.code == "CANNOT_WRITE"
    assert "No space left" in str(caught.value)
    assert intact(saved)
    assert [file.name for file in saved.path.parent.iterdir()] == ["state"]


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("mounting a small file system needs root")
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    try:
        store = Checkpoint(disk / "state")
        store.save(STATE)
        with pytest.raises(Stopped) as caught:
            store.save({"large": np.arange(20_000.0)})
        assert caught.value.code == "CANNOT_WRITE"
        assert intact(store)
        store.save({"step": 5})
        assert store.load() == {"step": 5}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Stopped) as caught:
        Checkpoint(tmp_path / "file" / "state").save(STATE)
    assert caught.value.code == "CANNOT_WRITE"
    assert caught.value.kept == "nothing yet"


def test_a_leftover_of_a_killed_write_is_harmless(saved):
    saved.path.with_name("state.part").write_bytes(b"half")
    assert intact(saved)
    saved.save({"step": 9})
    assert saved.load() == {"step": 9}
