"""Descriptive statistics by sums: moments, quantiles, histograms, cross-tables, Table 1."""

from polyclinic.core.task import Task
from polyclinic.models.descriptive.column import Column
from polyclinic.models.descriptive.correlation import Correlation, ProductsTask
from polyclinic.models.descriptive.crosstab import CrossTable, CrossTableTask
from polyclinic.models.descriptive.histogram import Histogram, HistogramTask
from polyclinic.models.descriptive.levels import Levels, LevelsTask
from polyclinic.models.descriptive.moments import Moments, MomentsTask
from polyclinic.models.descriptive.private import (
    PrivateHistogram,
    PrivateHistogramTask,
    PrivateMoments,
    PrivateMomentsTask,
)
from polyclinic.models.descriptive.quantiles import Quantiles
from polyclinic.models.descriptive.table_one import Describe, TableOne
from polyclinic.models.descriptive.together import EachSite, EachSiteTask, Together, TogetherTask

tasks: list[Task] = [
    MomentsTask(),
    ProductsTask(),
    HistogramTask(),
    LevelsTask(),
    CrossTableTask(),
    TogetherTask(),
    EachSiteTask(),
    PrivateMomentsTask(),
    PrivateHistogramTask(),
]

__all__ = [
    "Column",
    "Correlation",
    "CrossTable",
    "Describe",
    "EachSite",
    "Histogram",
    "Levels",
    "Moments",
    "PrivateHistogram",
    "PrivateMoments",
    "Quantiles",
    "TableOne",
    "Together",
    "tasks",
]
