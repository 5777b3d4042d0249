"""Networks of wearables with gates, as torch modules, and how both exporters write them."""

import io
import warnings

import onnx
import torch
from torch import nn
from torch.nn import functional

SHAPE = (3, 32)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x):
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(x.mean(-1)))))
        return x * gate.view(x.shape[0], -1, 1)


class Expanded(SqueezeExcite):
    """As its widest-spread implementation writes it."""

    def forward(self, x):
        batch, channels, _ = x.size()
        gate = functional.adaptive_avg_pool1d(x, 1).view(batch, channels)
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(gate))))
        return x * gate.view(batch, channels, 1).expand_as(x)


class Residual(nn.Module):
    """SE-ResNet's block."""

    def __init__(self, channels, gate=SqueezeExcite):
        super().__init__()
        self.first = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(2))
        self.gate = gate(channels)

    def forward(self, x):
        h = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(x + self.gate(self.norms[1](self.second(h))))


class Cbam(nn.Module):
    """Gates of channels, then of positions."""

    def __init__(self, channels):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels))
        self.conv = nn.Conv1d(2, 1, 7, padding=3)

    def forward(self, x):
        x = x * torch.sigmoid(self.mlp(x.mean(-1)) + self.mlp(x.amax(-1))).unsqueeze(-1)
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.conv(both))


class Eca(nn.Module):
    """ECA-Net's: a convolution over the channels."""

    def __init__(self, channels):
        super().__init__()
        del channels
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        gate = functional.adaptive_avg_pool1d(x, 1).transpose(-1, -2)
        return x * torch.sigmoid(self.conv(gate).transpose(-1, -2)).expand_as(x)


class Glu(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv1d(channels, 2 * channels, 3, padding=1)
        self.norm = nn.BatchNorm1d(2 * channels)

    def forward(self, x):
        return x + functional.glu(self.norm(self.conv(x)), 1)


class SwiGlu(nn.Module):
    """A transformer's feed-forward part, without its attention."""

    def __init__(self, channels):
        super().__init__()
        self.wide = nn.ModuleList(nn.Linear(channels, 24, bias=False) for _ in range(2))
        self.narrow, self.norm = nn.Linear(24, channels, bias=False), nn.LayerNorm(channels)

    def forward(self, x):
        h = x.transpose(1, 2)
        y = self.norm(h)
        h = h + self.narrow(functional.silu(self.wide[0](y)) * self.wide[1](y))
        return h.transpose(1, 2)


class Hard(nn.Module):
    """MobileNet's: x · relu6(x + 3) / 6, and a hard sigmoid as the gate."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)
        self.gates = nn.ModuleList([nn.Conv1d(channels, 4, 1), nn.Conv1d(4, channels, 1)])

    def forward(self, x):
        x = self.conv(x)
        x = x * functional.relu6(x + 3) / 6
        gate = functional.relu(self.gates[0](functional.adaptive_avg_pool1d(x, 1)))
        return x * functional.hardsigmoid(self.gates[1](gate))


class Network(nn.Module):
    """A stem, a block, and a head on the mean over time."""

    def __init__(self, block, channels=12, **how):
        super().__init__()
        self.stem = nn.Conv1d(SHAPE[0], channels, 5, stride=2, padding=2)
        self.block, self.head = block(channels, **how), nn.Linear(channels, 5)

    def forward(self, x):
        return self.head(self.block(functional.relu(self.stem(x))).mean(-1))


class Pooled(nn.Module):
    """Attention pooling: of ``rows`` scores a position, written in one way or another."""

    def __init__(self, how, rows=1, channels=12):
        super().__init__()
        self.how, self.stem = how, nn.Conv1d(SHAPE[0], channels, 5, stride=2, padding=2)
        self.score = nn.Sequential(nn.Linear(channels, 8), nn.Tanh(), nn.Linear(8, rows))
        self.conv, self.head = nn.Conv1d(channels, rows, 1), nn.Linear(channels * rows, 5)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        h = x.transpose(1, 2)
        scores = self.score(h)
        if self.how == "sum":
            pooled = (torch.softmax(scores, 1) * h).sum(1)
        elif self.how == "flat":
            pooled = (h * torch.softmax(scores.squeeze(-1), -1).unsqueeze(-1)).sum(1)
        elif self.how == "channels first":
            pooled = (x * torch.softmax(self.conv(x), -1)).sum(-1)
        elif self.how == "right":
            pooled = torch.bmm(x, torch.softmax(scores, 1)).flatten(1)
        else:
            pooled = torch.bmm(torch.softmax(scores, 1).transpose(1, 2), h).flatten(1)
        return self.head(pooled)


BLOCKS = {
    "squeeze-excite": lambda: Network(Residual),
    "expanded": lambda: Network(Residual, gate=Expanded),
    "cbam": lambda: Network(Cbam),
    "eca": lambda: Network(Eca),
    "glu": lambda: Network(Glu),
    "swiglu": lambda: Network(SwiGlu),
    "hard": lambda: Network(Hard),
    "pooled, sum": lambda: Pooled("sum"),
    "pooled, flat": lambda: Pooled("flat"),
    "pooled, channels first": lambda: Pooled("channels first"),
    "pooled, product": lambda: Pooled("product", 3),
    "pooled, right": lambda: Pooled("right", 3),
}


def seeded(make):
    """A network with weights, and statistics as of a trained one."""
    torch.manual_seed(0)
    net = make()
    for name, buffer in net.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return net.eval()


def exported(net, shape=SHAPE, *, dynamo=False):
    """The model x (batch, *shape) → y."""
    x, how = torch.randn(2, *shape), {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            free = ({0: torch.export.Dim("batch")},)
            made = torch.onnx.export(
                net, (x,), dynamo=True, dynamic_shapes=free, opset_version=20, verbose=False, **how
            )
            return made.model_proto
        held, free = io.BytesIO(), {"x": {0: "batch"}, "y": {0: "batch"}}
        torch.onnx.export(net, (x,), held, dynamo=False, dynamic_axes=free, opset_version=17, **how)
    return onnx.load_from_string(held.getvalue())
