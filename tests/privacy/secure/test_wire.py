"""Nothing that a site knows stands on the wire in any form, and no mask is wrong unseen."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from polyclinic.core import ring
from polyclinic.core.errors import PolyclinicError
from polyclinic.privacy.secure import SecureSumError, encode_fast64, mask, verify_transcript
from tests.privacy.secure.world import World

MARKS = [1234.5678, -98765.4321, 7.25e-3, 271828182845.0, 31337.271]


def forms(value):
    """The bytes and texts in which a number could stand in a message."""
    plain = np.array([value])
    words = [*ring.encode(plain)[0], encode_fast64(plain, 3, 40)[0]]
    data = [plain.tobytes(), *(word.tobytes() for word in words if word)]
    data += [ring.encode(plain).tobytes(), abs(int(value)).to_bytes(8, "little")]
    data = [d for one in data for d in (one, one[::-1])]
    texts = [repr(value), f"{value:.4f}", f"{value:e}", f"{value:g}", str(abs(int(value)))]
    texts += [t for d in data for t in (d.hex(), d.hex().upper())]
    texts += [str(int(word)) for word in words] + [json.dumps(value)]
    texts += [base64_of(d, at) for d in data for at in range(3)]
    found = data + [t.encode() for t in texts]
    # shorter ones stand in random bytes by chance
    return [form for form in found if len(form) >= 8 and len(set(form)) > 3]


def base64_of(data, at):
    """The characters that belong to `data` alone when it stands at position `at` modulo 3."""
    text = base64.b64encode(b"x" * at + data).decode()
    return text[-(-at * 8 // 6) : (at + len(data)) * 8 // 6]


def leaks(messages, values=MARKS):
    """The marks that can be read in any of the messages, forwards or backwards."""
    text = b"\n".join(messages)
    return {v for v in values for form in forms(v) if form in text or form[::-1] in text}


def on_the_wire(world):
    return [data for _, _, request, reply in world.sent for data in (request, reply or b"")]


def marked(profile="exact128", **settings):
    world = World(4, size=len(MARKS), membership="survivors", **settings)
    world.values["s01"] = np.array(MARKS)
    if profile == "fast64":
        world.contribute = lambda name: lambda plan: encode_fast64(world.values[name], 3, 40)
    return world


@pytest.mark.parametrize("profile", ["exact128", "fast64"])
def test_no_form_of_a_sites_numbers_is_in_any_message(profile):
    world = marked(profile)
    records = [world.total(r, profile=profile).transcript for r in range(5)]
    world.begin()
    world.lost = {"PLAN": {"s03"}}
    records.append(world.total(5, profile=profile).transcript)
    world.lost = {"PROOF": {"s01", "s02"}}
    with pytest.raises(SecureSumError):
        world.total(6, profile=profile)
    assert leaks([*on_the_wire(world), *records]) == set()


def test_a_refusal_says_nothing_of_the_numbers_it_is_about():
    world = marked()

    def refuse(plan):
        raise PolyclinicError(f"{MARKS} are too large", code="RANGE", rule=str(MARKS))

    def fail(plan):
        raise ValueError(MARKS)

    def coded(plan):
        raise PolyclinicError("no", code=f"CODE {MARKS[0]}")

    steps = {"s01": refuse, "s02": fail, "s03": coded}
    honest = world.contribute
    world.contribute = lambda name: steps.get(name) or honest(name)
    with pytest.raises(SecureSumError) as caught:
        world.total()
    assert caught.value.refusals == {"s01": "RANGE", "s02": "SITE_FAILED", "s03": "SITE_FAILED"}
    assert leaks([*on_the_wire(world), str(caught.value).encode()]) == set()


def test_the_scan_finds_what_stands_there(monkeypatch):
    for value in MARKS:
        for form in forms(value):
            assert value in leaks([b"some", b"where" + form + b"here"])
    monkeypatch.setattr(mask, "apply", lambda words, plus, minus: None)
    world = marked()
    world.total()
    assert leaks(on_the_wire(world)) == set(MARKS)


def pairs_of(k):
    return [(site, at) for site in range(k) for at in range(k)]


@pytest.mark.parametrize(("site", "at"), pairs_of(4))
def test_one_mask_with_another_sign_is_found(monkeypatch, site, at):
    """Mask number `at` of a site: its self mask or that of a pair."""
    world, apply, calls = World(4), mask.apply, []

    def flipped(words, plus, minus):
        signed = [*((key, 1) for key in plus), *((key, -1) for key in minus)]
        if len(calls) == site:
            signed[at] = (signed[at][0], -signed[at][1])
        calls.append(words)
        apply(words, [k for k, s in signed if s > 0], [k for k, s in signed if s < 0])

    monkeypatch.setattr(mask, "apply", flipped)
    with pytest.raises(SecureSumError) as caught:
        world.total()
    assert caught.value.code == "CANARY_MISMATCH"
    assert len(calls) == 5


@pytest.mark.parametrize("lost", [None, "s01"])
def test_one_mask_that_the_coordinator_removes_wrongly_is_found(monkeypatch, lost):
    world, apply = World(4, membership="survivors"), mask.apply
    world.lost = {"PLAN": {lost}} if lost else {}
    calls, sites = [], 3 if lost else 4
    for at in range(sites + (sites if lost else 0)):
        calls.clear()

        def flipped(words, plus, minus, at=at):
            keys = [(key, s) for s, side in ((1, plus), (-1, minus)) for key in side]
            if len(calls) == sites:
                keys[at] = (keys[at][0], -keys[at][1])
            calls.append(words)
            apply(words, [k for k, s in keys if s > 0], [k for k, s in keys if s < 0])

        monkeypatch.setattr(mask, "apply", flipped)
        with pytest.raises(SecureSumError) as caught:
            world.total(at)
        assert caught.value.code == "CANARY_MISMATCH"
    monkeypatch.setattr(mask, "apply", apply)
    opened = world.total(99)
    verify_transcript(world.roster, opened.transcript, plan={"n": 99}, run="run")


@pytest.mark.parametrize("at", range(6))
def test_a_vector_that_is_shifted_is_found(monkeypatch, at):
    world, apply, calls = World(3), mask.apply, []

    def shifted(words, plus, minus):
        apply(words, plus, minus)
        if not calls:
            words[:] = np.roll(words, at + 1, axis=0)
        calls.append(words)

    monkeypatch.setattr(mask, "apply", shifted)
    with pytest.raises(SecureSumError) as caught:
        world.total()
    assert caught.value.code == "CANARY_MISMATCH"
