"""What ``[data.options]`` may say of recordings; all of it is found where it is left out."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.base import Strict
from schemas.simulation import Real

Unit = Literal["auto", "s", "ms", "us", "ns"]
Column = Annotated[str, Field(min_length=1, max_length=200)]
_PLACES = ("person", "label")


class Options(Strict):
    """The table ``[data.options]`` of kind ``recordings``."""

    pattern: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="Which files, and what their names say: 'subject{person}_*.csv', "
        "'{label}/{person}.csv'; * is anything within one folder's name. Left out: all files; the "
        "person is the folder's name, or the file's where all lie in one folder.",
    )
    person: Column | None = Field(None, description="Column that names the person.")
    skip_persons: tuple[str, ...] = Field((), description="Persons to leave out.")
    time: str | None = Field(
        None, max_length=200, description="Column of time; '' where there is none (needs hz)."
    )
    time_unit: Unit = Field("auto", description="Of a time in numbers; ISO times have their own.")
    restarts: bool = Field(
        False, description="Time that goes back begins a new recording; else it is refused."
    )
    hz: Real | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Samples a second of the windows; the files' own median rate if left out.",
    )
    gap_seconds: Real = Field(
        0.5,
        gt=0,
        le=3600,
        description="A longer silence of a channel ends a stretch; a shorter one is interpolated. "
        "At least two and a half samples of each file's own rate.",
    )
    channels: tuple[Column, ...] = Field(
        (), description="Columns to take; all other columns of numbers if left out."
    )
    ignore: tuple[Column, ...] = Field((), description="Columns that are no channels.")
    magnitudes: tuple[tuple[Column, ...], ...] = Field(
        (),
        description="Channels that are one vector in space: [['ax', 'ay', 'az']]; found by names "
        "that end in x, y and z if left out.",
    )
    label: Column | None = Field(None, description="Column of labels.")
    rename: dict[str, str] = Field(
        default_factory=dict, description="Other names of labels; two of one name are one class."
    )
    unknown: tuple[str, ...] = Field(
        (), description="Labels that say nothing, as an empty cell: windows without a class."
    )
    leave_out: tuple[str, ...] = Field(
        (), description="Labels (before renaming or after) whose windows are left out."
    )
    agreement: Real = Field(
        0.75,
        gt=0.5,
        le=1,
        description="Share of a window's samples that must have one label; a window without such "
        "a majority is left out.",
    )
    least_windows: Annotated[int, Field(strict=True)] = Field(
        0, ge=0, le=1_000_000, description="Leave out a person's classes with fewer windows."
    )
    columns: tuple[Column, ...] = Field(
        (), description="The columns' names, where the files have no line of names."
    )
    skip_lines: Annotated[int, Field(strict=True)] = Field(
        0, ge=0, le=10_000, description="Lines above the line of names."
    )
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="Between cells; found if left out."
    )
    decimal: Literal[".", ","] | None = Field(
        None, description="Decimal point or comma; found if left out."
    )

    @field_validator("pattern")
    @classmethod
    def _places(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        found = re.findall(r"\{(.*?)\}", pattern)
        rest = re.sub(r"\{\w+\}", "", pattern)
        if set(found) - set(_PLACES) or len(set(found)) < len(found) or set("{}") & set(rest):
            raise ValueError("{person} and {label} may stand in it, each once, and no other braces")
        return pattern

    @model_validator(mode="after")
    def _no_time_needs_hz(self) -> "Options":
        if self.time == "" and self.hz is None:
            raise ValueError("time = '' (no column of time) needs hz, the samples a second")
        if self.channels and set(self.channels) & set(self.ignore):
            both = min(set(self.channels) & set(self.ignore))
            raise ValueError(f"{both!r} stands in channels and in ignore")
        for key in ("channels", "columns"):
            names = getattr(self, key)
            if len(set(names)) < len(names):
                raise ValueError(f"a name stands twice in {key}")
        return self
