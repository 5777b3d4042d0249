"""Virtual users: persons whose sensor is worn turned, on the other wrist, or loosely.

What makes the worst tenth of persons is how the sensor sits on them. A turn drawn for a single
window does not help; one that is kept for all of a person's windows, and for the person's own
input statistics, does.
"""

from dataclasses import dataclass
from math import radians

import torch
from torch import Tensor

from hypernet.networks.inputs import InputSpec
from hypernet.sources import Moments, Sources
from schemas.simulation import Source


@dataclass(frozen=True)
class Turning:
    """How far virtual users go.

    Attributes
    ----------
    flip, rotate : float
        Probability of a sign pattern of the axes, and of a rotation of up to ``degrees``.
    wobble : float
        Degrees that each single window is turned by.
    stretch, warp, shift, noise : float
        Scale of values (±), of time (±), steps of shift (±), deviations of added noise.
    """

    flip: float = 0.5
    rotate: float = 0.5
    degrees: float = 45.0
    wobble: float = 15.0
    stretch: float = 0.15
    warp: float = 0.12
    shift: float = 8.0
    noise: float = 0.05

    @classmethod
    def of(cls, config: Source) -> "Turning":
        """What a simulation file asks for."""
        return cls() if config.virtual_users else STILL


STILL = Turning(0, 0, 0, 0, 0, 0, 0, 0)


class VirtualUsers:
    """Draws batches of virtual users from the sources.

    Parameters
    ----------
    sources : Sources
    turning : Turning
    generator : torch.Generator
    """

    def __init__(self, sources: Sources, turning: Turning, generator: torch.Generator) -> None:
        self.sources = sources
        self.turning = turning
        self.generator = generator
        self.moments = Moments.of(sources)

    def draw(self, persons: int, windows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch.

        Returns
        -------
        x : (persons · windows, features, time)
            Normalised network inputs, a person's windows side by side.
        y : (persons · windows,)
        who : (persons,)
            The source person of each virtual user.
        """
        who = self._persons(persons)
        x, y = self._windows(who, windows)
        turn = person_turns(persons, self.sources.spec, self.turning, self.generator)
        mean, deviation = self.moments.turned(who, turn)
        x = self._disturb(x, turn)
        features = self.sources.spec.expand(x)
        unit = self.sources.spec.unit(mean, deviation)
        normal = self._jitter((features - mean[:, None, None]) / unit[:, None, None])
        return normal.flatten(0, 1).transpose(1, 2), y.flatten(), who

    def whole(self, person: int, most: int) -> tuple[Tensor, Tensor]:
        """Make one virtual user of a source's windows, in the order of time.

        Parameters
        ----------
        person : int
        most : int
            Windows; of more, so many are taken, evenly spread.

        Returns
        -------
        x : (windows, features, time)
            Normalised by the user's own statistics.
        y : (windows,)
        """
        labels = self.sources.y[person]
        count = min(len(labels), most)
        rows = torch.arange(count) * len(labels) // count
        spec = self.sources.spec
        turn = person_turns(1, spec, self.turning, self.generator)
        x = self._disturb(self.sources.x[person][rows].float()[None], turn)
        mean, deviation = spec.statistics(x[0])
        normal = self._jitter((spec.expand(x) - mean) / spec.unit(mean, deviation))
        return normal[0].transpose(1, 2), labels[rows]

    def _persons(self, count: int) -> Tensor:
        total = len(self.sources)
        if count <= total:
            return torch.randperm(total, generator=self.generator)[:count]
        return torch.randint(total, (count,), generator=self.generator)

    def _windows(self, who: Tensor, count: int) -> tuple[Tensor, Tensor]:
        xs, ys = [], []
        for person in who.tolist():
            labels = self.sources.y[person]
            chosen = torch.randint(len(labels), (count,), generator=self.generator)
            xs.append(self.sources.x[person][chosen].float())
            ys.append(labels[chosen])
        return torch.stack(xs), torch.stack(ys)

    def _disturb(self, x: Tensor, turn: Tensor) -> Tensor:
        """Warp (persons, windows, time, channels) in time; turn by person and by window."""
        persons, windows, time, channels = x.shape
        if self.turning.warp or self.turning.shift:
            flat = x.reshape(persons * windows, time, channels)
            x = warp_time(flat, self.turning, self.generator).reshape(x.shape)
        spec = self.sources.spec
        wobble = window_turns(persons * windows, spec, self.turning.wobble, self.generator)
        full = turn[:, None] @ wobble.reshape(persons, windows, channels, channels)
        return x @ full.transpose(-1, -2)

    def _jitter(self, x: Tensor) -> Tensor:
        scale = 1 + self.turning.stretch * _uniform((*x.shape[:2], 1, 1), self.generator)
        return x * scale + self.turning.noise * torch.randn(x.shape, generator=self.generator)


def person_turns(
    count: int, spec: InputSpec, turning: Turning, generator: torch.Generator
) -> Tensor:
    """How each person wears the sensor: (count, channels, channels).

    The first group of three channels (accelerometer) turns as a vector; the others (gyroscope,
    magnetometer) as axial ones: a mirrored axis turns them by det(s)·s. Other channels stay.
    """
    signs = torch.randint(0, 2, (count, 3), generator=generator).float() * 2 - 1
    flipped = torch.rand(count, 1, generator=generator) < turning.flip
    signs = torch.where(flipped, signs, torch.ones(1))
    rotation = rotations(count, turning.degrees, generator)
    rotated = torch.rand(count, 1, 1, generator=generator) < turning.rotate
    rotation = torch.where(rotated, rotation, torch.eye(3))
    polar = rotation * signs[:, None, :]
    return _by_group(spec, polar, polar * signs.prod(1)[:, None, None])


def window_turns(count: int, spec: InputSpec, degrees: float, generator: torch.Generator) -> Tensor:
    """A small turn a window: (count, channels, channels)."""
    rotation = rotations(count, degrees, generator)
    return _by_group(spec, rotation, rotation)


def rotations(count: int, degrees: float, generator: torch.Generator) -> Tensor:
    """Rotations (count, 3, 3) about random axes by up to ±degrees (Rodrigues' formula)."""
    axis = torch.randn(count, 3, generator=generator)
    x, y, z = (axis / axis.norm(dim=1, keepdim=True)).unbind(1)
    angle = (_uniform((count,), generator) * radians(degrees))[:, None, None]
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(count, 3, 3)
    return torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * cross @ cross


def warp_time(x: Tensor, turning: Turning, generator: torch.Generator) -> Tensor:
    """Stretch and shift (windows, time, channels) in time, mirrored at the ends.

    A window of one step has no time to be warped in.
    """
    count, time, channels = x.shape
    if time < 2:
        return x
    middle = (time - 1) / 2
    stretch = 1 + turning.warp * _uniform((count, 1), generator)
    shift = turning.shift * _uniform((count, 1), generator)
    at = ((torch.arange(time) - middle) * stretch + middle + shift).abs()
    last = time - 1
    at = torch.where(at > last, 2 * last - at, at).clamp(0, last - 1e-3)
    before = at.long().clamp(max=time - 2)  # in long windows, float32 rounds up to the last step
    share = (at - before).unsqueeze(-1)
    index = before.unsqueeze(-1).expand(-1, -1, channels)
    return x.gather(1, index) * (1 - share) + x.gather(1, index + 1) * share


def _by_group(spec: InputSpec, polar: Tensor, axial: Tensor) -> Tensor:
    turn = torch.eye(spec.channels).repeat(len(polar), 1, 1)
    for number, group in enumerate(spec.vectors):
        rows = torch.tensor(group)
        turn[:, rows[:, None], rows] = axial if number else polar
    return turn


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform in (−1, 1)."""
    return torch.rand(shape, generator=generator) * 2 - 1
