"""Constants that a graph declares by the SHA-256 of an object; see ``schemas.constants``."""

import math
import re
from dataclasses import dataclass
from typing import Final

from client.graph_kinds import FLOAT
from client.onnx_fields import ENTRY
from client.protobuf import Reading

# Of a tensor: values, and what says where they lie.
_NAME, _DIMS, _TYPE, _ENTRIES, _LOCATION = 8, 1, 2, 13, 14
_MAY_HAVE: Final = {_NAME, _DIMS, _TYPE, _ENTRIES, _LOCATION}
_EXTERNAL: Final = 1
_MOST_RANK: Final = 16
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class SharedConstant:
    """An initializer whose values are an object of their own.

    Attributes
    ----------
    name : str
        In the graph.
    dims : tuple[int, ...]
    sha256 : str
        The object's name.
    axes : tuple[int, ...]
        The constant's axes in the order in which the object holds them.
    """

    name: str
    dims: tuple[int, ...]
    sha256: str
    axes: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of the values."""
        return 4 * math.prod(self.dims)


def shared_constant(tensor: Reading, what: str) -> SharedConstant:
    """Read an initializer whose values are elsewhere.

    Raises
    ------
    ValueError
        Where it declares anything else than one object by its SHA-256.
    """
    name = tensor.text(_NAME)
    what = f"{what} {name}"
    if tensor.integer(_LOCATION) != _EXTERNAL or not tensor.only(_MAY_HAVE):
        raise ValueError(f"{what}: values of its own, and of an object; it may have one of them")
    if (kind := tensor.integer(_TYPE)) != FLOAT:
        raise ValueError(f"{what}: an object of type {kind} of ONNX; only float32 are shared")
    dims = tensor.integers(_DIMS, _MOST_RANK)
    if min(dims, default=0) < 1:
        raise ValueError(f"{what}: an object for the shape {dims}; sizes begin at 1")
    entries = [Reading(e, what, ENTRY, tensor.budget) for e in tensor.messages(_ENTRIES)]
    told = {entry.text(1): entry.text(2) for entry in entries}
    location = told.get("location", "")
    if len(entries) != 2 or set(told) != {"location", "axes"} or not _SHA256.fullmatch(location):
        raise ValueError(
            f"{what}: its data lie in another file; that is not allowed, but an object's SHA-256 "
            "as location, and axes"
        )
    axes = told["axes"].split(",")
    if sorted(axes) != sorted(map(str, range(len(dims)))):
        raise ValueError(f"{what}: axes {told['axes']}; expected each of 0 to {len(dims) - 1} once")
    return SharedConstant(name, tuple(dims), location, tuple(map(int, axes)))
