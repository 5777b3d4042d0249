"""How far conditions lie apart: one measure for the device and for whoever sets its threshold.

Apart from ``schemas.drift``, which the daemon loads and which must not load NumPy.
"""

import numpy as np
from numpy.typing import NDArray


def distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """How far two conditions (tokens, channels) lie apart, without a unit.

    Mean square of what tokens moved by, over the mean square by which tokens of one condition
    differ from each other, and of that the root: classes' prototypes that moved as far as they lie
    apart are at a distance of about 1.
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    moved = np.square(a - b).mean()
    apart = 0.5 * (np.square(a - a.mean(0)).mean() + np.square(b - b.mean(0)).mean())
    return float(np.sqrt(moved / max(apart, np.finfo(np.float64).tiny)))
