"""What a strategy's macro-F1 costs in bytes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from server.outcome import Outcome
from simulations.report.metrics import by_person, result
from simulations.report.plots import style
from simulations.report.units import human_bytes

TITLE = "Macro-F1 against bytes"
CAPTION = (
    "Arrays and texts that the whole run moved, down and up, shared among the {}s that were "
    "tested; graphs are not counted. Up and to the left is better."
)
Point = tuple[str, float, float]
_AROUND = ((7, 0), (-7, 0), (0, 7), (0, -7))
_FARTHER = (
    (9, 8),
    (-9, 8),
    (9, -9),
    (-9, -9),
    (16, 14),
    (-16, 14),
    (16, -15),
    (-16, -15),
    (0, 19),
    (0, -20),
    (24, 24),
    (-24, 24),
)
_OFFSETS = (*_AROUND, *_FARTHER, (24, -26), (-24, -26), (40, 34), (-40, 34), (40, -36), (-40, -36))


def figure(outcomes: Sequence[Outcome], whose: str = "person") -> Figure:
    """Draw one named point a strategy; a logarithmic axis where bytes differ tenfold."""
    made = style.new(3.9)
    axes = made.subplots()
    results = {outcome.strategy: result(outcome) for outcome in outcomes}
    looks = style.looks(results)
    bytes_moved = [bytes_per_person(outcome) for outcome in outcomes]
    places = _axis(axes, bytes_moved)
    for (name, score), x in zip(results.items(), places, strict=True):
        _dot(axes, x, score, looks[name])
    axes.margins(0.12, 0.12)
    axes.set_ylim(*style.widened(*axes.get_ylim()))
    axes.set_ylabel("macro-F1")
    scale = "logarithmic" if _differ_tenfold(bytes_moved) else "linear"
    axes.set_xlabel(f"bytes a {whose}, whole run ({scale})")
    axes.grid(visible=True)
    _label(made, axes, list(zip(results, places, results.values(), strict=True)))
    return made


def said(outcomes: Sequence[Outcome]) -> str:
    """Each point in words."""
    points = [(one.strategy, result(one), human_bytes(bytes_per_person(one))) for one in outcomes]
    return "; ".join(f"{name} {score:.3f} at {moved}" for name, score, moved in points)


def bytes_per_person(outcome: Outcome) -> float:
    """Return what the run moved, down and up, by tested person."""
    persons = len(by_person(outcome.confusion)) + len(by_person(outcome.unseen))
    return (outcome.bytes_down + outcome.bytes_up) / persons


def _dot(axes: Axes, x: float, y: float, look: style.Look) -> None:
    size = 75 if look.front == 5 else 34
    axes.scatter(
        [x],
        [y],
        s=size,
        marker=look.marker,
        color=look.color,
        edgecolor=style.PAPER,
        linewidth=0.6,
        zorder=look.front,
    )


def _axis(axes: Axes, moved: Sequence[float]) -> list[float]:
    """Set the axis up and return the points' places: bytes, or their decades with 0 set apart."""
    positive = [one for one in moved if one > 0]
    if not _differ_tenfold(moved):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: human_bytes(x)))
        return list(moved)
    low, high = np.log10(min(positive)), np.log10(max(positive))
    nothing = float(np.floor(low)) - 0.5
    decades = np.arange(np.floor(low), np.ceil(high) + 1)
    steps = np.log10([1, 2, 5]) if high - low < 2 else [0.0]  # one decade alone is no scale
    ticks = [float(decade + step) for decade in decades for step in steps]
    ticks = [nothing, *ticks] if min(moved) <= 0 else ticks
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: "0" if x == nothing else human_bytes(10**x))
    )
    return [float(np.log10(one)) if one > 0 else nothing for one in moved]


def _differ_tenfold(moved: Sequence[float]) -> bool:
    positive = [one for one in moved if one > 0]
    return bool(positive) and max(positive) >= 10 * min(positive)


def _label(made: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Put each name where it covers neither a point nor another name; the run's own first."""
    made.draw_without_rendering()
    radius = 5 * made.dpi / 72
    pixels = axes.transData.transform([(x, y) for _, x, y in points])
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in pixels]
    for n, point in enumerate(points):
        taken.append(_place(axes, point, taken, main=n == 0))


def _place(axes: Axes, point: Point, taken: list[Bbox], *, main: bool) -> Bbox:
    text = _name(axes, point, main=main)
    room = axes.get_window_extent()
    choices = []
    for n, (dx, dy) in enumerate(_OFFSETS):
        _move(text, dx, dy)
        box = text.get_window_extent()
        outside = not (room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0)
        choices.append((outside + sum(box.overlaps(other) for other in taken), n))
    best = min(choices)[1]
    _move(text, *_OFFSETS[best])
    if best >= len(_AROUND):
        _leader(axes, point, _OFFSETS[best])
    return text.get_window_extent()


def _name(axes: Axes, point: Point, *, main: bool) -> Annotation:
    name, x, y = point
    text = axes.annotate(
        style.shorten(name),
        (x, y),
        xytext=_OFFSETS[0],
        textcoords="offset points",
        fontsize=8.5 if main else 8,
        fontweight="bold" if main else "normal",
        color=style.ACCENT if main else style.INK,
        zorder=6,
    )
    text.set_in_layout(False)
    return text


def _move(text: Annotation, dx: int, dy: int) -> None:
    text.set_position((dx, dy))
    text.set_horizontalalignment("center" if dx == 0 else "left" if dx > 0 else "right")
    text.set_verticalalignment("center" if dy == 0 else "bottom" if dy > 0 else "top")


def _leader(axes: Axes, point: Point, offset: tuple[int, int]) -> None:
    _, x, y = point
    line = {"arrowstyle": "-", "color": style.OTHERS, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
    axes.annotate("", (x, y), xytext=offset, textcoords="offset points", arrowprops=line)
