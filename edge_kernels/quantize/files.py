"""ONNX models in and out, checked."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from edge_kernels.given import model_of
from schemas.new_file import NewFile

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge_kernels.given import Model

OLDEST_OPSET = 13
_LARGEST = (1 << 31) - 1  # of a protobuf


def import_onnx() -> ModuleType:
    """Import onnx, which devices lack.

    Raises
    ------
    ImportError
        With the extra that brings it.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "quantizing needs the package onnx: pip install 'flwr-edge[quantize]'"
        ) from error
    return onnx


def load(model: Model) -> ModelProto:
    """Return a copy of a model that can be worked on: functions inlined, weights in memory.

    Parameters
    ----------
    model : ModelProto, bytes or path
        From a path external data is read too.

    Raises
    ------
    ImportError
        If onnx is not installed.
    FileNotFoundError
        If there is no such file, or none of its external data.
    ValueError
        If it is not an ONNX model, its opset is too old, or external data was not read.
    """
    onnx = import_onnx()
    held = model_of(model)
    from onnx import inliner

    copy = _read(held, onnx)
    _check(copy, onnx)
    if copy.functions:
        copy = inliner.inline_local_functions(copy)
    _weights_are_not_inputs(copy)
    return copy


def save(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model, whole or not at all: no reader sees half of it.

    Raises
    ------
    ValueError
        If it is too large for one file, or the path is a folder's.
    """
    if Path(path).is_dir():
        raise ValueError(f"{Path(path)} is a folder; the path of a file is needed")
    whole = model.SerializeToString()
    if len(whole) > _LARGEST:
        raise ValueError(
            f"the model still has {len(whole)} bytes; an ONNX file ends at {_LARGEST}. "
            "Fewer bits, or fewer skipped layers, make it smaller"
        )
    with NewFile(Path(path)) as file:
        file.write(whole)


def _read(held: ModelProto | bytes | Path, onnx: ModuleType) -> ModelProto:
    copy: ModelProto = onnx.ModelProto()
    try:
        if isinstance(held, bytes):
            copy = onnx.load_model_from_string(held)
        elif isinstance(held, Path):
            copy = onnx.load(held)
        else:
            copy.CopyFrom(held)
    except onnx.checker.ValidationError as error:  # of the files that weights lie in
        raise FileNotFoundError(str(error)) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the readers of protobuf, JSON and text have no common class
        raise ValueError(f"not an ONNX model: {error}") from error
    return copy


def _check(model: ModelProto, onnx: ModuleType) -> None:
    if not model.graph.node:
        raise ValueError("not an ONNX model, or an empty one: its graph has no nodes")
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise ValueError(
            f"the model's opset is {opset}; {OLDEST_OPSET} or newer is read "
            "(onnx.version_converter raises it)"
        )
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(
                f"the weights {tensor.name!r} lie in another file: give the model's path instead"
            )


def _weights_are_not_inputs(model: ModelProto) -> None:
    """Before IR version 4 every initializer had to be listed as an input too."""
    if model.ir_version >= 4:
        return
    names = {each.name for each in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = 4
