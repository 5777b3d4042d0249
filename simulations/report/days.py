"""What devices that live through days came to: by range of days, and day by day."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.summary import Days
from server.outcome import Outcome, macro_f1
from simulations.report.metrics import accuracy, mean

Lives = Mapping[str, tuple[str, int]]
Confusions = Mapping[str, NDArray[np.int64]]


def span(names: Iterable[str], lives: Lives) -> str:
    """The days that names stand for: ``6–10``; nothing of somebody who lives through none."""
    days = [lives[name][1] for name in names if name in lives]
    return between(min(days), max(days)) if days else ""


def named(names: Iterable[str], lives: Lives) -> str:
    """The same as a group's name: ``days 6–10``, ``day 6``."""
    days = span(names, lives)
    return f"days {days}" if "–" in days else f"day {days}"


def between(first: int, last: int) -> str:
    """From a day to a day: ``6–10``, ``6``."""
    return f"{first}–{last}" if first < last else f"{first}"


def ranges(outcome: Outcome, lives: Lives) -> list[Days]:
    """Return the clients' days and the unseen days, each where somebody was tested on them."""
    groups = (outcome.confusion, outcome.unseen) if lives else ()
    return [_range(outcome, counts, lives) for counts in map(_tested, groups) if counts]


def by_day(outcome: Outcome, lives: Lives) -> dict[int, float]:
    """Accuracy by day, mean over persons, the days in order."""
    tested = _tested(outcome.confusion) | _tested(outcome.unseen)
    scores: dict[int, list[float]] = {}
    for name, counts in tested.items():
        scores.setdefault(lives[name][1], []).append(accuracy(counts))
    return {day: mean(scores[day]) for day in sorted(scores)}


def asked(outcome: Outcome, lives: Lives) -> dict[int, int]:
    """How many devices asked for an adapter, by day."""
    days = (lives[name][1] for name, one in outcome.exchanges.items() if one.choice == "ask")
    return dict(Counter(days))


def _tested(confusions: Confusions) -> dict[str, NDArray[np.int64]]:
    return {name: counts for name, counts in confusions.items() if counts.any()}


def _range(outcome: Outcome, confusions: Confusions, lives: Lives) -> Days:
    days = [lives[name][1] for name in confusions]
    return Days(
        first=min(days),
        last=max(days),
        accuracy=mean(map(accuracy, confusions.values())),
        macro_f1=mean(map(macro_f1, confusions.values())),
        **_exchanged(outcome, list(confusions), len({lives[name][0] for name in confusions})),
    )


def _exchanged(outcome: Outcome, names: Sequence[str], devices: int) -> dict[str, float]:
    said = [outcome.exchanges[name] for name in names if name in outcome.exchanges]
    if not said:
        return _sent(outcome, len(names) / devices)
    choices = Counter(one.choice for one in said)
    return {
        "asked": choices["ask"],
        "back": choices["back"],
        "kept": choices["keep"],
        "bytes_down": sum(one.bytes_down for one in said) / devices,
        "bytes_up": sum(one.bytes_up for one in said) / devices,
    }


def _sent(outcome: Outcome, days: float) -> dict[str, float]:
    """Bytes of a device over so many days where nobody trains or asks: each day's is sent the same.

    Of a strategy with rounds they belong to no day.
    """
    tested = len(_tested(outcome.confusion)) + len(_tested(outcome.unseen))
    if outcome.client_updates or not outcome.bytes_down:
        return {}
    share = days / tested
    return {"bytes_down": outcome.bytes_down * share, "bytes_up": outcome.bytes_up * share}
