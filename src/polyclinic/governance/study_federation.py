"""The section of a study file about the hospitals of a hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from polyclinic.core.errors import InputError

RESTART = "restart_without"
FEWEST = 2  # hospitals of a study over a hub that goes on without others


class Section(BaseModel):
    """A section of a study file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FederationSection(Section):
    """[federation]: hospitals of a hub.

    sites          that take part; none: all that have joined
    round_timeout  how long a hospital may take for an answer: a number with s, min or h
    when_lost      of a hospital that does not answer: the run waits for it, or ends, or goes on
                   without it where nothing was computed yet and `required` allows it
    required       with "restart_without": the hospitals that must take part, or how many at least
    """

    sites: list[str] = []
    round_timeout: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5} ?(s|min|h)$")] = "10 min"
    when_lost: Literal["wait", "abort", "restart_without"] = "wait"
    required: Annotated[Literal["all"] | list[str] | int, Field(validate_default=True)] = "all"

    @field_validator("required", mode="before")
    @classmethod
    def _who(cls, value: Any) -> Any:
        if value == "all" or (type(value) is int and value >= FEWEST):
            return value
        if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
            return value
        raise ValueError(f'"all", names of hospitals, or a number from {FEWEST} on')

    @field_validator("required")
    @classmethod
    def _fits(
        cls, required: Literal["all"] | list[str] | int, others: ValidationInfo
    ) -> Literal["all"] | list[str] | int:
        lost, sites = others.data.get("when_lost"), others.data.get("sites")
        if lost is None or sites is None:
            return required
        if (lost == RESTART) != (required != "all"):
            raise ValueError(
                f'when_lost = "{RESTART}" and `required`, names of hospitals or a number of them, '
                "belong together: give both, or neither"
            )
        if sites and (problem := _leaves_nobody_out(required, sites)):
            raise ValueError(problem)
        return required

    @property
    def may_restart(self) -> bool:
        """Whether a run may go on without hospitals that are lost."""
        return self.when_lost == RESTART

    @property
    def fewest(self) -> int:
        """How many hospitals take part at least where some are lost."""
        return self.required if isinstance(self.required, int) else max(FEWEST, len(self.named))

    @property
    def named(self) -> tuple[str, ...]:
        """Hospitals without which a run does not go on."""
        return tuple(dict.fromkeys(self.required)) if isinstance(self.required, list) else ()

    def allows(self, rest: Iterable[str], sites: Iterable[str]) -> bool:
        """Whether a run over `sites` may go on over `rest` alone."""
        rest, sites = set(rest), set(sites)
        enough = len(rest) >= self.fewest and rest >= set(self.named)
        return self.may_restart and rest < sites and enough

    @property
    def required_words(self) -> str:
        """Who takes part at least: "at least 3 hospitals", "at least cleveland and one other"."""
        if not self.named:
            return f"at least {self.fewest} hospitals"
        other = "" if len(self.named) > 1 else " and one other"
        return f"at least {' and '.join(self.named)}{other}"

    def check_against(self, sites: Sequence[str]) -> None:
        """Raises WRONG_VALUE where `required` does not fit the hospitals that take part."""
        if self.may_restart and (problem := _leaves_nobody_out(self.required, sites)):
            raise InputError(
                '"federation.required" has a value that is not allowed',
                code="WRONG_VALUE",
                rule=problem,
                next="correct the value",
            )

    @property
    def seconds(self) -> float:
        """`round_timeout` in seconds."""
        number = self.round_timeout.rstrip("hmins ")
        unit = self.round_timeout[len(number) :].strip()
        return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def _leaves_nobody_out(required: Any, sites: Sequence[str]) -> str:
    """What is wrong with `required` over these hospitals; "": nothing."""
    if isinstance(required, list) and (unknown := sorted(set(required) - set(sites))):
        return f"{', '.join(unknown)}: not among the hospitals of the study"
    least = required if isinstance(required, int) else max(FEWEST, len(set(required)))
    if isinstance(required, (int, list)) and least >= len(set(sites)):
        return f"of {len(set(sites))} hospitals none could be left out: ask for fewer"
    return ""
