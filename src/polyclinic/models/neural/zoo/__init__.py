"""The networks that come with Polyclinic. torch is imported when one is built."""

from polyclinic.models.neural.zoo.images import ARCHITECTURES as _IMAGES
from polyclinic.models.neural.zoo.masks import ARCHITECTURES as _MASKS
from polyclinic.models.neural.zoo.series import ARCHITECTURES as _SERIES
from polyclinic.models.neural.zoo.tables import ARCHITECTURES as _TABLES

ARCHITECTURES = [*_TABLES, *_IMAGES, *_MASKS, *_SERIES]
