"""Accuracy over the days that devices live through, and when they asked for an adapter."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.outcome import Outcome
from simulations.report.days import Lives, asked, by_day
from simulations.report.metrics import result
from simulations.report.plots import style

TITLE = "Day by day"
CAPTION = (
    "Accuracy by day, mean over persons. Dots, and the bars below, are how many devices asked for "
    "an adapter that day; the others went on with the one they had, or brought an older one back."
)


def figure(outcomes: Sequence[Outcome], lives: Lives) -> Figure:
    """Draw accuracy above and who asked below; the first outcome is the run's own strategy."""
    made = style.new(4.2)
    above, below = made.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    looks = style.looks({outcome.strategy: result(outcome) for outcome in outcomes})
    for outcome in outcomes:
        look = looks[outcome.strategy]
        _line(above, outcome, lives, look)
        if days := asked(outcome, lives):
            below.bar(list(days), list(days.values()), width=0.6, color=look.color)
    above.set_ylim(*style.widened(*above.get_ylim()))
    above.set_ylabel("accuracy")
    below.set_ylabel("asked")
    below.set_xlabel("day")
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    above.grid(visible=True, axis="y")
    made.align_ylabels()
    style.legend(made, above.get_legend_handles_labels()[0], columns=3)
    return made


def said(outcomes: Sequence[Outcome], lives: Lives) -> str:
    """First and last day of each strategy in words, and the range between."""
    parts = []
    for outcome in outcomes:
        days = by_day(outcome, lives)
        ends = {f"day {day}": days[day] for day in (min(days), max(days))}
        parts.append(f"{outcome.strategy} {style.listed(ends)}, all {style.extent(days.values())}")
    return "; ".join(parts)


def _line(axes: Axes, outcome: Outcome, lives: Lives, look: style.Look) -> None:
    days = by_day(outcome, lives)
    marks = asked(outcome, lives)
    line: dict[str, Any] = {"color": look.color, "ls": look.dash, "lw": look.width}
    label = style.shorten(outcome.strategy)
    axes.plot(list(days), list(days.values()), zorder=look.front, label=label, **line)
    there = [day for day in days if day in marks]
    sizes = [12 * marks[day] for day in there]
    axes.scatter(there, [days[day] for day in there], s=sizes, color=look.color, zorder=look.front)
