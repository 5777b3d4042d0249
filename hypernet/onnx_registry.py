"""The exporter's table of operators, made once a process: by itself it is made for each graph.

The one private touch of torch's exporter. Where a release names the table otherwise nothing is
touched, and an export takes a quarter longer.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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


@functools.cache
def _table(make: Callable[..., Any], **version: Any) -> Any:
    return make(**version)
