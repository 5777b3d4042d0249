"""Engines: a Flower Grid over worker processes on this machine, `LocalGrid`."""

from simulations.engine.local_grid import LocalGrid

__all__ = ["LocalGrid"]
