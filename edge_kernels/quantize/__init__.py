"""Float models to what the kernels run; needs onnx, which devices do not have."""

from edge_kernels.quantize.lower import Rounder, lower
from edge_kernels.quantize.report import Line, Report
from edge_kernels.quantize.rounding import Rounded, round_to_nearest
from edge_kernels.quantize.rtn import rtn

__all__ = ["Line", "Report", "Rounded", "Rounder", "lower", "round_to_nearest", "rtn"]
