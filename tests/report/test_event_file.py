"""Event files are those that TensorBoard's own writer makes (`make_events.py`)."""

from __future__ import annotations

from pathlib import Path

from polyclinic.report.event_file import EventFile

GOLDEN = Path(__file__).parent / "data" / "events.tfevents"


def test_the_bytes_are_those_of_tensorboard(tmp_path):
    file = EventFile(tmp_path / "new" / "folder", 1e9)
    for step, loss, at in [(1, 0.75, 1e9 + 1), (2, -0.1, 1e9 + 2.5), (300, 1e30, 1e9 + 3)]:
        file.add(step, {"loss/training": loss, "α": 2.0}, at)
    assert file.path.read_bytes() == GOLDEN.read_bytes()
    assert file.path.name == "events.out.tfevents.1000000000.polyclinic"


def test_two_files_of_one_second_stand_side_by_side(tmp_path):
    files = [EventFile(tmp_path, 5.0) for _ in range(3)]
    assert len({file.path for file in files}) == 3
