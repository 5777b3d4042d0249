"""``python -m simulations.bench.adapters``: how long generating many devices' adapters takes."""

import time

import torch

from hypernet.condition import CONDITIONERS
from hypernet.generators.class_memory import ClassMemory
from hypernet.generators.functional_memory import FunctionalMemory
from hypernet.generators.memory import Memory
from hypernet.networks.adapted import AdaptedClassifier, Layers
from hypernet.networks.classifier import Classifier
from hypernet.networks.inputs import InputSpec
from hypernet.parameters import ParameterSpec, vector_of

DEVICES = 1000
CLASSES = 18


def memories() -> dict[str, Memory]:
    """The head's rows by class, and LoRA of rank 4 on all layers of the simulations' encoder."""
    backbone = Classifier(InputSpec(100, 6, ((0, 1, 2), (3, 4, 5))), CLASSES)
    told = CONDITIONERS["prototypes"]([32, 64, 64, 64], CLASSES, 0.0)
    made: dict[str, Memory] = {}
    places: tuple[tuple[str, Layers], ...] = (("rows", "head"), ("lora", "all"))
    for adapter, layers in places:
        network = AdaptedClassifier(backbone, adapter, 4, 1.0, told, layers=layers)
        spec = ParameterSpec.of(network)
        start = vector_of(network)[: spec.trainable_length]
        made[adapter] = (
            ClassMemory(start, backbone.head.weight, told.tokens, told.channels)
            if adapter == "rows"
            else FunctionalMemory(start, spec, told.tokens, told.channels)
        )
    return made


def seconds(memory: Memory, devices: int = DEVICES, repeats: int = 3) -> float:
    """Best time of one batch on one core."""
    torch.set_num_threads(1)
    conditions = torch.randn(devices, memory.tokens * memory.channels)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        with torch.no_grad():
            memory.generate(conditions)
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    for name, memory in memories().items():
        print(f"{DEVICES} adapters ({name}) in one batch: {seconds(memory):.2f} s on one core")  # noqa: T201
