"""Training steps, predictions and statistics as ONNX graphs over one flat weights vector.

A step is traced functionally in weights and optimizer state (``torch.func`` under ``make_fx``), so
that an ordinary inference session of ONNX Runtime trains. All graphs take windows in batches of
any size, and the person's input statistics.
"""

from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from hypernet.networks.inputs import InputSpec
from hypernet.networks.norm import folded, norms
from hypernet.onnx_export import Call, Held, export, windows_like
from hypernet.parameters import ParameterSpec, vector_of

Optimizer = Literal["sgd", "adam"]
MOMENTUM: Final = 0.9
BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8


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
    call = Call(network, loss).train(batch_norm == "batch")
    spec = ParameterSpec.of(call)
    held = Held(call)
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
        return export(step, {**data, **scalars, **vectors, **state}, outputs, held.values)


def forward_graph(network: nn.Module, method: str) -> bytes:
    """Export a method of windows and statistics that needs no labels: logits, errors, a report.

    Inputs: ``windows``, ``input_mean``, ``input_deviation``, ``weights``. One output.
    """
    call = Call(network, method).eval()
    spec = ParameterSpec.of(call)

    held = Held(call)

    def forward(*inputs: Tensor) -> Tensor:
        (*data, weights), frozen = held.split(inputs)
        result: Tensor = functional_call(call, {**spec.unflatten(weights), **frozen}, tuple(data))
        return result

    inputs = {**_example(network.spec, labels=False), "weights": vector_of(call)}  # type: ignore[arg-type]
    with folded(call):
        return export(forward, inputs, ["output"], held.values)


def adapt_graph(network: nn.Module, method: str = "encode") -> bytes:
    """Export AdaBN: running statistics become a mix of theirs and the windows'.

    Inputs: ``windows``, ``input_mean``, ``input_deviation``, ``weights``, ``mix`` (the share of
    the windows' own). Output: the new weights; only batch norms' buffers differ.
    """
    call = Call(network, method).eval()
    spec = ParameterSpec.of(call)

    held = Held(call)

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
    return export(adapt, {**inputs, "mix": torch.tensor(0.5)}, ["adapted"], held.values)


def update_graph(network: nn.Module, method: str) -> bytes:
    """Export a method that sets buffers from all of a person's windows and labels.

    Inputs: ``windows``, ``labels`` (−1 where there is none), ``input_mean``, ``input_deviation``,
    ``weights``. Output: the new weights; only the buffers that the method sets differ.
    """
    call = Call(network, method).eval()
    spec = ParameterSpec.of(call)

    held = Held(call)

    def update(*inputs: Tensor) -> Tensor:
        (*data, weights), frozen = held.split(inputs)
        tensors = {**spec.unflatten(weights), **frozen}
        functional_call(call, tensors, tuple(data))
        return spec.flatten(tensors)

    inputs = {**_example(network.spec, labels=True), "weights": vector_of(call)}  # type: ignore[arg-type]
    return export(update, inputs, ["updated"], held.values)


def targets_graph(network: nn.Module, method: str) -> bytes:
    """Export a method that gives numbers a window from all of a person's windows and labels.

    Inputs: as of ``update_graph``. Output: what the method returns, (windows, numbers).
    """
    call = Call(network, method).eval()
    spec = ParameterSpec.of(call)

    def teach(x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor, weights: Tensor) -> Tensor:
        result: Tensor = functional_call(call, spec.unflatten(weights), (x, y, mean, deviation))
        return result

    inputs = {**_example(network.spec, labels=True), "weights": vector_of(call)}  # type: ignore[arg-type]
    return export(teach, inputs, ["rows"])


def statistics_graph(spec: InputSpec) -> bytes:
    """Export the personal input statistics: ``windows`` → mean, deviation (features,) each."""
    example = {"windows": windows_like(spec)}

    def measure(x: Tensor) -> tuple[Tensor, Tensor]:  # make_fx cannot trace a bound method
        return spec.statistics(x)

    return export(measure, example, ["mean_of_inputs", "deviation_of_inputs"])


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
    x = windows_like(spec)
    mean, deviation = spec.statistics(x)
    inputs = {"windows": x}
    if labels:
        inputs["labels"] = torch.zeros(1, dtype=torch.int64)
    if targets:
        inputs["targets"] = torch.zeros(1, targets)
    return {**inputs, "input_mean": mean, "input_deviation": deviation}
