"""A run's figures, each as a PNG for papers and as an SVG that follows the page's colours.

``draw`` is the door.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from schemas.summary import Summary
from server.outcome import Outcome
from simulations.report.people import clients, unit
from simulations.report.plots import confusion, cost, curves, days, persons, style

__all__ = ["Plot", "draw"]


@dataclass(frozen=True)
class Plot:
    """One figure, drawn; ``wide`` where half of the page is too narrow for it."""

    title: str
    caption: str
    png: bytes
    svg: str
    wide: bool


def draw(summary: Summary, outcomes: Sequence[Outcome]) -> dict[str, Plot]:
    """Draw all figures of a run, by file name; curves only where there were rounds."""
    tested = {summary.strategy, *(method.strategy for method in summary.baselines)}
    outcomes = [outcome for outcome in outcomes if outcome.strategy in tested]
    title = confusion.TITLE.format(summary.strategy)
    over = confusion.CAPTION.format(clients(summary))
    one = unit(summary)
    plots = {
        "bytes": _plot(cost.TITLE, cost.CAPTION.format(one), lambda: cost.figure(outcomes, one)),
        "persons": _plot(
            persons.title(summary.lives),
            persons.caption(outcomes, summary.lives),
            lambda: persons.figure(outcomes, summary.lives),
        ),
        "confusion": _plot(title, over, lambda: confusion.figure(outcomes[0], summary.classes)),
    }
    if any(map(curves.has_rounds, outcomes)):
        curve = _plot(curves.TITLE, curves.CAPTION, lambda: curves.figure(outcomes))
        plots = {"curves": curve, **plots}
    if summary.lives:
        lived = _plot(days.TITLE, days.CAPTION, lambda: days.figure(outcomes, summary.lives))
        plots = {"days": lived, **plots}
    return plots


def _plot(title: str, caption: str, figure: Callable[[], Figure]) -> Plot:
    with style.applied():
        made = figure()
        svg = style.svg(made, title)
        wide = made.get_figwidth() > 1.2 * style.WIDTH
        return Plot(title, caption, style.png(made, title), svg, wide)
