"""An agent over its two pipes: echoes, sleeps, dies, or holds rows and answers questions."""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
from typing import Any

FRAME = struct.Struct("<QQ")
SEED = {"a": 1, "b": 2, "c": 3}


class Agent:
    def __init__(self, site: str) -> None:
        self.site, self.held = site, threading.Lock()
        self.identity: Any = None
        self.sites: dict[str, Any] = {}
        self.workers: Any = None

    def answer(self, message: bytes) -> bytes:
        word, _, rest = message.partition(b":")
        if word == b"sleep":
            seconds, _, text = rest.partition(b":")
            time.sleep(float(seconds))
            return text
        if word == b"die":
            os._exit(3)
        if word == b"big":
            return bytes(int(rest))
        if word == b"key":
            return self._key()
        if word == b"paper":
            return self._paper(rest)
        if word == b"rows":
            return self._rows(rest)
        return self._question(message) if message.startswith(b"PCE1") else message

    def _key(self) -> bytes:
        from polyclinic.privacy.secure import Identity

        self.identity = Identity.generate()
        return self.identity.public

    def _paper(self, data: bytes) -> bytes:
        from polyclinic.core import codec
        from polyclinic.governance.paper import Paper

        offer, coordinator = codec.decode(data)
        self.paper = Paper.open(bytes.fromhex(offer), bytes.fromhex(coordinator))
        return b"taken"

    def _rows(self, data: bytes) -> bytes:
        """From now on the rows of a file, in so many partitions; no file: those of `rows`."""
        import numpy as np

        from polyclinic.core import codec
        from polyclinic.core.partition import Partition
        from polyclinic.engines.workers import ThreadWorkers

        path, partitions = codec.decode(data)
        self.workers = None
        if path:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            self.workers = ThreadWorkers(Partition(columns, site=self.site), partitions, 1)
        return b"taken"

    def _question(self, data: bytes) -> bytes:
        from polyclinic.governance.paper import Answer, Question

        question = Question.open(data, self.paper.coordinator)
        if (question.site, question.study) != (self.site, self.paper.hash):
            return b"not mine"
        if question.run not in self.sites:
            self.sites[question.run] = self._site(question.run)
        answer = bytes(self.sites[question.run].answer(question.message))
        return Answer.to(question, answer).signed(self.identity)

    def _site(self, run: str) -> Any:
        from dataclasses import replace

        from polyclinic.engines.books import Books
        from polyclinic.engines.site import Pinned, Site
        from polyclinic.engines.workers import ThreadWorkers
        from polyclinic.privacy.gate import Gate
        from polyclinic.privacy.policy import Policy

        workers = self.workers or ThreadWorkers(rows(self.site), 1, 1)
        books = replace(Books.in_memory(), identity=self.identity)
        pinned = Pinned(self.paper.roster, run)
        gate, sites = Gate(self.site, Policy()), len(self.paper.sites)
        return Site(gate, lambda cohort: workers, books, sites, pinned=pinned)


def rows(site: str) -> Any:
    """The rows of a site, the same wherever they are made."""
    import numpy as np

    from tests.core import toy
    from tests.core.wiring import partition

    assert toy.SUM
    values = np.random.default_rng(SEED[site]).normal(0.3, 2.0, 400)
    return partition({"x": values}, site=site)


def main() -> None:
    agent, answers, writing = Agent(sys.argv[1]), os.fdopen(os.dup(1), "wb"), threading.Lock()
    os.dup2(2, 1)

    def work(number: int, message: bytes) -> None:
        reply = agent.answer(message)
        with writing:
            answers.write(FRAME.pack(number, len(reply)))
            answers.write(reply)
            answers.flush()

    while len(head := sys.stdin.buffer.read(FRAME.size)) == FRAME.size:
        number, length = FRAME.unpack(head)
        message = sys.stdin.buffer.read(length)
        threading.Thread(target=work, args=(number, message), daemon=True).start()


if __name__ == "__main__":
    main()
