"""How an adapter's vector is cut into tokens: layers × (patch, rank slot)."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from hypernet.parameters import ParameterSpec


@dataclass(frozen=True)
class _Piece:
    """One factor: where its tokens lie, and how many of their entries it takes."""

    kind: str
    layer: int
    place: int
    slots: int
    patches: int
    entries: int


@dataclass(frozen=True)
class TokenPlan:
    """Every slot of every factor, in patches.

    Attributes
    ----------
    pieces : tuple
        Factors in the order of the vector.
    kinds : tuple[str, ...]
        Names of factors, sorted: each has a head of its own.
    layers, places : int
        Tokens are (layers, places); a layer with fewer tokens leaves the last places empty.
    there : (layers, places), bool
        Which are not empty.
    """

    pieces: tuple[_Piece, ...]
    kinds: tuple[str, ...]
    layers: int
    places: int
    there: Tensor

    @classmethod
    def of(cls, spec: ParameterSpec, patch: int) -> "TokenPlan":
        """Plan for an adapter's trainable factors, named ``layer.factor``."""
        layers: dict[str, int] = {}
        used: list[int] = []
        pieces = []
        for name, shape in zip(spec.names[: spec.trainable], spec.shapes, strict=False):
            where, kind = name.rpartition(".")[::2]
            layer = layers.setdefault(where, len(layers))
            if layer == len(used):
                used.append(0)
            slots, entries = shape[0], prod(shape[1:])
            patches = -(-entries // patch)
            pieces.append(_Piece(kind, layer, used[layer], slots, patches, entries))
            used[layer] += slots * patches
        there = torch.arange(max(used)) < torch.tensor(used)[:, None]
        kinds = tuple(sorted({piece.kind for piece in pieces}))
        return cls(tuple(pieces), kinds, len(used), max(used), there)

    def join(self, made: dict[str, Tensor]) -> Tensor:
        """Patches (devices, layers, places, patch) by kind → vectors (devices, length)."""
        parts = []
        for piece in self.pieces:
            stop = piece.place + piece.slots * piece.patches
            patches = made[piece.kind][:, piece.layer, piece.place : stop]
            rows = patches.reshape(len(patches), piece.slots, -1)
            parts.append(rows[..., : piece.entries].flatten(1))
        return torch.cat(parts, dim=1)
