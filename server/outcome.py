"""What running one strategy came to, before it is written down."""

from dataclasses import asdict, dataclass, field
from typing import Any

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
    late: int = 0
    """Of the failures, those that were silent until the deadline."""
    applied: bool = True
    """Whether anything was learned from it."""
    staleness: list[int] = field(default_factory=list)
    """By update: steps between sending weights and learning from the reply (asynchronous)."""


@dataclass
class DayExchange:
    """What a device that lives through days said on one of them.

    Attributes
    ----------
    choice : str
        "keep", "back", "ask", or "failed" with a reason.
    distance : float or None
        From the nearest condition that it has an adapter for.
    bytes_down, bytes_up : int
        The question and the evaluation; the answer.
    """

    choice: str
    distance: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    reason: str = ""


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
    evaluations : int
        Of clients, with the seconds that they took.
    evaluation_seconds : float
        Sum over these: from the weights received to the device's own model, one core.
    bytes_graphs : int
        Of all graphs and the constants that they share, which a device gets once.
    late, dropped : dict[str, int]
        By person: how often silent until the deadline; how often an error or a refused change.
    simulated_seconds : float or None
        On the rehearsal's clock, when the training ended.
    exchanges : dict[str, DayExchange]
        By person and day, where devices live through days.
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
    bytes_graphs: int = 0
    late: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    simulated_seconds: float | None = None
    exchanges: dict[str, DayExchange] = field(default_factory=dict)
    evaluations: int = 0
    evaluation_seconds: float = 0.0


def progress_of(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON can hold it."""
    fields = asdict(outcome)
    for part in ("confusion", "unseen"):
        fields[part] = {name: counts.tolist() for name, counts in getattr(outcome, part).items()}
    for record in fields["rounds"]:
        record["loss"] = None if np.isnan(record["loss"]) else record["loss"]
    return fields


def outcome_of(strategy: str, progress: dict[str, Any]) -> Outcome:
    """The outcome that ``progress_of`` wrote."""
    fields = {**progress, "strategy": strategy}
    records = [
        {**r, "loss": float("nan") if r["loss"] is None else r["loss"]} for r in fields["rounds"]
    ]
    fields["rounds"] = [RoundRecord(**record) for record in records]
    for part in ("confusion", "unseen"):
        fields[part] = {n: np.asarray(c, np.int64) for n, c in fields[part].items()}
    exchanges = fields.get("exchanges", {})
    fields["exchanges"] = {name: DayExchange(**one) for name, one in exchanges.items()}
    return Outcome(**fields)


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur among the person's true labels.

    A class that the person never does has no F1: counted as 0 it would punish everyone who does
    not do all exercises. Windows wrongly called such a class are missed by their true one, so that
    they cost recall there, and nothing besides.

    Parameters
    ----------
    confusion : (classes, classes)
        Counts.

    Raises
    ------
    ValueError
        Where there is no window at all.
    """
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = true > 0
    if not occurs.any():
        raise ValueError("a confusion matrix without windows has no macro-F1")
    f1 = 2 * np.diag(confusion)[occurs] / (true + predicted)[occurs]
    return float(f1.mean())
