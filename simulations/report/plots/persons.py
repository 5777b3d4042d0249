"""A bar a person for the run's strategy, with its baselines as marks upon it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from server.outcome import Outcome
from simulations.report.days import Lives, named
from simulations.report.metrics import by_person, result
from simulations.report.plots import style

TITLE, DAYS_TITLE = "Macro-F1 by person", "Macro-F1 by person and day"
NO_LIVES: Lives = {}
MOST_ROWS = 60
Scores = dict[str, dict[str, float]]


def figure(outcomes: Sequence[Outcome], lives: Lives = NO_LIVES) -> Figure:
    """Draw persons as rows; where they are too many for names, each strategy's sorted scores."""
    groups = _groups(outcomes, lives)
    looks = style.looks({outcome.strategy: result(outcome) for outcome in outcomes})
    return _sorted_scores(groups, looks) if _many(groups) else _bars(groups, looks)


def caption(outcomes: Sequence[Outcome], lives: Lives = NO_LIVES) -> str:
    """Say how to read the figure."""
    groups = _groups(outcomes, lives)
    whose = "days of persons" if lives else "people"
    order = f"Each method's {whose}, worst first." if _many(groups) else "Best first."
    if len(groups) == 1:
        return order
    if lives:
        return f"{order} Apart: {list(groups)[-1]}, without labels."
    return f"{order} Persons never seen in training stand apart: they gave no label."


def said(outcomes: Sequence[Outcome], lives: Lives = NO_LIVES) -> str:
    """The run's own scores in words, for who cannot see them."""
    groups = _groups(outcomes, lives)
    main = {name: next(iter(scores.values())) for name, scores in groups.items()}
    if _many(groups):
        parts = [f"{name}: {style.extent(one.values())}" for name, one in main.items() if one]
    else:
        parts = [f"{name}: {style.listed(one)}" for name, one in main.items()]
    return f"{outcomes[0].strategy}, {'; '.join(parts)}"


def title(lives: Lives) -> str:
    """Say what a row is."""
    return DAYS_TITLE if lives else TITLE


def _groups(outcomes: Sequence[Outcome], lives: Lives) -> dict[str, Scores]:
    clients = {outcome.strategy: by_person(outcome.confusion) for outcome in outcomes}
    unseen = {outcome.strategy: by_person(outcome.unseen) for outcome in outcomes}
    names = ("clients", "never seen in training")
    if lives:
        names = (_days(clients, lives), _days(unseen, lives))
    groups = dict(zip(names, (clients, unseen), strict=True))
    return {name: scores for name, scores in groups.items() if any(scores.values())}


def _days(scores: Scores, lives: Lives) -> str:
    return named((name for one in scores.values() for name in one), lives)


def _many(groups: Mapping[str, Scores]) -> bool:
    return sum(len(_rows(scores)) for scores in groups.values()) > MOST_ROWS


def _rows(scores: Scores) -> list[str]:
    """Everyone, best first by the first strategy; whom it has no result of, last."""
    first = next(iter(scores.values()))
    everyone = dict.fromkeys(name for one in scores.values() for name in one)
    return sorted(everyone, key=lambda name: -first.get(name, -1.0))


def _bars(groups: Mapping[str, Scores], looks: Mapping[str, style.Look]) -> Figure:
    counts = [len(_rows(scores)) for scores in groups.values()]
    pitch = 0.30 if sum(counts) <= 12 else 0.19
    made = style.new(pitch * (sum(counts) + 1.2 * len(counts)) + 1.3)
    heights = [count + 0.6 for count in counts]
    panels = made.subplots(len(groups), 1, sharex=True, height_ratios=heights, squeeze=False)
    for axes, (name, scores) in zip(panels[:, 0], groups.items(), strict=True):
        _panel(axes, scores, looks, small=pitch < 0.25)
        if len(groups) > 1:
            axes.set_title(name, loc="left", fontsize=8.5, color=style.MUTED, pad=3)
    panels[-1, 0].set_xlabel("macro-F1")
    style.legend(made, _legend(looks), columns=4)
    return made


def _panel(axes: Axes, scores: Scores, looks: Mapping[str, style.Look], *, small: bool) -> None:
    rows = _rows(scores)
    places = np.arange(len(rows))
    lanes = _lanes(looks)
    for name, one in scores.items():
        values = [one.get(row, np.nan) for row in rows]
        if looks[name].front == 5:
            _bar(axes, values)
        else:
            _marks(axes, values, looks[name], lanes.get(name, 0.0), small=small)
    axes.set_yticks(places, [style.shorten(row, 18) for row in rows])
    axes.tick_params(axis="y", length=0, labelsize=7 if small else 8.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")


def _lanes(looks: Mapping[str, style.Look]) -> dict[str, float]:
    """How far from a bar's middle each coloured mark stands, so that equal scores are all seen."""
    names = [name for name, look in looks.items() if look.front == 3]
    places = np.linspace(-0.24, 0.24, len(names)) if len(names) > 1 else np.zeros(len(names))
    return dict(zip(names, places.tolist(), strict=True))


def _bar(axes: Axes, values: Sequence[float]) -> None:
    """Draw pale bars with a strong end, upon which marks stay legible."""
    places = np.arange(len(values))
    axes.barh(places, values, height=0.64, color=style.ACCENT, alpha=0.28, zorder=2)
    axes.vlines(values, places - 0.32, places + 0.32, color=style.ACCENT, lw=2.6, zorder=3)


def _marks(
    axes: Axes, values: Sequence[float], look: style.Look, lane: float, *, small: bool
) -> None:
    size = (9 if look.front == 2 else 16) if small else 30
    axes.scatter(
        values,
        np.arange(len(values)) + lane,
        s=size,
        marker=look.marker,
        color=look.color,
        edgecolor=style.PAPER,
        linewidth=0.4,
        zorder=look.front + 2,
        clip_on=False,
    )


def _legend(looks: Mapping[str, style.Look]) -> list[Artist]:
    return [
        Patch(color=look.color, label=label) if look.front == 5 else _dot(look, label)
        for label, look in _entries(looks)
    ]


def _entries(looks: Mapping[str, style.Look]) -> list[tuple[str, style.Look]]:
    """One entry a strategy; the grey ones share one."""
    grey = [look for look in looks.values() if look.front == 2]
    best = ", the best baseline" if grey else ""
    entries = [
        (style.shorten(name) + best * (look.front == 4), look)
        for name, look in looks.items()
        if look.front > 2
    ]
    return [*entries, (f"the other {len(grey)}", grey[0])] if grey else entries


def _dot(look: style.Look, label: str) -> Line2D:
    return Line2D([], [], color=look.color, marker=look.marker, ls="", ms=5, label=label)


def _sorted_scores(groups: Mapping[str, Scores], looks: Mapping[str, style.Look]) -> Figure:
    made = style.new(3.4)
    panels = made.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (group, scores) in zip(panels, groups.items(), strict=True):
        _curves(axes, scores, looks)
        axes.set_title(group, loc="left", fontsize=8.5, color=style.MUTED, pad=3)
        axes.set_xlabel("share, worst first (%)")
        axes.grid(visible=True, axis="y")
    panels[0].set_ylabel("macro-F1")
    panels[0].set_ylim(0, 1)
    lines = [Line2D([], [], label=label, **_line(look)) for label, look in _entries(looks)]
    style.legend(made, lines, columns=3)
    return made


def _curves(axes: Axes, scores: Scores, looks: Mapping[str, style.Look]) -> None:
    for name, one in scores.items():
        if one:
            share = np.linspace(0, 100, len(one))
            axes.plot(share, sorted(one.values()), **_line(looks[name]))


def _line(look: style.Look) -> dict[str, Any]:
    return {"color": look.color, "ls": look.dash, "lw": look.width, "zorder": look.front}
