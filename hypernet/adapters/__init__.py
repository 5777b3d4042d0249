"""Adapters: how a few generated numbers change a frozen layer; one file each behind ``Adapter``."""

from hypernet.adapters.base import Adapter, Layer
from hypernet.adapters.bone import Bone
from hypernet.adapters.compacter import Compacter
from hypernet.adapters.find import adapter_class
from hypernet.adapters.lora import Lora
from hypernet.adapters.rows import Rows
from hypernet.adapters.scale_shift import ScaleShift

__all__ = ["Adapter", "Bone", "Compacter", "Layer", "Lora", "Rows", "ScaleShift", "adapter_class"]
