"""What the tests of reading share: codebooks with other parts, and refusals."""

from __future__ import annotations

import pytest

from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook


def plain(codebook: Codebook) -> dict:
    """The codebook as a TOML file would hold it."""
    return codebook.model_dump(by_alias=True, exclude_none=True)


def changed(codebook: Codebook, **parts) -> Codebook:
    return Codebook.from_dict({**plain(codebook), **parts})


def with_site(codebook: Codebook, **section) -> Codebook:
    return changed(codebook, site={"a": section})


def refused(call, *args, secret: str | None = None, **options) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    error = caught.value
    assert error.rule and error.next
    if secret is not None:
        assert secret not in str(error)
    return error
