"""One page of figures of the data: windows by person and class, an example of each, time."""

from typing import Any, Final

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from simulations.data.base import Recordings
from simulations.look.facts import counts
from simulations.report.plots import style

_CLASSES: Final = 12
_PERSONS: Final = 40
_UNITS: Final = 20
_LINES: Final = (style.ACCENT, *style.HUES[:3], style.INK, style.OTHERS)
_SHADES: Any = LinearSegmentedColormap.from_list("windows", [style.PAPER, style.ACCENT])


def page(recordings: Recordings, title: str) -> bytes:
    """Return the page as a PNG."""
    with style.applied():
        persons = min(len(recordings.persons), _PERSONS)
        examples = min(len(recordings.classes), _CLASSES)
        rows = -(-examples // 4)
        heights = [1.6 + 0.17 * persons, 1.15 * rows + 0.4]
        made = style.new(sum(heights) + 0.4, width=2 * style.WIDTH)
        above, below = made.subfigures(
            2, 1, squeeze=False, height_ratios=heights, hspace=0.04
        ).ravel()
        for part in (above, below):
            part.set_facecolor("none")
        left, right = above.subplots(1, 2, width_ratios=[1, 1.3])
        _heat(left, recordings, persons)
        _times(right, recordings, persons)
        _examples(below, recordings, rows, examples)
        return style.png(made, title)


def _heat(axes: Any, recordings: Recordings, persons: int) -> None:
    """Windows by person and class; the last column has none."""
    table = counts(recordings)[:persons]
    names = [*recordings.classes, "no label"]
    if not table[:, -1].any():
        table, names = table[:, :-1], names[:-1]
    image = axes.imshow(table, aspect="auto", cmap=_SHADES, vmin=0)
    axes.set_xticks(
        range(len(names)), [style.shorten(n, 14) for n in names], rotation=40, ha="right"
    )
    axes.set_yticks(range(persons), [style.shorten(p, 16) for p in recordings.persons[:persons]])
    title = "Windows by person and class" + _first(persons, len(recordings.persons), "persons")
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if table.size <= 400:
        for (row, column), count in np.ndenumerate(table):
            color = style.ON_ACCENT if count > table.max() / 2 else style.INK
            axes.text(column, row, count or "·", ha="center", va="center", color=color, fontsize=7)
    else:
        axes.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02).outline.set_visible(False)


def _first(shown: int, there: int, what: str) -> str:
    """Tell, in a title, that not all are drawn."""
    return "" if shown == there else f" (the first {shown} of {there} {what})"


def _times(axes: Any, recordings: Recordings, persons: int) -> None:
    """Each person's recordings end to end, coloured by label."""
    length, step = recordings.x.shape[1], 1 / recordings.hz / 60
    colors = _colors(len(recordings.classes))
    for person in range(persons):
        rows = np.flatnonzero(recordings.person == person)
        rows = rows[np.lexsort((recordings.start[rows], recordings.stream[rows]))]
        offset = 0.0
        for stream in dict.fromkeys(recordings.stream[rows].tolist()):
            own = rows[recordings.stream[rows] == stream]
            begin = recordings.start[own] - recordings.start[own].min()
            spans = np.stack([offset + begin * step, np.full(len(own), length * step)], 1)
            shades = [colors[label] for label in recordings.y[own]]
            axes.broken_barh(spans, (person - 0.35, 0.7), facecolors=shades, linewidth=0)
            offset += (float(begin.max()) + length) * step
            axes.plot([offset] * 2, [person - 0.35, person + 0.35], color=style.PAPER, lw=0.8)
    axes.set_ylim(persons - 0.5, -0.5)
    axes.set_yticks(range(persons), [""] * persons)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("minutes, recordings end to end")
    axes.set_title("Labels in the order of time (colours as below)", loc="left", fontsize=9.5)


def _colors(classes: int) -> list[Any]:
    """Colours by class, told from one another as far as there are so many; the last is of −1."""
    import matplotlib as mpl

    base = mpl.colormaps["tab10" if classes <= 10 else "tab20"]
    return [*(base(c % base.N) for c in range(classes)), style.GRID]


def _examples(figure: Any, recordings: Recordings, rows: int, count: int) -> None:
    """The middle window of each class, of the person who has most of it."""
    table = counts(recordings)
    center, scale, said = _scale(recordings)
    seconds = np.arange(recordings.x.shape[1]) / recordings.hz
    axes = figure.subplots(rows, 4, squeeze=False, sharex=True).ravel()
    colors = _colors(len(recordings.classes))
    for place, each in enumerate(axes):
        if place >= count or not table[:, place].any():
            each.set_axis_off()
            continue
        person = int(table[:, place].argmax())
        own = np.flatnonzero((recordings.person == person) & (recordings.y == place))
        window = (recordings.x[own[len(own) // 2]] - center) / scale
        for channel, values in enumerate(window.T):
            each.plot(seconds, values, lw=0.8, color=_LINES[channel % len(_LINES)])
        name = style.shorten(recordings.classes[place], 18)
        who = style.shorten(recordings.persons[person], 14)
        each.set_title(f"{name}, {who}", loc="left", fontsize=8)
        each.spines["left"].set_color(colors[place])
        each.spines["left"].set_linewidth(3)
        each.tick_params(labelsize=7)
    cut = _first(count, len(recordings.classes), "classes")
    figure.suptitle(
        f"A window of each class{cut}: {said} over seconds", x=0.012, ha="left", size=9.5
    )
    _legend(figure, recordings)


def _scale(recordings: Recordings) -> tuple[Any, Any, str]:
    """Centre and scale by channel: none, unless units differ so much that one hides the others."""
    every = max(1, len(recordings.x) // 1000)
    some = recordings.x[::every].astype(np.float64).reshape(-1, recordings.x.shape[2])
    most = np.abs(some).max(axis=0)
    most = most[most > 0]
    if not len(most) or most.max() < _UNITS * most.min():
        return 0.0, 1.0, "as measured"
    deviation = some.std(axis=0)
    return some.mean(axis=0), np.where(deviation > 0, deviation, 1.0), "deviations from the mean"


def _legend(figure: Figure, recordings: Recordings) -> None:
    from matplotlib.lines import Line2D

    names = recordings.channels[: len(_LINES)]
    lines = [
        Line2D([], [], color=c, label=style.shorten(n, 16))
        for c, n in zip(_LINES, names, strict=False)
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=7.5)
