"""The device's kernels: lookup tables for 1- to 4-bit weights as ONNX Runtime operators."""

from edge_kernels.library import Info, info, library_path, session

__all__ = ["Info", "info", "library_path", "session"]
