"""One look for all figures: the run's own strategy in blue, what it is compared with held back.

The palette is told apart by people with any kind of colour blindness, and in grey by the markers.
In an SVG each colour becomes a CSS variable, so that the page's dark mode reaches the figures.
"""

import html
import io
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

INK, MUTED, GRID, PAPER = "#1f2428", "#66707a", "#dde2e7", "#fefefe"
ACCENT, ON_ACCENT = "#0b62a8", "#fdfdfd"
HUES = ("#b9770e", "#3f8f6f", "#8d6aa9", "#7a828a")
OTHERS = "#87919b"
WIDTH = 5.4
"""Inches: a half of the page, and still legible on a telephone."""

VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    ACCENT: "accent",
    ON_ACCENT: "on-accent",
    OTHERS: "others",
    **{hue: f"hue-{n}" for n, hue in enumerate(HUES)},
}
_MARKERS = ("s", "^", "D", "v")
# None is dotted: so are strategies without rounds, in every hue.
_DASHES: tuple[Any, ...] = (
    (0, (5, 1.5)),
    (0, (2, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (4, 1, 1, 1, 1, 1)),
)
_SETTINGS: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "flwr-edge",
}


@dataclass(frozen=True)
class Look:
    """How a strategy is drawn, in every figure of a run."""

    color: str
    marker: str
    dash: Any
    width: float
    front: int


def looks(results: Mapping[str, float]) -> dict[str, Look]:
    """Give the first strategy the accent and up to four others a hue each.

    More of them would be a rainbow: there the best one has a hue, and the rest are grey, told
    apart by their dashes.

    Parameters
    ----------
    results : Mapping[str, float]
        Mean macro-F1 by strategy, the run's own first.
    """
    main, *others = results
    found = {main: Look(ACCENT, "o", "solid", 2.2, 5)}
    if len(others) <= len(HUES):
        rest = [Look(*look, 1.3, 3) for look in zip(HUES, _MARKERS, _DASHES, strict=True)]
        return found | dict(zip(others, rest, strict=False))
    best = max(others, key=lambda name: results[name])
    front = Look(HUES[0], "D", "solid", 1.5, 4)
    grey = (Look(OTHERS, "o", dash, 0.9, 2) for dash in cycle(("solid", *_DASHES)))
    return found | {name: front if name == best else next(grey) for name in others}


@contextmanager
def applied() -> Iterator[None]:
    """Make and save figures in this look; no state of pyplot is touched."""
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure; ``height`` and ``width`` in inches."""
    made = Figure(figsize=(width, height), facecolor="none")
    FigureCanvasAgg(made)
    return made


def png(figure: Figure, title: str) -> bytes:
    """Return the figure with its title, 200 dots an inch, on paper."""
    figure.suptitle(shorten(title, 60), x=0.012, ha="left", fontsize=10.5, fontweight="bold")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200, facecolor=PAPER, metadata={"Software": None})
    return file.getvalue()


def svg(figure: Figure, label: str) -> str:
    """Return an ``<svg>`` element to be put into a page that defines ``VARIABLES``.

    Parameters
    ----------
    figure : Figure
    label : str
        What it shows, in words.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = re.sub(r"<!--.*?-->", "", file.getvalue(), flags=re.DOTALL)
    text = re.sub(r"((?:fill|stroke|color): )(#[0-9a-f]{6})", _variable, text)
    start = f'<svg role="img" aria-label="{html.escape(label)}"'
    return text[text.index("<svg") :].replace("<svg", start, 1)


def listed(scores: Mapping[str, float]) -> str:
    """Scores in words: ``semipfl 0.934, personal 0.965``."""
    return ", ".join(f"{name} {score:.3f}" for name, score in scores.items())


def extent(scores: Collection[float]) -> str:
    """Many of them in words: ``0.494 to 0.981``."""
    return f"{min(scores):.3f} to {max(scores):.3f}"


def shorten(name: str, length: int = 20) -> str:
    """Cut a name that would push the data off the figure; its end stays: it may be a number."""
    end = length // 3
    return name if len(name) <= length else f"{name[: length - 1 - end]}…{name[-end:]}"


def legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Put a legend below, in as many columns as there is room for."""
    for number in range(columns, 0, -1):
        made = figure.legend(
            handles=handles, loc="outside lower center", ncols=number, columnspacing=1.4
        )
        if number == 1 or made.get_window_extent().width <= figure.bbox.width:
            return
        made.remove()


def widened(low: float, high: float, least: float = 0.1) -> tuple[float, float]:
    """Limits of an axis at least ``least`` apart, so that noise is drawn as what it is.

    Scores end at 1: the room is taken from below where there is none above.
    """
    high = min(high + max(0.0, least - (high - low)) / 2, max(high, 1.0))
    return min(low, high - least), high


def spread(values: ArrayLike, gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Move values apart to at least ``gap``, as little as possible (isotonic regression).

    The result stays within ``low`` … ``high`` where there is room for all.
    """
    wanted = np.asarray(values, dtype=np.float64)
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    pools: list[tuple[float, int]] = []
    for value in wanted[order] - steps:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, m), (a, n) = pools.pop(), pools.pop()
            pools.append(((a * n + b * m) / (n + m), n + m))
    level = np.repeat([value for value, _ in pools], [n for _, n in pools])
    top = max(low, high - float(steps[-1])) if len(steps) else low
    placed = np.empty_like(wanted)
    placed[order] = np.clip(level, low, top) + steps
    return placed


def _variable(match: re.Match[str]) -> str:
    name = VARIABLES.get(match[2])
    return f"{match[1]}var(--{name})" if name else match[0]
