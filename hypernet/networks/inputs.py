"""The personal input: channels and magnitudes, standardised by the person's own statistics."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

_RESOLUTION: Final = 1e-7  # of float32, as a share of a value
_LEAST: Final = 1e-12  # a channel of nothing but zeros is divided by it


@dataclass(frozen=True)
class InputSpec:
    """What a window looks like.

    Attributes
    ----------
    time, channels : int
        A window is (time, channels), as measured.
    magnitudes : tuple[tuple[int, ...], ...]
        Groups of channels whose Euclidean length is appended: a vector's does not change when the
        sensor is worn turned. Groups without a channel are left out.
    """

    time: int
    channels: int
    magnitudes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        groups = tuple(group for group in self.magnitudes if group)
        object.__setattr__(self, "magnitudes", groups)

    @property
    def features(self) -> int:
        """Channels that a network sees."""
        return self.channels + len(self.magnitudes)

    @property
    def vectors(self) -> tuple[tuple[int, ...], ...]:
        """Groups of three channels: vectors in space, which turn with the sensor."""
        return tuple(group for group in self.magnitudes if len(group) == 3)

    def turns(self, group: tuple[int, ...]) -> bool:
        """Whether a group's length changes with a turn: it holds some of a vector, and not all."""
        return any(0 < len(set(vector) & set(group)) < 3 for vector in self.vectors)

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
        """Mean and deviation (features,) of all of a person's windows (windows, time, channels).

        ONNX Runtime adds float32 one after the other: over all windows at once, a barometer's mean
        would be off by more than its deviation. Means of each window's, and of what is left about
        them, are right to float32's last bits.
        """
        features = self.expand(x)
        mean = _mean(features)
        mean = mean + _mean(features - mean)
        deviation = _mean((features - mean).square()).sqrt()
        return mean, deviation

    def unit(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """What the inputs of statistics (…, features) are divided by.

        A deviation that is not above float32's resolution of the values is rounding: a channel that
        never moves stays silent, whatever its unit. Values are of the size of their mean; of a
        vector's axes, of its length, for a turn makes each from all three.
        """
        size = mean.abs()
        size = torch.maximum(size, size.index_select(-1, torch.tensor(self._lengths())))
        return deviation + _RESOLUTION * size + _LEAST

    def _lengths(self) -> list[int]:
        """Each feature's place, or that of the length of the vector whose axis it is."""
        places = list(range(self.features))
        for number, group in enumerate(self.magnitudes):
            for axis in group if len(group) == 3 else ():
                places[axis] = self.channels + number
        return places

    def normalise(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """(windows, time, channels) → (windows, features, time), standardised.

        A channel that never moves has deviation 0, and stays at 0 (``unit``).
        """
        return ((self.expand(x) - mean) / self.unit(mean, deviation)).transpose(-1, -2)


def _mean(features: Tensor) -> Tensor:
    """Mean of (windows, time, features) over windows and time: sums of few, and then of these."""
    return features.mean(1).mean(0)


def _runs(group: tuple[int, ...]) -> bool:
    """Whether a group is consecutive, so that a slice serves (a gather would cost more)."""
    return group == tuple(range(group[0], group[-1] + 1))
