"""The public surface: what `import polyclinic as pc` offers, and nothing deeper."""

from __future__ import annotations

import polyclinic as pc

NAMES = [
    "Checkpoint",
    "CoxRegression",
    "CumulativeIncidence",
    "DataWarning",
    "DecisionTreeClassifier",
    "DecisionTreeRegressor",
    "DifferentialPrivacy",
    "Embedded",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedBN",
    "FedBuff",
    "FedNova",
    "FedPer",
    "FedProx",
    "FedSGD",
    "FedYogi",
    "Scaffold",
    "Cyclic",
    "Ditto",
    "EmptySite",
    "GammaRegression",
    "GaussianNB",
    "GradientBoostingClassifier",
    "GradientBoostingRegressor",
    "GradientBoostingSurvival",
    "InputError",
    "KMeans",
    "KaplanMeier",
    "KerasNetwork",
    "LinearRegression",
    "LinearSVC",
    "LinearSVR",
    "LogRank",
    "LogisticRegression",
    "NeuralNetwork",
    "PCA",
    "PoissonRegression",
    "ProgressLine",
    "Policy",
    "PolyclinicError",
    "RandomForestClassifier",
    "RandomForestRegressor",
    "Refused",
    "Screening",
    "SVC",
    "SecureSum",
    "SelectBest",
    "Sites",
    "StandardScaler",
    "Stacking",
    "Stopped",
    "TensorBoard",
    "TreatmentEffect",
    "Voting",
    "WeightedAverage",
    "cluster",
    "connect",
    "datasets",
    "from_spark",
    "images",
    "load",
    "partition",
    "query",
    "read",
    "run",
    "scan",
    "spark",
    "split",
]


def test_the_exported_names_are_these():
    assert sorted(pc.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(pc))


def test_every_name_exists_and_has_words():
    for name in NAMES:
        assert getattr(pc, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(pc, "Manager")
