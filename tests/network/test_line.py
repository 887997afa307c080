"""Bytes to hospitals and back: over a bad network, through real processes, within the deadline."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import tracemalloc
from concurrent.futures import Future

import pytest

from polyclinic.core import codec
from polyclinic.core.errors import Stopped
from polyclinic.engines.flare import wire
from polyclinic.engines.flare.courier import Away, Courier
from polyclinic.engines.flare.mailbox import BAD, MESSAGES, Mailbox
from polyclinic.engines.flare.wire import Chunk, Reply
from polyclinic.engines.hubline import HubLine
from tests.network.conftest import SITES, wait

LOST = codec.encode({"code": "AGENT_LOST"})


def echo(message):
    promise: Future[bytes] = Future()
    promise.set_result(message)
    return promise


def carry(send, message, seconds=20.0, packs=False):
    reply, packed = Courier(send).carry(message, False, packs, time.monotonic() + seconds)
    return wire.unsqueezed(reply, packed)


# without a network


@pytest.mark.parametrize("size", [0, 1, 5000, wire.CHUNK, wire.CHUNK + 1, 3 * wire.CHUNK + 7])
def test_any_size_there_and_back(size):
    box, message = Mailbox(echo), os.urandom(size)
    assert carry(lambda data, seconds: box.answer(data), message) == message


def test_over_a_network_that_loses_half_a_message_arrives_once(monkeypatch):
    monkeypatch.setattr("polyclinic.engines.flare.courier.PAUSE", 0.001)
    chance, asked = random.Random(4), []
    box = Mailbox(lambda message: asked.append(message) or echo(bytes(message)[::-1]))

    def send(data, seconds):
        if chance.random() < 0.3:
            return None
        answer = box.answer(data)
        return None if chance.random() < 0.3 else answer

    for n in range(20):
        message = os.urandom(wire.CHUNK * (n % 3) + 100)
        assert carry(send, message) == message[::-1]
    assert len(asked) == 20


def test_a_site_that_has_forgotten_is_told_again(monkeypatch):
    boxes = [Mailbox(echo), Mailbox(echo)]
    message, calls = os.urandom(4 * wire.CHUNK), []

    def send(data, seconds):
        calls.append(1)
        return boxes[len(calls) > 3].answer(data)  # the process ended in mid-message

    assert carry(send, message) == message


def test_away_until_the_deadline():
    begun = time.monotonic()
    with pytest.raises(Away):
        carry(lambda data, seconds: None, b"hello", 0.5)
    assert time.monotonic() - begun < 1.0


def test_a_slow_reply_is_waited_for_in_pieces(monkeypatch):
    monkeypatch.setattr("polyclinic.engines.flare.courier.LONG_POLL", 0.05)
    promise: Future[bytes] = Future()
    box = Mailbox(lambda message: promise)
    threading.Timer(0.4, promise.set_result, [b"late"]).start()
    assert carry(lambda data, seconds: box.answer(data), b"question") == b"late"


def chunk(**changes):
    return Chunk(**{"do": wire.PUT, "id": b"i" * 16, "total": 10, "data": b"0123456789", **changes})


BROKEN = {
    "empty": b"",
    "short": b"PCW1",
    "text": b"x" * 100,
    "other magic": b"PCW2" + chunk().to_bytes()[4:],
    "no such order": chunk(do=9).to_bytes(),
    "no such flag": chunk(flags=8).to_bytes(),
    "longer than all": chunk(total=wire.LARGEST + 1).to_bytes(),
    "outside": chunk(offset=5).to_bytes(),
    "empty part": chunk(data=b"").to_bytes(),
    "for ever": chunk(wait=1e9).to_bytes(),
    "nan": chunk(wait=float("nan")).to_bytes(),
    "too long a part": chunk(total=wire.CHUNK + 1, data=bytes(wire.CHUNK + 1)).to_bytes(),
    "no bytes": {"total": 10},
    "none": None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_chunk_is_refused_and_asks_nobody(name):
    asked = []
    box = Mailbox(lambda message: asked.append(message) or echo(message))
    reply = Reply.open(box.answer(BROKEN[name]))
    assert (reply.state, bytes(reply.data)) == (wire.REFUSED, BAD)
    assert not asked


def test_chunks_that_do_not_meet_or_do_not_belong_are_refused():
    box = Mailbox(echo)
    box.answer(chunk(data=b"01234567").to_bytes())
    reply = Reply.open(box.answer(chunk(offset=5, data=b"56789").to_bytes()))
    assert bytes(reply.data) == BAD
    box.answer(chunk(id=b"j" * 16, data=b"0").to_bytes())
    other = box.answer(chunk(id=b"j" * 16, total=20, offset=1, data=b"1").to_bytes())
    assert Reply.open(other).state == wire.REFUSED


def test_a_lie_about_the_size_of_a_compressed_message_is_refused():
    pytest.importorskip("zstandard")
    bomb = bytearray(wire.squeezed(bytes(10_000_000))[0])
    box = Mailbox(echo)
    for spoiled in (bytes(bomb[:-4]), b"\x28\xb5\x2f\xfd" + bytes(40), b"\0" * 40):
        whole = chunk(id=os.urandom(16), total=len(spoiled), data=spoiled, flags=wire.SQUEEZED)
        assert bytes(Reply.open(box.answer(whole.to_bytes())).data) == BAD


def test_a_message_that_would_grow_beyond_the_bound_is_refused_before_it_grows():
    """What the agent reads is the bound of all: nothing longer is unpacked on the way to it."""
    zstandard = pytest.importorskip("zstandard")
    packer = zstandard.ZstdCompressor().compressobj(size=codec.LONGEST + 1)
    head = packer.compress(bytes(1000)) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert zstandard.frame_content_size(head) == codec.LONGEST + 1
    tracemalloc.start()
    with pytest.raises(wire.WireError):
        wire.unsqueezed(head, True)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1_000_000
    asked = []
    box = Mailbox(lambda message: asked.append(message) or echo(message))
    whole = chunk(id=os.urandom(16), total=len(head), data=head, flags=wire.SQUEEZED)
    assert bytes(Reply.open(box.answer(whole.to_bytes())).data) == BAD and not asked
    assert wire.LARGEST == codec.LONGEST


def test_a_message_that_nobody_would_take_is_not_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "LARGEST", 100)
    with pytest.raises(wire.WireError, match="longer than"):
        HubLine(tmp_path / "none.sock").ask({"a": b"short", "b": bytes(101)}, 1)


def test_unfinished_messages_are_bounded_and_finished_ones_make_room():
    box = Mailbox(echo)
    states = [
        Reply.open(box.answer(chunk(id=os.urandom(16), data=b"0").to_bytes())).state
        for _ in range(MESSAGES + 3)
    ]
    assert states == [wire.WANTED] * MESSAGES + [wire.BUSY] * 3
    huge = chunk(id=os.urandom(16), total=wire.LARGEST, data=b"0").to_bytes()
    box = Mailbox(echo)
    answers = [Reply.open(box.answer(huge[:6] + os.urandom(16) + huge[22:])) for _ in range(3)]
    assert answers[0].state == wire.WANTED
    box = Mailbox(echo)
    for n in range(5 * MESSAGES):
        message = b"%d" % n
        assert carry(lambda data, seconds: box.answer(data), message) == message


def test_what_does_not_shrink_travels_as_it_is():
    pytest.importorskip("zstandard")
    assert not wire.squeezed(os.urandom(1_000_000))[1]
    assert not wire.squeezed(b"short")[1]
    data = b"0123456789" * 100_000
    packed, yes = wire.squeezed(data)
    assert yes and len(packed) < 10_000 and wire.unsqueezed(packed, True) == data


# real processes


def test_every_site_answers_its_own_question(network):
    messages = {site: f"for {site}".encode() for site in SITES}
    assert network.line.ask(messages, 20) == messages


@pytest.mark.parametrize("size", [0, 300_000, 20_000_003])
def test_random_bytes_of_any_size(network, size):
    messages = {site: os.urandom(size) for site in SITES}
    assert network.line.ask(messages, 60) == messages


def test_what_shrinks_is_counted_small(network):
    line = HubLine(network.kits.socket)
    assert line.ask({"a": b"big:30000000"}, 60) == {"a": bytes(30_000_000)}
    assert line.bytes["a"]["out"] == 12
    assert line.bytes["a"]["back"] < 100_000


def test_many_threads_share_a_line(network):
    found = {}

    def ask(n):
        message = b"sleep:0.2:%d" % n
        found[n] = network.line.ask(dict.fromkeys(SITES, message), 30)

    begun = time.monotonic()
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: dict.fromkeys(SITES, b"%d" % n) for n in range(12)}
    assert time.monotonic() - begun < 12 * 0.2 * 3


def test_a_slow_or_unknown_site_is_absent_at_the_deadline(network):
    begun = time.monotonic()
    messages = {"a": b"sleep:30:x", "b": b"quick", "nowhere": b"hello"}
    assert network.line.ask(messages, 1.0) == {"b": b"quick"}
    assert time.monotonic() - begun < 3.0


def test_an_agent_that_dies_is_named_and_comes_back(network):
    assert network.line.ask({"a": b"die:", "b": b"b"}, 20) == {"a": LOST, "b": b"b"}
    assert wait(lambda: network.line.ask({"a": b"again"}, 20) == {"a": b"again"})


def test_the_state_file_tells_the_truth(network):
    said = wait(lambda: network.kits.said("b"))
    assert said["connected"] is True and time.time() - said["heard"] < 20
    assert said["pid"] == network.processes["b"].pid
    os.kill(said["agent"], 0)


def test_only_this_account_sees_the_socket(network):
    folder = network.kits.socket.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert network.kits.socket.stat().st_mode & 0o777 == 0o600
    folder.chmod(0o755)
    try:
        with pytest.raises(Stopped):
            network.line.sites()
    finally:
        folder.chmod(0o700)


def test_without_a_hub_there_is_no_line(tmp_path):
    with pytest.raises(Stopped) as found:
        HubLine(tmp_path / "none.sock").ask({"a": b""}, 1)
    assert found.value.code == "HUB_LOST"


def test_a_killed_site_is_away_and_is_waited_for(network):
    agent = network.kits.said("c")["agent"]
    network.kill("c")
    wait(lambda: "c" not in network.connected(), 10)
    wait(lambda: not alive(agent), 10)
    begun = time.monotonic()
    assert network.line.ask({"c": b"there?"}, 1) == {}
    assert time.monotonic() - begun < 3.0
    network.start("c")
    assert network.line.ask({"c": b"back"}, 40) == {"c": b"back"}


def test_a_killed_hub_is_lost_and_gets_its_sites_back(network):
    lost = []

    def ask():
        try:
            network.line.ask({"a": b"sleep:20:x"}, 30)
        except Stopped as error:
            lost.append(error.code)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)
    child = int(network.kits.pulse.read_text())
    network.kill("hub")
    thread.join(5)
    assert lost == ["HUB_LOST"]
    wait(lambda: not alive(child), 10)
    wait(lambda: not network.kits.said("a")["connected"])
    network.start("hub")
    network.wait_for(*SITES)
    messages = dict.fromkeys(SITES, b"again")
    assert network.line.ask(messages, 20) == messages
    wait(lambda: network.kits.said("a")["connected"])


def test_told_to_end_a_process_takes_its_own_along(network):
    agent = network.kits.said("b")["agent"]
    begun = time.monotonic()
    assert network.kill("b", signal.SIGTERM) == 0
    assert time.monotonic() - begun < 5
    assert not alive(agent)
    assert network.kits.said("b")["connected"] is False
    network.start("b")
    network.wait_for("b")


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
