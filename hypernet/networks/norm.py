"""Batch norm whose statistics are part of the weights vector."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d


class BatchNorm(nn.Module):
    """Batch norm over (windows, channels[, time]), with statistics by person.

    Source training draws several persons a batch; each is normalised by its own statistics
    (``groups`` persons, equally many windows each), so that a person's own statistics are what
    the network expects at test (AdaBN, arXiv:1603.04779). Running statistics are plain buffers,
    replaced and not written in place, so that ``torch.func.functional_call`` returns them.

    Modes: ``eval()`` uses the running statistics; ``train()`` those of the batch, and moves the
    running ones by ``momentum``; with ``adapting`` set, a mix of both that becomes the new
    running statistics, if ``keeps`` (``own`` is the share that AdaBN takes of a person's own
    statistics: ``adapt_norms``). By groups, a mix is each group's own and is not kept.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, momentum: float = 0.02, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.momentum = momentum
        self.eps = eps
        self.groups = 1
        self.own = 0.5
        self.adapting: Tensor | float | None = None
        self.keeps = True
        self.folds = False

    def extra_repr(self) -> str:
        """Name what graphs hold as a constant."""
        return f"own={self.own}"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (windows, channels) or (windows, channels, time)."""
        if self.groups > 1 and (self.training or self.adapting is not None):
            return self._by_group(x)
        mean, var = self.mean, self.var
        if self.training or self.adapting is not None:
            axes = (0, 2) if x.ndim == 3 else (0,)
            mean = x.mean(axes)
            var = (x - _spread(mean, x.ndim)).square().mean(axes)
            if self.adapting is not None:
                mean = torch.lerp(self.mean, mean, self.adapting)
                var = torch.lerp(self.var, var, self.adapting)
            self._keep(mean, var)
        scale, shift = self._factors(mean, var)
        return x * _spread(scale, x.ndim) + _spread(shift, x.ndim)

    def after(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Run a layer and then this norm.

        With ``folds``, a convolution without bias and running statistics are one convolution: the
        norm changes its few weights and not its many outputs, which is quicker, above all where
        it learns. The layers are then not called, and no hook of theirs is.
        """
        still = not self.training and self.adapting is None
        if not (self.folds and still and isinstance(layer, nn.Conv1d) and layer.bias is None):
            normed: Tensor = self(layer(x))
            return normed
        scale, shift = self._factors(self.mean, self.var)
        weight = layer.weight * scale[:, None, None]
        settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return conv1d(x, weight, shift, *settings)  # type: ignore[arg-type]

    def _factors(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(var + self.eps)
        return scale, self.bias - mean * scale

    def _keep(self, mean: Tensor, var: Tensor) -> None:
        if not self.keeps:
            return
        if self.adapting is not None:
            self.mean, self.var = mean, var
        else:
            self.mean = self.mean + self.momentum * (mean.detach() - self.mean)
            self.var = self.var + self.momentum * (var.detach() - self.var)

    def _by_group(self, x: Tensor) -> Tensor:
        grouped = x.reshape(self.groups, -1, *x.shape[1:])
        axes = (1, 3) if x.ndim == 3 else (1,)
        mean = grouped.mean(axes, keepdim=True)
        var = (grouped - mean).square().mean(axes, keepdim=True)
        if self.adapting is None:
            self._keep(mean.mean(0).flatten(), var.mean(0).flatten())
        else:
            mean = torch.lerp(_spread(self.mean, x.ndim), mean, self.adapting)
            var = torch.lerp(_spread(self.var, x.ndim), var, self.adapting)
        normal = ((grouped - mean) * torch.rsqrt(var + self.eps)).reshape(x.shape)
        return normal * _spread(self.weight, x.ndim) + _spread(self.bias, x.ndim)


def _spread(vector: Tensor, ndim: int) -> Tensor:
    return vector[:, None] if ndim == 3 else vector


def norms(module: nn.Module) -> list[BatchNorm]:
    """All batch norms of a network."""
    return [child for child in module.modules() if isinstance(child, BatchNorm)]


def set_groups(module: nn.Module, groups: int) -> None:
    """Tell every batch norm how many persons a batch holds."""
    for norm in norms(module):
        norm.groups = groups


def set_own(module: nn.Module, share: float) -> None:
    """Tell every batch norm the share of a person's own statistics that AdaBN gives it."""
    for norm in norms(module):
        norm.own = share


def adapt_norms(module: nn.Module, *, keep: bool = True) -> None:
    """Let every batch norm mix in what it sees, by its own share; ``keep``: for good."""
    for norm in norms(module):
        norm.adapting, norm.keeps = norm.own, keep


def rest_norms(module: nn.Module) -> None:
    """Undo ``adapt_norms``; what was kept stays."""
    for norm in norms(module):
        norm.adapting, norm.keeps = None, True


@contextmanager
def folded(module: nn.Module) -> Iterator[None]:
    """Let every batch norm fold into the convolution before it (``BatchNorm.after``)."""
    for norm in norms(module):
        norm.folds = True
    try:
        yield
    finally:
        for norm in norms(module):
            norm.folds = False
