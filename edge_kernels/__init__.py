"""The device's kernels: lookup tables for 1- to 4-bit weights as ONNX Runtime operators."""

import schemas.telemetry  # noqa: F401 - before ONNX Runtime
from edge_kernels.library import Info, exact_int8, info, library_path, session

__all__ = ["Info", "exact_int8", "info", "library_path", "session"]
