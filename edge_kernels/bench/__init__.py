"""Benchmarks of the kernels beside what ONNX Runtime offers and what memory allows."""
