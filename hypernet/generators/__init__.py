"""Generators of personal weights: one file each behind ``WeightGenerator``."""

from hypernet.generators.base import WeightGenerator
from hypernet.generators.hypernetwork import Hypernetwork

__all__ = ["Hypernetwork", "WeightGenerator"]
