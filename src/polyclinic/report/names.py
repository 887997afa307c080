"""Columns, levels and terms by the names that people read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from polyclinic.report.terms import with_unit

TERM = re.compile(r"^(?:C\()?(\w+)\)?\[T\.(.+)\]$")


class Names:
    """By the labels of a run's results: {column: {"label", "unit", "levels"}}."""

    def __init__(self, labels: Mapping[str, Mapping[str, Any]]) -> None:
        self.labels = labels

    def column(self, name: str) -> str:
        """ "age" """
        return str(self.labels[name]["label"]) if name in self.labels else name

    def axis(self, name: str) -> str:
        """ "age, years" """
        if name not in self.labels:
            return name
        return with_unit(str(self.labels[name]["label"]), str(self.labels[name]["unit"]))

    def level(self, column: str, code: str) -> str:
        """ "chest pain: no symptoms"; the code where it is none of the column's levels."""
        levels = self.labels[column]["levels"] if column in self.labels else {}
        code = code.removesuffix(".0")
        return f"{self.column(column)}: {levels[code]}" if code in levels else code

    def term(self, name: str) -> str:
        """A term of a formula: "age, years", "sex: male", "chest pain: no symptoms"."""
        if (found := TERM.match(name)) and found[1] in self.labels:
            return self.level(found[1], found[2])
        levels = self.labels[name]["levels"] if name in self.labels else {}
        if len(levels) == 2:
            return f"{self.column(name)}: {list(levels.values())[1]}"
        return self.axis(name)

    def legend(self, text: str) -> str:
        """What the columns in `text` are: "cp: chest pain (1 typical angina, 2 ...)"."""
        words = set(re.findall(r"\w+", text))
        return "; ".join(self._meaning(name) for name in self.labels if name in words)

    def _meaning(self, name: str) -> str:
        levels = self.labels[name]["levels"]
        codes = ", ".join(f"{code} {label}" for code, label in levels.items())
        return f"{name}: {self.axis(name)}" + (f" ({codes})" if codes else "")

    def together(self, parts: Iterable[tuple[str, str]]) -> str:
        """Levels of several columns as one name."""
        return ", ".join(self.level(column, code) for column, code in parts)
