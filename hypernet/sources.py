"""The volunteers' labelled windows, which the server holds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hypernet.networks.inputs import InputSpec


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


@dataclass(frozen=True)
class Moments:
    """A person's input statistics, in a form that can be turned with the sensor.

    Attributes
    ----------
    mean : (persons, channels)
    covariance : (persons, channels, channels)
    length_mean, length_deviation : (persons, magnitudes)
        Of the magnitudes, which turning leaves as they are.
    """

    mean: Tensor
    covariance: Tensor
    length_mean: Tensor
    length_deviation: Tensor

    @classmethod
    def of(cls, sources: Sources) -> "Moments":
        """Measure every source person."""
        rows = [_moments(sources.spec, x.float()) for x in sources.x]
        return cls(*(torch.stack(column) for column in zip(*rows, strict=True)))

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
        return (
            torch.cat([mean, self.length_mean[persons]], dim=1),
            torch.cat([deviation, self.length_deviation[persons]], dim=1),
        )


def _moments(spec: InputSpec, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flat = x.reshape(-1, spec.channels)
    mean = flat.mean(0)
    centred = flat - mean
    features_mean, features_deviation = spec.statistics(x)
    return (
        mean,
        centred.T @ centred / len(flat),
        features_mean[spec.channels :],
        features_deviation[spec.channels :],
    )
