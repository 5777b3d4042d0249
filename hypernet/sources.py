"""The volunteers' labelled windows, which the server holds."""

import hashlib
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hypernet.networks.inputs import InputSpec

TURNED_WINDOWS: Final = 256  # of a person, whose statistics are measured anew for each turn


@dataclass(frozen=True)
class Sources:
    """Labelled windows by person.

    Attributes
    ----------
    spec : InputSpec
    x : list of (windows, time, channels)
        One tensor a person, as measured.
    y : list of (windows,)
        Class indices.
    classes : int
    """

    spec: InputSpec
    x: list[Tensor]
    y: list[Tensor]
    classes: int

    def __len__(self) -> int:
        return len(self.x)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, for what is kept of what was trained on it."""
        digest = hashlib.sha256(f"{self.spec!r} {self.classes}".encode())
        for tensor in (*self.x, *self.y):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def lacking(self) -> tuple[int, ...]:
        """Classes that no source has a window of."""
        there = {label for y in self.y for label in y.tolist()}
        return tuple(label for label in range(self.classes) if label not in there)


@dataclass(frozen=True)
class Moments:
    """A person's input statistics, in a form that can be turned with the sensor.

    Attributes
    ----------
    mean : (persons, channels)
    covariance : (persons, channels, channels)
    length_mean, length_deviation : (persons, magnitudes)
        Of the magnitudes, as measured; a vector's stay as they are when it turns.
    turning : tuple[int, ...]
        Which magnitudes do not: groups that hold a part of a vector (one axis, rectified).
    partial : InputSpec or None
        Of a window with these magnitudes alone.
    samples : tuple[Tensor, ...]
        Where there are some: windows (windows, time, channels) of each person to measure them on,
        evenly spread.
    """

    mean: Tensor
    covariance: Tensor
    length_mean: Tensor
    length_deviation: Tensor
    turning: tuple[int, ...] = ()
    partial: InputSpec | None = None
    samples: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, sources: Sources) -> "Moments":
        """Measure every source person."""
        spec = sources.spec
        rows = [_moments(spec, x.float()) for x in sources.x]
        mean, covariance, *lengths = (torch.stack(column) for column in zip(*rows, strict=True))
        turning = tuple(i for i, group in enumerate(spec.magnitudes) if spec.turns(group))
        if not turning:
            return cls(mean, covariance, lengths[0], lengths[1])
        groups = tuple(spec.magnitudes[i] for i in turning)
        partial = InputSpec(spec.time, spec.channels, groups)
        samples = tuple(_sample(x) for x in sources.x)
        return cls(mean, covariance, lengths[0], lengths[1], turning, partial, samples)

    def turned(self, persons: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (drawn, features) of drawn persons under turns.

        Parameters
        ----------
        persons : (drawn,)
        turn : (drawn, channels, channels)
            What each person's channels are multiplied by.
        """
        mean = (turn @ self.mean[persons].unsqueeze(-1)).squeeze(-1)
        covariance = turn @ self.covariance[persons] @ turn.transpose(1, 2)
        deviation = covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        lengths = self.length_mean[persons], self.length_deviation[persons]
        if self.partial is not None:
            self._measure(self.partial, persons, turn, lengths)
        return torch.cat([mean, lengths[0]], dim=1), torch.cat([deviation, lengths[1]], dim=1)

    def _measure(
        self, partial: InputSpec, persons: Tensor, turn: Tensor, lengths: tuple[Tensor, Tensor]
    ) -> None:
        """Write the lengths that turns change, as measured on turned windows."""
        for drawn, person in enumerate(persons.tolist()):
            found = partial.statistics(self.samples[person].float() @ turn[drawn].T)
            for into, feature in zip(lengths, found, strict=True):
                into[drawn, list(self.turning)] = feature[partial.channels :]


def _sample(x: Tensor) -> Tensor:
    """At most so many of a person's windows, evenly spread."""
    count = min(len(x), TURNED_WINDOWS)
    return x[torch.arange(count) * len(x) // count]


def _moments(spec: InputSpec, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flat = x.reshape(-1, spec.channels)
    mean = flat.mean(0)
    mean = mean + (flat - mean).mean(0)
    centred = flat - mean
    features_mean, features_deviation = spec.statistics(x)
    return (
        mean,
        centred.T @ centred / len(flat),
        features_mean[spec.channels :],
        features_deviation[spec.channels :],
    )
