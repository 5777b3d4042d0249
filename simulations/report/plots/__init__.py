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
    """Draw all figures of a run, by file name; none that would be one dot."""
    tested = {summary.strategy, *(method.strategy for method in summary.baselines)}
    outcomes = [outcome for outcome in outcomes if outcome.strategy in tested]
    lives, plots = summary.lives, {}
    if lives:
        words = days.TITLE, days.CAPTION, days.said(outcomes, lives)
        plots["days"] = _plot(*words, lambda: days.figure(outcomes, lives))
    if curves.worth_drawing(outcomes):
        words = curves.TITLE, curves.CAPTION, curves.said(outcomes)
        plots["curves"] = _plot(*words, lambda: curves.figure(outcomes))
    if len(outcomes) > 1:
        one = unit(summary)
        words = cost.TITLE, cost.CAPTION.format(one), cost.said(outcomes)
        plots["bytes"] = _plot(*words, lambda: cost.figure(outcomes, one))
    words = persons.title(lives), persons.caption(outcomes, lives), persons.said(outcomes, lives)
    plots["persons"] = _plot(*words, lambda: persons.figure(outcomes, lives))
    main, classes = outcomes[0], summary.classes
    title = confusion.TITLE.format(summary.strategy)
    words = title, confusion.CAPTION.format(clients(summary)), confusion.said(main, classes)
    plots["confusion"] = _plot(*words, lambda: confusion.figure(main, classes))
    return plots


def _plot(title: str, caption: str, said: str, figure: Callable[[], Figure]) -> Plot:
    with style.applied():
        made = figure()
        svg = style.svg(made, f"{title}: {said}")
        wide = made.get_figwidth() > 1.2 * style.WIDTH
        return Plot(title, caption, style.png(made, title), svg, wide)
