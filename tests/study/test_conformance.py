"""The conformance kit: every algorithm, on every engine, over 1, 3 and 7 partitions, equals what
pooling the rows gives. A new algorithm is one more line of ALGORITHMS, an engine one of ENGINES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import xgboost
from sklearn import linear_model, tree
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.feature_selection import f_classif
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import CumIncidenceRight, SurvfuncRight, survdiff

import polyclinic as pc
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.federation import Engine
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.evaluation import Evaluation
from polyclinic.models.descriptive import Column, Correlation, CrossTable, Moments, Quantiles
from polyclinic.models.effects import Spec as EffectSpec
from polyclinic.models.ensembles import spec as ensembles
from polyclinic.models.ensembles.algorithm import Stack
from polyclinic.models.ensembles.result import Models
from polyclinic.models.glm import Solver, Spec, glm
from polyclinic.models.glm.alone import predictor_of
from polyclinic.models.neural.network import Network
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.strategy import Strategy
from polyclinic.models.simple import GaussianNBSpec, KMeansSpec, PCASpec, ScalerSpec, ScreeningSpec
from polyclinic.models.survival import CoxSpec, CurveSpec
from polyclinic.models.svm import SVMSpec
from polyclinic.models.trees import Feature
from polyclinic.models.trees import Spec as TreesSpec
from polyclinic.privacy.policy import Policy
from tests.models.effects.world import by_hand

N, SITES = 700, (0, 250, 420, 540, 700)
TERMS = ("a", "b", "c")


def pooled() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "a": rng.normal(2, 1, N),
            "b": rng.normal(0, 3, N),
            "c": rng.integers(0, 3, N).astype(float),
        }
    )
    eta = 0.4 * frame.a - 0.2 * frame.b + 0.3 * frame.c - 0.8
    frame["number"] = eta + rng.normal(size=N)
    frame["event"] = (rng.uniform(size=N) < 1 / (1 + np.exp(-eta))).astype(float)
    frame["count"] = rng.poisson(np.exp(eta)).astype(float)
    frame["cost"] = np.exp(eta) * rng.gamma(2.0, 0.5, N)
    frame["kind"] = (np.column_stack([0 * eta, eta, -eta]) + rng.gumbel(size=(N, 3))).argmax(
        1
    ) * 1.0
    later = np.random.default_rng(12)
    frame["days"] = later.integers(1, 4, N).astype(float)
    frame["place"] = np.searchsorted(SITES, np.arange(N), side="right") - 1.0
    frame["z"] = later.normal(size=N)
    return frame


DATA = pooled()
X = sm.add_constant(DATA[list(TERMS)].to_numpy())


def partition(rows: slice = slice(None), site: str = "") -> Partition:
    return Partition({name: DATA[name].to_numpy()[rows] for name in DATA}, site=site)


def sites(partitions: int) -> Engine:
    parts = {f"s{i}": partition(slice(a, b), f"s{i}") for i, (a, b) in enumerate(pairwise(SITES))}
    makers = {name: (lambda cohort, part=part: part) for name, part in parts.items()}
    return pc.Embedded(partitions).federation(makers, dict.fromkeys(parts, Policy()))


def domain(partitions: int) -> Engine:
    return pc.Embedded(partitions).domain(partition())


ENGINES = {"sites": sites, "one domain": domain}


def spec(
    outcome: str, family: str, classes: int = 0, columns: tuple[str, ...] = TERMS, **more: Any
) -> Spec:
    terms = tuple(Term(name, (Factor("value", name),), 16.0) for name in columns)
    return Spec(Design(terms, outcome, response_bound=64.0), family, classes, **more)


def terms(names: str = "abc", response: str = "") -> Any:
    whole = spec(response, "gaussian").design
    return replace(whole, terms=tuple(term for term in whole.terms if term.name in names))


def clusters() -> Any:
    found = KMeans(3, n_init=10, random_state=0).fit(X[:, 3:])
    return [*np.sort(found.cluster_centers_.ravel()), 1.0 + found.inertia_]


def bayes() -> Any:
    found = GaussianNB().fit(X[:, 1:], DATA.kind)
    return np.concatenate([found.theta_.ravel(), found.var_.ravel(), found.class_prior_])


def coefficients(results: Any) -> Any:
    return results[-1].coef.ravel()


def coefficients_and_errors(results: Any) -> Any:
    return np.concatenate([results[-1].coef.ravel(), np.sqrt(np.diag(results[-1].covariance))])


def reference(outcome: str, family: Any, columns: tuple[str, ...] = TERMS) -> Callable[[], Any]:
    def run() -> Any:
        rows = sm.add_constant(DATA[list(columns)].to_numpy())
        found = sm.GLM(DATA[outcome], rows, family=family).fit(tol=1e-14, maxiter=200)
        return np.concatenate([found.params, found.bse])

    return run


def scikit(model: Any, outcome: str) -> Callable[[], Any]:
    def run() -> Any:
        fitted = model.fit(X[:, 1:], DATA[outcome])
        return np.concatenate([np.ravel(fitted.intercept_), np.ravel(fitted.coef_)])

    return run


def mnlogit() -> Any:
    return (
        sm.MNLogit(DATA.kind, X)
        .fit(method="newton", maxiter=100, disp=0)
        .params.to_numpy()
        .T.ravel()
    )


def machine(loss: str) -> Any:
    return SVMSpec(spec("event", "binomial", 2).design, loss, intercept_scaling=1.0).algorithm()


def smallest(loss: str) -> Callable[[], Any]:
    def run() -> Any:
        peer = LinearSVC(loss=loss, tol=1e-10, max_iter=1_000_000, dual=True)
        peer.fit(X[:, 1:], DATA.event)
        theta = np.concatenate([peer.intercept_, peer.coef_[0]])
        missed = np.maximum(1 - (2 * DATA.event - 1) * (X @ theta), 0)
        return 0.5 * theta @ theta + np.sum(missed if loss == "hinge" else missed**2)

    return run


def predictor() -> dict[str, Any]:
    found = fit(glm(spec("event", "binomial", 2)), domain(1)).model[-1]
    return predictor_of(found).to_data()


def risks() -> Any:
    eta = X @ sm.GLM(DATA.event, X, family=sm.families.Binomial()).fit(tol=1e-14).params
    p = 1 / (1 + np.exp(-eta))
    return [brier_score_loss(DATA.event, p), log_loss(DATA.event, p), p.mean()]


GIVEN = {"x": np.array([-0.8, 0.5, -0.1, 0.2]), "y": np.array([-0.2, -0.1, -0.3, 0.6])}


def stacking() -> Stack:
    """The regression over what two models predict that are of none of the sites."""
    base = {"name": "logistic", "settings": {"l2": 0.0, "l1": 0.0, "class_weight": None}}
    what = ensembles.Spec(
        spec("event", "binomial", 2).design, "stacking", base, 2, {"folds": 5, "l2": 0.0}
    )
    return Stack(what, Models({name: {"coef": coef} for name, coef in GIVEN.items()}, {}))


def stacked() -> Any:
    columns = np.column_stack([1 / (1 + np.exp(-X @ coef)) for coef in GIVEN.values()])
    found = sm.Logit(DATA.event, sm.add_constant(columns)).fit(tol=1e-14, disp=0)
    return np.concatenate([found.params, found.bse])


def survival(columns: tuple[str, ...] = TERMS, event: str = "event", **more: Any) -> Design:
    terms = tuple(Term(name, (Factor("value", name),), 16.0) for name in columns)
    return Design(terms, "days", False, event=event, response_bound=4.0, **more)


def cox(ties: str) -> CoxSpec:
    return CoxSpec(survival(strata=("place",)), levels=(4,), ties=ties)


def phreg(ties: str) -> Callable[[], Any]:
    @cache
    def run() -> Any:
        model = PHReg(DATA.days, X[:, 1:], status=DATA.event, strata=DATA.place, ties=ties)
        found = model.fit(method="newton", tol=1e-14, disp=0, warn_convergence=False)
        return np.concatenate([found.params, found.bse])

    return run


EDGES = {"a": (1.5, 2.0, 2.5), "b": (-1.5, 0.0, 1.5), "c": (0.5, 1.5)}  # full bins at every site


def trees(outcome: str, **more: Any) -> Any:
    features = tuple(Feature(name, EDGES[name]) for name in TERMS)
    design = spec(outcome, "gaussian").design
    return TreesSpec(design, features, cell=5, **more).algorithm()


def risks_of(found: Any) -> Any:
    return found.predictor().expected({name: DATA[name].to_numpy() for name in TERMS})


def in_bins() -> Any:
    return np.column_stack([np.digitize(DATA[name], EDGES[name]) for name in TERMS])


def scikit_tree(outcome: str, model: Any) -> Callable[[], Any]:
    def run() -> Any:
        fitted = model.fit(in_bins(), DATA[outcome])
        if outcome == "event":
            return fitted.predict_proba(in_bins())[:, 1]
        return fitted.predict(in_bins())

    return run


def log_rank() -> CurveSpec:
    terms = tuple(Term(f"c = {k}", (Factor("level", "c", (float(k),)),), 1.0) for k in (1, 2))
    design = replace(survival((), strata=("place",)), terms=terms)
    return CurveSpec("log-rank", design, by="c", groups=("0", "1", "2"), levels=(4,))


def curve(asked: str, event: str) -> CurveSpec:
    return CurveSpec(asked, survival((), event), causes=2, edges=(1.0, 2.0, 3.0))


def boosted() -> Any:
    share = DATA.event.mean()
    margin = np.full(N, np.log(share / (1 - share)))
    rows = xgboost.DMatrix(in_bins(), DATA.event, base_margin=margin)
    options = {"objective": "binary:logistic", "max_depth": 2, "eta": 0.3, "nthread": 1,
               "min_child_weight": 0.0, "base_score": 0.5}  # fmt: skip
    return xgboost.train(options, rows, 3).predict(rows)


def boosted_survival() -> Any:
    features = tuple(Feature(name, EDGES[name]) for name in TERMS)
    more = {"loss": "cox", "cell": 5, "trees": 3, "depth": 2, "leaf": 20, "l2": 1.0, "rate": 0.3}
    design = survival(strata=("place",))
    return TreesSpec(design, features, levels=(4,), **more).algorithm()


def boosted_hazards() -> Any:
    """XGBoost with the derivatives of the stratified partial likelihood written out (Breslow)."""
    days, place, event = (DATA[name].to_numpy() for name in ("days", "place", "event"))
    at_risk = (place[:, None] == place) & (days >= days[:, None])  # of each row's time

    def slopes(margin: Any, rows: Any) -> Any:
        share = at_risk * np.exp(margin)
        share = share / share.sum(axis=1, keepdims=True)
        return event @ share - event, event @ (share * (1 - share))

    rows = xgboost.DMatrix(in_bins(), event, base_margin=np.zeros(N))
    options = {"objective": "survival:cox", "max_depth": 2, "eta": 0.3, "nthread": 1,
               "min_child_weight": 0.0, "base_score": 1.0}  # fmt: skip
    return xgboost.train(options, rows, 3, obj=slopes).predict(rows)


def network(strategy: str, **more: Any) -> NeuralSpec:
    """A linear one. Where a site takes one step over all its rows, averaging is pooled descent."""
    pytest.importorskip("torch")
    how = Strategy.from_data({"name": strategy, "rounds": 3, "lr": 0.05, "batch_size": 0, **more})
    design = replace(spec("event", "binomial", 2).design, intercept=False)
    return NeuralSpec(design, "linear", scale="none", strategy=how)


def descent() -> Any:
    """Gradient descent on the mean logistic loss of all rows, from the network's first weights."""
    *slopes, intercept = Network(network("fedsgd")).weights().astype(float)
    theta = np.array([intercept, *slopes])
    for _ in range(3):
        theta -= 0.05 * X.T @ (1 / (1 + np.exp(-X @ theta)) - DATA.event.to_numpy()) / N
    return [*theta[1:], theta[0]]


@dataclass(frozen=True)
class Line:
    algorithm: Callable[[], Any]
    numbers: Callable[[Any], Any]
    reference: Callable[[], Any]
    rtol: float = 1e-10


def effect(**options: Any) -> EffectSpec:
    """What an event changes in the number that comes with it."""
    from polyclinic.core.design import Design, Factor, Term

    terms = tuple(Term(name, (Factor("value", name),), 16.0) for name in ("event", *TERMS))
    return EffectSpec(Design(terms, "number", response_bound=64.0), "event", False, **options)


def mean_and_errors(found: Any) -> Any:
    return np.concatenate([found.mean(), np.sqrt(np.diag(found.covariance()))])


def pooled_effect() -> Any:
    named = {"x": "a", "z": "b", "c": "c", "a": "event", "y": "number"}
    rows = {name: DATA[column].to_numpy() for name, column in named.items()}
    mean, covariance = by_hand(rows, "aipw")
    return np.concatenate([mean, np.sqrt(np.diag(covariance))])


def modified_effect() -> Any:
    """Two folds by parity, which the sites' cuts keep."""
    part, treated, left = np.arange(N) % 2, np.zeros(N), np.zeros(N)
    for fold in (0, 1):
        x, a, y = X[part != fold], DATA.event[part != fold], DATA.number[part != fold]
        out = X[part == fold]
        e = sm.GLM(a, x, family=sm.families.Binomial()).fit(tol=1e-14).predict(out)
        m = [sm.OLS(y[a == arm], x[a == arm]).fit().predict(out) for arm in (0, 1)]
        treated[part == fold] = DATA.event[part == fold] - e
        left[part == fold] = DATA.number[part == fold] - (1 - e) * m[0] - e * m[1]
    return np.linalg.lstsq(treated[:, None] * X[:, :2], left, rcond=None)[0]


NUMBER, LEVELS = Column("a", "number", bound=16.0), Column("c", "category", ("0", "1", "2"))
OTHER = Column("b", "number", bound=16.0)
EVENT = Column("event", "binary", ("0", "1"))
lbfgs, gd = Solver("lbfgs", max_rounds=500), Solver("gd", max_rounds=5000, tolerance=1e-8)
rounding = Solver("gd", max_rounds=5000, tolerance=1e-8, compress="int8")
ALGORITHMS = {
    "linear": Line(lambda: glm(spec("number", "gaussian")), coefficients_and_errors,
                   reference("number", sm.families.Gaussian())),
    "logistic": Line(lambda: glm(spec("event", "binomial", 2)), coefficients_and_errors,
                     reference("event", sm.families.Binomial())),
    "logistic, lbfgs": Line(lambda: glm(spec("event", "binomial", 2, solver=lbfgs)),
                            coefficients_and_errors, reference("event", sm.families.Binomial()),
                            1e-7),
    # Around the two columns whose means are none, gradients descend in 20 rounds instead of 500.
    "logistic, gd": Line(lambda: glm(spec("event", "binomial", 2, ("b", "z"), solver=gd)),
                         coefficients_and_errors,
                         reference("event", sm.families.Binomial(), ("b", "z")), 1e-6),
    "logistic, gd rounded": Line(
        lambda: glm(spec("event", "binomial", 2, ("b", "z"), solver=rounding)),
        coefficients_and_errors, reference("event", sm.families.Binomial(), ("b", "z")), 1e-6),
    "poisson": Line(lambda: glm(spec("count", "poisson")), coefficients_and_errors,
                    reference("count", sm.families.Poisson())),
    "gamma": Line(lambda: glm(spec("cost", "gamma")), coefficients_and_errors,
                  reference("cost", sm.families.Gamma(sm.families.links.Log()))),
    "multinomial": Line(lambda: glm(spec("kind", "multinomial", 3)), coefficients, mnlogit, 1e-8),
    "ridge": Line(lambda: glm(spec("event", "binomial", 2, l2=4.0)), coefficients,
                  scikit(linear_model.LogisticRegression(
                      C=0.25, solver="newton-cholesky", tol=1e-13), "event"), 1e-8),
    "lasso": Line(lambda: glm(spec("number", "gaussian", l1=70.0)), coefficients,
                  scikit(linear_model.Lasso(0.1, tol=1e-14, max_iter=100_000), "number"), 1e-8),
    "elastic net": Line(
        lambda: glm(spec("number", "gaussian", l1=35.0, l2=35.0)), coefficients,
        scikit(linear_model.ElasticNet(0.1, l1_ratio=0.5, tol=1e-14, max_iter=100_000), "number"),
        1e-8),
    # Hospitals leave the last steps out, which would rest on a few patients; one domain does not.
    "machine": Line(lambda: machine("squared_hinge"), lambda m: m[-1].objective,
                    smallest("squared_hinge"), 3e-2),
    "machine, hinge": Line(lambda: machine("hinge"), lambda m: m[-1].objective,
                           smallest("hinge"), 3e-2),
    "cox": Line(lambda: cox("efron").algorithm(),
                lambda r: np.concatenate([r[-1].coef, r[-1].summary()["se"]]), phreg("efron"),
                1e-9),
    "cox, breslow": Line(lambda: cox("breslow").algorithm(),
                         lambda r: np.concatenate([r[-1].coef, r[-1].summary()["se"]]),
                         phreg("breslow"), 1e-9),
    "log-rank": Line(lambda: log_rank().algorithm(), lambda r: [r.test["chi2"], r.test["p"]],
                     lambda: survdiff(DATA.days, DATA.event, DATA.c, strata=DATA.place)),
    "survival": Line(lambda: curve("kaplan-meier", "event").algorithm(),
                     lambda r: np.concatenate([r.curves["all"].survival, r.curves["all"].se]),
                     lambda: (lambda f: np.concatenate([f.surv_prob, f.surv_prob_se]))(
                         SurvfuncRight(DATA.days, DATA.event)), 1e-12),
    "incidence": Line(lambda: curve("cumulative-incidence", "kind").algorithm(),
                      lambda r: [r.incidences["all"][k].incidence for k in (1, 2)],
                      lambda: CumIncidenceRight(DATA.days, DATA.kind.astype(int)).cinc, 1e-12),
    "moments": Line(lambda: Moments((NUMBER, OTHER)),
                    lambda m: [m["all"][c][k] for c in "ab" for k in ("mean", "variance")],
                    lambda: [v for c in "ab" for v in (DATA[c].mean(), DATA[c].var())], 1e-12),
    "correlation": Line(lambda: Correlation((NUMBER, OTHER)), lambda m: m["correlation"],
                        lambda: DATA[["a", "b"]].corr().to_numpy(), 1e-12),
    "cross-table": Line(lambda: CrossTable(LEVELS, EVENT), lambda m: m["overall"]["counts"],
                        lambda: pd.crosstab(DATA.c, DATA.event).to_numpy(), 0.0),
    "median": Line(lambda: Quantiles((NUMBER,), (0.5,)),
                   lambda m: m["all"]["a"]["0.5"]["value"], lambda: DATA.a.median(), 0.02),
    "naive Bayes": Line(
        lambda: GaussianNBSpec(terms(response="kind"), 3).algorithm(),
        lambda m: np.concatenate([m.mean.ravel(), m.variance.ravel(), m.priors]), bayes),
    "components": Line(lambda: PCASpec(terms()).algorithm(), lambda m: m[-1].vectors,
                       lambda: PCA().fit(X[:, 1:]).components_),
    "scales": Line(lambda: ScalerSpec(terms()).algorithm(), lambda m: [m.mean, m.variance],
                   lambda: [X[:, 1:].mean(axis=0), X[:, 1:].var(axis=0)], 1e-12),
    "clusters": Line(  # of the column whose values are apart: whatever stays together is alike
        lambda: KMeansSpec(terms("c"), 3, group=5).algorithm(),
        lambda m: [*np.sort(m[-1].centres.ravel()), 1.0 + m[-1].inertia], clusters),
    "screening": Line(
        lambda: ScreeningSpec(terms("ab", "kind"), (NUMBER, OTHER), 3).algorithm(),
        lambda m: [one.statistic for one in m.found],
        lambda: f_classif(X[:, 1:3], DATA.kind)[0], 1e-9),
    "treatment effect": Line(lambda: effect().algorithm(), mean_and_errors,
                             pooled_effect, 1e-9),
    "effect modifiers": Line(lambda: effect(modifiers=("a",), folds=2).algorithm(),
                             lambda m: m.modified.coef, modified_effect, 1e-9),
    "stacking": Line(stacking, lambda fitted: coefficients_and_errors([fitted]), stacked),
    "tree": Line(lambda: trees("number", depth=2, leaf=20), risks_of,
                 scikit_tree("number", tree.DecisionTreeRegressor(max_depth=2,
                                                                  min_samples_leaf=20)),
                 1e-7),
    "forest": Line(lambda: trees("event", classes=2, depth=2, leaf=20, forest=True), risks_of,
                   scikit_tree("event", tree.DecisionTreeClassifier(max_depth=2,
                                                                    min_samples_leaf=20)), 1e-7),
    "boosting": Line(lambda: trees("event", classes=2, loss="logistic", trees=3, depth=2, leaf=20,
                                   l2=1.0, rate=0.3), risks_of, boosted, 1e-5),
    "boosted survival": Line(boosted_survival, risks_of, boosted_hazards, 1e-5),
    "network, gradients": Line(lambda: network("fedsgd").algorithm(), lambda m: m[-1].weights,
                               descent, 1e-5),
    "network, averaging": Line(lambda: network("fedavg", compress="topk_shared", keep=1.0,
                                               whole_every=2).algorithm(),
                               lambda m: m[-1].weights, descent, 1e-5),
    "evaluation": Line(lambda: Evaluation((predictor(),), 0, "binary", ()),
                       lambda m: [m["all"][k] for k in ("brier", "log_loss", "predicted")], risks),
}  # fmt: skip


@pytest.mark.parametrize("partitions", [1, 3, 7])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_equals_pooling_the_rows(name, engine, partitions):
    line = ALGORITHMS[name]
    result = fit(line.algorithm(), ENGINES[engine](partitions)).model
    np.testing.assert_allclose(line.numbers(result), line.reference(), rtol=line.rtol, atol=1e-11)


@pytest.mark.parametrize(
    "name", ["logistic", "moments", "cross-table", "evaluation", "forest", "network, averaging"]
)
def test_the_order_of_sites_changes_no_byte(name):
    line = ALGORITHMS[name]
    engine = sites(1)
    forward = np.asarray(line.numbers(fit(line.algorithm(), engine).model))
    engine.sites = engine.sites[::-1]
    backward = np.asarray(line.numbers(fit(line.algorithm(), engine).model))
    assert forward.tobytes() == backward.tobytes()
