"""Conditions: what a device tells of its windows, in a fixed number of tokens.

A condition is a mean over windows in one form or another, so that their order does not matter. What
it reveals: how the person's windows look to the backbone on the average, by class as the backbone
guesses it; with few windows of a class, nearly that of one window. ``clip`` bounds each token's
length; noise is added on the device (``Plan.noise``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

ConditionKind = Literal["prototypes", "queries", "layers", "moments"]
SHRINK: Final = 2.0  # windows that the overall mean weighs in a class's
_SHARE_FLOOR: Final = 0.01  # added to a class's share before its log


class Conditioner(nn.Module, ABC):
    """Hidden states of a set of windows → tokens.

    Parameters
    ----------
    widths : list[int]
        Channels of each layer's states; the last is the latent vector's.
    classes : int
    clip : float
        Largest length of a token; 0 for no limit.
    """

    tokens: int
    channels: int

    def __init__(self, widths: list[int], classes: int, clip: float = 0.0) -> None:
        super().__init__()
        self.widths, self.classes, self.clip = widths, classes, clip

    def forward(self, layers: list[Tensor], posteriors: Tensor) -> Tensor:
        """Condition.

        Parameters
        ----------
        layers : list of ([devices,] windows, widths[i])
        posteriors : ([devices,] windows, classes)

        Returns
        -------
        ([devices,] tokens, channels)
        """
        tokens = self.pool(layers, posteriors)
        if self.clip:
            length = tokens.square().sum(-1, keepdim=True).sqrt()
            tokens = tokens * (self.clip / length.clamp(min=self.clip))
        return tokens

    @abstractmethod
    def pool(self, layers: list[Tensor], posteriors: Tensor) -> Tensor:
        """Tokens before they are clipped."""

    def extra_repr(self) -> str:
        """Name what graphs depend on."""
        return f"{self.widths}, {self.classes}, clip={self.clip}"


class Prototypes(Conditioner):
    """Mean state of each class, weighted by the frozen head's posteriors, and the class's share.

    A class that is hardly there has nearly the mean of all windows, and a small share.
    """

    def __init__(self, widths: list[int], classes: int, clip: float = 0.0) -> None:
        super().__init__(widths, classes, clip)
        self.tokens, self.channels = classes, sum(widths) + 1

    def pool(self, layers: list[Tensor], posteriors: Tensor) -> Tensor:
        """([devices,] classes, states and log share)."""
        return prototypes(torch.cat(layers, -1), posteriors)


class Queries(Conditioner):
    """Learned queries attend to windows' states; as many tokens as classes."""

    def __init__(self, widths: list[int], classes: int, clip: float = 0.0) -> None:
        super().__init__(widths, classes, clip)
        self.tokens, self.channels = classes, sum(widths)
        self.queries = nn.Parameter(torch.randn(classes, self.channels) * self.channels**-0.5)

    def pool(self, layers: list[Tensor], posteriors: Tensor) -> Tensor:
        """([devices,] classes, states): softmax over windows for each query."""
        hidden = torch.cat(layers, -1)
        share = softmax(hidden @ self.queries.T, -2)
        return share.mT @ hidden


class LayerMix(Conditioner):
    """Class prototypes of one learned mix of all layers, each brought to the latent's width."""

    def __init__(self, widths: list[int], classes: int, clip: float = 0.0) -> None:
        super().__init__(widths, classes, clip)
        self.tokens, self.channels = classes, widths[-1] + 1
        self.share = nn.Parameter(torch.zeros(len(widths)))
        self.maps = nn.ParameterList(torch.randn(w, widths[-1]) * w**-0.5 for w in widths)

    def pool(self, layers: list[Tensor], posteriors: Tensor) -> Tensor:
        """([devices,] classes, latent and log share)."""
        share = softmax(self.share, 0)
        mixed = [layer @ matrix for layer, matrix in zip(layers, self.maps, strict=True)]
        hidden = sum((share[i] * each for i, each in enumerate(mixed)), torch.zeros(()))
        return prototypes(hidden, posteriors)


class MomentTokens(Conditioner):
    """Mean and deviation of every layer's states: two tokens, the smallest condition."""

    def __init__(self, widths: list[int], classes: int, clip: float = 0.0) -> None:
        super().__init__(widths, classes, clip)
        self.tokens, self.channels = 2, sum(widths)

    def pool(self, layers: list[Tensor], posteriors: Tensor) -> Tensor:
        """([devices,] 2, states)."""
        hidden = torch.cat(layers, -1)
        mean = hidden.mean(-2)
        spread = (hidden - mean.unsqueeze(-2)).square().mean(-2).sqrt()
        return torch.stack([mean, spread], -2)


def prototypes(hidden: Tensor, posteriors: Tensor) -> Tensor:
    """([devices,] windows, channels) → ([devices,] classes, channels + 1)."""
    mass = posteriors.sum(-2)[..., None]
    overall = hidden.mean(-2, keepdim=True)
    mean = (posteriors.mT @ hidden + SHRINK * overall) / (mass + SHRINK)
    share = mass / mass.sum(-2, keepdim=True)
    return torch.cat([mean, (share + _SHARE_FLOOR).log()], -1)


def shares(condition: Tensor) -> Tensor:
    """Each class's share of the windows (classes,), told by a condition (classes, channels)."""
    share = (condition[:, -1].exp() - _SHARE_FLOOR).clamp(min=0)
    return share / share.sum()


CONDITIONERS: Final[dict[str, Callable[[list[int], int, float], Conditioner]]] = {
    "prototypes": Prototypes,
    "queries": Queries,
    "layers": LayerMix,
    "moments": MomentTokens,
}
BY_CLASS: Final = ("prototypes", "layers")
"""Conditions with a token for each class, in the classes' order, its log share last."""
