"""What a bundle says that it takes, beside what it takes here."""

from typing import Final

import numpy as np

from client.bundle.memory import memory_of
from client.bundle.predictor import Floats, session
from edge_kernels.bench.machine import machine
from edge_kernels.bench.timing import QUICK, take_turns, turn_of
from schemas.bundle import Card, Expected

# What is let pass: other versions of the runtime take more, and a busy machine is slower.
_MEMORY: Final = 2.0
_MEMORY_BYTES: Final = 2 << 20
_LATENCY: Final = 4.0


def where() -> str:
    """Name this machine, as ``Expected.machine`` names one."""
    found = machine()
    return f"{found.cpu}, {found.isa}"[:200]


def measured(card: Card, model: bytes, window: Floats | None = None) -> Expected:
    """Return what a model takes here: a process's growth, and one window on one thread.

    Parameters
    ----------
    card : Card
    model : bytes
        ONNX that has passed its checks.
    window : float32 (1, time, channels), optional
        Zeros where it is left out.

    Raises
    ------
    NotRunnableError
        Where the model does not load.
    """
    zeros = np.zeros((1, card.input.time, card.input.channels), np.float32)
    given = {"windows": zeros if window is None else window}
    run = session(card.form, model).run
    timing = take_turns({"it": turn_of(lambda: run(None, given))}, QUICK)["it"]
    return Expected(
        memory_bytes=memory_of(card.form, model),
        latency_us=round(timing.quartiles[0], 1),
        machine=where(),
    )


def lies(said: Expected, found: Expected) -> list[str]:
    """Return, in words, what takes far more than was said; latency on the same machine only.

    Parameters
    ----------
    said : Expected
        The manifest's.
    found : Expected
        ``measured`` here.
    """
    wrong = []
    memory, took = said.memory_bytes, found.memory_bytes
    if memory is not None and took is not None and took > _MEMORY * memory + _MEMORY_BYTES:
        wrong.append(
            f"expected.memory_bytes = {memory}, {memory / 2**20:.1f} MiB; "
            f"it takes {took / 2**20:.1f} MiB here"
        )
    latency, slow = said.latency_us, found.latency_us
    alike = said.machine == found.machine
    if alike and latency is not None and slow is not None and slow > _LATENCY * latency:
        wrong.append(
            f"expected.latency_us = {latency:g}; it takes {slow:g} here, on the same machine"
        )
    return wrong


def claimed(said: Expected) -> bool:
    """Whether there is anything to measure for."""
    timed_here = said.latency_us is not None and said.machine == where()
    return said.memory_bytes is not None or timed_here
