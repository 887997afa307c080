"""How data/events.tfevents was made: python tests/report/make_events.py, with tensorboard 2.21."""

from __future__ import annotations

import io
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

WRITTEN = [(1, 0.75, 1e9 + 1), (2, -0.1, 1e9 + 2.5), (300, 1e30, 1e9 + 3)]


def main() -> None:
    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=1e9, file_version="brain.Event:2").SerializeToString())
    for step, loss, at in WRITTEN:
        for tag, value in (("loss/training", loss), ("α", 2.0)):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            event = Event(wall_time=at, step=step, summary=summary)
            writer.write(event.SerializeToString())
    path = Path(__file__).parent / "data" / "events.tfevents"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(file.getvalue())


if __name__ == "__main__":
    main()
