"""A generator's training in episodes: every virtual person plays a device never seen before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hypernet.condition import Conditioner
from hypernet.generators.attention import cosine_squared
from hypernet.generators.memory import Memory
from hypernet.networks.adapted import AdaptedClassifier
from hypernet.networks.losses import cross_entropy
from hypernet.networks.norm import adapt_norms, rest_norms, set_groups
from hypernet.parameters import ParameterSpec
from hypernet.virtual_users import VirtualUsers

SMOOTHING: Final = 0.05
WEIGHT_DECAY: Final = 1e-2


@dataclass(frozen=True)
class Course:
    """How a generator is trained.

    Attributes
    ----------
    steps, persons : int
        Optimizer steps; virtual persons in each.
    seen, judged : int
        Windows of a person that make its condition, and those that the loss is of.
    rate : float
        AdamW's, cosine to 0.
    l2 : float
        Of generated weights.
    collapse : float
        Of cos² between an update and the same source's previous one.
    conditions : bool
        False trains a static adapter: every condition is the mean one.
    """

    steps: int = 800
    persons: int = 16
    seen: int = 200
    judged: int = 110
    rate: float = 1e-3
    l2: float = 1e-3
    collapse: float = 0.0
    conditions: bool = True


class Episodes:
    """Draws episodes from the sources and judges generated adapters.

    Parameters
    ----------
    network : AdaptedClassifier
    users : VirtualUsers
        Their generator is the episodes'.
    """

    def __init__(self, network: AdaptedClassifier, users: VirtualUsers) -> None:
        self.network, self.users = network, users
        self.spec = ParameterSpec.of(network)

    def draw(self, persons: int, seen: int, judged: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Virtual persons: inputs for conditions and for the loss, its labels, their sources."""
        x, y, who = self.users.draw(persons, seen + judged)
        rows = x.reshape(persons, -1, *x.shape[1:])
        labels = y.reshape(persons, -1)[:, seen:].flatten()
        return rows[:, :seen].flatten(0, 1), rows[:, seen:].flatten(0, 1), labels, who

    def condition(self, x: Tensor, persons: int, conditioner: Conditioner | None) -> Tensor:
        """(persons, condition); differentiable where a conditioner that learns is given."""
        with torch.set_grad_enabled(conditioner is not None):
            return self.network.condition_of(x, persons, conditioner).flatten(1)

    def logits(self, x: Tensor, adapters: Tensor) -> Tensor:
        """Logits of normalised inputs, each person with an adapter (persons, length)."""
        parts = torch.split(adapters, list(self.spec.sizes[: self.spec.trainable]), dim=1)
        named = zip(self.spec.names, parts, self.spec.shapes, strict=False)
        factors = {name: part.reshape(-1, *shape) for name, part, shape in named}
        set_groups(self.network.body, len(adapters))
        adapt_norms(self.network.body)
        try:
            return self.call(x, _below(factors))
        finally:
            set_groups(self.network.body, 1)
            rest_norms(self.network.body)

    def call(self, x: Tensor, named: dict[str, Tensor]) -> Tensor:
        """Logits with factors by name, as ``network.…``."""
        result: Tensor = functional_call(_Logits(self.network), named, (x,))
        return result


class _Logits(nn.Module):
    def __init__(self, network: AdaptedClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.logits(x)


def _below(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"network.{name}": factor for name, factor in factors.items()}


def train_memory(
    memory: Memory,
    episodes: Episodes,
    conditioner: Conditioner,
    course: Course,
    tell: Callable[[int, float], None] = lambda _step, _loss: None,
) -> None:
    """Train a generator, and a conditioner that has parameters, on the sources' labels.

    The loss is the downstream one: cross-entropy of the adapted classifier on windows other than
    those of the condition.
    """
    learns = any(p.requires_grad for p in conditioner.parameters())
    with torch.no_grad():
        first = [_conditions(episodes, course, conditioner) for _ in range(8)]
        memory.standardise(torch.cat(first))
    parameters = [*memory.parameters(), *conditioner.parameters()]
    if not course.conditions:
        parameters = [memory.start]
    optimizer = torch.optim.AdamW(parameters, course.rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, course.steps))
    previous: dict[int, Tensor] = {}
    for step in range(course.steps):
        seen, judged, y, who = episodes.draw(course.persons, course.seen, course.judged)
        if course.conditions:
            condition = episodes.condition(seen, course.persons, conditioner if learns else None)
            adapters = memory.generate(condition)
        else:
            adapters = memory.start.expand(course.persons, -1)
        loss = cross_entropy(episodes.logits(judged, adapters), y, SMOOTHING)
        tell(step, float(loss.detach()))
        loss = loss + course.l2 * adapters.square().sum(1).mean()
        if course.conditions and course.collapse:
            loss = loss + course.collapse * _collapse(adapters - memory.start, who, previous)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def _conditions(episodes: Episodes, course: Course, conditioner: Conditioner) -> Tensor:
    seen, _, _, _ = episodes.draw(course.persons, course.seen, 1)
    return episodes.condition(seen, course.persons, conditioner).detach()


def _collapse(updates: Tensor, who: Tensor, previous: dict[int, Tensor]) -> Tensor:
    """cos² with the last update of the same source; these are remembered."""
    persons = who.tolist()
    known = [row for row, person in enumerate(persons) if person in previous]
    penalty = updates.new_zeros(())
    if known:
        before = torch.stack([previous[persons[row]] for row in known])
        penalty = cosine_squared(updates[known], before)
    for row, person in enumerate(persons):
        previous[person] = updates[row].detach()
    return penalty
