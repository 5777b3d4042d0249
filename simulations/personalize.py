"""``flwr-sim personalize``: what one exchange is worth to one person of a finished run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from server.border import payload
from server.outcome import macro_f1
from server.strategies.base import EdgeStrategy
from server.strategies.functional_memory import FunctionalMemoryStrategy
from server.strategies.personal import Personal
from server.view import GridView
from simulations.personal_model import Models, open_models
from simulations.report.files import RunError


def personalize(
    run: Path,
    person: str,
    strategy: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Ask a person's device for its condition, send what was made for it, and judge both.

    Before: the plan's stages from the backbone, with an adapter that changes nothing. After: the
    same with the generated one. The device may have no label, and was perhaps never seen.

    Raises
    ------
    RunError, ConfigError, CheckpointError, DataError
        See ``open_models``; and where the run's strategy generates no adapters.
    """
    tell(f"{run}: taking the run up where it ended")
    with open_models(run, strategy, tell) as models:
        memory = _memory(models.strategy)
        if memory is None:
            raise RunError(
                f"{run}: strategy {models.outcome.strategy} makes no adapters from conditions; "
                "run functional-memory, or personal with --set strategies.personal.memory=matched, "
                "or name one with --strategy"
            )
        return _exchanged(models, memory, models.node(person), person)


def _memory(strategy: EdgeStrategy) -> FunctionalMemoryStrategy | None:
    """What a strategy asks conditions with, if it does."""
    found = strategy.memory if isinstance(strategy, Personal) else strategy
    if isinstance(found, FunctionalMemoryStrategy) and found.settings.given != "none":
        return found
    return None


def _exchanged(
    models: Models, memory: FunctionalMemoryStrategy, node: int, person: str
) -> dict[str, Any]:
    asking = cast(FunctionalMemoryStrategy | Personal, models.strategy)
    before = models.judged(node, asking.unadapted(node))
    memory.embeddings.pop(node, None)  # as if never seen
    view = GridView(models.grid, {node})
    memory.join([node], view)
    if node not in memory.embeddings:
        raise RunError(f"{models.run}: {person} told no condition: its device did not answer")
    (request,) = asking.configure_evaluate(0, asking.initial(), asking.evaluate_config(), view)
    after = models.judged(node, request)
    adapter = memory.spec.trainable_length
    return {
        "run": str(models.run),
        "person": person,
        "unseen": person in models.world.unseen.values(),
        "backbone": memory.network.version,
        "before": _score(before),
        "after": _score(after),
        "distance": float(
            memory.generator.distance(memory.embeddings[node], memory.generator.center)
        ),
        "bytes_up": 4 * memory.embeddings[node].numel(),
        "bytes_down": payload(request.content),
        "adapter_numbers": adapter,
    }


def _score(confusion: NDArray[np.int64]) -> dict[str, float]:
    right, all_ = int(np.trace(confusion)), int(confusion.sum())
    return {"accuracy": right / all_, "macro_f1": macro_f1(confusion), "windows": all_}
