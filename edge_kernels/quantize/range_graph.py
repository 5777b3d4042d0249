"""A float model as a graph that counts: windows → how each of its quantized values is spread.

A device runs it in ONNX Runtime, without torch, and returns counts in place of windows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_kernels.integer.net import IntNet, Ints, Levels, Product, Reals, Table
from edge_kernels.integer.qdq import Writer, write
from edge_kernels.quantize.calibrate import quantized_values, tied
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.functions import Function, Remainder
from edge_kernels.quantize.histogram import MOST_BINS, Range

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge_kernels.quantize.reader import Split

COUNTS: Final = "counts"
_OPSET: Final = 18  # ScatterElements that adds, and axes as inputs
_PREFIX: Final = "range."


def range_graph(split: Split, bounds: Sequence[Range], bins: int) -> ModelProto:
    """Return the model whose one output is ``counts`` (batch, values, bins) of each window.

    Values are `calibrate.quantized_values`, in their order; what lies outside the bounds counts in
    the first or last bin, as in `histogram.count`.

    Parameters
    ----------
    split : Split
        The float model, with its weights.
    bounds : sequence of (low, high)
        The server's, the same for all devices; see `calibrate.bounds`.
    bins : int

    Raises
    ------
    ValueError
        If there are not as many bounds as values, one of them is empty, or the bins are too few
        or too many.
    """
    from onnx import TensorProto, helper

    net = split.net
    wanted, root = quantized_values(net), tied(net)
    _check(bounds, bins, len(wanted))
    model, opset = _new_enough(split.prologue)
    graph = model.graph
    writer = _Floats(_levelled(net), opset, _PREFIX)
    write(writer, split.source, f"{_PREFIX}output")
    empty = _empty(writer, graph.input[0].name, bins)
    parts = []
    for value, (low, high) in zip(wanted, bounds, strict=True):
        alike = [writer.read(v) for v in range(len(net.shapes)) if root[v] == value]
        parts.append(_counted(writer, value, alike, (low, high, bins), empty))
    writer.make("Concat", parts, COUNTS, axis=1)
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.tensors)
    del graph.output[:], graph.value_info[:]
    shape: list[str | int | None] = ["batch", len(wanted), bins]
    graph.output.append(helper.make_tensor_value_info(COUNTS, TensorProto.FLOAT, shape))
    return model


def _new_enough(model: ModelProto) -> tuple[ModelProto, int]:
    """A copy of the model of at least the opset that counting needs, and its opset."""
    from onnx import version_converter

    version = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if version < _OPSET:
        return version_converter.convert_version(model, _OPSET), _OPSET
    return copy.deepcopy(model), int(version)


@dataclass
class _Floats(Writer):
    """Values and layers stay float."""

    floats: dict[int, str] = field(default_factory=dict)

    def quantized(self, value: int, source: str) -> None:
        """Leave a value as it is."""
        self.floats[value] = source

    def read(self, value: int) -> str:
        """Return the name of a value."""
        return self.floats[value]

    def within(self) -> set[int]:
        """Return the values of which no tensor is made: none, since all are counted."""
        return set()

    def rows(self, name: str, weight: Ints, scale: Reals, axis: int = 0) -> str:
        """Append weights as they are; return their name."""
        del scale, axis  # a network in float has none
        return self.constant(name, weight.astype(np.float32))

    def table(self, at: int, step: Table) -> str:
        """Append a function of one number, by its own operators; return its output's name."""
        assert isinstance(step, Function)
        made = {step.source: self.read(step.x)}
        for each in step.operations:
            read = [made[i] if isinstance(i, str) else self._number(at, i) for i in each.inputs]
            cast = each.name in ("Cast", "Dropout")  # all is float32 here, and nothing drops
            given = {} if cast else dict(each.given)
            made[each.output] = read[0] if cast else self.make(each.name, read, **given)
        whole = made[step.operations[-1].output]
        if isinstance(step, Remainder):
            return self.make("Sub", [whole, self.read(step.whole)])
        return whole

    def _number(self, at: int, number: float) -> str:
        if math.isnan(number):
            return ""  # a bound that is left out
        name = f"step{at}.number{len(self.tensors)}"
        return self.constant(name, np.float32(number).reshape(()))

    def product(self, at: int, step: Product) -> str:
        """Append a layer; return its output's name."""
        weight = step.weight.transpose(0, 2, 1).astype(np.float32)  # (rows, channels, kernel)
        bias = self.constant(f"step{at}.bias", step.bias.astype(np.float32))
        x, name = self.read(step.x), f"step{at}.weight"
        if step.linear:
            held = self.constant(name, weight[:, :, 0].T)
            out = self.make("Add", [self.make("MatMul", [x, held]), bias])
        else:
            out = self.make(
                "Conv",
                [x, self.constant(name, weight), bias],
                strides=[step.stride],
                dilations=[step.dilation],
                pads=[step.pad_begin, step.pad_end],
                kernel_shape=[step.weight.shape[1]],
            )
        return self.relu(out, wanted=step.relu)


def _levelled(net: FloatNet) -> IntNet:
    """The network as a writer takes it; no level of these is read."""
    levels: list[Levels | None] = [Levels(1.0, 0)] * len(net.shapes)
    return IntNet(list(net.shapes), levels, list(net.steps), net.output)


def _empty(writer: Writer, windows: str, bins: int) -> str:
    """No counts yet: (batch, bins)."""
    batch = writer.make("Shape", [windows], start=0, end=1)
    width = writer.constant("bins", np.array([bins], np.int64))
    return writer.make("ConstantOfShape", [writer.make("Concat", [batch, width], axis=0)])


def _counted(
    writer: Writer, value: int, alike: list[str], rule: tuple[float, float, int], empty: str
) -> str:
    """Counts (batch, 1, bins) of tensors that share their levels."""
    low, high, bins = rule

    def number(name: str, held: float) -> str:
        return writer.constant(f"value{value}.{name}", np.float32(held).reshape(()))

    flat = writer.constant(f"value{value}.flat", np.array([0, -1], np.int64))
    parts = [writer.make("Reshape", [each, flat]) for each in alike]
    whole = writer.make("Concat", parts, axis=1) if len(parts) > 1 else parts[0]
    above = writer.make("Sub", [whole, number("low", low)])
    place = writer.make("Mul", [above, number("per_unit", bins / (high - low))])
    place = writer.make("Clip", [place, number("first", 0.0), number("last", bins - 1)])
    place = writer.make("Cast", [place], to=7)  # int64, towards 0: from 0 on, that is down
    one = _one(writer, value)
    each = writer.make("ConstantOfShape", [writer.make("Shape", [place])], value=one)
    counts = writer.make("ScatterElements", [empty, place, each], axis=1, reduction="add")
    axis = writer.constant(f"value{value}.axis", np.array([1], np.int64))
    return writer.make("Unsqueeze", [counts, axis])


def _one(writer: Writer, value: int) -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ones(1, np.float32), f"{writer.prefix}value{value}.one")


def _check(bounds: Sequence[Range], bins: int, values: int) -> None:
    if len(bounds) != values:
        raise ValueError(f"{len(bounds)} bounds for {values} values that have levels")
    if not 2 <= bins <= MOST_BINS:
        raise ValueError(f"{bins} bins; 2 to {MOST_BINS} are possible")
    for low, high in bounds:
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"bounds from {low} to {high}; low < high is needed")
