"""Functions of one number, as ONNX spells them: GELU in three forms, SiLU, tanh and the like."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_kernels.integer.net import Levels, Table
from edge_kernels.quantize.graph import Graph, attributes

if TYPE_CHECKING:
    from onnx import NodeProto

NO_VALUES: Final[NDArray[np.uint8]] = np.zeros(0, np.uint8)
_LINEAR: Final = ("Add", "Sub", "Mul", "Div", "Neg", "Identity", "Relu", "Cast", "Dropout")
_FLOATS: Final = (1, 10, 11, 16)  # onnx.TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16


@dataclass(frozen=True)
class Operation:
    """A node of such a function.

    Attributes
    ----------
    name : str
        ONNX's operator.
    output : str
    inputs : tuple of str or float
        Tensors' names, and numbers.
    given : tuple of (str, value)
        Attributes.
    """

    name: str
    output: str
    inputs: tuple[str | float, ...]
    given: tuple[tuple[str, Any], ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensors."""
        return tuple(each for each in self.inputs if isinstance(each, str))


@dataclass(frozen=True)
class Function(Table):
    """A step of a `FloatNet`: any function of one number; in integers it becomes a `Table`.

    Attributes
    ----------
    x : int
    values
        Empty.
    source : str
        What the operations call x.
    operations : tuple of Operation
        The last makes the result.
    """

    source: str
    operations: tuple[Operation, ...]

    def of(self, x: Tensor) -> Tensor:
        """Return the function of every element."""
        made = {self.source: x}
        for each in self.operations:
            values = [made[i] if isinstance(i, str) else i for i in each.inputs]
            made[each.output] = _RUNS[each.name](dict(each.given), *values)
        return made[self.operations[-1].output]

    def reals(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """As `of`, of float64."""
        with torch.no_grad():
            out: NDArray[np.float64] = self.of(torch.from_numpy(x)).numpy()
        return out


@dataclass(frozen=True)
class Remainder(Function):
    """What rounding a function's result to its levels leaves off; in float that is nothing.

    Attributes
    ----------
    whole : int
        The value that holds the result.
    """

    whole: int

    def left(self, x: NDArray[np.float64], levels: Levels) -> NDArray[np.float64]:
        """Return what is left of the function of numbers where the whole has such levels."""
        exact = self.reals(x)
        q = np.clip(np.rint(exact / levels.scale) + levels.zero, 0, levels.top)
        left: NDArray[np.float64] = exact - levels.scale * (q - levels.zero)
        return left


def operation(graph: Graph, node: NodeProto) -> Operation | None:
    """Return a node as a part of a function; None: it is none, or reads more than numbers."""
    if node.op_type not in _RUNS or node.domain not in ("", "ai.onnx"):
        return None
    given = attributes(node)
    if node.op_type == "Cast" and given["to"] not in _FLOATS:
        return None  # it rounds
    inputs: list[str | float] = []
    for name in node.input[:1] if node.op_type in ("Dropout", "Cast") else node.input:
        known = graph.constant(name) if name else None
        deep = known is not None and known.ndim > 1 and node.op_type != "PRelu"  # adds no axis
        if known is not None and (known.size != 1 or deep):
            return None
        if name:
            inputs.append(name if known is None else float(known.reshape(())))
        else:
            inputs.append(math.nan)  # a bound that is left out
    made = Operation(node.op_type, node.output[0], tuple(inputs), tuple(given.items()))
    return made if made.reads else None


def bends(made: Operation) -> bool:
    """Whether a node makes its function more than what layers do themselves: scale, add, ReLU."""
    if made.name != "Clip":
        return made.name not in _LINEAR
    given = dict(made.given)
    low, high = (*made.inputs[1:], math.nan, math.nan)[:2]
    low, high = given.get("min", low), given.get("max", high)
    return not (math.isnan(high) and (math.isnan(low) or low == 0))


Given = dict[str, Any]


def _gelu(given: Given, x: Tensor) -> Tensor:
    how = given.get("approximate", b"none")
    return functional.gelu(x, approximate=how.decode() if isinstance(how, bytes) else how)


def _clip(given: Given, x: Tensor, low: float = math.nan, high: float = math.nan) -> Tensor:
    bounds = given.get("min", low), given.get("max", high)
    least, most = (None if math.isnan(each) else each for each in bounds)
    return x if least is None and most is None else x.clamp(least, most)


def _silu(given: Given, x: Tensor) -> Tensor:
    return x * torch.sigmoid(given.get("alpha", 1.0) * x)


_RUNS: Final[dict[str, Callable[..., Tensor]]] = {
    "Abs": lambda _, x: abs(x),
    "Add": lambda _, x, y: x + y,
    "Cast": lambda _, x: x,
    "Celu": lambda given, x: functional.celu(x, given.get("alpha", 1.0)),
    "Clip": _clip,
    "Div": lambda _, x, y: x / y,
    "Dropout": lambda _, x: x,
    "Elu": lambda given, x: functional.elu(x, given.get("alpha", 1.0)),
    "Erf": lambda _, x: torch.erf(x),
    "Exp": lambda _, x: torch.exp(x),
    "Gelu": _gelu,
    "HardSigmoid": lambda given, x: (given.get("alpha", 0.2) * x + given.get("beta", 0.5)).clamp(
        0, 1
    ),
    "HardSwish": lambda _, x: functional.hardswish(x),
    "Identity": lambda _, x: x,
    "LeakyRelu": lambda given, x: functional.leaky_relu(x, given.get("alpha", 0.01)),
    "Max": lambda _, *each: reduce(torch.maximum, map(torch.as_tensor, each)),
    "Min": lambda _, *each: reduce(torch.minimum, map(torch.as_tensor, each)),
    "Mish": lambda _, x: functional.mish(x),
    "Mul": lambda _, x, y: x * y,
    "Neg": lambda _, x: -x,
    "PRelu": lambda _, x, slope: functional.leaky_relu(x, slope),
    "Pow": lambda _, x, y: x**y,
    "Relu": lambda _, x: functional.relu(x),
    "Selu": lambda given, x: (
        given.get("gamma", 1.0507009873554805) * functional.elu(x, given.get("alpha", 1.67326319))
    ),
    "Sigmoid": lambda _, x: torch.sigmoid(x),
    "Softplus": lambda _, x: functional.softplus(x, threshold=50),
    "Softsign": lambda _, x: functional.softsign(x),
    "Sub": lambda _, x, y: x - y,
    "Swish": _silu,
    "Tanh": lambda _, x: torch.tanh(x),
}
