"""What a model's tensors are shaped like: it runs twice, so that no form of symbols matters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.integer.net import FREE, Shape, Step
from edge_kernels.quantize.graph import Graph, Unserved, depending

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]
_FEW: Final = 8
_SIZES: Final = ((2, 5), (3, 7))  # batch, and any other free axis


@dataclass(frozen=True)
class Form:
    """Nodes that are one step.

    Attributes
    ----------
    output : str
        The tensor that they make.
    sources : tuple of str
        What they read.
    nodes : frozenset of int
    step : Step
        Its values' numbers mean nothing.
    """

    output: str
    sources: tuple[str, ...]
    nodes: frozenset[int]
    step: Step


@dataclass
class Observed:
    """Shapes of every tensor, in two runs.

    Attributes
    ----------
    shapes : list of dict of str → tuple
        Of each run.
    small : dict of str → array
        What tensors of few numbers held that were the same in both.
    alike : dict of str → array
        What tensors hold of each sample that depend on no sample: without the batch.
    """

    shapes: list[dict[str, Shape]] = field(default_factory=lambda: [{}, {}])
    small: dict[str, Array] = field(default_factory=dict)
    alike: dict[str, Array] = field(default_factory=dict)

    def logical(self, name: str) -> Shape | None:
        """Return a tensor's shape without the batch, `FREE` where it differs; None: it has none."""
        first, second = (each.get(name, ()) for each in self.shapes)
        if len(first) != len(second) or len(first) < 2 or first[0] != self.batch(0):
            return None
        return tuple(a if a == b else FREE for a, b in zip(first[1:], second[1:], strict=True))

    def batch(self, run: int) -> int:
        """Return how many samples a run had."""
        return int(self.shapes[run][""][0])

    def concrete(self, name: str) -> Shape:
        """Return the first run's shape.

        Raises
        ------
        Unserved
            Where the tensor is none that was seen.
        """
        if name not in self.shapes[0]:
            raise Unserved(f"the shape of {name!r} is not known")
        return self.shapes[0][name]


def _few(results: dict[str, Array]) -> dict[str, Array]:
    return {name: value for name, value in results.items() if np.size(value) <= _FEW}


def _rows(results: dict[str, Array], batch: int) -> dict[str, Array]:
    """What tensors hold whose samples are all alike: of one of them."""
    whole = {n: v for n, v in results.items() if v.ndim > 1 and v.shape[0] == batch}
    return {n: v[0] for n, v in whole.items() if v.dtype == np.float32 and (v == v[:1]).all()}


def _same(before: dict[str, Array], found: dict[str, Array], run: int) -> dict[str, Array]:
    """What a run held; of the second what the first did, too."""
    if run == 0:
        return found
    return {n: v for n, v in found.items() if n in before and np.array_equal(before[n], v)}


def observe(model: ModelProto) -> Observed:
    """Run a model of one input on zeros twice, and return the shapes of all tensors.

    Raises
    ------
    ValueError
        Where ONNX Runtime cannot run it.
    """
    import onnxruntime
    from onnx import ModelProto as Model
    from onnx import ValueInfoProto, helper

    whole = Model()
    whole.CopyFrom(model)
    known = {value.name for value in whole.graph.output}
    names = [name for node in whole.graph.node for name in node.output if name]
    whole.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    (given,) = whole.graph.input
    kind = helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    dims = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    made, numbers = Observed(), depending(Graph(model.graph), given.name)
    try:
        session = onnxruntime.InferenceSession(
            whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for run, (batch, length) in enumerate(_SIZES):
            shape = [dims[0] or batch, *(dim or length for dim in dims[1:])]
            x = np.zeros(shape, kind)
            outputs = [value.name for value in session.get_outputs()]
            results = session.run(outputs, {given.name: x})
            seen = made.shapes[run]
            seen.update({n: np.shape(r) for n, r in zip(outputs, results, strict=True)})
            seen[given.name] = seen[""] = tuple(shape)
            found = dict(zip(outputs, results, strict=True))
            made.small = _same(made.small, _few(found), run)
            rows = _rows({n: v for n, v in found.items() if n not in numbers}, shape[0])
            made.alike = _same(made.alike, rows, run)
    except Exception as error:  # ONNX Runtime's own have no common class
        raise ValueError(
            f"ONNX Runtime cannot run the model, so that its shapes stay unknown: {error}"
        ) from error
    return made
