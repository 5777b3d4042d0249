"""What becomes of a rehearsed device and of its tasks: drawn by seed, device and task alone."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from schemas.simulation import Rehearsal


@dataclass(frozen=True)
class Fate:
    """A task's.

    Attributes
    ----------
    seconds : float
        From the server's asking to the reply.
    dropped : bool
        Whether the device gives it up.
    """

    seconds: float
    dropped: bool


class Spells:
    """When a device is in reach: spells of both kinds in turn, exponential in length."""

    def __init__(self, rules: Rehearsal, seed: int, node: int) -> None:
        share = rules.offline_fraction
        self._rng = np.random.default_rng([seed, 3, node])
        self._away_first = bool(self._rng.random() < share)
        self._means = (rules.offline_seconds * (1 - share) / share, rules.offline_seconds)
        self._ends = [0.0]

    def reachable(self, at: float) -> float:
        """The first moment from ``at`` on at which the device is in reach."""
        while self._ends[-1] <= at:
            self._ends.append(self._ends[-1] + self._rng.exponential(self._means[self._away()]))
        spell = bisect_right(self._ends, at) - 1
        return self._ends[spell + 1] if self._away(spell) else at

    def _away(self, spell: int | None = None) -> bool:
        number = len(self._ends) - 1 if spell is None else spell
        return (number % 2 == 0) == self._away_first


class Fates:
    """Of all devices.

    Parameters
    ----------
    rules : Rehearsal
    seed : int
    """

    def __init__(self, rules: Rehearsal, seed: int) -> None:
        self.rules, self.seed = rules, seed
        self._spells: dict[int, Spells] = {}
        self._slowness = lru_cache(maxsize=None)(self._draw_slowness)

    def of(self, node: int, task: int) -> Fate:
        """The fate of a device's task of that number."""
        rng = np.random.default_rng([self.seed, 2, node, task])
        chance, luck = rng.random(), rng.standard_normal()
        seconds = self._slowness(node) * float(np.exp(self.rules.task_spread * luck))
        return Fate(seconds, bool(chance < self.rules.dropout))

    def reachable(self, node: int, at: float) -> float:
        """The first moment from ``at`` on at which a device is in reach."""
        if not self.rules.offline_fraction:
            return at
        if node not in self._spells:
            self._spells[node] = Spells(self.rules, self.seed, node)
        return self._spells[node].reachable(at)

    def _draw_slowness(self, node: int) -> float:
        luck = np.random.default_rng([self.seed, 1, node]).standard_normal()
        return self.rules.delay_seconds * float(np.exp(self.rules.device_spread * luck))
