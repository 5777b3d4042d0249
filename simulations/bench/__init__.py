"""Benchmarks: client updates a second of the engines, and of the floor beneath them."""

from simulations.bench.engines import compare
from simulations.bench.workloads import Workload, flat_regression

__all__ = ["Workload", "compare", "flat_regression"]
