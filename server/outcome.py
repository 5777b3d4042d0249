"""What running one strategy came to, before it is written down."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class RoundRecord:
    """A point of the learning curve."""

    round: int
    cohort: int
    loss: float
    failures: int
    bytes_down: int
    bytes_up: int
    seconds: float
    macro_f1: float | None = None
    """Mean over persons, where this round was evaluated."""


@dataclass
class Outcome:
    """One strategy's result.

    Attributes
    ----------
    confusion, unseen : dict[str, (classes, classes) int64]
        Counts by person; a row is a true class, a column a predicted one.
    failures : dict[str, list[str]]
        Clients left out of a round, and why, by person.
    device_seconds : float
        Sum over all trainings, one core.
    """

    strategy: str
    rounds: list[RoundRecord] = field(default_factory=list)
    confusion: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    unseen: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    client_updates: int = 0
    device_seconds: float = 0.0
    wall_seconds: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
