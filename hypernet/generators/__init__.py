"""Generators of personal weights: one file each behind ``WeightGenerator``."""

from hypernet.generators.base import WeightGenerator
from hypernet.generators.class_memory import ClassMemory
from hypernet.generators.conditioned import ConditionedGenerator, ConditionError
from hypernet.generators.functional_memory import FunctionalMemory
from hypernet.generators.hypernetwork import Hypernetwork
from hypernet.generators.memory import Memory
from hypernet.generators.pefll import PeFLL

__all__ = [
    "ClassMemory",
    "ConditionError",
    "ConditionedGenerator",
    "FunctionalMemory",
    "Hypernetwork",
    "Memory",
    "PeFLL",
    "WeightGenerator",
]
