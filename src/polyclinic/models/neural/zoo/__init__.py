"""The networks that come with Polyclinic. torch is imported when one is built."""

from polyclinic.models.neural.zoo.tables import ARCHITECTURES as _TABLES

ARCHITECTURES = [*_TABLES]
