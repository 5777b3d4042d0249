"""Grids on real worker processes, and the client apps that they run."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from simulations.engine import LocalGrid

MakeGrid = Callable[..., LocalGrid]


@pytest.fixture
def make_grid(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeGrid]:
    """Make grids of `engine_clients:app` that are closed when the test ends."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with ExitStack() as stack:

        def make(nodes: int = 4, workers: int = 2, timeout: float = 30.0, **more: Any) -> LocalGrid:
            configs = {node: {"partition-id": node} for node in range(nodes)}
            app = more.pop("app", "engine_clients:app")
            return stack.enter_context(LocalGrid(app, configs, workers, timeout, **more))

        yield make


@pytest.fixture
def ask() -> Callable[..., Message]:
    """Make the message that has a node do something."""

    def make(node: int, action: str = "echo", vector: Any = None, **config: Any) -> Message:
        content = RecordDict({"config": ConfigRecord(config)})
        if vector is not None:
            array = vector if isinstance(vector, Array) else Array(np.asarray(vector))
            content["arrays"] = ArrayRecord({"vector": array})
        return Message(content, node, f"train.{action}", group_id="7")

    return make
