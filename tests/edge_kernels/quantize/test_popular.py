"""A study of popular networks, trained on WISDM's watch: what integers cost them, and their speed.

pytest -m study -s tests/edge_kernels/quantize/test_popular.py            # -k cost, -k fast: one
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edge_kernels import session
from edge_kernels.bench.sessions import our_session, plain_session
from edge_kernels.bench.timing import FULL, take_turns, turn_of
from edge_kernels.quantize import quantize, to_edge, to_qdq
from tests.edge_kernels.quantize.gated import Cbam, Eca, Glu, Residual, exported
from tests.edge_kernels.quantize.test_transformers import difference, run

SHAPE, WIDTH, CLASSES, EPOCHS, BATCH = (6, 100), 48, 18, 6, 64
LEARNED, JUDGED, CALIBRATED = 14_000, 2_000, 512


class Net(nn.Module):
    """Two blocks over a strided convolution; the mean over time."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.stem = nn.Conv1d(SHAPE[0], WIDTH, 7, 2, 3)
        self.blocks = nn.Sequential(block(WIDTH), nn.MaxPool1d(2), block(WIDTH))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits of windows (batch, channels, time)."""
        return self.head(self.blocks(functional.relu(self.stem(x))).mean(-1))


class Attended(nn.Module):
    """CBAM after a convolution, beside a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(channels, channels, 5, padding=2), nn.BatchNorm1d(channels)
        self.gate = Cbam(channels)

    def forward(self, x: torch.Tensor) -> Any:
        """The same shape."""
        return functional.relu(x + self.gate(self.norm(self.conv(x))))


class Pooled(nn.Module):
    """Attention pooling over two strided convolutions."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Conv1d(SHAPE[0], WIDTH, 7, 2, 3), nn.Conv1d(WIDTH, WIDTH, 5, 2, 2)
        self.features = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU())
        self.score = nn.Sequential(nn.Linear(WIDTH, 24), nn.Tanh(), nn.Linear(24, 1))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits."""
        h = self.features(x).transpose(1, 2)
        return self.head((torch.softmax(self.score(h), 1) * h).sum(1))


class Encoder(nn.Module):
    """torch's encoder over patches of four samples, with a token of the class."""

    def __init__(self, **layer: Any) -> None:
        super().__init__()
        self.patches, count = nn.Conv1d(SHAPE[0], WIDTH, 4, 4), SHAPE[1] // 4 + 1
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, count, WIDTH) * 0.02)
        made = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.1, batch_first=True, **layer)
        self.encoder = nn.TransformerEncoder(made, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits."""
        h = self.patches(x).transpose(1, 2)
        h = torch.cat([self.token.expand(h.shape[0], -1, -1), h], 1) + self.positions
        return self.head(self.norm(self.encoder(h))[:, 0])


class DeepConv(nn.Module):
    """DeepConvLSTM, smaller and strided: two convolutions, two recurrent layers, the last state."""

    def __init__(self, kind: Any = nn.LSTM) -> None:
        super().__init__()
        layers = nn.Conv1d(SHAPE[0], WIDTH, 7, 2, 3), nn.Conv1d(WIDTH, WIDTH, 5)
        self.features = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU())
        self.states = kind(WIDTH, WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits."""
        return self.head(self.states(self.features(x).transpose(1, 2))[0][:, -1])


class Bidirectional(nn.Module):
    """Recurrent layers of both ways on the raw window, and the mean over time."""

    def __init__(self, kind: Any = nn.GRU) -> None:
        super().__init__()
        self.states = kind(SHAPE[0], WIDTH, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        """Logits."""
        return self.head(self.states(x.transpose(1, 2))[0].mean(1))


NETS: dict[str, Any] = {
    "ResNet, no gate": lambda: Net(lambda c: Residual(c, gate=lambda _: nn.Identity())),
    "SE-ResNet": lambda: Net(Residual),
    "CBAM": lambda: Net(Attended),
    "ECA": lambda: Net(lambda c: Residual(c, gate=Eca)),
    "gated convolutions (GLU)": lambda: Net(Glu),
    "attention pooling": Pooled,
    "torch's encoder, class token": Encoder,
    "the same, norms first, GELU": lambda: Encoder(norm_first=True, activation="gelu"),
    "DeepConvLSTM": DeepConv,
    "the same with GRUs": lambda: DeepConv(nn.GRU),
    "GRUs of both ways": Bidirectional,
    "LSTMs of both ways": lambda: Bidirectional(nn.LSTM),
}


@pytest.fixture(scope="module")
def windows() -> Any:
    """Windows (n, 6, 100) and classes to learn from, and those of ten other persons."""
    path = Path(__file__).resolve().parents[4] / "shared/data/wisdm51_watch_accgyro.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with np.load(path, allow_pickle=False) as data:
        x, y, who = data["X"].astype(np.float32).transpose(0, 2, 1), data["y"], data["subject"]
    learned = np.isin(who, np.unique(who)[:36])
    mean, deviation = (f(x[learned], (0, 2), keepdims=True) for f in (np.mean, np.std))
    random = np.random.default_rng(0)
    own = random.permutation(np.flatnonzero(learned))[:LEARNED]
    others = random.permutation(np.flatnonzero(~learned))[:JUDGED]
    x = (x - mean) / deviation
    return x[own], y[own].astype(np.int64), x[others], y[others]


def trained(make: Any, x: Any, y: Any) -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # these are too small for more
    net, random, steps = make(), np.random.default_rng(0), len(x) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        order = random.permutation(len(x))
        for i in range(steps):
            some = order[i * BATCH :][:BATCH]
            logits = net(torch.from_numpy(x[some]))
            optimizer.zero_grad()
            functional.cross_entropy(logits, torch.from_numpy(y[some])).backward()
            optimizer.step()
            pace.step()
    return net.eval()


@pytest.mark.study
@pytest.mark.parametrize("name", NETS)
def test_what_integers_cost(name: str, windows: Any) -> None:
    own, classes, others, right = windows
    model = exported(trained(NETS[name], own, classes), SHAPE)
    floats = run(model, others)
    row = [name, f"{(floats.argmax(1) == right).mean():.3f}"]
    for quantizer in ("rtn", "distilled"):
        cells = []
        for bits in (8, 4):
            made = quantize(model, own[:CALIBRATED], quantizer=quantizer, bits=bits)
            found = session(to_edge(made)).run(None, {"x": others})[0]
            error, same = difference(found, floats), (found.argmax(1) == floats.argmax(1)).mean()
            cells.append((f"{100 * error:.1f}", f"{same:.3f}", (found.argmax(1) == right).mean()))
            assert error < (0.1 if bits == 8 else 0.4)
        row += [" / ".join(cell[i] for cell in cells) for i in (0, 1)]
    row.append(" / ".join(f"{cell[2]:.3f}" for cell in cells))
    print(f"\n| {' | '.join(row)} |")  # noqa: T201


@pytest.mark.study
@pytest.mark.parametrize("name", NETS)
def test_how_fast(name: str) -> None:
    """One window a call, one thread, in turns; weights are random, which costs as much."""
    torch.manual_seed(0)
    model = exported(NETS[name]().eval(), SHAPE)
    x = np.random.default_rng(0).standard_normal((64, *SHAPE)).astype(np.float32)
    made = quantize(model, x, quantizer="rtn")
    forms = {"float": model, "plain": to_qdq(made)}
    sessions: dict[str, Any] = {
        each: plain_session(whole.SerializeToString(), 1) for each, whole in forms.items()
    }
    sessions["ours"] = our_session(to_edge(made).SerializeToString(), 1)
    feed = {"x": x[:1]}
    turns = {each: turn_of(partial(held.run, None, feed)) for each, held in sessions.items()}
    took = {each: timing.median for each, timing in take_turns(turns, FULL).items()}
    ratios = [f"{took[each] / took['ours']:.1f}" for each in forms]
    print(f"\n| {name} | {took['ours']:.0f} | {' | '.join(ratios)} |")  # noqa: T201
