"""The personal input: channels and magnitudes, standardised by the person's own statistics."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InputSpec:
    """What a window looks like.

    Attributes
    ----------
    time, channels : int
        A window is (time, channels), as measured.
    magnitudes : tuple[tuple[int, ...], ...]
        Groups of channels whose Euclidean length is appended: it does not change when the sensor
        is worn turned.
    """

    time: int
    channels: int
    magnitudes: tuple[tuple[int, ...], ...] = ()

    @property
    def features(self) -> int:
        """Channels that a network sees."""
        return self.channels + len(self.magnitudes)

    def expand(self, x: Tensor) -> Tensor:
        """Append magnitudes: (…, channels) → (…, features)."""
        lengths = [
            (x[..., group[0] : group[-1] + 1] if _runs(group) else x[..., list(group)])
            .square()
            .sum(-1, keepdim=True)
            .sqrt()
            for group in self.magnitudes
        ]
        return torch.cat([x, *lengths], dim=-1)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (features,) of all of a person's windows (windows, time, channels)."""
        features = self.expand(x)
        mean = features.mean((0, 1))
        deviation = (features - mean).square().mean((0, 1)).sqrt()
        return mean, deviation

    def normalise(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """(windows, time, channels) → (windows, features, time), standardised.

        A channel that never moves has deviation 0; the small constant keeps it at 0.
        """
        return ((self.expand(x) - mean) / (deviation + 1e-6)).transpose(-1, -2)


def _runs(group: tuple[int, ...]) -> bool:
    """Whether a group is consecutive, so that a slice serves (a gather would cost more)."""
    return group == tuple(range(group[0], group[-1] + 1))
