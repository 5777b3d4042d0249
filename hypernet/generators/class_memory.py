"""A memory with one map for all classes: a class's row of the head from its token."""

import torch
from torch import Tensor, nn

from hypernet.generators.attention import Attention, FeedForward
from hypernet.generators.memory import Memory


class ClassMemory(Memory):
    """The rows of a classifier's head (adapter ``rows``), each from what is told of its class.

    A few sources are few conditions, but each holds as many examples as there are classes if the
    map from a class's prototype to the change of its row is the same for all. So no parameter
    belongs to a class: a token is read from the class's own token of the condition and its frozen
    row, looks at the other classes' (attention), and says the change. Renumbering the classes
    renumbers the rows.

    Parameters
    ----------
    start : (classes · (latent + 1),)
    head : (classes, latent)
        The frozen head's weight.
    tokens : int
        Of a condition: one a class.
    channels, backbone, width, blocks, scale
        See ``Memory``.
    heads : int
        Of attention.

    Raises
    ------
    ValueError
        Where tokens are not classes, or ``start`` is not a row for each.
    """

    head: Tensor

    def __init__(
        self,
        start: Tensor,
        head: Tensor,
        tokens: int,
        channels: int,
        backbone: str = "",
        *,
        width: int = 64,
        blocks: int = 1,
        heads: int = 4,
        scale: float = 0.1,
    ) -> None:
        classes, latent = head.shape
        if tokens != classes or start.numel() != classes * (latent + 1):
            raise ValueError(
                f"a condition of {tokens} tokens and an adapter of {start.numel()} numbers for "
                f"{classes} classes of {latent}: this memory takes a token a class (condition "
                "'prototypes' or 'layers') and the adapter 'rows' in the head alone"
            )
        super().__init__(start, tokens, channels, backbone, width=width, blocks=blocks, scale=scale)
        self.register_buffer("head", head.detach() / head.detach().std(), persistent=False)
        self.read = nn.Linear(channels + latent, width)
        self.look = nn.ModuleList(Attention(width, heads) for _ in range(blocks))
        self.forth = nn.ModuleList(FeedForward(width) for _ in range(blocks))
        self.norm = nn.RMSNorm(width)
        self.say = nn.Linear(width, latent + 1)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)

    def made(self, normal: Tensor) -> Tensor:
        """Standardised conditions (conditions, classes · channels) → rows, flat."""
        told = normal.reshape(-1, self.tokens, self.channels)
        x = self.read(torch.cat([told, self.head.expand(len(told), -1, -1)], -1))
        members = self.members(normal)
        for number, (look, forth) in enumerate(zip(self.look, self.forth, strict=True)):
            x = self.read_slots(look(x)[:, None], number, members)[:, 0]
            x = forth(x)
        said: Tensor = self.say(self.norm(x))
        return said.flatten(1)
