"""Float models to what the kernels run; needs onnx, which devices do not have.

`rtn` rounds weights for the lookup kernels. `quantize`, which needs torch too, turns a model into
integers; `to_edge`, `to_qdq` and `to_lookup` export what it returns.
"""

from typing import TYPE_CHECKING, Any

from edge_kernels.quantize.lower import Rounder, lower
from edge_kernels.quantize.report import Line, Report
from edge_kernels.quantize.rounding import Rounded, round_to_nearest
from edge_kernels.quantize.rtn import rtn

if TYPE_CHECKING:
    from edge_kernels.quantize.quantizer import Quantized, quantize, to_edge, to_lookup, to_qdq

_INTEGERS = ("Quantized", "quantize", "to_edge", "to_lookup", "to_qdq")

__all__ = [
    "Line",
    "Quantized",
    "Report",
    "Rounded",
    "Rounder",
    "lower",
    "quantize",
    "round_to_nearest",
    "rtn",
    "to_edge",
    "to_lookup",
    "to_qdq",
]


def __getattr__(name: str) -> Any:
    """Import the door to integers when it is first used: it brings torch along."""
    if name not in _INTEGERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edge_kernels.quantize import quantizer

    return getattr(quantizer, name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
