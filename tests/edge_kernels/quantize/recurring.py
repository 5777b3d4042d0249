"""Recurrent networks over a wearable's windows, as torch modules in the ways that people write."""

import torch
from torch import nn

SHAPE, WIDTH = (3, 32), 10


class DeepConv(nn.Module):
    """DeepConvLSTM (Ordóñez and Roggen, 2016): convolutions, two LSTMs, the last position."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        layers = [nn.Conv1d(SHAPE[0], 12, 5), nn.ReLU(), nn.Conv1d(12, 12, 5, stride=2), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.layers = kind(12, WIDTH, 2, batch_first=True, dropout=0.3)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.layers(self.features(x).transpose(1, 2))[0][:, -1])


class Timed(nn.Module):
    """Time first, which is torch's default; both ways; the mean over time."""

    def __init__(self, kind):
        super().__init__()
        self.layers = kind(SHAPE[0], WIDTH, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, 5)

    def forward(self, x):
        return self.head(self.layers(x.permute(2, 0, 1))[0].mean(0))


class Ends(nn.Module):
    """What layers made at their ends: of both ways, or with a first state given as zeros."""

    def __init__(self, kind, layers=1, both=False, how="index"):
        super().__init__()
        self.count, self.both, self.how = layers * (1 + both), both, how
        self.layers = kind(SHAPE[0], WIDTH, layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(WIDTH * (1 + both), 5)

    def forward(self, x):
        given = ()
        if self.how == "zeros":
            zeros = torch.zeros(self.count, x.size(0), WIDTH)
            given = (zeros,) if isinstance(self.layers, nn.GRU) else ((zeros, zeros),)
        _, state = self.layers(x.transpose(1, 2), *given)
        h = state[0] if isinstance(state, tuple) else state
        if self.both:
            return self.head(torch.cat([h[-2], h[-1]], 1))
        return self.head(h.squeeze(0) if self.how == "squeeze" else h[-1])


class Between(nn.Module):
    """A layer between a norm and a convolution, with a residual around it."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Conv1d(SHAPE[0], WIDTH, 3, padding=1), nn.LayerNorm(WIDTH)
        self.layers = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.conv, self.head = nn.Conv1d(WIDTH, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        h = self.embed(x).transpose(1, 2)
        h = h + self.layers(self.norm(h))[0]
        return self.head(self.conv(h.transpose(1, 2)).relu().amax(2))


class Attended(nn.Module):
    """Positions of both ways, summed by a softmax over time."""

    def __init__(self):
        super().__init__()
        self.layers = nn.LSTM(SHAPE[0], WIDTH, bidirectional=True, batch_first=True)
        self.score, self.head = nn.Linear(2 * WIDTH, 1), nn.Linear(2 * WIDTH, 5)

    def forward(self, x):
        h, _ = self.layers(x.transpose(1, 2))
        return self.head((torch.softmax(self.score(h), 1) * h).sum(1))


NETS = {
    "deepconvlstm": DeepConv,
    "deepconvgru": lambda: DeepConv(nn.GRU),
    "time first, lstm": lambda: Timed(nn.LSTM),
    "time first, gru": lambda: Timed(nn.GRU),
    "ends of lstms": lambda: Ends(nn.LSTM, 2, both=True),
    "ends of grus": lambda: Ends(nn.GRU, 2, both=True),
    "last of two": lambda: Ends(nn.GRU, 2),
    "zeros, gru": lambda: Ends(nn.GRU, how="zeros"),
    "zeros, lstm": lambda: Ends(nn.LSTM, how="zeros"),
    "squeezed": lambda: Ends(nn.LSTM, how="squeeze"),
    "between": Between,
    "attended": Attended,
}
