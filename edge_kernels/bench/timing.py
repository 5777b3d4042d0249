"""Take turns: everything that is compared is timed in the same rounds."""

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from onnxruntime import InferenceSession

from edge_kernels.quick import QuickSession

Name = TypeVar("Name", bound=Hashable)
_WARM: Final = 6  # calls; a victim cache takes so many until a few megabytes stay in it
_QUIET: Final = 0.003  # seconds until the last contender's threads have stopped to spin


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    rounds
        Turns that every contender gets.
    turn_seconds
        How long a turn should take; a call that takes longer is timed once.
    most_calls
        Calls of a turn, at most.
    """

    rounds: int
    turn_seconds: float
    most_calls: int


FULL: Final = Effort(rounds=9, turn_seconds=0.005, most_calls=100)
QUICK: Final = Effort(rounds=3, turn_seconds=0.002, most_calls=25)


@dataclass(frozen=True)
class Timing:
    """Microseconds of a call: median and quartiles over the rounds."""

    median: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, turns: Iterable[float]) -> "Timing":
        """Summarise the turns' medians (microseconds)."""
        ordered = sorted(turns)
        if len(ordered) == 1:
            return cls(ordered[0], (ordered[0], ordered[0]))
        first, middle, third = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(middle, (first, third))


Turn = Callable[[int], float]
"""Make so many calls; return the median of their microseconds."""


def turn_of(call: Callable[[], object]) -> Turn:
    """Time a Python call, each by itself, so that an interruption spoils one call and not all."""

    def turn(calls: int) -> float:
        clock = time.perf_counter_ns
        took = []
        for _ in range(calls):
            started = clock()
            call()
            took.append(clock() - started)
        return statistics.median(took) / 1e3

    return turn


def calls_of(session: QuickSession, feed: dict[str, Any]) -> tuple[Turn, Turn]:
    """Time our session's own run, and the same call by ONNX Runtime's."""
    run = session.run
    plain = partial(InferenceSession.run, session)
    return turn_of(lambda: run(None, feed)), turn_of(lambda: plain(None, feed))


def take_turns(
    contenders: Mapping[Name, Turn], effort: Effort, *, quiet: bool = False
) -> dict[Name, Timing]:
    """Time contenders in turns.

    A turn starts with calls that are not counted, up to six: they bring the contender's weights
    back into the caches that hold them, as a model that runs again and again finds them.

    Parameters
    ----------
    contenders
        Who, by name.
    effort
        How long.
    quiet
        Sleep before each turn, for contenders with threads: they spin for a while after a call.

    Returns
    -------
    dict[Name, Timing]
        Under the same names.
    """
    calls = {name: _calls(turn, effort) for name, turn in contenders.items()}
    turns: dict[Name, list[float]] = {name: [] for name in contenders}
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(effort.rounds):
            for name, turn in contenders.items():
                if quiet:
                    time.sleep(_QUIET)
                turn(min(_WARM, calls[name]))
                turns[name].append(turn(calls[name]))
    finally:
        if enabled:
            gc.enable()
    return {name: Timing.of(each) for name, each in turns.items()}


def _calls(turn: Turn, effort: Effort) -> int:
    seconds = turn(1) / 1e6
    if seconds < 10 * effort.turn_seconds:  # the first call may have had to set something up
        seconds = turn(1) / 1e6
    return min(effort.most_calls, max(1, int(effort.turn_seconds / seconds)))
