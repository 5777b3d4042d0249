"""Training windows as a person might have left them: classes missing or rare, bouts short.

Tests stay what they are: who trains on a week without stairs still climbs some later.
"""

from dataclasses import replace

import numpy as np

from schemas.simulation import Data
from simulations.data.base import Recordings
from simulations.data.parts import Part, Rows

THINNED = 4
"""One in so many windows is left of a thinned class: its first ones."""


def pooled(recordings: Recordings, part: Part, config: Data, seed: int) -> Part:
    """Take windows out of a person's training, and lay the rest in other bouts.

    Parameters
    ----------
    recordings : Recordings
    part : Part
        The person's; returned as it is where the file asks for nothing.
    config : Data
        Its ``pool`` and ``bout_windows``.
    seed : int
        With the person: which classes, and the order of bouts.
    """
    if config.pool == "full" and config.bout_windows is None:
        return part
    person = int(recordings.person[part.train[0]])
    rng = np.random.default_rng([seed, person])
    y = recordings.y[part.train]
    classes = rng.permutation(np.unique(y[y >= 0]))
    kept = np.arange(len(y))
    if config.pool != "full":
        for label in classes[: len(classes) // 2]:
            kept = kept[~np.isin(kept, _lost(np.flatnonzero(y == label), config.pool))]
    if config.bout_windows is not None:
        kept = _relaid(kept, y, config.bout_windows, rng)
    return replace(part, train=part.train[kept], labels=part.labels[kept])


def _lost(rows: Rows, pool: str) -> Rows:
    """Which of a class's rows go."""
    return rows if pool == "absent" else rows[max(1, len(rows) // THINNED) :]


def _relaid(kept: Rows, y: np.ndarray, length: int, rng: np.random.Generator) -> Rows:
    """Cut each class into bouts of so many windows, and put all bouts in a random order."""
    bouts = []
    for label in np.unique(y[kept]):
        rows = kept[y[kept] == label]
        bouts += [rows[at : at + length] for at in range(0, len(rows), length)]
    return np.concatenate([bouts[number] for number in rng.permutation(len(bouts))])
