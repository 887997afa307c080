"""[data] of a study file: where the hospitals' rows are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from polyclinic.core.errors import InputError
from polyclinic.data.query import Query
from polyclinic.governance.study_federation import Section


class AskedOf(Section):
    """One of [data] sites: a database and what it is asked, see `polyclinic.query`.

    folder  where the answer is kept while the study runs, if workers are on other machines
    """

    at: str
    query: str
    folder: str | None = None

    @model_validator(mode="after")
    def _answerable(self) -> AskedOf:
        try:
            Query(self.at, self.query)
        except InputError as error:
            raise ValueError(f"{error.what}; {error.rule}; {error.next}") from None
        return self


def _kind_of_site(value: Any) -> str:
    return "str" if isinstance(value, str) else "dict"


SiteRows = Annotated[  # as `validate` leaves these tags out of its words
    Annotated[str, Tag("str")] | Annotated[AskedOf, Tag("dict")], Discriminator(_kind_of_site)
]


class Data(Section):
    """[data]: codebook and files of the hospitals, a hub that they joined, or a named data set.

    unreadable  of files that are read in parts: whether the study stops at one that cannot be read
    """

    schema_: Annotated[str | None, Field(alias="schema")] = None
    sites: dict[str, SiteRows] | None = None
    unreadable: Literal["stop", "leave out"] = "stop"
    folder: str | None = None
    dataset: str | None = None
    hub: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        given = [name for name in ("sites", "folder", "dataset", "hub") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("give one of: sites, folder, dataset, hub")
        if self.unreadable != "stop" and not self.sites:
            raise ValueError("unreadable is of the files that sites names")
        if self.dataset is None and self.schema_ is None:
            raise ValueError('files need a codebook: schema = "..."')
        return self
