"""Transformers over a wearable's windows, as torch modules: what people take from torch itself."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SHAPE, WIDTH = (3, 32), 16
EMBEDDED = 8  # positions, of 4 samples each


class Vision(nn.Module):
    """Patches, a token of the class, learned positions, torch's encoder, the token's logits."""

    def __init__(self, pool="token", time_first=False, **layer):
        super().__init__()
        self.pool, self.time_first = pool, time_first
        self.patches = nn.Conv1d(SHAPE[0], WIDTH, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.5)
        count = EMBEDDED + (pool == "token")
        self.positions = nn.Parameter(torch.randn(1, count, WIDTH) * 0.5)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=not time_first, **layer)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x):
        h = self.patches(x).transpose(1, 2)
        if self.pool == "token":
            h = torch.cat([self.token.expand(h.shape[0], -1, -1), h], 1)
        h = h + self.positions
        h = self.encoder(h.transpose(0, 1)).transpose(0, 1) if self.time_first else self.encoder(h)
        h = self.norm(h)
        return self.head(h[:, 0] if self.pool == "token" else h.mean(1))


class Inertial(nn.Module):
    """Time first throughout, with a token that is repeated for each sample."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Conv1d(SHAPE[0], WIDTH, 1), nn.GELU())
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 24, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), False)
        self.token = nn.Parameter(torch.randn(1, WIDTH) * 0.5)
        self.positions = nn.Parameter(torch.randn(SHAPE[1] + 1, 1, WIDTH) * 0.3)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5))

    def forward(self, x):
        h = self.embed(x).permute(2, 0, 1)
        token = self.token.unsqueeze(1).repeat(1, h.shape[1], 1)
        h = torch.cat([token, h]) + self.positions
        return self.head(self.encoder(h)[0])


class Sinusoidal(nn.Module):
    """The tutorials' table of positions, of which as many are taken as there are."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(SHAPE[0], WIDTH)
        angles = torch.arange(100)[:, None] * torch.exp(-torch.arange(0, WIDTH, 2) / 2)
        table = torch.stack([angles.sin(), angles.cos()], 2).reshape(100, 1, WIDTH)
        self.register_buffer("table", table)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 24)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        h = self.embed(x.permute(2, 0, 1))
        return self.head(self.encoder(h + self.table[: h.size(0)]).mean(0))


class Module(nn.Module):
    """torch's own attention; its averaged weights are dropped."""

    def __init__(self, heads=4, batch_first=True, weights=True):
        super().__init__()
        self.batch_first, self.weights = batch_first, weights
        self.embed, self.head = nn.Linear(SHAPE[0], WIDTH), nn.Linear(WIDTH, 5)
        self.attention = nn.MultiheadAttention(WIDTH, heads, batch_first=batch_first)
        nn.init.normal_(self.attention.in_proj_bias, std=0.3)
        nn.init.normal_(self.attention.out_proj.bias, std=0.3)

    def forward(self, x):
        h = self.embed(x.transpose(1, 2))
        h = h if self.batch_first else h.transpose(0, 1)
        h = h + self.attention(h, h, h, need_weights=self.weights)[0]
        return self.head(h.mean(1 if self.batch_first else 0))


class Packed(nn.Module):
    """One layer for queries, keys and values, taken apart in one way or another."""

    def __init__(self, how, heads=4):
        super().__init__()
        self.how, self.heads = how, heads
        self.patches = nn.Conv1d(SHAPE[0], WIDTH, 4, stride=4)
        self.packed, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        h = self.patches(x).transpose(1, 2)
        batch, length, width = h.shape
        size = (batch, length, self.heads, width // self.heads)
        if self.how in ("unbind", "functional"):  # as vision transformers
            parts = self.packed(h).reshape(batch, length, 3, *size[2:]).permute(2, 0, 3, 1, 4)
            q, k, v = parts.unbind(0)
        else:  # as language models
            parts = self.packed(h).chunk(3, dim=-1)
            q, k, v = (each.view(size).transpose(1, 2) for each in parts)
        if self.how == "single":
            q, k, v = parts
        if self.how == "functional":
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.transpose(-2, -1) / np.sqrt(q.shape[-1])
            mixed = scores.softmax(-1) @ v
        if self.how != "single":
            mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        return self.head((h + self.out(mixed)).mean(1))


class Queried(nn.Module):
    """Learned queries look at the sequence: a decoder's layer, or attention alone."""

    def __init__(self, decoder=False, count=3):
        super().__init__()
        self.patches = nn.Conv1d(SHAPE[0], WIDTH, 4, stride=4)
        self.queries = nn.Parameter(torch.randn(1, count, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.decoder = None
        if decoder:
            self.decoder = nn.TransformerDecoderLayer(WIDTH, 2, 24, batch_first=True)
        self.head = nn.Linear(WIDTH * count, 5)

    def forward(self, x):
        h = self.patches(x).transpose(1, 2)
        queries = self.queries.expand(h.shape[0], -1, -1)
        if self.decoder is not None:
            return self.head(self.decoder(queries, h).flatten(1))
        return self.head(self.attention(queries, h, h, need_weights=False)[0].flatten(1))


class Asked(nn.Module):
    """A layer of what depends on no sample, before all others."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 3, WIDTH))
        self.parts = nn.ModuleList([nn.Linear(WIDTH, WIDTH), *(
            nn.Linear(SHAPE[0], WIDTH) for _ in range(2)
        )])  # fmt: skip
        self.head = nn.Linear(3 * WIDTH, 5)

    def forward(self, x):
        q = self.parts[0](self.queries.expand(x.shape[0], -1, -1))
        k, v = (part(x.transpose(1, 2)) for part in self.parts[1:])
        return self.head((torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v).flatten(1))


class NonLocal(nn.Module):
    """Queries, keys and values by convolutions, as they lie: (batch, width, time)."""

    def __init__(self):
        super().__init__()
        self.stem, self.out = nn.Conv1d(SHAPE[0], WIDTH, 4, stride=4), nn.Conv1d(8, WIDTH, 1)
        self.parts = nn.ModuleList(nn.Conv1d(WIDTH, 8, 1) for _ in range(3))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = self.stem(x)
        q, k, v = (part(x) for part in self.parts)
        shares = torch.softmax(0.5 * q.transpose(1, 2) @ k, -1)
        return self.head((x + self.out((shares @ v.transpose(1, 2)).transpose(1, 2))).mean(-1))


class Crossed(nn.Module):
    """Positions of one resolution look at those of another."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Conv1d(SHAPE[0], WIDTH, 4, stride=4)
        self.coarse = nn.Conv1d(SHAPE[0], WIDTH, 8, stride=8)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        h, g = (conv(x).transpose(1, 2) for conv in (self.fine, self.coarse))
        return self.head((h + self.attention(h, g, g, need_weights=False)[0]).mean(1))


SEQUENCES = {
    "queried": Queried,
    "asked": Asked,
    "crossed": Crossed,
    "non-local": NonLocal,
    "decoder": lambda: Queried(decoder=True),
    "vision": Vision,
    "vision, norm first": lambda: Vision(norm_first=True, activation="gelu"),
    "vision, time first": lambda: Vision(time_first=True),
    "vision, mean": lambda: Vision("mean"),
    "inertial": Inertial,
    "sinusoidal": Sinusoidal,
    "module": Module,
    "module, no weights": lambda: Module(weights=False),
    "module, time first": lambda: Module(batch_first=False),
    "module, one head": lambda: Module(heads=1),
    "unbind": lambda: Packed("unbind"),
    "functional": lambda: Packed("functional"),
    "chunk": lambda: Packed("chunk"),
    "single": lambda: Packed("single"),
}
