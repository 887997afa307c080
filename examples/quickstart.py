"""The README's example: one logistic model over four hospitals, equal to the pooled fit."""

import polyclinic as pc

# Four hospitals. Your own: pc.read({"a": "a.csv", "b": "b.csv"}, schema="heart.toml")
sites = pc.datasets.heart_disease()
formula = "disease ~ age + sex + C(cp) + thalach + exang + oldpeak"
model = pc.LogisticRegression().fit(sites, formula)
print(model)
