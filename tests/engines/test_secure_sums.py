"""Secure sums over sites of this process: the same bytes as clear ones, and nothing beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.errors import Refused
from polyclinic.core.fit import fit
from polyclinic.core.plan import Plan
from polyclinic.privacy.policy import open_policy

FORMULA = "sick ~ age + C(kind) + score"
SIZES = {"north": 230, "east": 260, "south": 300, "west": 210}


def frame(seed=1, rare=None):
    """Four hospitals; at `rare` hospitals only 3 patients are of kind b."""
    rng = np.random.default_rng(seed)
    parts = []
    for site, n in SIZES.items():
        kind = rng.choice(["a", "b", "c"], n)
        if rare and site in rare:
            kind = np.where(np.arange(n) < 3, "b", rng.choice(["a", "c"], n))
        age, score = rng.integers(30, 80, n).astype(float), rng.normal(size=n).round(3)
        eta = 0.04 * (age - 55) + 0.5 * (kind == "b") - 0.4 * score
        sick = (rng.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(int)
        parts.append(
            pd.DataFrame({"h": site, "kind": kind, "age": age, "score": score, "sick": sick})
        )
    return pd.concat(parts, ignore_index=True)


def model(data, privacy=None, policy=None, **more):
    sites = pc.split(data, by="h", policy=policy)
    return pc.LogisticRegression(**more).fit(sites, FORMULA, privacy=privacy)


def summing(model):
    return model.formula_data.federation.summing


@pytest.mark.parametrize("options", [{}, {"l2": 1.0}, {"solver": "lbfgs"}, {"l1": 0.5}])
def test_the_same_bytes_with_and_without_secure_sums(options):
    clear, secure = model(frame(), **options), model(frame(), pc.SecureSum(), **options)
    assert not summing(clear).secure and summing(secure).secure
    assert clear.coef_.tobytes() == secure.coef_.tobytes()
    assert clear.covariance().tobytes() == secure.covariance().tobytes()
    assert clear.evaluate().measures == secure.evaluate().measures


def test_auto_goes_on_securely_where_a_site_may_not_release_alone():
    data = frame(rare={"east", "west"})
    found, pooled = model(data), model(data, policy=open_policy())
    assert summing(found).refusals == {"east": "LEVEL_TOO_SMALL", "west": "LEVEL_TOO_SMALL"}
    assert found.coef_.tobytes() == pooled.coef_.tobytes()
    assert {leaf["seen"] for done in found.rounds_ for leaf in done.left} == {"total of 4"}
    assert {leaf["seen"] for done in pooled.rounds_ for leaf in done.left} == {"this site"}


def test_a_level_that_is_rare_everywhere_stays_refused():
    with pytest.raises(Refused) as found:
        model(frame(rare=set(SIZES)))
    assert found.value.code == "LEVEL_TOO_SMALL"
    assert set(found.value.refusals) == set(SIZES)


def test_two_sites_cannot_hide_behind_each_other():
    data = frame(rare={"east"})
    two = data[data.h.isin(["east", "west"])]
    with pytest.raises(Refused, match="LEVEL_TOO_SMALL"):  # nothing to go on with
        model(two)
    with pytest.raises(pc.PolyclinicError) as found:
        model(two, pc.SecureSum())
    assert found.value.code in ("TOO_FEW_SITES", "BELOW_THRESHOLD")


def test_a_policy_that_releases_nothing_alone():
    shy = pc.Policy(release_alone=False)
    found = model(frame(), policy={site: shy if site == "east" else pc.Policy() for site in SIZES})
    assert summing(found).refusals == {"east": "ALONE_NOT_ALLOWED"}
    assert found.coef_.tobytes() == model(frame()).coef_.tobytes()


def test_a_term_that_is_one_site_shows_that_site_in_every_total():
    sites = pc.split(frame(), by="h", policy=pc.Policy(release_alone=False))
    with pytest.raises(Refused, match="ALONE_NOT_ALLOWED"):
        pc.LogisticRegression(site_effects=True).fit(sites, FORMULA, privacy=pc.SecureSum())


def test_the_total_of_fewer_sites_is_not_released_beside_that_of_all():
    sites = pc.split(frame(), by="h")
    pc.LogisticRegression().fit(sites, FORMULA, privacy=pc.SecureSum())
    fewer = pc.Sites(
        {site: sites.table(site) for site in SIZES if site != "west"},
        sites.codebook,
        books=sites._books,
    )
    with pytest.raises(Refused, match="MEMBERSHIP_CHANGED"):
        pc.LogisticRegression().fit(fewer, FORMULA, privacy=pc.SecureSum())


def test_no_number_of_a_site_is_in_a_message_of_a_secure_sum():
    """Every message between coordinator and sites is looked at for the sites' own sums."""
    sites = pc.split(frame(), by="h")
    clear = sites.federation(sums="clear")
    plan = Plan("descriptive.moments", moments(["age", "score"]), "means")
    own = [
        clear.transport.sites[site]._release(plan, _alone()).words
        for site in SIZES
        if clear.total(plan)
    ]
    marks = {
        row.tobytes() for words in own for name in ("s1", "s2") for row in words[name] if row.any()
    }
    assert len(marks) == 16
    secure = pc.split(frame(), by="h").federation(sums="secure")
    seen: list[bytes] = []
    ask = secure.transport.ask

    def listening(messages):
        replies = ask(messages)
        seen.extend([*messages.values(), *replies.values()])
        return replies

    secure.transport.ask = listening
    total = secure.total(plan)
    assert total["s1"].tobytes() == clear.total(plan)["s1"].tobytes()
    wire = b"".join(seen)
    assert len(wire) > 10_000
    assert not [mark for mark in marks if mark in wire]
    # ... and the check itself finds them in the clear.
    open_wire = b"".join(clear.transport.ask(dict.fromkeys(SIZES, plan.to_bytes())).values())
    assert all(mark in open_wire for mark in marks)


def test_a_run_that_goes_on_stays_secure(tmp_path):
    data, store = frame(rare={"east"}), pc.Checkpoint(tmp_path / "fit.pcm")
    whole = model(data)

    def stop(done):
        if done.number == 4:
            raise KeyboardInterrupt

    sites = pc.split(data, by="h")
    with pytest.raises(pc.Stopped):
        pc.LogisticRegression().fit(sites, FORMULA, store=store, callbacks=[stop])
    again = pc.split(data, by="h")
    found = pc.LogisticRegression().fit(again, FORMULA, store=store)
    assert found.coef_.tobytes() == whole.coef_.tobytes()
    assert summing(found).secure
    assert all(
        row["seen_as"] == "total of 4"
        for books in again._books.values()
        for row in books.ledger.rows()
    )


def test_a_lost_site_is_named_and_nothing_is_opened():
    sites = pc.split(frame(), by="h").federation(sums="secure")
    ask = sites.transport.ask
    sites.transport.ask = lambda messages: {
        site: None if site == "south" else reply for site, reply in ask(messages).items()
    }
    with pytest.raises(pc.PolyclinicError) as found:
        sites.total(Plan("descriptive.moments", moments(["age"]), "means"))
    assert found.value.code == "SITE_LOST" and "south" in found.value.what


def test_statistics_and_secure_sums():
    sites = pc.split(frame(), by="h")
    clear = sites.describe(["age", "score"])
    secure = fit_moments(pc.split(frame(), by="h"))
    assert clear.loc["age", "mean"] == secure["all"]["age"]["mean"]


def fit_moments(sites):
    from polyclinic.models.descriptive import Moments
    from polyclinic.study.describe import describe_columns

    columns = describe_columns(sites.codebook, ["age", "score"])
    return fit(Moments(columns), sites.federation(sums="secure")).model


def moments(columns):
    shape = (1, len(columns))
    return {
        "columns": columns,
        "by": None,
        "centre": np.zeros(shape),
        "exponent": np.full(shape, 7, dtype=np.int64),
        "powers": 2,
        "centred": False,
    }


def _alone():
    from polyclinic.privacy.gate import Audience

    return Audience(len(SIZES))


def test_a_site_without_a_roster_takes_no_part():
    from polyclinic.engines.books import Books
    from polyclinic.engines.site import Site
    from polyclinic.privacy.gate import Gate

    site = Site(Gate("a"), lambda cohort: None, Books.in_memory())
    reply = codec.decode(site.answer(codec.encode({"kind": "BATCH"})))
    assert reply == {"code": "ALONE_NOT_ALLOWED"}


def test_a_hospital_of_four_patients_takes_part_once():
    """Its patients are counted with all others; a total over three of the four is refused."""
    data = frame()
    few = data.groupby("h").cumcount() < 4
    data = data[(data.h != "east") | few].reset_index(drop=True)
    kinds = data.index[data.h == "east"]
    data.loc[kinds, "kind"] = ["a", "b", "c", "a"]
    data.loc[kinds, "sick"] = [0, 1, 0, 1]
    data["extra"] = np.where(data.index % 11 == 0, np.nan, data.score)
    data.loc[kinds, "extra"] = [np.nan, 1.0, 2.0, 3.0]
    sites = pc.split(data, by="h")
    found = pc.LogisticRegression().fit(sites, FORMULA)
    assert set(summing(found).refusals) == {"east"}
    with pytest.raises(Refused, match="COHORT_TOO_CLOSE"):
        pc.LogisticRegression().fit(sites, FORMULA + " + extra")


@pytest.mark.parametrize("turn", [1, -1])
def test_one_fit_with_secure_sums_and_one_without_over_the_same_sites(turn):
    sites = pc.split(frame(), by="h")
    first, second = (
        pc.LogisticRegression().fit(sites, FORMULA, privacy=how)
        for how in (pc.SecureSum(), None)[::turn]
    )
    assert first.coef_.tobytes() == second.coef_.tobytes()
    assert second.evaluate().measures["sites"]
