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


class SplitBy(Section):
    """[data] split: files, or what a database answers, in which each value of a column is a
    hospital; see `polyclinic.split`.

    query   in place of files what a database answers
    order   in which rows are written anew, where each hospital's or a patient's do not lie together
    folder  where, if workers are on other machines
    """

    at: str
    by: str
    query: str | None = None
    order: Literal["patient", "random"] | None = None
    folder: str | None = None

    @model_validator(mode="after")
    def _answerable(self) -> SplitBy:
        if self.query is not None:
            AskedOf(at=self.at, query=self.query, folder=self.folder)
        elif self.folder is not None and self.order is None:
            raise ValueError("folder is of rows that are written anew: give query or order as well")
        return self


def _kind_of_site(value: Any) -> str:
    return "str" if isinstance(value, str) else "dict"


SiteRows = Annotated[  # as `validate` leaves these tags out of its words
    Annotated[str, Tag("str")] | Annotated[AskedOf, Tag("dict")], Discriminator(_kind_of_site)
]


class Data(Section):
    """[data]: codebook and files of the hospitals, one lake of them all, a hub that they joined, or
    a named data set.

    unreadable  of files that are read in parts: whether the study stops at one that cannot be read
    """

    schema_: Annotated[str | None, Field(alias="schema")] = None
    sites: dict[str, SiteRows] | None = None
    split: SplitBy | None = None
    unreadable: Literal["stop", "leave out"] = "stop"
    folder: str | None = None
    dataset: str | None = None
    hub: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        sources = ("sites", "split", "folder", "dataset", "hub")
        if len([name for name in sources if getattr(self, name)]) != 1:
            raise ValueError(f"give one of: {', '.join(sources)}")
        if self.unreadable != "stop" and not (self.sites or self.split):
            raise ValueError("unreadable is of the files that sites or split names")
        if self.dataset is None and self.schema_ is None:
            raise ValueError('files need a codebook: schema = "..."')
        return self
