"""A classifier that learns from a person's own stream of windows, with few labels or none."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import softmax

from hypernet.bouts import LEVELS, smooth
from hypernet.networks.classifier import Classifier
from hypernet.networks.inputs import InputSpec
from hypernet.networks.losses import cross_entropy, log_softmax
from hypernet.networks.personal import Mixing, class_centres, constants, mixed_classes

EVEN_ITERATIONS: Final = 30
SMALLEST_SHARE: Final = 0.02  # of an even one: a class that is not there cannot be raised for ever
SMALLEST: Final = 1e-12
_FORBIDDEN: Final = -1e4  # a score; finite, so that 0 · it is 0


@dataclass(frozen=True)
class Bouts:
    """What is taken to be true of a person's stream.

    Attributes
    ----------
    stay : float
        Probability that the next window is of the same class; 0: windows stand alone.
    evidence : float
        Share of a window's score that counts along the stream: the windows of a bout are alike, and
        a classifier errs on them alike, so that they are fewer witnesses than they are windows.
    floor : float
        Windows that every class has in the pool's mix, as a share of an even one: the larger, the
        less is corrected for the mix.
    balanced : bool
        The person does all classes equally often: a bias makes the mean posterior even.
    label_weight : float
        Unlabelled windows that a labelled one counts for.
    replay : float
        Weight of the sources' class means in the loss.
    guard : float
        Least number of classes in a stream, as a share of all, for it to teach: the exponent of
        the entropy of its mix. Whoever lacks classes would forget them.
    order : float
        Least correlation of neighbours' posteriors: where windows are in no order of time it is
        0, and nothing is taught.
    levels : int
        Of the scan along the stream: 2^levels windows are smoothed exactly.
    """

    stay: float = 0.95
    evidence: float = 0.4
    floor: float = 0.05
    balanced: bool = False
    label_weight: float = 3.0
    replay: float = 0.3
    guard: float = 0.65
    order: float = 0.3
    levels: int = LEVELS


class SelfTraining(Classifier):
    """Encoder and head, prototypes that move the head, and a loss on smoothed targets.

    Every step is a graph of its own, and a plan chooses among them:

    - ``prototypes``: class means by expectation–maximisation over the person's windows, the base
      models of near sources as their prior (see ``PersonalModel``), each window's class told by
      its bout. No gradient.
    - ``teach``: soft targets from the whole stream, labelled windows clamped.
    - ``learn``: cross-entropy with these, on logits + log(the pool's mix of classes), so that the
      mix is explained and not learned (logit adjustment, arXiv:2007.07314).

    Buffers: ``whiten`` (latent, latent) and ``base`` (sources, classes, latent) as in
    ``PersonalModel``; ``replay`` (sources, classes, 4 · width), the sources' class means before
    the last layers; ``shift_weight`` and ``shift_bias``, what prototypes add to the head. Classes
    that no source has (``lacking``) are neither remembered nor a prior.
    """

    whiten: Tensor
    base: Tensor
    replay: Tensor
    shift_weight: Tensor
    shift_bias: Tensor

    def __init__(
        self,
        spec: InputSpec,
        classes: int,
        sources: int,
        width: int = 32,
        latent: int = 64,
        mixing: Mixing | None = None,
        bouts: Bouts | None = None,
        lacking: tuple[int, ...] = (),
    ) -> None:
        super().__init__(spec, classes, width, latent)
        self.mixing, self.bouts = mixing or Mixing(), bouts or Bouts()
        self.lacking = lacking
        self.register_buffer("whiten", torch.eye(latent))
        self.register_buffer("base", torch.zeros(sources, classes, latent))
        self.register_buffer("replay", torch.zeros(sources, classes, 4 * width))
        self.register_buffer("shift_weight", torch.zeros(classes, latent))
        self.register_buffer("shift_bias", torch.zeros(classes))

    def extra_repr(self) -> str:
        """Name what a graph of this network has as constants."""
        return f"{constants(self.mixing, self.lacking)}, {self.bouts!r}"

    def forward(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows → logits (windows, classes)."""
        return self._logits(self.encode(x, mean, deviation))

    def prototypes(self, x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Set the head's shift from all training windows; y (windows,) is −1 where unlabelled.

        Returns
        -------
        The windows' class probabilities (windows, classes).
        """
        z = self.encode(x, mean, deviation)
        known, target = known_labels(y, z, self.head.out_features)
        white, blend = z @ self.whiten, self.mixing.blend * mixed_classes(target, self.lacking)
        logits = self.head(z)
        for _ in range(self.mixing.iterations):
            probable = self._smoothed(logits, known, target)
            centres = class_centres(self.mixing, self.base, white, probable, known, self.lacking)
            self.shift_weight = blend * (centres @ self.whiten.T - self.head.weight)
            self.shift_bias = -blend.squeeze(1) * (0.5 * centres.square().sum(1) + self.head.bias)
            logits = self._logits(z)
        return softmax(logits, 1)

    def teach(self, x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Soft targets and, in each row again, the log of the pool's mix of classes.

        Returns
        -------
        (windows, 2 · classes). Where the guard refuses, all is 0: such targets teach nothing.
        """
        z = self.encode(x, mean, deviation)
        known, target = known_labels(y, z, self.head.out_features)
        logits = log_softmax(self._logits(z))
        probable = seen = self._smoothed(logits, known, target)
        if self.bouts.balanced:
            probable = self._smoothed(logits + even_bias(logits), known, target)
        mix = (probable.mean(0) + self.bouts.floor / self.head.out_features).log()
        enough = diversity(seen) >= self.bouts.guard
        taught = (enough & (persistence(softmax(logits, 1)) >= self.bouts.order)).to(z.dtype)
        return taught * torch.cat([probable, mix.expand_as(probable)], 1)

    def learn(
        self, x: Tensor, y: Tensor, targets: Tensor, mean: Tensor, deviation: Tensor
    ) -> Tensor:
        """Cross-entropy with what ``teach`` gave, and with the sources' class means; a scalar.

        The head learns alone: the prototypes' shift has taught, and is set to 0.
        """
        pooled = self.encoder.pool(self.spec.normalise(x, mean, deviation))
        return self._loss(pooled, y, targets)

    def learn_last(
        self, x: Tensor, y: Tensor, targets: Tensor, mean: Tensor, deviation: Tensor
    ) -> Tensor:
        """As ``learn``, of the layers after the convolutions alone: a third of its time."""
        pooled = self.encoder.pool(self.spec.normalise(x, mean, deviation))
        return self._loss(pooled.detach(), y, targets)

    def _loss(self, pooled: Tensor, y: Tensor, targets: Tensor) -> Tensor:
        probable, mix = targets.chunk(2, 1)
        taught = (probable.sum() > 0).to(pooled.dtype)
        self.shift_weight = self.shift_weight * (1 - taught)
        self.shift_bias = self.shift_bias * (1 - taught)
        logits = self.head(self.encoder.project(pooled))
        known = (y >= 0).to(logits.dtype)
        weight = 1 + (self.bouts.label_weight - 1) * known
        loss = -(probable * log_softmax(logits + mix)).sum(1) * weight
        return loss.mean() + self.bouts.replay * taught * self._remembered()

    def _logits(self, z: Tensor) -> Tensor:
        return z @ (self.head.weight + self.shift_weight).T + (self.head.bias + self.shift_bias)

    def _smoothed(self, logits: Tensor, known: Tensor, target: Tensor) -> Tensor:
        """Class probabilities by bouts, labelled windows clamped."""
        share = self.bouts.evidence if self.bouts.stay else 1.0  # alone, it has no neighbours
        scores = share * log_softmax(logits)
        scores = scores * (1 - known) + _FORBIDDEN * known * (1 - target)
        return smooth(scores, torch.tensor(self.bouts.stay), self.bouts.levels)

    def _remembered(self) -> Tensor:
        """Cross-entropy of the sources' class means, which no person's pool can take away."""
        sources, classes, _ = self.replay.shape
        there = torch.tensor([c for c in range(classes) if c not in self.lacking])
        replay = self.replay.index_select(1, there) if self.lacking else self.replay
        logits = self.head(self.encoder.project(replay.flatten(0, 1)))
        return cross_entropy(logits, there.repeat(sources))


def even_bias(logits: Tensor, iterations: int = EVEN_ITERATIONS) -> Tensor:
    """The bias (classes,) that makes the mean posterior of logits (windows, classes) even.

    A fixed point: each class's bias falls by the log of its share, taken against an even one.
    """
    classes = logits.shape[1]
    bias = torch.zeros(classes)
    for _ in range(iterations):
        share = softmax(logits + bias, 1).mean(0) * classes
        bias = bias - share.clamp(min=SMALLEST_SHARE).log()
    return bias


def diversity(probable: Tensor) -> Tensor:
    """How many classes a stream has, as a share of all: exp(entropy of the mean posterior) / C."""
    mix = probable.mean(0)
    entropy = -(mix * mix.clamp(min=SMALLEST).log()).sum()
    return entropy.exp() / probable.shape[1]


def persistence(probable: Tensor) -> Tensor:
    """Correlation of the posteriors (windows, classes) of neighbours, as of a window with itself.

    About the probability to stay, and 0 for windows in a random order.
    """
    mix = probable.mean(0).square().sum()
    before = probable.index_select(0, (torch.arange(probable.shape[0]) - 1).clamp(min=0))
    alike = (probable * before).sum(1).mean() - mix
    return alike / (probable.square().sum(1).mean() - mix).clamp(min=SMALLEST)


def known_labels(y: Tensor, z: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Whether a label is known (windows, 1), and the class as one of C (windows, classes)."""
    known = (y >= 0).to(z.dtype)[:, None]
    return known, (y[:, None] == torch.arange(classes)).to(z.dtype)
