"""``python -m simulations.bench.adapters``: how long generating many devices' adapters takes."""

import time

import torch

from hypernet.condition import CONDITIONERS
from hypernet.generators.functional_memory import FunctionalMemory
from hypernet.networks.adapted import AdaptedClassifier
from hypernet.networks.classifier import Classifier
from hypernet.networks.inputs import InputSpec
from hypernet.parameters import ParameterSpec, vector_of

DEVICES = 1000
CLASSES = 18


def seconds(devices: int = DEVICES, repeats: int = 3) -> float:
    """Best time of one batch on one core: LoRA of rank 4 on the simulations' encoder."""
    torch.set_num_threads(1)
    backbone = Classifier(InputSpec(100, 6, ((0, 1, 2), (3, 4, 5))), CLASSES)
    conditioner = CONDITIONERS["prototypes"]([32, 64, 64, 64], CLASSES, 0.0)
    network = AdaptedClassifier(backbone, "lora", 4, 1.0, conditioner)
    spec = ParameterSpec.of(network)
    start = vector_of(network)[: spec.trainable_length]
    memory = FunctionalMemory(start, spec, conditioner.tokens, conditioner.channels)
    conditions = torch.randn(devices, conditioner.tokens * conditioner.channels)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        with torch.no_grad():
            memory.generate(conditions)
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    print(f"{DEVICES} adapters in one batch: {seconds():.2f} s on one core")  # noqa: T201
