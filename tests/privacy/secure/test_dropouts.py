"""Every way in which sites can be lost: the total is exact, or there is none."""

from __future__ import annotations

import itertools

import pytest

from polyclinic.core import ring
from polyclinic.privacy.secure import SecureSumError, drive
from tests.privacy.secure.world import World, word

STAYS, EARLY, LATE = "stays", "before the upload", "after the upload"
SITES = (3, 4, 5, 6)


def patterns(k):
    """What becomes of each site. Where nobody sends anything there is nothing to decide."""
    return [p for p in itertools.product((STAYS, EARLY, LATE), repeat=k) if set(p) != {EARLY}]


def lose(world, pattern, last_word):
    fate = dict(zip(world.names, pattern, strict=True))
    early, late = ({n for n, f in fate.items() if f == what} for what in (EARLY, LATE))
    steps = ("SURVIVORS", "PROOF", "RESULT")
    world.lost = {"PLAN": early, **dict.fromkeys(steps[steps.index(last_word) :], late)}
    return [name for name in world.names if name not in early], late


class Shared(World):
    """One key set-up for many patterns. The coordinator gives its keys up after every failure;
    here it goes on with the next index of the same batch, which the sites must bear."""

    def __init__(self, k, membership):
        super().__init__(k, size=2, batch=16, membership=membership)
        encoded = {name: ring.encode(x) for name, x in self.values.items()}
        self.integers = {name: list(map(word, rows)) for name, rows in encoded.items()}

    def total(self, round=0, plan=None, **more):
        batches = self.coordinator._batches
        before = dict(batches)
        try:
            return super().total(round, plan, **more)
        except SecureSumError:
            batches.update(before)
            raise

    def set_up(self):
        """Keys, where they are used up. Nobody is lost meanwhile: that is another test's."""
        names, batches = self.coordinator._opened or tuple(self.names), self.coordinator._batches
        if names not in batches or batches[names].used == self.batch:
            lost, self.lost = self.lost, {}
            batches[names] = drive(self.coordinator._set_up(names), self.ask)
            self.lost = lost
        self.sent = []

    def given(self):
        """The sets of sites whose total some site has helped to open."""
        return {tuple(found) for name in self.names if (found := self.opened(name))}


def outcome(world, round):
    world.set_up()
    try:
        return world.total(round), None
    except SecureSumError as error:
        return None, error


def judge(world, round, pattern, last_word):
    """ "exact", or the code of the refusal; a total that is not exact fails."""
    kept, late = lose(world, pattern, last_word)
    opened, error = outcome(world, round)
    assert world.given() <= {tuple(kept)}
    if opened is None:
        return error.code
    assert list(map(word, opened.words)) == [
        sum(column) for column in zip(*(world.integers[n] for n in kept), strict=True)
    ]
    assert opened.sites == tuple(kept)
    needed = 2 * len(world.names) // 3 + 1
    assert len(kept) >= max(needed, 3)
    assert len(kept) - len(late) >= needed
    return "exact"


def run(membership, last_word, sites=SITES):
    found = {}
    for k in sites:
        world = Shared(k, membership)
        for round, pattern in enumerate(patterns(k)):
            found[pattern] = judge(world, round, pattern, last_word)
            if world.given():  # a run goes on with these sites only
                world.begin()
    return found


@pytest.mark.slow
def test_of_1076_patterns_34_are_exact_and_all_others_are_refused():
    """Lost after the upload: before signing who has sent a vector."""
    found = run("survivors", "SURVIVORS")
    assert len(found) == 1076
    assert sum(what == "exact" for what in found.values()) == 34
    assert set(found.values()) == {"exact", "BELOW_THRESHOLD"}


def test_sites_lost_after_they_agreed_change_nothing_of_that():
    """Lost after the upload: before giving shares."""
    found = run("survivors", "PROOF", SITES[:2])
    assert len(found) == 106
    assert sum(what == "exact" for what in found.values()) == 10
    assert set(found.values()) == {"exact", "BELOW_THRESHOLD"}


def test_where_sites_are_fixed_no_total_lacks_one():
    """A site that is lost after its upload is in the total all the same."""
    found = run("fixed", "SURVIVORS", SITES[:3])
    assert len(found) == 348
    opened = [pattern for pattern, what in found.items() if what == "exact"]
    assert not any(EARLY in pattern for pattern in opened)
    assert [sum(len(p) == k for p in opened) for k in SITES[:3]] == [1, 5, 6]
    assert all((STAYS,) * k in opened for k in SITES[:3])
    assert set(found.values()) == {"exact", "BELOW_THRESHOLD", "MEMBERSHIP_CHANGED"}


def enough(k):
    """All sets of sites whose total may be opened."""
    names = [f"s{i:02d}" for i in range(k)]
    sets = itertools.chain(*(itertools.combinations(names, n) for n in range(k + 1)))
    return [kept for kept in sets if len(kept) >= max(2 * k // 3 + 1, 3)]


@pytest.mark.parametrize("k", [3, 4, 5])
@pytest.mark.parametrize("knows", [True, False])
def test_what_was_opened_first_says_over_which_sites_the_run_goes_on(k, knows):
    """Every first total, then every loss; all sites start again in between. A coordinator that
    knows of the first total asks its sites only, and one that does not is stopped by them."""
    for first in enough(k):
        world = Shared(k, "survivors")
        assert judge(world, 0, [STAYS if n in first else EARLY for n in world.names], "PROOF")
        assert world.given() == {first}
        if not knows:
            world.coordinator = world.new_coordinator()
        for round, pattern in enumerate(itertools.product((STAYS, EARLY), repeat=k), 1):
            world.sites = {name: world.site(name) for name in world.names}
            kept, _ = lose(world, pattern, "PROOF")
            opened, error = outcome(world, round)
            goes_on = set(first) <= set(kept) if knows else list(first) == kept
            assert (opened is not None) == goes_on
            assert opened is None or opened.sites == first
            assert error is None or error.code in ("MEMBERSHIP_CHANGED", "BELOW_THRESHOLD")
            assert world.given() == {first}
            if opened is not None and not knows:
                world.coordinator = world.new_coordinator()


@pytest.mark.parametrize("membership", ["survivors", "fixed"])
def test_a_total_that_is_not_exact_would_be_seen(membership):
    world = Shared(4, membership)
    wrong = world.contribute("s01")({}).copy()
    wrong[0, 0] += 1
    contribute = world.contribute
    world.contribute = lambda name: (lambda plan: wrong) if name == "s01" else contribute(name)
    with pytest.raises(AssertionError):
        judge(world, 0, (STAYS,) * 4, "PROOF")
