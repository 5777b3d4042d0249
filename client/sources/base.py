"""What a sensor source is, and what it gives. Nothing here loads NumPy: the daemon stays small."""

import threading
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol

from pydantic import AfterValidator, Field, model_validator

from client.ring_file import RingError, fitted
from schemas.base import Strict

_TEST_SHARE: Final = 5  # the test windows' part of the byte limit: one of so many


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    if "\0" in str(path):
        raise ValueError("a path cannot have a NUL")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


@dataclass(frozen=True)
class Window:
    """One window as a source gives it, unchecked.

    Attributes
    ----------
    values : array of "f"
        Row by row: time outside, channels inside.
    shape : (time, channels)
    label : int
        −1 where there is none.
    test : bool
        For evaluation only: it is never learned from.
    """

    values: "array[float]"
    shape: tuple[int, ...]
    label: int = -1
    test: bool = False


class DiskFull(OSError):  # noqa: N818 - a state, like httpx's Timeout
    """There is no room for windows: a source that can wait raises it and is run again later."""


class SourceSettings(Strict):
    """What every source's settings hold; a source adds its own.

    Attributes
    ----------
    time, channels : int
        Samples and channels of a window.
    dtype : "float32" or "float16"
        As windows are kept.
    limit_bytes : int
        Most bytes on disk; the newest windows are kept.
    classes : int, optional
        Labels are 0 to one less; any other is dropped, its window kept.
    test_every : int
        Every so many stretches of 32 labelled windows, one is held out for evaluation; 0 is never.
        Where windows overlap, those at its two ends share samples with ones that are learned from.
    max_per_second : float, optional
        Windows beyond that are dropped.
    """

    time: int = Field(ge=1, le=1 << 16)
    channels: int = Field(ge=1, le=1024)
    dtype: Literal["float32", "float16"] = "float32"
    limit_bytes: int = Field(64 << 20, ge=1 << 20)
    classes: int | None = Field(None, ge=1)
    test_every: int = Field(0, ge=0)
    max_per_second: float | None = Field(None, gt=0)

    @property
    def item(self) -> int:
        """Bytes of a value as it is kept."""
        return 4 if self.dtype == "float32" else 2

    @property
    def limits(self) -> tuple[int, int]:
        """Most bytes of the windows to learn from, and of those to evaluate on."""
        test = self.limit_bytes // _TEST_SHARE
        return self.limit_bytes - test, test

    @model_validator(mode="after")
    def _room(self) -> "SourceSettings":
        try:
            fitted(self.time, self.channels, self.item, self.limits[1])  # the smaller one
        except RingError as error:
            raise ValueError(
                f"limit_bytes = {self.limit_bytes}: of its fifth for test windows, {error}"
            ) from None
        return self

    def problems(self) -> list[str]:
        """Why the source could not work on this machine as it is now, a line each."""
        return []

    def writes(self) -> tuple[Path, ...]:
        """Folders of the user's that the source must write to."""
        return ()


class Sink(Protocol):
    """Where a source puts what it has."""

    def give(self, window: Window) -> str:
        """Hand a window over; the kind of trouble where it was not kept, else nothing.

        ``"disk"`` is no fault of the window: it may be given again later.
        """
        ...

    def trouble(self, kind: str, detail: str) -> None:
        """Count something odd; the first of its kind is logged."""
        ...

    def given(self, *, test: bool) -> int:
        """How many windows were ever given, in earlier lives too; those for a full disk are not."""
        ...


class SensorSource(Protocol):
    """Windows as they come. Registered under the entry points ``flwr_edge.sensor_source``.

    Attributes
    ----------
    Settings : type of SourceSettings
        Its settings; the source is made from them.
    """

    Settings: ClassVar[type[SourceSettings]]

    def __init__(self, settings: Any) -> None: ...

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Give windows until there are no more or ``stop`` is set, seen within a second.

        What is wrong with the sensor is told to the sink. An OSError raised ends this run: it is
        counted, and the source is run again after a while.
        """
        ...
