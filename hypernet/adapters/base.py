"""The seam of all adapters: factors change a frozen layer, for each device of a batch its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, linear

Factors = Mapping[str, Tensor]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """What a frozen 1-D convolution or linear layer looks like.

    Attributes
    ----------
    outputs, inputs : int
    kernel : int
        Taps of a convolution; 0 for a linear layer.
    stride, padding, dilation : int
        Of a convolution.
    """

    outputs: int
    inputs: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @classmethod
    def of(cls, module: nn.Module) -> "Layer":
        """Read a layer.

        Raises
        ------
        TypeError
            For anything but a linear layer or a plain 1-D convolution.
        """
        if isinstance(module, nn.Linear):
            return cls(module.out_features, module.in_features)
        if (
            not isinstance(module, nn.Conv1d)
            or module.groups > 1
            or module.padding_mode != "zeros"
            or isinstance(module.padding, str)
        ):
            raise TypeError(f"{module}: adapters take linear layers and plain 1-D convolutions")
        (kernel,), (stride,) = module.kernel_size, module.stride
        (padding,), (dilation,) = module.padding, module.dilation
        return cls(module.out_channels, module.in_channels, kernel, stride, padding, dilation)

    @property
    def taps(self) -> Shape:
        """Axes of a weight after its outputs and inputs: (kernel,), or none."""
        return (self.kernel,) if self.kernel else ()

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute the layer, with one weight for all or one for each device.

        Parameters
        ----------
        x : (devices · windows, inputs, time), or (devices · windows, …, inputs) of a linear layer
            A device's windows side by side.
        weight : ([devices,] outputs, inputs[, kernel])
            Any number of outputs and inputs.
        bias : ([devices,] outputs), optional
        """
        if weight.ndim == 2 + len(self.taps):
            if self.kernel:
                return conv1d(x, weight, bias, self.stride, self.padding, self.dilation)
            if x.ndim == 2:
                return linear(x, weight, bias)
            # Two axes: with three and a bias an exported step fixes the number of windows.
            flat = linear(x.reshape(-1, x.shape[-1]), weight, bias)
            return flat.reshape(*x.shape[:-1], len(weight))
        if bias is not None and bias.ndim == 1:
            bias = bias.expand(len(weight), -1)
        if self.kernel:
            return self._convolutions(x, weight, bias)
        rows = x.reshape(len(weight), -1, x.shape[-1])
        out = rows @ weight.mT
        if bias is not None:
            out = out + bias[:, None]
        return out.reshape(*x.shape[:-1], weight.shape[1])

    def spread(self, vector: Tensor, x: Tensor) -> Tensor:
        """Shape ([devices,] channels) so that it goes with a layer's result ``x``."""
        channels = (-1, 1) if self.kernel else (-1,)
        if vector.ndim == 1:
            return vector.reshape(channels)
        rows = vector.repeat_interleave(x.shape[0] // vector.shape[0], dim=0)
        middle = (1,) * (0 if self.kernel else x.ndim - 2)
        return rows.reshape(len(rows), *middle, *channels)

    def _convolutions(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One convolution a device, as groups of one convolution."""
        devices, outputs, inputs, kernel = weight.shape
        windows, time = x.shape[0] // devices, x.shape[2]
        side = x.reshape(devices, windows, inputs, time).transpose(0, 1)
        out = conv1d(
            side.reshape(windows, devices * inputs, time),
            weight.reshape(devices * outputs, inputs, kernel),
            None if bias is None else bias.reshape(-1),
            self.stride,
            self.padding,
            self.dilation,
            groups=devices,
        )
        split = out.reshape(windows, devices, outputs, -1).transpose(0, 1)
        return split.reshape(devices * windows, outputs, -1)


class Adapter(ABC):
    """How factors change a frozen layer. Registered under the entry points ``flwr_edge.adapter``.

    A factor of shape ``shapes[name]`` comes with or without a leading axis of devices. Its first
    axis is its *slots* (ranks), which a generator may treat as tokens of their own.

    Parameters
    ----------
    layer : Layer
    rank : int
        How much the adapter can do; 1 is the least.
    scale : float
        What the change of the weight is multiplied by.
    """

    shared: ClassVar[frozenset[str]] = frozenset()
    """Names of factors that all layers of a network have in common."""
    by_output: ClassVar[bool] = False
    """Whether a slot is an output of the layer, so that a class's can be made for that class."""

    def __init__(self, layer: Layer, rank: int = 4, scale: float = 1.0) -> None:
        if rank < 1:
            raise ValueError(f"an adapter of rank {rank}; at least 1")
        self.layer, self.rank, self.scale = layer, rank, scale

    @property
    @abstractmethod
    def shapes(self) -> dict[str, Shape]:
        """Shape of each factor, (slots, …)."""

    @abstractmethod
    def start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Factors that leave the layer as it is, from which it can learn."""

    @abstractmethod
    def merge(
        self, weight: Tensor, bias: Tensor | None, factors: Factors
    ) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the change in them, with the factors' axis of devices if any.

        Parameters
        ----------
        weight : (outputs, inputs[, kernel])
        bias : (outputs,), optional
        factors : dict of ([devices,] *shapes[name])
        """

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors) -> Tensor:
        """Compute the changed layer, each device of the batch with its own factors.

        The frozen weight is read and not written. Subclasses add the change to the frozen
        layer's result, which is cheaper than a weight for each device.

        Parameters
        ----------
        x : (devices · windows, …)
            As of ``Layer.run``.
        weight, bias, factors
            As of ``merge``.
        """
        return self.layer.run(x, *self.merge(weight, bias, factors))
