"""Training steps, predictions and statistics as ONNX graphs over one flat weights vector.

A step is traced functionally in weights and optimizer state (``torch.func`` under ``make_fx``), so
that an ordinary inference session of ONNX Runtime trains. All graphs take windows in batches of
any size, and the person's input statistics.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any, Final, Literal

import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.func import functional_call, grad_and_value

from hypernet.decompositions import INFERENCE, TABLE, Table
from hypernet.networks.inputs import InputSpec
from hypernet.networks.norm import folded, norms
from hypernet.onnx_registry import lacking, made_once
from hypernet.parameters import ParameterSpec, frozen_buffers, vector_of
from hypernet.translations import leave_out_what_is_there_twice, name_windows, translations

Optimizer = Literal["sgd", "adam"]
MOMENTUM: Final = 0.9
BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8
_OPSET: Final = 18  # what the exporter writes by itself; a later one it converts to
_FREE: Final = ("windows", "labels", "targets")  # inputs whose first axis is free


class _Call(nn.Module):
    """A network's method as a module's ``forward``, so that ``functional_call`` reaches it."""

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, *args: Tensor) -> Tensor:
        result: Tensor = getattr(self.network, self.method)(*args)
        return result


class _Held:
    """A network's constants as one further input of the trace, to be baked in.

    One flat vector, as weights are: an axis as long as the example has windows would be taken for
    the windows' own.
    """

    def __init__(self, call: _Call) -> None:
        frozen = frozen_buffers(call)
        shapes = tuple(tuple(each.shape) for each in frozen.values())
        self.spec = ParameterSpec(tuple(frozen), shapes, 0)
        self.values = (self.spec.flatten(frozen),) if frozen else ()

    def split(self, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """A trace's inputs: the graph's own, and the constants by name."""
        if not self.values:
            return inputs, {}
        return inputs[:-1], self.spec.unflatten(inputs[-1])


def step_graph(
    network: nn.Module,
    loss: str,
    optimizer: Optimizer = "sgd",
    *,
    labels: bool,
    targets: int = 0,
    batch_norm: Literal["batch", "frozen"] = "frozen",
) -> bytes:
    """Export one optimizer step.

    Inputs: ``windows``, ``labels`` and ``targets`` (where the loss reads them), ``input_mean``,
    ``input_deviation``, ``learning_rate``, ``proximal``, ``anchor`` and ``mask`` (trainable,),
    ``weights`` (length,), ``state``. Outputs: loss, weights, state. The gradient is that of
    loss + proximal/2 ‖w − anchor‖², times the mask.

    Parameters
    ----------
    network : nn.Module
        With ``spec`` (InputSpec).
    loss : str
        Its method that gives a scalar.
    optimizer : {"sgd", "adam"}
        SGD with momentum 0.9, or Adam; the state starts at zero.
    labels : bool
        Whether the loss reads labels.
    targets : int
        Classes of the soft targets (windows, classes) that the loss reads; 0 for none.
    batch_norm : {"batch", "frozen"}
        Normalise by the batch and move the running statistics, or use these as they are.
    """
    call = _Call(network, loss).train(batch_norm == "batch")
    spec = ParameterSpec.of(call)
    held = _Held(call)
    names = spec.names[: spec.trainable]
    size = spec.trainable_length

    def step(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own, frozen = held.split(inputs)
        *data, rate, proximal, anchor, mask, weights, state = own
        tensors = spec.unflatten(weights)
        learned = {name: tensors[name] for name in names}
        rest = {name: tensor for name, tensor in tensors.items() if name not in learned}

        def objective(parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            called = {**parameters, **rest, **frozen}
            value = functional_call(call, called, tuple(data))
            return value, {name: called[name] for name in rest}

        gradients, (value, moved) = grad_and_value(objective, has_aux=True)(learned)
        gradient = torch.cat([gradients[name].reshape(-1) for name in names])
        vector = weights[:size]
        gradient = mask * (gradient + proximal * (vector - anchor))
        update, state = _UPDATES[optimizer](gradient, state)
        buffers = [moved[name].reshape(-1) for name in rest]
        return value, torch.cat([vector - rate * mask * update, *buffers]), state

    data = _example(network.spec, labels=labels, targets=targets)  # type: ignore[arg-type]
    scalars = {"learning_rate": torch.tensor(0.1), "proximal": torch.tensor(0.0)}
    vectors = {"anchor": torch.zeros(size), "mask": torch.ones(size), "weights": vector_of(call)}
    state = {"state": torch.zeros(2 * size + 1 if optimizer == "adam" else size)}
    outputs = ["loss", "new_weights", "new_state"]
    with folded(call):
        return _export(step, {**data, **scalars, **vectors, **state}, outputs, held.values)


def forward_graph(network: nn.Module, method: str) -> bytes:
    """Export a method of windows and statistics that needs no labels: logits, errors, a report.

    Inputs: ``windows``, ``input_mean``, ``input_deviation``, ``weights``. One output.
    """
    call = _Call(network, method).eval()
    spec = ParameterSpec.of(call)

    held = _Held(call)

    def forward(*inputs: Tensor) -> Tensor:
        (*data, weights), frozen = held.split(inputs)
        result: Tensor = functional_call(call, {**spec.unflatten(weights), **frozen}, tuple(data))
        return result

    inputs = {**_example(network.spec, labels=False), "weights": vector_of(call)}  # type: ignore[arg-type]
    with folded(call):
        return _export(forward, inputs, ["output"], held.values)


def adapt_graph(network: nn.Module, method: str = "encode") -> bytes:
    """Export AdaBN: running statistics become a mix of theirs and the windows'.

    Inputs: ``windows``, ``input_mean``, ``input_deviation``, ``weights``, ``mix`` (the share of
    the windows' own). Output: the new weights; only batch norms' buffers differ.
    """
    call = _Call(network, method).eval()
    spec = ParameterSpec.of(call)

    held = _Held(call)

    def adapt(*inputs: Tensor) -> Tensor:
        (*data, weights, mix), frozen = held.split(inputs)
        called = {**spec.unflatten(weights), **frozen}
        for norm in norms(call):
            norm.adapting = mix
        try:
            functional_call(call, called, tuple(data))
        finally:
            for norm in norms(call):
                norm.adapting = None
        return spec.flatten(called)

    inputs = {**_example(network.spec, labels=False), "weights": vector_of(call)}  # type: ignore[arg-type]
    return _export(adapt, {**inputs, "mix": torch.tensor(0.5)}, ["adapted"], held.values)


def update_graph(network: nn.Module, method: str) -> bytes:
    """Export a method that sets buffers from all of a person's windows and labels.

    Inputs: ``windows``, ``labels`` (−1 where there is none), ``input_mean``, ``input_deviation``,
    ``weights``. Output: the new weights; only the buffers that the method sets differ.
    """
    call = _Call(network, method).eval()
    spec = ParameterSpec.of(call)

    held = _Held(call)

    def update(*inputs: Tensor) -> Tensor:
        (*data, weights), frozen = held.split(inputs)
        tensors = {**spec.unflatten(weights), **frozen}
        functional_call(call, tensors, tuple(data))
        return spec.flatten(tensors)

    inputs = {**_example(network.spec, labels=True), "weights": vector_of(call)}  # type: ignore[arg-type]
    return _export(update, inputs, ["updated"], held.values)


def targets_graph(network: nn.Module, method: str) -> bytes:
    """Export a method that gives numbers a window from all of a person's windows and labels.

    Inputs: as of ``update_graph``. Output: what the method returns, (windows, numbers).
    """
    call = _Call(network, method).eval()
    spec = ParameterSpec.of(call)

    def teach(x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor, weights: Tensor) -> Tensor:
        result: Tensor = functional_call(call, spec.unflatten(weights), (x, y, mean, deviation))
        return result

    inputs = {**_example(network.spec, labels=True), "weights": vector_of(call)}  # type: ignore[arg-type]
    return _export(teach, inputs, ["rows"])


def statistics_graph(spec: InputSpec) -> bytes:
    """Export the personal input statistics: ``windows`` → mean, deviation (features,) each."""
    example = {"windows": _windows(spec)}

    def measure(x: Tensor) -> tuple[Tensor, Tensor]:  # make_fx cannot trace a bound method
        return spec.statistics(x)

    return _export(measure, example, ["mean_of_inputs", "deviation_of_inputs"])


def inference_graph(
    network: nn.Module, method: str, weights: Tensor, mean: Tensor, deviation: Tensor
) -> bytes:
    """Export one person's model: ``windows`` (batch, time, channels) → ``logits``, no other input.

    Weights and statistics are baked in and what follows from them is computed ahead, so that
    plain layers remain: a convolution is one ``Conv``, unlike in the graphs that learn.

    Parameters
    ----------
    network : nn.Module
        With ``spec`` (InputSpec); only its layout matters.
    method : str
        Its method of windows, mean and deviation that gives logits.
    weights : (length,)
        See ``hypernet.parameters``.
    mean, deviation : (features,)
        Of the person's inputs.

    Raises
    ------
    ValueError
        Where the weights have another length.
    """
    call = _Call(network, method).eval()
    spec = ParameterSpec.of(call)
    spec.unflatten(weights)  # says what is wrong with them

    held = _Held(call)

    def infer(*inputs: Tensor) -> Tensor:
        (x, mean, deviation, weights), frozen = held.split(inputs)
        called = {**spec.unflatten(weights), **frozen}
        result: Tensor = functional_call(call, called, (x, mean, deviation))
        return result

    windows = {"windows": _windows(network.spec)}  # type: ignore[arg-type]
    baked = (mean.detach(), deviation.detach(), weights.detach(), *held.values)
    model = onnx.load_from_string(_export(infer, windows, ["logits"], baked, INFERENCE))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return bytes(model.SerializeToString(deterministic=True))


def _sgd(gradient: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    velocity = MOMENTUM * state + gradient
    return velocity, velocity


def _adam(gradient: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    size = gradient.shape[0]
    first = BETAS[0] * state[:size] + (1 - BETAS[0]) * gradient
    second = BETAS[1] * state[size : 2 * size] + (1 - BETAS[1]) * gradient.square()
    count = state[2 * size :] + 1
    unbiased = first / (1 - BETAS[0] ** count)
    scale = (second / (1 - BETAS[1] ** count)).sqrt() + EPSILON
    return unbiased / scale, torch.cat([first, second, count])


_UPDATES: Final[dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "sgd": _sgd,
    "adam": _adam,
}


def _example(spec: InputSpec, *, labels: bool, targets: int = 0) -> dict[str, Tensor]:
    x = _windows(spec)
    mean, deviation = spec.statistics(x)
    inputs = {"windows": x}
    if labels:
        inputs["labels"] = torch.zeros(1, dtype=torch.int64)
    if targets:
        inputs["targets"] = torch.zeros(1, targets)
    return {**inputs, "input_mean": mean, "input_deviation": deviation}


def _windows(spec: InputSpec) -> Tensor:
    """A window to trace with: its shape alone is read, but for how many there are."""
    return torch.zeros(1, spec.time, spec.channels)


def _export(
    function: Callable[..., Any],
    inputs: dict[str, Tensor],
    outputs: list[str],
    baked: tuple[Tensor, ...] = (),
    table: Table = TABLE,
) -> bytes:
    """Trace and translate; ``baked`` are further arguments, which become constants."""
    from hypernet.tracing import trace  # seconds of import, for nothing where graphs are kept

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            exported = trace(function, inputs, _FREE, baked, table)
            try:
                model = _translate(exported, list(inputs), outputs)
            except torch.onnx.OnnxExporterError:  # an operator that the exporter lacks
                table = {**lacking(_OPSET), **table}
                exported = trace(function, inputs, _FREE, baked, table)
                model = _translate(exported, list(inputs), outputs)
            return _bare(model)
        finally:
            logging.disable(quiet)


def _translate(exported: ExportedProgram, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """To ONNX as it is, since make_fx decomposed it: once more is half of an export's time."""
    exported.run_decompositions = lambda *_, **__: exported
    with made_once():
        program = torch.onnx.export(
            exported,
            dynamo=True,
            verbose=False,
            optimize=False,  # its rules fold "+ 1e-8" away as "+ 0"; ONNX Runtime has its own
            input_names=inputs,
            output_names=outputs,
            opset_version=_OPSET,
            custom_translation_table=translations(),
        )
    if program is None:
        raise RuntimeError("the exporter gave no program")
    leave_out_what_is_there_twice(program.model)
    return program.model_proto


def _bare(model: onnx.ModelProto) -> bytes:
    """Drop what a session does not read: traces, names of sources and of machines."""
    name_windows(model)
    model.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    for part in (*model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return bytes(model.SerializeToString(deterministic=True))
