"""Episodes where only the last layers are adapted: what comes before them is computed once."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hypernet.condition import Conditioner
from hypernet.episodes import Episodes
from hypernet.networks.adapted import AdaptedClassifier
from hypernet.virtual_users import VirtualUsers

MOST: Final = 600  # windows of a virtual person
BLOCKS: Final = 4  # of time, in each class


class FrozenEpisodes(Episodes):
    """Draws episodes from what the frozen layers make of some virtual persons of every source.

    A person's windows are parted by blocks of time within each class: the loss is of other blocks
    than the condition. Rows of what was kept stand for inputs.

    Parameters
    ----------
    network : AdaptedClassifier
        Its adapters are in the last layers alone.
    users : VirtualUsers
    versions : int
        Virtual persons of each source.
    """

    def __init__(self, network: AdaptedClassifier, users: VirtualUsers, versions: int) -> None:
        super().__init__(network, users)
        self.persons = [p for p in range(len(users.sources)) for _ in range(versions)]
        kept = [self._kept(person) for person in self.persons]
        self.first = torch.tensor([0] + [len(y) for _, _, _, y in kept]).cumsum(0)
        layers = range(len(kept[0][0]))
        self.states = [torch.cat([states[layer] for states, _, _, _ in kept]) for layer in layers]
        self.posteriors = torch.cat([posteriors for _, posteriors, _, _ in kept])
        self.pooled = torch.cat([pooled for _, _, pooled, _ in kept])
        self.y = torch.cat([y for _, _, _, y in kept])
        self.block = torch.cat([blocks_of(y, BLOCKS) for _, _, _, y in kept])

    @torch.no_grad()
    def _kept(self, person: int) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        x, y = self.users.whole(person, MOST)
        pooled: list[Tensor] = []
        linear: nn.Module = self.network.plain.encoder.linear
        hook = linear.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
        try:
            states, posteriors = self.network.seen(x)
        finally:
            hook.remove()
        return states, posteriors, pooled[0], y

    def draw(self, persons: int, seen: int, judged: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows for conditions (a third of ``seen`` to all of it) and for the loss; labels; who."""
        generator = self.users.generator
        fewest = max(1, seen // 3)
        count = int(torch.randint(fewest, seen + 1, (1,), generator=generator))
        chosen = torch.randint(len(self.persons), (persons,), generator=generator)
        if persons <= len(self.persons):
            chosen = torch.randperm(len(self.persons), generator=generator)[:persons]
        rows = [self._rows(number, count, judged) for number in chosen.tolist()]
        loss = torch.cat([row for _, row in rows])
        who = torch.tensor([self.persons[number] for number in chosen.tolist()])
        return torch.cat([row for row, _ in rows]), loss, self.y[loss], who

    def _rows(self, number: int, seen: int, judged: int) -> tuple[Tensor, Tensor]:
        generator = self.users.generator
        first, stop = int(self.first[number]), int(self.first[number + 1])
        blocks = torch.randperm(BLOCKS, generator=generator)
        blocks = blocks[: int(torch.randint(2, BLOCKS, (1,), generator=generator))]
        mine = torch.isin(self.block[first:stop], blocks)
        if mine.all() or not mine.any():  # too few windows to be parted
            rows = torch.arange(first, stop)
            return _some(rows, seen, generator), _some(rows, judged, generator)
        sides = (mine.nonzero().flatten() + first, (~mine).nonzero().flatten() + first)
        return _some(sides[0], seen, generator), _some(sides[1], judged, generator)

    def condition(self, x: Tensor, persons: int, conditioner: Conditioner | None) -> Tensor:
        """(persons, condition) of rows; differentiable where a conditioner that learns is given."""
        chosen: nn.Module = self.network.conditioner if conditioner is None else conditioner
        rows = x.reshape(persons, -1)
        with torch.set_grad_enabled(conditioner is not None):
            told: Tensor = chosen([layer[rows] for layer in self.states], self.posteriors[rows])
            return told.flatten(1)

    def call(self, x: Tensor, named: dict[str, Tensor]) -> Tensor:
        """Logits of rows."""
        result: Tensor = functional_call(_Tail(self.network), named, (self.pooled[x],))
        return result


class _Tail(nn.Module):
    def __init__(self, network: AdaptedClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, pooled: Tensor) -> Tensor:
        return self.network.tail(pooled)


def blocks_of(y: Tensor, blocks: int) -> Tensor:
    """Block of time (windows,) of each window among its class's, which are in time's order."""
    block = torch.zeros_like(y)
    for label in set(y.tolist()):
        rows = (y == label).nonzero().flatten()
        block[rows] = torch.arange(len(rows)) * blocks // len(rows)
    return block


def _some(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many of some rows; none twice unless there are too few."""
    if len(rows) >= count:
        return rows[torch.randperm(len(rows), generator=generator)[:count]]
    return rows[torch.randint(len(rows), (count,), generator=generator)]
