"""Who trains what: lists of what follows from answers and losses."""

from __future__ import annotations

from polyclinic.models.neural.desk import Desk


def gone_through(desk: Desk, events: str, size: int, last: int = 9) -> tuple[Desk, list]:
    """`a` is an answer of a, `-a` its loss."""
    found = []
    for event in events.split():
        step = desk.lost if event[0] == "-" else desk.answered
        desk, steps = step(event[-1], size, last)
        assert Desk.from_data(desk.to_data()) == desk
        found.append(steps)
    return desk, found


def test_a_version_follows_from_a_full_buffer_and_whoever_is_free_trains_it():
    desk, steps = gone_through(Desk(("a", "b", "c")), "a b a b c", 2)
    assert steps == [
        [("add", 0)],
        [("add", 0), ("version", 1), ("train", "a"), ("train", "b")],
        [("add", 0)],
        [("add", 0), ("version", 2), ("train", "a"), ("train", "b")],
        [("add", 2)],  # c had version 0
    ]
    assert desk.buffer == ("c",) and dict(desk.asked) == {"a": 2, "b": 2}


def test_a_buffer_larger_than_the_sites_waits_for_all_and_no_longer():
    _, steps = gone_through(Desk(("a", "b")), "a b", 5)
    assert steps == [[("add", 0)], [("add", 0), ("version", 1), ("train", "a"), ("train", "b")]]


def test_a_lost_site_is_not_waited_for_and_asked_again_with_the_next_version():
    desk, steps = gone_through(Desk(("a", "b", "c")), "a -c b", 3)
    assert steps == [
        [("add", 0)],
        [],
        [("add", 0), ("version", 1), ("train", "a"), ("train", "b"), ("train", "c")],
    ]
    assert desk.away == ("c",) and desk.awaited == ("a", "b")
    desk, steps = gone_through(desk, "a b", 3)  # c is asked, and not waited for
    assert steps[-1] == [("add", 0), ("version", 2), ("train", "a"), ("train", "b")]
    desk, steps = gone_through(desk, "c", 3)  # it is back, with version 1
    assert steps == [[("add", 1)]] and desk.away == ()
    assert desk.awaited == ("a", "b")


def test_a_loss_closes_a_buffer_for_which_nobody_is_left():
    _, steps = gone_through(Desk(("a", "b")), "a -b", 2)
    assert steps[1] == [("version", 1), ("train", "a"), ("train", "b")]


def test_it_stops_where_everybody_is_lost():
    assert gone_through(Desk(("a", "b")), "-a -b", 2)[1] == [[], [("stop", "")]]


def test_nobody_trains_the_last_version():
    desk, steps = gone_through(Desk(("a", "b", "c")), "a b", 2, last=1)
    assert steps[1] == [("add", 0), ("version", 1)] and dict(desk.asked) == {"c": 0}
