"""How a model's values are spread over this device's windows: counts that may leave it."""

import numpy as np
from numpy.typing import NDArray

from client.graphs import GraphStore
from client.learner import LearnerError, spread
from client.windows import PersonWindows
from edge_kernels.quantize.histogram import Histogram, private
from schemas.ranges import LEAST_WINDOWS, MOST_VALUES, RangeTask

_BATCH = 16  # windows of one call: a model's values take far more room than its windows


def shares(
    task: RangeTask,
    windows: PersonWindows,
    graphs: GraphStore,
    random: np.random.Generator | None = None,
) -> NDArray[np.float32]:
    """Return what goes to the server (values, bins): the mean of the windows' shares, with noise.

    The graph is not trusted: what it says of a window is cut to shares of 1 a value here.

    Parameters
    ----------
    task : RangeTask
    windows : PersonWindows
        Of which the training part is counted, labels unread.
    graphs : GraphStore
    random : Generator, optional
        Of the noise; the system's entropy by default, which the server cannot know.

    Raises
    ------
    LearnerError, GraphError
        Where there are too few windows, or windows or graph do not fit.
    """
    count = len(windows.train)
    if count < LEAST_WINDOWS:
        raise LearnerError(f"{count} training windows; counts of fewer than {LEAST_WINDOWS} stay")
    session = graphs.session(task.graph)
    given = session.get_inputs()[0].shape
    if len(session.get_inputs()) != 1 or list(windows.train.shape[1:]) != given[1:]:
        raise LearnerError(
            f"training windows are {list(windows.train.shape)}; the graph of counts takes {given}"
        )
    chosen = spread(count, task.windows)
    parts = []
    for at in range(0, len(chosen), _BATCH):
        x = np.ascontiguousarray(windows.train[chosen[at : at + _BATCH]], np.float32)
        parts.append(_of_windows(session.run(None, {"windows": x})[0], len(x), task.bins))
    mean = np.concatenate(parts).mean(0)
    kept = np.random.default_rng() if random is None else random
    rows = [private(Histogram(0.0, 1.0, row), task.noise, task.kind, kept).counts for row in mean]
    return np.stack(rows).astype(np.float32)


def _of_windows(counts: NDArray[np.float32], batch: int, bins: int) -> NDArray[np.float64]:
    """Each window's shares (batch, values, bins), which sum to 1 a value, or to nothing."""
    fits = counts.ndim == 3 and (len(counts), counts.shape[-1]) == (batch, bins)
    if not fits or not 1 <= counts.shape[1] <= MOST_VALUES:
        raise LearnerError(
            f"the graph counted {list(counts.shape)}; expected [{batch}, 1 to {MOST_VALUES} values,"
            f" {bins} bins]"
        )
    if not np.isfinite(counts).all() or counts.min() < 0:
        raise LearnerError("the graph's counts hold NaN, infinity or numbers below 0")
    wide = counts.astype(np.float64)
    each: NDArray[np.float64] = wide / np.maximum(wide.sum(-1, keepdims=True), 1.0)
    return each
