"""Learning curves: macro-F1 and loss by round."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.outcome import Outcome
from simulations.report.metrics import result
from simulations.report.plots import style

TITLE = "Learning curves"
CAPTION = (
    "Macro-F1, mean over persons, where a round was evaluated; the last point is the result. "
    "A dotted line is a strategy without rounds. Each strategy's loss is its own objective, and "
    "stands here as a share of its first."
)
Points = tuple[list[int], list[float]]


def figure(outcomes: Sequence[Outcome]) -> Figure:
    """Draw macro-F1 above, loss below; at least one strategy has rounds."""
    made = style.new(5.0)
    above, below = made.subplots(2, 1, sharex=True, height_ratios=[2.3, 1])
    results = {outcome.strategy: result(outcome) for outcome in outcomes}
    looks = style.looks(results)
    last = max(record.round for outcome in outcomes for record in outcome.rounds)
    for outcome in outcomes:
        _draw(above, below, outcome, looks[outcome.strategy])
    _label_ends(above, results, looks)
    above.set_ylabel("macro-F1")
    below.set_ylabel("loss / first")
    below.set_xlabel("round")
    below.set_xlim(0, max(last, 1))
    below.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    below.set_ylim(*style.widened(*below.get_ylim()))
    for axes in (above, below):
        axes.grid(visible=True, axis="y")
    made.align_ylabels()
    return made


def said(outcomes: Sequence[Outcome]) -> str:
    """Each strategy's evaluated rounds in words; of one without rounds, its result."""
    parts = []
    for outcome in outcomes:
        scores = dict(zip(*points(outcome), strict=True))
        curve = style.listed({f"round {number}": score for number, score in scores.items()})
        told = curve if has_rounds(outcome) else f"{result(outcome):.3f}"
        parts.append(f"{outcome.strategy} {told}")
    return "; ".join(parts)


def worth_drawing(outcomes: Sequence[Outcome]) -> bool:
    """Whether there is a line: one round is a dot, and the table tells it."""
    return any(outcome.rounds and outcome.rounds[-1].round > 1 for outcome in outcomes)


def has_rounds(outcome: Outcome) -> bool:
    """Whether there was any; round 0 is an evaluation of what no round made."""
    return any(record.round for record in outcome.rounds)


def points(outcome: Outcome) -> Points:
    """Return the evaluated rounds and their macro-F1; the last point is the result."""
    scored = {r.round: r.macro_f1 for r in outcome.rounds if r.macro_f1 is not None}
    if outcome.rounds:
        scored[outcome.rounds[-1].round] = result(outcome)
    return list(scored), list(scored.values())


def _draw(above: Axes, below: Axes, outcome: Outcome, look: style.Look) -> None:
    if not has_rounds(outcome):
        above.axhline(result(outcome), color=look.color, ls=(0, (1, 2)), lw=1.1, zorder=1)
        return
    line: dict[str, Any] = {"color": look.color, "ls": look.dash, "lw": look.width}
    line |= {"zorder": look.front, "clip_on": False}
    rounds, scores = points(outcome)
    line |= {"marker": look.marker, "ms": 4.2, "mec": style.PAPER, "mew": 0.5}
    dots = None if len(rounds) <= 15 and look.front > 2 else lonely(scores)
    above.plot(rounds, scores, markevery=dots, **line)
    losses = relative([record.loss for record in outcome.rounds])
    rounds = [record.round for record in outcome.rounds]
    below.plot(rounds, losses, markevery=lonely(losses), **line)


def relative(losses: Sequence[float]) -> list[float]:
    """Losses as shares of the first that can be divided by; as they are where there is none."""
    first = next((abs(loss) for loss in losses if np.isfinite(loss) and loss), 1.0)
    return [loss / first for loss in losses]


def lonely(values: Sequence[float]) -> list[int]:
    """Points without a neighbour, of which a line shows nothing."""
    there = np.pad(np.isfinite(values), 1)
    found: list[int] = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:]).tolist()
    return found


def _label_ends(axes: Axes, results: Mapping[str, float], looks: Mapping[str, style.Look]) -> None:
    """Name each line at its end, where names do not cover each other."""
    low, high = axes.get_ylim()
    low, high = min(low, *results.values()) - 0.01, max(high, *results.values()) + 0.01
    low, high = style.widened(low, min(high, 1.0))
    axes.set_ylim(low, high)
    ends = (np.array(list(results.values())) - low) / (high - low)
    heights = style.spread(ends, 0.06, 0.01, 0.99)
    frame: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    for name, end, height in zip(results, ends, heights, strict=True):
        look = looks[name]
        axes.plot([1.015, 1.05], [end, height], color=look.color, lw=0.7, **frame)
        text = f"{style.shorten(name)}  {results[name]:.3f}"
        main = look.front == 5
        color = look.color if main else style.INK if look.front > 2 else style.MUTED
        weight = "bold" if main else "normal"
        axes.text(
            1.06, height, text, va="center", fontsize=8, color=color, fontweight=weight, **frame
        )
