"""The exporter's table of operators: made once a process (else for each graph), and what it lacks.

The one private touch of torch's exporter. Where a release names these otherwise nothing is touched,
and an export takes a quarter longer.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

from torch.export import default_decompositions

from hypernet.decompositions import Table


def made_once() -> AbstractContextManager[None]:
    """Within it, exports share one table; it must not be added to."""
    return _replaced(
        "_registration",
        "ONNXRegistry.from_torchlib",
        lambda make: functools.partial(_table, make),
    )


def as_it_is() -> AbstractContextManager[None]:
    """Within it, an exporter decomposes nothing, nor makes a table for it: a tenth of its time."""

    def left(exported: Any, _: object) -> Any:
        return exported

    return _replaced("_fx_passes", "decompose_with_registry", lambda _: left)


@contextmanager
def _replaced(module: str, path: str, made_of: Callable[[Any], Any]) -> Iterator[None]:
    """Within it, what the path names in a module of the exporter is what is made of it."""
    *parents, name = path.split(".")
    try:
        owner: Any = import_module(f"torch.onnx._internal.exporter.{module}")
        for parent in parents:
            owner = getattr(owner, parent)
        before = getattr(owner, name)
    except (ImportError, AttributeError):
        yield
        return
    setattr(owner, name, made_of(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


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
