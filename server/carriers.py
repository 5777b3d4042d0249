"""What a grid may be able to do besides carrying messages; rounds use it where it can."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from flwr.serverapp import Grid


@runtime_checkable
class Resettable(Protocol):
    """Its devices keep something from one round to the next."""

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Give back what they kept; nothing: have them forget it."""


@runtime_checkable
class Devices(Resettable, Protocol):
    """A checkpoint can hold what its devices keep."""

    def states(self) -> Mapping[int, bytes]:
        """What each device keeps."""


@runtime_checkable
class Resumable(Protocol):
    """It has a course of its own, such as a clock's, that a checkpoint can hold."""

    def course(self) -> dict[str, Any]:
        """Where things stand, as JSON."""

    def go_on(self, course: Mapping[str, Any]) -> None:
        """Go on from there."""


@runtime_checkable
class Withdrawing(Protocol):
    """It can be told that nobody waits for a reply any more."""

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Give up messages whose replies were not taken."""


@runtime_checkable
class Rehearsing(Protocol):
    """Training on it is rehearsed; evaluation is not: it finds every device."""

    examination: Grid
