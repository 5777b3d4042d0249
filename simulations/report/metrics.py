"""Figures from a person's confusion matrix: a row is a true class, a column a predicted one."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from server.outcome import Outcome, macro_f1


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Share of windows that were called what they are.

    Raises
    ------
    ValueError
        Where there is no window at all.
    """
    windows = int(confusion.sum())
    if not windows:
        raise ValueError("a confusion matrix without windows has no accuracy")
    return float(np.trace(confusion) / windows)


def worst_decile(scores: Iterable[float]) -> float:
    """Mean of the worst tenth, rounded up to whole persons: of 34 the worst 4.

    Raises
    ------
    ValueError
        Where there is no score.
    """
    ordered = sorted(scores)
    if not ordered:
        raise ValueError("no scores: there is no worst tenth")
    worst = ordered[: math.ceil(len(ordered) / 10)]
    return math.fsum(worst) / len(worst)


def mean(scores: Iterable[float]) -> float:
    """Mean that does not depend on the order of the scores.

    Raises
    ------
    ValueError
        Where there is no score.
    """
    values = list(scores)
    if not values:
        raise ValueError("no scores: there is no mean")
    return math.fsum(values) / len(values)


def by_person(confusions: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
    """Macro-F1 of every person of whom there is at least one tested window."""
    return {person: macro_f1(counts) for person, counts in confusions.items() if counts.any()}


def result(outcome: Outcome) -> float:
    """Return a strategy's macro-F1, mean over the clients."""
    return mean(by_person(outcome.confusion).values())


def total(confusions: Mapping[str, NDArray[np.int64]], classes: int) -> NDArray[np.int64]:
    """Sum over persons; zeros where there are none."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    for one in confusions.values():
        counts += one
    return counts
