"""Names of the devices on which networks compute; which one is each site's own matter.

A device stands in no plan and in nothing that leaves: two sites of one study may have different
ones. "auto" is a graphics card where there is one, else the processor.
"""

from __future__ import annotations

import re

from polyclinic.core.errors import InputError

AUTO, CPU = "auto", "cpu"
VARIABLE = "POLYCLINIC_DEVICE"  # of the environment; counts where a site's settings say nothing
PATTERN = r"auto|cpu|mps|cuda(:[0-9]{1,3})?"
RULE = 'a device is "auto", "cpu", "cuda", "cuda:1" (the second card) or "mps" (Apple)'


def checked(name: str, where: str = "device") -> str:
    """The name of a device; "" is none. Raises WRONG_VALUE."""
    if name and not re.fullmatch(PATTERN, name):
        raise InputError(
            f"{where} = {name!r}", code="WRONG_VALUE", rule=RULE, next="correct the name"
        )
    return name
