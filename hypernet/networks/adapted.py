"""A classifier whose weights are frozen and whose adapter is all that travels and learns."""

import copy
import hashlib
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from hypernet.adapters import Adapter, Layer, adapter_class
from hypernet.adapters.base import Factors
from hypernet.condition import Conditioner
from hypernet.networks.classifier import Classifier
from hypernet.networks.losses import cross_entropy, log_softmax
from hypernet.networks.norm import adapt_norms, set_groups

FLOOR: Final = 0.2  # of the mean posterior, divided by the classes
Layers = Literal["head", "last", "all"]
SOME: Final[dict[str, tuple[str, ...]]] = {
    "head": ("head",),
    "last": ("encoder.linear", "head"),
}
"""Which layers an adapter sits in; all that it can where none are named."""


class Adapted(nn.Module):
    """A frozen layer with an adapter; its factors are the module's parameters.

    With factors that have an axis of devices (through ``torch.func.functional_call``) each device
    of the batch has its own.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, layer: nn.Conv1d | nn.Linear, adapter: Adapter, factors: dict[str, Tensor]
    ) -> None:
        super().__init__()
        self.adapter = adapter
        bias = None if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("weight", layer.weight.detach().clone(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        for name, factor in factors.items():
            self.register_parameter(name, _parameter(factor))

    def forward(self, x: Tensor) -> Tensor:
        """Run the changed layer."""
        factors: Factors = {name: getattr(self, name) for name in self.adapter.shapes}
        if all(factors[name].ndim == len(shape) for name, shape in self.adapter.shapes.items()):
            return self.adapter.layer.run(x, *self.adapter.merge(self.weight, self.bias, factors))
        return self.adapter.apply(x, self.weight, self.bias, factors)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the adapter in them."""
        factors = {name: getattr(self, name) for name in self.adapter.shapes}
        return self.adapter.merge(self.weight, self.bias, factors)

    def extra_repr(self) -> str:
        """Name the adapter."""
        adapter = self.adapter
        return f"{type(adapter).__name__}, {adapter.layer}, {adapter.rank}, {adapter.scale}"


class AdaptedClassifier(nn.Module):
    """Frozen encoder and head with an adapter in the last two layers, or in every one.

    Its vector (``ParameterSpec``) is the adapter and the batch norms' running statistics. The
    backbone is no part of it: exported graphs hold it as constants, so that a graph's digest names
    the backbone too, and an adapter for another one cannot meet it.

    Parameters
    ----------
    backbone : Classifier
        Trained; copied.
    adapter : str
        See ``adapter_class``.
    rank, scale
        Of the adapter.
    conditioner : Conditioner
        How a set of windows becomes a condition.
    seed : int
        Of the adapter's start, which changes nothing.
    layers : str
        ``head``, ``last`` (the encoder's linear layer and the head) or ``all``.
    """

    plain: Any
    body: Any
    conditioner: Any

    def __init__(
        self,
        backbone: Classifier,
        adapter: str,
        rank: int,
        scale: float,
        conditioner: Conditioner,
        seed: int = 0,
        layers: Layers = "all",
    ) -> None:
        super().__init__()
        self.spec, self.layers = backbone.spec, layers
        self.version = version_of(backbone)
        self.plain = _constant(copy.deepcopy(backbone).eval(), statistics=True)
        self.conditioner = _constant(copy.deepcopy(conditioner), statistics=True)
        body = copy.deepcopy(backbone).eval()
        generator = torch.Generator().manual_seed(seed)
        _adapt_layers(body, layers, adapter_class(adapter), rank, scale, generator)
        self.body = _constant(body, statistics=False)

    def encode(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows (windows, time, channels) → (windows, latent), with the adapter."""
        z: Tensor = self.body.encoder(self.spec.normalise(x, mean, deviation))
        return z

    def forward(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows → logits (windows, classes)."""
        logits: Tensor = self.body.head(self.encode(x, mean, deviation))
        return logits

    def logits(self, x: Tensor) -> Tensor:
        """Inputs (windows, features, time), normalised → logits; for ``functional_call``."""
        logits: Tensor = self.body.head(self.body.encoder(x))
        return logits

    def tail(self, pooled: Tensor) -> Tensor:
        """What the encoder's linear layer gets (windows, width) → logits."""
        logits: Tensor = self.body.head(self.body.encoder.project(pooled))
        return logits

    def merged(self) -> dict[str, Tensor]:
        """The backbone's tensors that the adapter changes, by the backbone's names, changed."""
        found: dict[str, Tensor] = {}
        for name, child in self.body.named_modules():
            if isinstance(child, Adapted):
                weight, bias = child.merged()
                found[f"{name}.weight"] = weight
                if bias is not None:
                    found[f"{name}.bias"] = bias
        return found

    def condition(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows → condition (tokens, channels), of the frozen backbone: no adapter in it."""
        return self.condition_of(self.spec.normalise(x, mean, deviation))

    def condition_of(
        self, x: Tensor, devices: int = 0, conditioner: Conditioner | None = None
    ) -> Tensor:
        """Normalised inputs (devices · windows, features, time) → ([devices,] tokens, channels).

        Parameters
        ----------
        x, devices
            A device's windows side by side; statistics are mixed with each device's own (AdaBN).
            With 0, all windows are of one device, and the result has no axis of devices.
        conditioner : Conditioner, optional
            One that learns, in place of the frozen copy.
        """
        states, posteriors = self.seen(x, devices)
        layers = [_by_device(each, devices) for each in states]
        chosen = self.conditioner if conditioner is None else conditioner
        tokens: Tensor = chosen(layers, _by_device(posteriors, devices))
        return tokens

    def seen(self, x: Tensor, devices: int = 0) -> tuple[list[Tensor], Tensor]:
        """Each layer's states over time's mean, and the posteriors; see ``condition_of``."""
        set_groups(self.plain, max(1, devices))
        adapt_norms(self.plain, keep=False)
        states = self.plain.encoder.states(x)
        posteriors = softmax(self.plain.head(states[-1]), 1)
        return [state.mean(2) if state.ndim == 3 else state for state in states], posteriors

    def classification_loss(self, x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Cross-entropy with class indices y (windows,); a scalar."""
        return cross_entropy(self(x, mean, deviation), y)

    def consistency_loss(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Neighbouring windows, which are mostly of one class, teach each other; a scalar.

        ``x`` is in the order of time. A window's target is the mean posterior of itself and its
        neighbours; the loss is on logits + log(mean posterior + .2/classes), so that the windows'
        mix of classes is not learned.
        """
        logits = self(x, mean, deviation)
        known = softmax(logits, 1).detach()
        # By index: slices of one less would bind an exported step to batches of other lengths.
        rows = torch.arange(known.shape[0])
        before, after = (rows - 1).clamp(min=0), (rows + 1).clamp(max=known.shape[0] - 1)
        around = known[before] + known + known[after]
        mix = (known.mean(0) + FLOOR / known.shape[1]).log()
        return -(around / 3 * log_softmax(logits + mix)).sum(1).mean()

    def extra_repr(self) -> str:
        """Name the backbone, of which graphs are made."""
        return f"backbone={self.version}"


def _by_device(x: Tensor, devices: int) -> Tensor:
    """(devices · windows, …) → (devices, windows, …)."""
    return x.reshape(devices, -1, *x.shape[1:]) if devices else x


def version_of(backbone: nn.Module) -> str:
    """SHA-256 of a network's names, shapes and values: adapters are made for one version.

    With its norms' shares of AdaBN (``repr``), on which its conditions depend too.
    """
    digest = hashlib.sha256(repr(backbone).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().numpy()).data)
    return digest.hexdigest()


def _constant(module: nn.Module, *, statistics: bool) -> nn.Module:
    """Make constants of a module's parameters, but not of adapters; of its statistics if asked."""
    for child in module.modules():
        if isinstance(child, Adapted):
            continue
        for name, parameter in list(child._parameters.items()):
            if parameter is not None:
                del child._parameters[name]
                child.register_buffer(name, parameter.detach(), persistent=False)
        if statistics:
            child._non_persistent_buffers_set.update(child._buffers)
    return module


def _adapt_layers(
    body: nn.Module,
    layers: Layers,
    kind: type[Adapter],
    rank: int,
    scale: float,
    generator: torch.Generator,
) -> None:
    """Put an adapter into convolutions and linear layers; shared factors are one tensor."""
    shared: dict[str, Tensor] = {}
    for name, child in list(body.named_modules()):
        if not isinstance(child, nn.Conv1d | nn.Linear) or name not in SOME.get(layers, (name,)):
            continue
        adapter = kind(Layer.of(child), rank, scale)
        factors = adapter.start(generator)
        for common in kind.shared:
            factors[common] = shared.setdefault(common, _parameter(factors[common]))
        parent, _, key = name.rpartition(".")
        setattr(body.get_submodule(parent), key, Adapted(child, adapter, factors))


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
