"""One person's model after the other as plain graphs: traced and translated once for all."""

import copy
from typing import Any

from onnx import ModelProto, numpy_helper
from torch import Tensor, fx, nn
from torch.func import functional_call

from hypernet.decompositions import INFERENCE, Table
from hypernet.folding import Ahead, bake, compute_ahead, held_name
from hypernet.onnx_export import FREE, Call, Held, bare, translate, windows_like, with_table
from hypernet.parameters import ParameterSpec

_Structure = tuple[tuple[str, Any], ...]


def inference_graph(
    network: nn.Module, method: str, weights: Tensor, mean: Tensor, deviation: Tensor
) -> bytes:
    """Export one person's model; ``Inference`` is for several."""
    return Inference(network, method).baked(weights, mean, deviation)


class Inference:
    """A network's predictions: ``windows`` (batch, time, channels) → ``logits``, no other input.

    A person's weights and statistics are baked in and what follows from them is computed ahead, so
    that plain layers remain: a convolution is one ``Conv``, unlike in the graphs that learn. The
    graph is made once (a fifth of a second, seconds for the first of a process); for each further
    person only what it holds is computed.

    Parameters
    ----------
    network : nn.Module
        With ``spec`` (InputSpec); only its layout matters.
    method : str
        Its method of windows, mean and deviation that gives logits.
    """

    def __init__(self, network: nn.Module, method: str) -> None:
        self._call = Call(network, method).eval()
        self._spec = ParameterSpec.of(self._call)
        self._held = Held(self._call)
        self._windows = {"windows": windows_like(network.spec)}  # type: ignore[arg-type]
        self._traced: fx.GraphModule | None = None
        self._made: dict[_Structure, tuple[ModelProto, dict[str, str]]] = {}

    def baked(self, weights: Tensor, mean: Tensor, deviation: Tensor) -> bytes:
        """One person's graph.

        Parameters
        ----------
        weights : (length,)
            See ``hypernet.parameters``.
        mean, deviation : (features,)
            Of the person's inputs.

        Raises
        ------
        ValueError
            Where the weights have another length.
        """
        self._spec.unflatten(weights)  # says what is wrong with them
        given = (mean.detach(), deviation.detach(), weights.detach(), *self._held.values)
        values = dict(enumerate(given, len(self._windows)))
        if self._traced is not None:
            ahead = compute_ahead(self._traced, values)
            if made := self._made.get(ahead.structure()):
                return _filled(*made, ahead)
        return bytes(self._translated(values).SerializeToString(deterministic=True))

    def _translated(self, values: dict[int, Tensor]) -> ModelProto:
        """The graph as it is with these values, kept for others that branch as they do."""
        places: dict[str, str] = {}

        def translated(table: Table) -> ModelProto:
            from hypernet.tracing import exported_program, trace_graph  # as in ``onnx_export``

            self._traced = trace_graph(
                self._infer, self._windows, FREE, tuple(values.values()), table
            )
            plain = bake(copy.deepcopy(self._traced), values)
            targets = [str(node.target) for node in plain.graph.find_nodes(op="get_attr")]
            names = {id(getattr(plain, target)): target for target in targets}
            places.clear()
            program = exported_program(plain, self._windows)
            places.update((at, names[id(held)]) for at, held in program.constants.items())
            return translate(program, list(self._windows), ["logits"])

        model = bare(with_table(INFERENCE, translated))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        assert self._traced is not None
        if places.keys() <= {tensor.name for tensor in model.graph.initializer}:
            structure = compute_ahead(self._traced, values).structure()
            self._made[structure] = model, places  # else the translation has used up a value
        return model

    def _infer(self, *inputs: Tensor) -> Tensor:
        (x, mean, deviation, weights), frozen = self._held.split(inputs)
        called = {**self._spec.unflatten(weights), **frozen}
        result: Tensor = functional_call(self._call, called, (x, mean, deviation))
        return result


def _filled(model: ModelProto, places: dict[str, str], ahead: Ahead) -> bytes:
    """The graph with what was computed ahead in the places of what it was translated with."""
    computed = {held_name(node): value for node, value in ahead.known.items()}
    filled = ModelProto()
    filled.CopyFrom(model)
    for tensor in filled.graph.initializer:
        held = places.get(tensor.name)
        if held in computed:  # else a constant of the network's own code
            value = computed[held].detach().contiguous().numpy()
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return bytes(filled.SerializeToString(deterministic=True))
