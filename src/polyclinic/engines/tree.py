"""Many workers' answers, added by workers in groups before they come to the process that asks.

Answers stay where they were made, and only say so. One worker of each group fetches those of the
others and adds them, level by level, until one group is left, whose sum comes up. Additions are
exact: their order changes no byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from polyclinic.core import codec
from polyclinic.engines.machines import Talk
from polyclinic.engines.rounds import Answer


def combined(
    talk: Talk, answers: Sequence[Answer], fan_in: int
) -> tuple[list[dict[str, Any]], set[int]]:
    """What came up, and the parts of which a sum was lost on its way.

    Parameters
    ----------
    answers : of one round; those that workers hold have "held" in their fields.
    fan_in : answers that one worker adds.
    """
    found = [answer.fields for answer in answers if "held" not in answer.fields]
    held = [answer for answer in answers if "held" in answer.fields]
    lost: set[int] = set()
    while held:
        last = len(held) <= fan_in
        held, gone = _level(talk, held, fan_in, not last)
        lost |= gone
        if last:
            found += [answer.fields for answer in held]
            break
    return found, lost


def _level(
    talk: Talk, held: Sequence[Answer], fan_in: int, hold: bool
) -> tuple[list[Answer], set[int]]:
    """The sums of groups, and the parts of those that failed."""
    groups = {uuid4().hex: held[i : i + fan_in] for i in range(0, len(held), fan_in)}
    messages = {}
    for name, group in groups.items():
        asked = {
            "op": "combine",
            "from": [[answer.address, answer.name] for answer in group],
            "name": name,
            **({"hold": 0} if hold else {}),
        }
        messages[name] = (group[0].address, codec.encode(asked))
    talk.post(messages)
    found, lost, waiting = dict[str, Answer](), set[int](), set(groups)
    while waiting:
        for name, reply in talk.wait():
            if name not in waiting:
                continue  # of the round itself: dropped there
            waiting.remove(name)
            group = groups[name]
            parts = sorted(part for answer in group for part in answer.parts)
            fields = {"missing": True} if reply is None else codec.decode(reply)
            if "missing" in fields or "error" in fields:
                lost.update(parts)
            else:
                found[name] = Answer(name, group[0].address, parts, fields)
    return [found[name] for name in groups if name in found], lost
