"""One flat vector for all of a network's tensors, and back.

What travels, what generators make and what step graphs update is a vector; names and shapes live
here only. Parameters come first, then buffers (batch norm's running statistics). A buffer that is
not persistent is a constant: it is part of no vector, and graphs hold its value.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterSpec:
    """Names and shapes of a network's tensors, in the order of the vector.

    Attributes
    ----------
    names, shapes
        Of every tensor.
    trainable : int
        How many of them are parameters; the rest are buffers.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    trainable: int

    @classmethod
    def of(cls, module: nn.Module) -> "ParameterSpec":
        """Read a module's specification."""
        parameters = list(module.named_parameters())
        tensors = parameters + list(kept_buffers(module).items())
        return cls(
            names=tuple(name for name, _ in tensors),
            shapes=tuple(tuple(tensor.shape) for _, tensor in tensors),
            trainable=len(parameters),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def length(self) -> int:
        """Entries of the vector."""
        return sum(self.sizes)

    @property
    def trainable_length(self) -> int:
        """Entries of the vector's first part, which learns."""
        return sum(self.sizes[: self.trainable])

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Join tensors of shape ``(*batch, *shape)`` into ``(*batch, length)``.

        Raises
        ------
        ValueError
            Where a tensor is missing or its shape does not end as it should.
        """
        parts = []
        for name, shape, size in zip(self.names, self.shapes, self.sizes, strict=True):
            tensor = tensors.get(name)
            if tensor is None:
                raise ValueError(f"parameter {name!r} is missing")
            batch = tensor.shape[: tensor.ndim - len(shape)]
            if tuple(tensor.shape) != (*batch, *shape):
                raise ValueError(f"{name!r} has shape {tuple(tensor.shape)}; expected (*, {shape})")
            parts.append(tensor.reshape(*batch, size))
        return torch.cat(parts, dim=-1)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut ``(*batch, length)`` into tensors of shape ``(*batch, *shape)``.

        Raises
        ------
        ValueError
            Where the vector has another length.
        """
        if vector.shape[-1] != self.length:
            raise ValueError(f"a vector of {vector.shape[-1]} entries; expected {self.length}")
        batch = vector.shape[:-1]
        parts = torch.split(vector, list(self.sizes), dim=-1)
        return {
            name: part.reshape((*batch, *shape))
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }

    def ranges(self, wanted: Callable[[str], bool]) -> tuple[tuple[int, int], ...]:
        """Entries that belong to the tensors whose name is wanted, as joined (start, stop)."""
        found: list[tuple[int, int]] = []
        start = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            stop = start + size
            if size and wanted(name):
                if found and found[-1][1] == start:
                    found[-1] = (found[-1][0], stop)
                else:
                    found.append((start, stop))
            start = stop
        return tuple(found)


def kept_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that are part of the vector, by name."""
    constant = frozen_buffers(module)
    return {name: each for name, each in module.named_buffers() if name not in constant}


def frozen_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that are not persistent, by name: constants."""
    return {
        f"{name}.{key}".lstrip("."): child._buffers[key]
        for name, child in module.named_modules()
        for key in sorted(child._non_persistent_buffers_set)
        if child._buffers.get(key) is not None
    }


def vector_of(module: nn.Module) -> Tensor:
    """A module's parameters and buffers as one detached vector (length,)."""
    tensors = [*module.parameters(), *kept_buffers(module).values()]
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])


def load_vector(module: nn.Module, vector: Tensor) -> None:
    """Write a vector (length,) into a module's parameters and buffers."""
    places = dict(module.named_parameters()) | kept_buffers(module)
    with torch.no_grad():
        for name, tensor in ParameterSpec.of(module).unflatten(vector).items():
            places[name].copy_(tensor)
