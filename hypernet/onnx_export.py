"""A function of tensors as an ONNX graph: traced, translated, and bare of what no session reads."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hypernet.decompositions import TABLE, Table
from hypernet.networks.inputs import InputSpec
from hypernet.onnx_registry import as_it_is, lacking, made_once
from hypernet.parameters import ParameterSpec, frozen_buffers
from hypernet.translations import leave_out_what_is_there_twice, name_windows, translations

FREE: Final = ("windows", "labels", "targets")  # inputs whose first axis is free
_OPSET: Final = 18  # what the exporter writes by itself; a later one it converts to


class Call(nn.Module):
    """A network's method as a module's ``forward``, so that ``functional_call`` reaches it."""

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, *args: Tensor) -> Tensor:
        """Call the method."""
        result: Tensor = getattr(self.network, self.method)(*args)
        return result


class Held:
    """A network's constants as one further input of the trace, to be baked in.

    One flat vector, as weights are: an axis as long as the example has windows would be taken for
    the windows' own.
    """

    def __init__(self, call: Call) -> None:
        frozen = frozen_buffers(call)
        shapes = tuple(tuple(each.shape) for each in frozen.values())
        self.spec = ParameterSpec(tuple(frozen), shapes, 0)
        self.values = (self.spec.flatten(frozen),) if frozen else ()

    def split(self, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """A trace's inputs: the graph's own, and the constants by name."""
        if not self.values:
            return inputs, {}
        return inputs[:-1], self.spec.unflatten(inputs[-1])


def windows_like(spec: InputSpec) -> Tensor:
    """A window to trace with: its shape alone is read, but for how many there are."""
    return torch.zeros(1, spec.time, spec.channels)


def export(
    function: Callable[..., Any],
    inputs: dict[str, Tensor],
    outputs: list[str],
    baked: tuple[Tensor, ...] = (),
) -> bytes:
    """Trace and translate; ``baked`` are further arguments, which become constants."""
    from hypernet.tracing import trace  # seconds of import, for nothing where graphs are kept

    def translated(table: Table) -> onnx.ModelProto:
        return translate(trace(function, inputs, FREE, baked, table), list(inputs), outputs)

    model = bare(with_table(TABLE, translated))
    return bytes(model.SerializeToString(deterministic=True))


def with_table(table: Table, translated: Callable[[Table], onnx.ModelProto]) -> onnx.ModelProto:
    """Translate by a table; where the exporter lacks an operator, once more by a larger one."""
    with _quiet():
        try:
            return translated(table)
        except torch.onnx.OnnxExporterError:
            return translated({**lacking(_OPSET), **table})


def translate(exported: ExportedProgram, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """To ONNX as it is, since make_fx decomposed it: once more is half of an export's time."""
    exported.run_decompositions = lambda *_, **__: exported
    with made_once(), as_it_is():
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


@contextmanager
def _quiet() -> Iterator[None]:
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what a session does not read: traces, names of sources and of machines."""
    name_windows(model)
    model.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    for part in (*model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model
