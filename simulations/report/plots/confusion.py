"""The confusion matrix of the run's strategy, summed over its clients."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from server.outcome import Outcome
from simulations.report.metrics import total
from simulations.report.plots import style

TITLE = "Confusion matrix of {}"
CAPTION = (
    "Per cent of a true class's windows, over {}; n is their number. Cells under half a "
    "per cent are left empty."
)
MOST_NUMBERS = 30


def figure(outcome: Outcome, classes: Sequence[str]) -> Figure:
    """Draw true classes as rows, each summing to 100 per cent."""
    counts = total(outcome.confusion, len(classes))
    size = _cell(len(classes)) * len(classes)
    made = style.new(size * 0.97 + 1.5, max(style.WIDTH, size + 2.1))
    axes = made.subplots()
    windows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, windows, out=np.zeros(counts.shape), where=windows > 0)
    _cells(axes, shares)
    if len(classes) <= MOST_NUMBERS:
        _numbers(axes, shares)
    _names(axes, classes, windows[:, 0])
    return made


def said(outcome: Outcome, classes: Sequence[str]) -> str:
    """The diagonal in words: how many per cent of each class are called what they are."""
    counts = total(outcome.confusion, len(classes))
    right = zip(classes, np.diag(counts), counts.sum(axis=1), strict=True)
    parts = [f"{name} {100 * hits / windows:.0f} %" for name, hits, windows in right if windows]
    return f"right are {', '.join(parts)}"


def _cell(classes: int) -> float:
    """Inches: large where there are few, and never a wall poster."""
    return min(0.46, max(0.3, 4.0 / classes)) if classes <= MOST_NUMBERS else 9.0 / classes


def _cells(axes: Axes, shares: NDArray[np.float64]) -> None:
    """Blue over nothing, so that the page's ground shows through, light or dark."""
    colors = np.empty((*shares.shape, 4))
    colors[..., :3] = to_rgb(style.ACCENT)
    colors[..., 3] = shares
    mesh = axes.pcolormesh(shares, edgecolor=style.GRID, linewidth=0.4)
    mesh.set_array(None)
    mesh.set(facecolor=colors.reshape(-1, 4))
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)


def _numbers(axes: Axes, shares: NDArray[np.float64]) -> None:
    size = 8 if len(shares) <= 10 else 6.5
    for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
        share = shares[row, column]
        faint = style.MUTED if share < 0.05 else style.INK
        axes.text(
            column + 0.5,
            row + 0.52,
            f"{100 * share:.0f}",
            ha="center",
            va="center",
            fontsize=size,
            color=style.ON_ACCENT if share > 0.5 else faint,
        )


def _names(axes: Axes, classes: Sequence[str], windows: NDArray[np.int64]) -> None:
    middles = np.arange(len(classes)) + 0.5
    names = [style.shorten(name, 18) for name in classes]
    size = 8 if len(classes) <= 30 else 5
    axes.set_xticks(middles, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(middles, names, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    right = len(classes) + 0.2
    for middle, count in zip(middles, windows, strict=True):
        axes.text(right, middle, f"{count:,}", va="center", fontsize=size - 1, color=style.MUTED)
    axes.text(right, -0.15, "n", va="bottom", fontsize=size - 1, color=style.MUTED)
