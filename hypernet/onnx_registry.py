"""The exporter's table of operators: made once a process (else for each graph), and what it lacks.

The one private touch of torch's exporter. Where a release names these otherwise nothing is touched,
and an export takes a quarter longer.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.export import default_decompositions

from hypernet.decompositions import Table


@contextmanager
def made_once() -> Iterator[None]:
    """Within it, exports share one table; it must not be added to."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        make = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):
        yield
        return
    ONNXRegistry.from_torchlib = functools.partial(_table, make)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = make  # type: ignore[method-assign]


@contextmanager
def as_it_is() -> Iterator[None]:
    """Within it, an exporter decomposes nothing, nor makes a table for it: a tenth of its time."""
    try:
        from torch.onnx._internal.exporter import _fx_passes

        decompose = _fx_passes.decompose_with_registry
    except (ImportError, AttributeError):
        yield
        return
    _fx_passes.decompose_with_registry = lambda exported, _: exported  # type: ignore[assignment]
    try:
        yield
    finally:
        _fx_passes.decompose_with_registry = decompose


def lacking(opset_version: int) -> Table:
    """Decompositions of the operators that the exporter's table lacks."""
    try:
        from torch.onnx._internal.exporter import _decomp
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        with made_once():
            table = ONNXRegistry.from_torchlib(opset_version=opset_version)
        has = set(_decomp.get_onnx_implemented_overloads(table))
        found: Table = _decomp.create_onnx_friendly_decomposition_table(has)
    except (ImportError, AttributeError):
        return dict(default_decompositions())
    return found


@functools.cache
def _table(make: Callable[..., Any], **version: Any) -> Any:
    return make(**version)
