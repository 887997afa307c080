"""What carries messages to the workers of a cluster, as the rounds over them see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from polyclinic.engines.activity import Activity
from polyclinic.engines.assign import Policy
from polyclinic.engines.speeds import Speeds


class Arrived(NamedTuple):
    """The answer to a message; None: the worker is lost, and with it what it held."""

    name: str
    reply: Any


class Talk(Protocol):
    """One round's messages. What arrives after its end is seen by nobody.

    post  send messages, each to an address, by names of their own
    wait  what has arrived, after at most so many seconds; None: until something has
    drop  the answer is not needed any more: a worker need not go on with it
    """

    def post(self, messages: Mapping[str, tuple[str, bytes]]) -> None: ...
    def wait(self, seconds: float | None = None) -> list[Arrived]: ...
    def drop(self, address: str, name: str) -> None: ...


@dataclass(frozen=True)
class Tree:
    """When sums are added by workers, in groups, before they come here.

    fan_in    answers that one worker adds
    workers   from which on, and only
    bytes     of answers that are at least so long
    together  bytes from which on the sums of all workers are to be expected; 0: of any plan
    """

    fan_in: int = 16
    workers: int = 32
    bytes: int = 1 << 16
    together: int = 0


class Machines(Protocol):
    """Workers, as someone has started them.

    policy     which worker gets a partition
    speculate  whether partitions of a straggler are also computed by others
    speeds     of each worker, as measured
    memory     bytes of columns that each worker holds; who is not in it holds what it gets
    here       whether workers were started by this process, and can read its rows through a socket
    spool      folders that all workers see, for rows in memory, quick ones first; (): there is none
    tree       when sums are added by workers in groups; None: never
    activity   what is going on, for who watches
    """

    policy: Policy
    speculate: bool
    speeds: Speeds
    memory: dict[str, int]
    here: bool
    spool: tuple[str, ...]
    tree: Tree | None
    activity: Activity

    def talk(self) -> Talk: ...
    def live(self) -> list[str]: ...
    def let_go(self) -> None:
        """Rows have gone: who holds some of them need not wait for the next message."""


class Together:
    """A talk over machines that answer all at once: ``Together(ask)``.

    Parameters
    ----------
    ask : sends a message to each of some addresses; their answers, None of one that is lost.
    drop : as in `Talk`.
    """

    def __init__(
        self,
        ask: Callable[[Mapping[str, bytes]], Mapping[str, Any]],
        drop: Callable[[str, str], None] = lambda address, name: None,
    ) -> None:
        self._ask, self.drop = ask, drop
        self._posted: dict[str, tuple[str, bytes]] = {}

    def post(self, messages: Mapping[str, tuple[str, bytes]]) -> None:
        """They are sent when they are waited for."""
        self._posted.update(messages)

    def wait(self, seconds: float | None = None) -> list[Arrived]:
        """The answers of all, to the first message of each."""
        names: dict[str, str] = {}
        for name, (address, _) in self._posted.items():
            names.setdefault(address, name)
        messages = {address: self._posted.pop(name)[1] for address, name in names.items()}
        return [Arrived(names[one], reply) for one, reply in self._ask(messages).items()]


class AllAtOnce:
    """What machines have in common that answer all at once; they bring `ask` and `live`.

    Nobody is idle while others work, so nothing is computed twice.
    """

    speculate = False
    here = False
    tree: Tree | None = None

    def __init__(self, policy: Policy) -> None:
        self.policy, self.speeds, self.activity = policy, Speeds(), Activity()
        self.memory: dict[str, int] = {}

    def ask(self, messages: Mapping[str, bytes]) -> dict[str, Any]:
        """The answer of each worker; None: it is lost."""
        raise NotImplementedError

    def talk(self) -> Talk:
        """Messages of a round to the workers."""
        return Together(self.ask)

    def let_go(self) -> None:
        """They look at the next message."""


def answers(machines: Machines, messages: Mapping[str, bytes]) -> dict[str, Any]:
    """The answer of each worker; None: it is lost."""
    talk, found = machines.talk(), dict[str, Any]()
    talk.post({address: (address, message) for address, message in messages.items()})
    while len(found) < len(messages):
        found.update(talk.wait())
    return found
