from __future__ import annotations

import threading
import time

import pytest

from polyclinic.core import task as tasks
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.task import lookup, register
from tests.core.toy import SUM, SumTask


def test_a_task_is_found_by_name_and_version():
    assert lookup("toy.sum", 1) is SUM


@pytest.mark.parametrize("key", [("toy.sum", 2), ("toy.none", 1)])
def test_an_unknown_task_is_named(key):
    with pytest.raises(PolyclinicError) as caught:
        lookup(*key)
    assert caught.value.code == "UNKNOWN_TASK"


def test_twice_the_same_is_harmless_and_two_of_one_name_are_not():
    register([SUM])
    with pytest.raises(ValueError, match=r"toy\.sum version 1"):
        register([SumTask()])
    register([SumTask(version=77)])
    assert lookup("toy.sum", 77).version == 77


def test_who_asks_while_another_thread_imports_waits_for_it(monkeypatch):
    class Entry:
        def load(self):
            started.set()
            time.sleep(0.2)
            return [SumTask(version=78)]

    started = threading.Event()
    monkeypatch.setattr(tasks, "_loaded", [])
    monkeypatch.setattr(tasks, "entry_points", lambda group: [Entry()])
    thread = threading.Thread(target=tasks.load_installed)
    thread.start()
    started.wait()
    assert lookup("toy.sum", 78).version == 78
    thread.join()
